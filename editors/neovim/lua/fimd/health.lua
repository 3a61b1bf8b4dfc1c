-- :checkhealth fimd

local M = {}

local function output(...)
  local ok, process = pcall(vim.system, { ... }, { text = true })
  local result = ok and process:wait(5000)
  return result and result.code == 0 and vim.trim(result.stdout) or nil
end

function M.check()
  local health = vim.health
  health.start('fimd')

  if vim.fn.has('nvim-0.12') == 0 then
    health.error('Neovim 0.12 is needed: ghost text is its own')
    return
  end
  health.ok('Neovim ' .. tostring(vim.version()))

  local cmd = vim.lsp.config.fimd.cmd
  local binary = type(cmd) == 'table' and vim.fn.exepath(cmd[1]) or ''
  if binary == '' then
    health.error(('`%s` is not on your path'):format(type(cmd) == 'table' and cmd[1] or 'fimd'), {
      'Install it, as the README says, and start Neovim again',
      "Or name it: require('fimd').setup({ cmd = { '/path/to/fimd', 'lsp' } })",
    })
    return
  end
  local version = output(binary, '--version')
  if not version then
    health.error(('`%s --version` fails'):format(binary))
    return
  end
  health.ok(('%s (`%s`)'):format(version, binary))

  local clients = vim.lsp.get_clients({ name = 'fimd' })
  for _, client in ipairs(clients) do
    local buffers = vim.tbl_count(client.attached_buffers)
    health.ok(('Attached to %d buffer%s in `%s`'):format(buffers, buffers == 1 and '' or 's', client.root_dir or '?'))
    local server = client.server_info and client.server_info.version
    if server and not version:find(server, 1, true) then
      health.warn(('The server is version %s'):format(server), { ':Fimd restart' })
    end
  end
  if not vim.lsp.is_enabled('fimd') then
    health.warn('Not enabled', { "vim.lsp.enable('fimd')" })
  elseif #clients == 0 then
    health.info('Not attached: no buffer with a file is open yet')
  end

  local status = output(binary, 'status', '--json')
  local ok, daemon = pcall(vim.json.decode, status or '')
  if ok and type(daemon) == 'table' then
    health.ok('The daemon runs')
  elseif #clients > 0 then
    health.info('No daemon answers: the server runs in a process of its own, or is starting')
  else
    health.info('No daemon runs; the first editor starts it')
  end
end

return M
