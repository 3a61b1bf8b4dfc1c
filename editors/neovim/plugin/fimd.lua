if vim.g.loaded_fimd or vim.fn.has('nvim-0.12') == 0 then
  return
end
vim.g.loaded_fimd = true

local group = vim.api.nvim_create_augroup('fimd', {})
local function on(event, callback)
  vim.api.nvim_create_autocmd(event, { group = group, callback = callback })
end

on('LspAttach', function(event)
  local client = vim.lsp.get_client_by_id(event.data.client_id)
  if client and client.name == 'fimd' then
    require('fimd').attach(client, event.buf)
  end
end)

-- The server prewarms the prompt of the focused document.
on({ 'BufEnter', 'FocusGained' }, function(event)
  require('fimd').focus(event.buf)
end)

-- Neovim attaches servers when a buffer gets a filetype; this covers buffers without one.
on('InsertEnter', function(event)
  if vim.bo[event.buf].filetype == '' and vim.lsp.is_enabled('fimd') then
    vim.api.nvim_exec_autocmds('FileType', { group = 'nvim.lsp.enable', buffer = event.buf })
  end
end)

vim.api.nvim_create_user_command('Fimd', function(command)
  require('fimd.command').run(command)
end, {
  nargs = '+',
  range = true,
  desc = 'Run a command of fimd',
  complete = function(...)
    return require('fimd.command').complete(...)
  end,
})

local ghost_text = {
  accept = 'Accept the ghost text',
  ['accept-word'] = 'Accept the next word of the ghost text',
  ['accept-line'] = 'Accept the next line of the ghost text',
  next = 'Show the next alternative, or request some',
  previous = 'Show the previous alternative',
  dismiss = 'Dismiss the ghost text',
}
for name, desc in pairs(ghost_text) do
  vim.keymap.set('i', '<Plug>(fimd-' .. name .. ')', function()
    require('fimd')[name:gsub('-', '_')]()
  end, { desc = desc })
end

-- A plugin manager may load this late and call setup() right after: enable only then.
if vim.v.vim_did_enter == 1 then
  vim.schedule(function()
    vim.lsp.enable('fimd')
  end)
else
  vim.lsp.enable('fimd')
end
