-- The default configuration of the client; vim.lsp.config('fimd', {...}) overrides it.

local restarted_at = -math.huge

return {
  cmd = { 'fimd', 'lsp' },

  -- No list of filetypes: fimd attaches to any editable file.
  root_dir = function(buf, on_dir)
    if vim.bo[buf].buftype ~= '' or not vim.bo[buf].modifiable then
      return
    end
    local name = vim.api.nvim_buf_get_name(buf)
    if name == '' then
      -- All buffers without a name have the same URI, so only one of them can be open in the server.
      for _, client in ipairs(vim.lsp.get_clients({ name = 'fimd' })) do
        for other in pairs(client.attached_buffers) do
          if other ~= buf and vim.api.nvim_buf_get_name(other) == '' then
            return
          end
        end
      end
    end
    on_dir(name ~= '' and vim.fs.root(buf, '.git') or vim.fn.getcwd())
  end,

  capabilities = { experimental = { fimd = { status = true, explanation = true } } },

  before_init = function(params, config)
    -- Neovim sends settings only after `initialize`; this way they apply from the start.
    local settings = vim.tbl_get(config, 'settings', 'fimd') or {}
    params.initializationOptions = vim.tbl_extend('force', config.init_options or vim.empty_dict(), settings)
    -- Neovim asks for confirmation before it shows the edit. Undo is better.
    params.capabilities.workspace.workspaceEdit.changeAnnotationSupport = nil
  end,

  -- Restarts a server that crashed, unless it crashed shortly before.
  on_exit = vim.schedule_wrap(function(code, signal)
    local has_crashed = (code ~= 0 or signal ~= 0) and vim.v.exiting == vim.NIL and vim.lsp.is_enabled('fimd')
    if has_crashed and vim.uv.now() - restarted_at > 10000 then
      restarted_at = vim.uv.now()
      vim.lsp.enable('fimd')
    end
  end),

  handlers = {
    ['fimd/status'] = function(_, status, ctx)
      require('fimd.status').update(ctx.client_id, status)
    end,
    ['fimd/explanation'] = function(_, explanation, ctx)
      require('fimd.explanation').show(ctx.client_id, explanation)
    end,
  },
}
