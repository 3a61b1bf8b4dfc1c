-- fimd for Neovim: the public functions, and the setup of attached buffers.

local ghost = require('fimd.ghost')

local M = {
  accept = ghost.accept,
  accept_word = ghost.accept_word,
  accept_line = ghost.accept_line,
  next = ghost.next,
  previous = ghost.previous,
  dismiss = ghost.dismiss,
}

-- As in other plugins for ghost text, except for Tab, which is not mapped by default.
local keys = {
  accept = '<C-l>',
  accept_word = '<M-Right>',
  accept_line = '<M-C-Right>',
  next = '<M-]>',
  previous = '<M-[>',
  dismiss = '<C-]>',
}

---@class fimd.Options
---@field cmd? string[] how to start the server, `{ 'fimd', 'lsp' }`
---@field settings? table see `fimd guide settings`; nested or dotted
---@field keys? table<string, string|false>|false insert-mode keys by function name; false for none

---Optional, and may be called again: new settings take effect at once, new keys in buffers attached from then on.
---@param options? fimd.Options
function M.setup(options)
  options = options or {}
  vim.validate('cmd', options.cmd, 'table', true)
  vim.validate('settings', options.settings, 'table', true)
  vim.validate('keys', options.keys, { 'table', 'boolean' }, true)
  if options.keys == false then
    keys = {}
  elseif options.keys then
    keys = vim.tbl_extend('force', keys, options.keys)
  end
  if options.cmd then
    vim.lsp.config('fimd', { cmd = options.cmd })
  end
  if options.settings then
    local settings = { fimd = vim.tbl_extend('force', vim.empty_dict(), options.settings) }
    vim.lsp.config('fimd', { settings = settings })
    for _, client in ipairs(vim.lsp.get_clients({ name = 'fimd' })) do
      client.settings = settings
      client:notify('workspace/didChangeConfiguration', { settings = settings })
    end
  end
end

---The keys where no ghost text is shown: the previous mapping, or the key itself.
local function fallback(lhs, mapping)
  if mapping.expr == 1 then
    return mapping.callback and mapping.callback() or vim.api.nvim_eval(mapping.rhs)
  elseif mapping.callback then
    vim.schedule(mapping.callback) -- an expression may not change text
    return ''
  end
  return mapping.rhs or lhs
end

---@param client vim.lsp.Client
---@param buf integer
function M.attach(client, buf)
  ghost.watch(client)
  vim.lsp.inline_completion.enable(true, { bufnr = buf })
  if buf == vim.api.nvim_get_current_buf() then
    M.focus(buf)
  end
  for name, lhs in pairs(keys) do
    local plug = '<Plug>(fimd-' .. name:gsub('_', '-') .. ')'
    local before = lhs and vim.fn.maparg(lhs, 'i', false, true)
    if lhs and vim.fn.hasmapto(plug, 'i') == 0 and before.buffer ~= 1 then
      vim.keymap.set('i', lhs, function()
        local is_request = name == 'next' or name == 'previous'
        return (is_request or ghost.is_shown(buf)) and plug or fallback(lhs, before)
      end, { buffer = buf, expr = true, remap = true, replace_keycodes = true, desc = 'fimd: ' .. name })
    end
  end
end

---Notifies the server of the focused document.
function M.focus(buf)
  for _, client in ipairs(vim.lsp.get_clients({ name = 'fimd' })) do
    local params = vim.empty_dict()
    if client.attached_buffers[buf] then
      params.textDocument = { uri = vim.uri_from_bufnr(buf) }
    end
    client:notify('textDocument/didFocus', params)
  end
end

---A short text for a status line; empty where fimd is not attached.
---@param buf? integer
---@return string
function M.status(buf)
  return require('fimd.status').text(buf)
end

return M
