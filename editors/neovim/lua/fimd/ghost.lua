-- Extends vim.lsp.inline_completion: partial accepts, accepts after more was typed, alternatives, dismissing, line ends
-- of DOS files, and notifications to the server.

local api = vim.api

local METHOD = 'textDocument/inlineCompletion'
local INVOKED = vim.lsp.protocol.InlineCompletionTriggerKind.Invoked

local M = {}

---@class fimd.Response
---@field items lsp.InlineCompletionItem[] as Neovim shows them
---@field originals lsp.InlineCompletionItem[] as the server sent them
---@field accepted string the accepted prefix of the item
---@field show fun(items: lsp.InlineCompletionItem[]) replaces the items that Neovim shows
---@field client vim.lsp.Client

---The last response for each buffer.
---@type table<integer, fimd.Response>
local responses = {}
---Callback for the response to an invoked request, for each buffer.
---@type table<integer, fun(response: fimd.Response)>
local invoked = {}
---The changedtick of each buffer whose ghost text was dismissed.
---@type table<integer, integer>
local dismissed = {}
local watched = setmetatable({}, { __mode = 'k' })

---Whether ghost text is shown.
function M.is_shown(buf)
  local namespace = api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  return namespace ~= nil and #api.nvim_buf_get_extmarks(buf, namespace, 0, -1, { limit = 1 }) > 0
end

---Neovim inserts items as they are, but stores lines without CR.
local function without_cr(item)
  return vim.tbl_extend('force', item, { insertText = item.insertText:gsub('\r\n', '\n') })
end

---Wraps the client's requests, because Neovim has no event for inline completion requests or responses.
---@param client vim.lsp.Client
function M.watch(client)
  if watched[client] then
    return
  end
  watched[client] = true
  local request = client.request
  client.request = function(self, method, params, handler, buf, ...)
    if method ~= METHOD or not handler then
      return request(self, method, params, handler, buf, ...)
    end
    buf = vim._resolve_bufnr(buf)
    local on_response = invoked[buf]
    invoked[buf] = nil
    if on_response then
      params.context.triggerKind = INVOKED
    end
    return request(self, method, params, function(err, result, ctx)
      if err or not result then
        return handler(err, result, ctx)
      end
      local is_visible = dismissed[buf] ~= api.nvim_buf_get_changedtick(buf)
      local originals = is_visible and (result.items or result) or {}
      local response = {
        items = vim.tbl_map(without_cr, originals),
        originals = originals,
        accepted = '',
        show = function(items)
          handler(nil, { items = items }, ctx)
        end,
        client = client,
      }
      responses[buf] = response
      response.show(response.items)
      if M.is_shown(buf) then
        client:notify('textDocument/didShowCompletion', { item = originals[1] })
      end
      if on_response then
        on_response(response)
      end
    end, buf, ...)
  end
end

---Keeps the rest of a partially accepted item on screen, without a new request.
local function accepted_part(response, text, accepted)
  local index = 1
  while response.items[index].insertText ~= text do
    index = index + 1
  end
  local original = response.originals[index]
  local position = vim.lsp.util.make_position_params(0, response.client.offset_encoding).position
  response.items = { { insertText = text:sub(#accepted + 1), range = { start = position, ['end'] = position } } }
  response.originals = { original }
  response.accepted = response.accepted .. accepted
  response.show(response.items)

  local with_cr = original.insertText:find('\r\n', 1, true)
  local in_all = with_cr and response.accepted:gsub('\n', '\r\n') or response.accepted
  response.client:notify('textDocument/didPartiallyAcceptCompletion', {
    item = original,
    acceptedLength = vim.str_utfindex(in_all, 'utf-16'),
  })
end

---Accepts the part of the ghost text that `part` selects of what is not in the buffer yet.
---@param part fun(rest: string): string
---@return boolean # whether ghost text was shown
local function accept(part)
  local buf = api.nvim_get_current_buf()
  return M.is_shown(buf) and vim.lsp.inline_completion.get({
    on_accept = function(item)
      local response = responses[buf]
      if not response or item.client_id ~= response.client.id then
        return item -- of another server
      end
      -- The range is that of the request. Text typed since has to be a prefix of the item.
      local row, column = api.nvim_win_get_cursor(0)[1] - 1, api.nvim_win_get_cursor(0)[2]
      local start_row, start_column = item.range:to_extmark()
      local is_behind = start_row < row or start_row == row and start_column <= column
      local typed = is_behind
        and table.concat(api.nvim_buf_get_text(buf, start_row, start_column, row, column, {}), '\n')
      if not typed or not vim.startswith(item.insert_text, typed) then
        return
      end
      local rest = item.insert_text:sub(#typed + 1)
      local taken = part(rest)
      local lines = vim.split(taken, '\n')
      vim.o.undolevels = vim.o.undolevels -- begins an undo block: `u` undoes the accept, not what was typed
      api.nvim_buf_set_text(buf, row, column, row, column, lines)
      api.nvim_win_set_cursor(0, { row + #lines, #lines[#lines] + (#lines == 1 and column or 0) })
      if taken ~= rest then
        accepted_part(response, item.insert_text, typed .. taken)
      end
    end,
  })
end

---@return boolean
function M.accept()
  return accept(function(rest)
    return rest
  end)
end

---A word is what `w` moves over, with the whitespace before it.
---@return boolean
function M.accept_word()
  return accept(function(rest)
    return vim.fn.matchstr(rest, [[^\_s*\%(\k\+\|\%(\k\@!\S\)*\)]])
  end)
end

---@return boolean
function M.accept_line()
  return accept(function(rest)
    return vim.fn.matchstr(rest, [[^\n*[^\n]*]])
  end)
end

---Selects an alternative. Automatic requests return at most one item: others need an invoked request.
---@param count integer
local function select(count)
  local buf = api.nvim_get_current_buf()
  local response = M.is_shown(buf) and responses[buf]
  if response and #response.items > 1 then
    vim.lsp.inline_completion.select({ count = count })
    return
  end
  invoked[buf] = function(new)
    if response and #new.items > 1 and new.items[1].insertText == response.items[1].insertText then
      vim.lsp.inline_completion.select({ count = count })
    end
  end
  dismissed[buf] = nil
  -- Neovim has no function for a request; it makes one when the cursor moves.
  local group = 'nvim.lsp.inline_completion:' .. buf
  if vim.fn.exists('#' .. group) == 1 then
    api.nvim_exec_autocmds('CursorMovedI', { group = group, buffer = buf })
  end
end

function M.next()
  select(vim.v.count1)
end

function M.previous()
  select(-vim.v.count1)
end

---Dismisses ghost text until something is typed.
---@return boolean # whether ghost text was shown
function M.dismiss()
  local buf = api.nvim_get_current_buf()
  local response = responses[buf]
  if not response or not M.is_shown(buf) then
    return false
  end
  dismissed[buf] = api.nvim_buf_get_changedtick(buf)
  response.show({})
  return true
end

return M
