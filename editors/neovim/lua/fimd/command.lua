-- :Fimd

local M = {}

---@param method string
---@param params? table
---@param on_result? fun(result: any)
local function request(client, method, params, on_result)
  client:request(method, params, function(err, result)
    if err and err.code ~= vim.lsp.protocol.ErrorCodes.RequestCancelled then
      vim.notify('fimd: ' .. err.message, vim.log.levels.ERROR)
    elseif not err and on_result then
      on_result(result)
    end
  end, 0)
end

local function execute(client, command, ...)
  request(client, 'workspace/executeCommand', { command = command, arguments = { ... } })
end

---Executes a code action of the server on the lines of the command or the symbol at the cursor.
local function act(client, command, verb)
  local lines
  if command.range > 0 then
    lines = { start = { command.line1, 0 }, ['end'] = { command.line2, vim.fn.col({ command.line2, '$' }) - 1 } }
  end
  vim.lsp.buf.code_action({
    range = lines,
    apply = true,
    filter = function(action, client_id)
      return client_id == client.id and vim.startswith(action.title, 'fimd: ' .. verb)
    end,
  })
end

local subcommands = {
  explain = function(client, command)
    local params = vim.lsp.util.make_range_params(0, client.offset_encoding)
    if command.range > 0 then
      local last_column = vim.fn.col({ command.line2, '$' }) - 1
      params = vim.lsp.util.make_given_range_params(
        { command.line1, 0 },
        { command.line2, last_column },
        0,
        client.offset_encoding
      )
    end
    execute(client, 'fimd.explain', { uri = params.textDocument.uri, range = params.range })
  end,

  fix = function(client, command)
    act(client, command, 'fix')
  end,

  document = function(client, command)
    act(client, command, 'document')
  end,

  pause = function(client, command)
    execute(client, 'fimd.pause', tonumber(command.fargs[2]))
  end,

  resume = function(client)
    execute(client, 'fimd.resume')
  end,

  status = function(client)
    request(client, 'fimd/statistics', nil, function(statistics)
      local lines = {}
      for _, part in ipairs({ require('fimd.status').of() or {}, statistics }) do
        for name, value in vim.spairs(part) do
          local text = vim.inspect(value, { newline = ' ', indent = '' })
          table.insert(lines, ('%-20s %s'):format(name, type(value) == 'string' and value or text))
        end
      end
      vim.lsp.util.open_floating_preview(lines, '', { border = 'rounded', title = ' fimd ', focus_id = 'fimd' })
    end)
  end,
}

---Commands that work without a server.
local local_subcommands = {
  restart = function()
    if #vim.lsp.get_clients({ name = 'fimd' }) > 0 then
      vim.cmd('lsp restart fimd')
    else
      vim.lsp.enable('fimd')
    end
  end,

  log = function()
    -- The daemon's log, or where none runs that of the client, with the server's stderr.
    local daemon = require('fimd.daemon')
    local status = daemon.binary() and daemon.status()
    local logs = status and vim.fn.glob(status.log .. '/fimd*.log', true, true) or {}
    vim.cmd.tabedit(vim.fn.fnameescape(logs[#logs] or vim.lsp.log.get_filename()))
    vim.cmd.normal({ 'G', bang = true })
  end,
}

function M.run(command)
  local name = command.fargs[1]
  if local_subcommands[name] then
    return local_subcommands[name]()
  end
  local run = subcommands[name]
  if not run then
    return vim.notify('fimd: unknown command: ' .. name, vim.log.levels.ERROR)
  end
  local clients = vim.lsp.get_clients({ name = 'fimd', bufnr = 0 })
  if name == 'pause' or name == 'resume' or name == 'status' then
    clients = #clients > 0 and clients or vim.lsp.get_clients({ name = 'fimd' })
  end
  if not clients[1] then
    return vim.notify('fimd is not attached to this buffer; see :checkhealth fimd', vim.log.levels.WARN)
  end
  run(clients[1], command)
end

function M.complete(lead, line)
  if line:match('Fimd%s+%S+%s') then
    return {}
  end
  local names = vim.list_extend(vim.tbl_keys(subcommands), vim.tbl_keys(local_subcommands))
  table.sort(names)
  return vim.tbl_filter(function(name)
    return vim.startswith(name, lead)
  end, names)
end

return M
