-- Streams explanations into a floating window.

local api = vim.api

local M = {}

---The window and its explanation.
---@type {id: integer, client_id: integer, buf: integer, win: integer, done: boolean}?
local shown

---Explanations are the only long-running commands.
local function cancel(client)
  for id, request in pairs(client.requests) do
    if request.type == 'pending' and request.method == 'workspace/executeCommand' then
      client:cancel_request(id)
    end
  end
end

local function open(client_id, id)
  local buf = api.nvim_create_buf(false, true)
  vim.bo[buf].bufhidden = 'wipe'
  vim.bo[buf].filetype = 'markdown'
  pcall(vim.treesitter.start, buf, 'markdown')
  local width = math.max(1, math.min(88, vim.o.columns - 4))
  local win = api.nvim_open_win(buf, true, {
    relative = 'cursor',
    row = 1,
    col = 0,
    width = width,
    height = 1,
    style = 'minimal',
    border = 'rounded',
  })
  vim.wo[win].wrap = true
  vim.wo[win].linebreak = true
  vim.wo[win].conceallevel = 2
  vim.wo[win].concealcursor = 'n'
  shown = { id = id, client_id = client_id, buf = buf, win = win, done = false }
  vim.keymap.set('n', 'q', '<Cmd>close<CR>', { buffer = buf, nowait = true, desc = 'Close' })
  api.nvim_create_autocmd('BufWipeout', {
    buffer = buf,
    once = true,
    callback = function()
      local client = vim.lsp.get_client_by_id(client_id)
      if client and shown and shown.buf == buf then
        if not shown.done then
          cancel(client)
        end
        shown.win = -1 -- late notifications do not reopen it
      end
    end,
  })
end

---@param client_id integer
---@param explanation {id: integer, title: string, markdown: string, done: boolean}
function M.show(client_id, explanation)
  if not shown or shown.id ~= explanation.id or shown.client_id ~= client_id then
    if explanation.markdown == '' then
      return -- no text yet; a failure is shown with the response
    end
    if shown and api.nvim_win_is_valid(shown.win) then
      api.nvim_win_close(shown.win, true)
    end
    open(client_id, explanation.id)
  end
  shown.done = explanation.done
  if not api.nvim_win_is_valid(shown.win) then
    return
  end
  vim.bo[shown.buf].modifiable = true
  api.nvim_buf_set_lines(shown.buf, 0, -1, false, vim.split(explanation.markdown, '\r?\n'))
  vim.bo[shown.buf].modifiable = false
  local height = api.nvim_win_text_height(shown.win, {}).all
  api.nvim_win_set_config(shown.win, {
    height = math.max(1, math.min(height, math.floor(vim.o.lines * 0.6))),
    title = ' ' .. explanation.title .. (explanation.done and ' ' or ' … '),
    footer = ' q closes ',
  })
end

return M
