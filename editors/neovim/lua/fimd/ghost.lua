-- Ghost text is Neovim's own (vim.lsp.inline_completion). Here is what it lacks: accepting a part, taking what was typed
-- meanwhile into account, asking for alternatives, hiding, line ends of DOS files, and telling the server.

local api = vim.api

local METHOD = 'textDocument/inlineCompletion'
local INVOKED = vim.lsp.protocol.InlineCompletionTriggerKind.Invoked

local M = {}

---@class fimd.Answer
---@field items lsp.InlineCompletionItem[] as Neovim shows them
---@field originals lsp.InlineCompletionItem[] as the server sent them
---@field accepted string what was taken of the item already
---@field show fun(items: lsp.InlineCompletionItem[]) has Neovim show items in place of these
---@field client vim.lsp.Client

---The last answer for each buffer.
---@type table<integer, fimd.Answer>
local answers = {}
---What to do with the next answer for each buffer, where it was asked for by hand.
---@type table<integer, fun(answer: fimd.Answer)>
local invoked = {}
---The state of each buffer in which the user wants to see nothing.
---@type table<integer, integer>
local dismissed = {}
local watched = setmetatable({}, { __mode = 'k' })

---Whether ghost text is on screen.
function M.is_shown(buf)
  local namespace = api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  return namespace ~= nil and #api.nvim_buf_get_extmarks(buf, namespace, 0, -1, { limit = 1 }) > 0
end

---Neovim shows and inserts items as they are, but holds the lines of every file without their ends.
local function without_cr(item)
  return vim.tbl_extend('force', item, { insertText = item.insertText:gsub('\r\n', '\n') })
end

---Neovim asks by itself and passes answers to a handler of its own, without an event for either: this steps between.
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
    local on_answer = invoked[buf]
    invoked[buf] = nil
    if on_answer then
      params.context.triggerKind = INVOKED
    end
    return request(self, method, params, function(err, result, ctx)
      if err or not result then
        return handler(err, result, ctx)
      end
      local is_wanted = dismissed[buf] ~= api.nvim_buf_get_changedtick(buf)
      local originals = is_wanted and (result.items or result) or {}
      local answer = {
        items = vim.tbl_map(without_cr, originals),
        originals = originals,
        accepted = '',
        show = function(items)
          handler(nil, { items = items }, ctx)
        end,
        client = client,
      }
      answers[buf] = answer
      answer.show(answer.items)
      if M.is_shown(buf) then
        client:notify('textDocument/didShowCompletion', { item = originals[1] })
      end
      if on_answer then
        on_answer(answer)
      end
    end, buf, ...)
  end
end

---The beginning of an item was accepted: the rest stays on screen, and is not asked for again first.
local function accepted_part(answer, text, accepted)
  local index = 1
  while answer.items[index].insertText ~= text do
    index = index + 1
  end
  local original = answer.originals[index]
  local position = vim.lsp.util.make_position_params(0, answer.client.offset_encoding).position
  answer.items = { { insertText = text:sub(#accepted + 1), range = { start = position, ['end'] = position } } }
  answer.originals = { original }
  answer.accepted = answer.accepted .. accepted
  answer.show(answer.items)

  local with_cr = original.insertText:find('\r\n', 1, true)
  local in_all = with_cr and answer.accepted:gsub('\n', '\r\n') or answer.accepted
  answer.client:notify('textDocument/didPartiallyAcceptCompletion', {
    item = original,
    acceptedLength = vim.str_utfindex(in_all, 'utf-16'),
  })
end

---Accepts as much of the ghost text as `part` takes of what is not in the buffer yet.
---@param part fun(rest: string): string
---@return boolean # whether there was something to accept
local function accept(part)
  local buf = api.nvim_get_current_buf()
  return M.is_shown(buf) and vim.lsp.inline_completion.get({
    on_accept = function(item)
      local answer = answers[buf]
      if not answer or item.client_id ~= answer.client.id then
        return item -- of another server
      end
      -- The range is the one of the request. What was typed since belongs to the item, or makes it void.
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
      vim.o.undolevels = vim.o.undolevels -- begins an undo block: `u` takes back what was accepted, not what was typed
      api.nvim_buf_set_text(buf, row, column, row, column, lines)
      api.nvim_win_set_cursor(0, { row + #lines, #lines[#lines] + (#lines == 1 and column or 0) })
      if taken ~= rest then
        accepted_part(answer, item.insert_text, typed .. taken)
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

---A word is what `w` moves over, with the space before it.
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

---Moves among alternatives. Unasked, the server sends one: more, or one where it would show none, have to be asked for.
---@param count integer
local function select(count)
  local buf = api.nvim_get_current_buf()
  local answer = M.is_shown(buf) and answers[buf]
  if answer and #answer.items > 1 then
    vim.lsp.inline_completion.select({ count = count })
    return
  end
  invoked[buf] = function(new)
    if answer and #new.items > 1 and new.items[1].insertText == answer.items[1].insertText then
      vim.lsp.inline_completion.select({ count = count })
    end
  end
  dismissed[buf] = nil
  -- Neovim asks when the cursor moves, and cannot be told to.
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

---Hides ghost text until something is typed.
---@return boolean # whether there was some
function M.dismiss()
  local buf = api.nvim_get_current_buf()
  local answer = answers[buf]
  if not answer or not M.is_shown(buf) then
    return false
  end
  dismissed[buf] = api.nvim_buf_get_changedtick(buf)
  answer.show({})
  return true
end

return M
