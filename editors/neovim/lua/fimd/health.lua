-- :checkhealth fimd

local M = {}

local daemon = require('fimd.daemon')

function M.check()
  local health = vim.health
  health.start('fimd')

  if vim.fn.has('nvim-0.12') == 0 then
    health.error('Neovim 0.12 is required for inline completion')
    return
  end
  health.ok('Neovim ' .. tostring(vim.version()))

  local binary = daemon.binary()
  if not binary then
    local cmd = vim.lsp.config.fimd.cmd
    health.error(('`%s` is not on your path'):format(type(cmd) == 'table' and cmd[1] or 'fimd'), {
      'Install it as described in the README, and restart Neovim',
      "Or set its path: require('fimd').setup({ cmd = { '/path/to/fimd', 'lsp' } })",
    })
    return
  end
  local version, runs = daemon.run('--version')
  if not runs then
    health.error(('`%s --version` fails'):format(binary))
    return
  end
  version = vim.trim(version)
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
    health.info('Not attached: no file is open yet')
  end

  local status = daemon.status()
  if not status then
    health.info('The daemon is not running; the first editor starts it, except after `fimd stop`')
  elseif status.failure then
    health.error('The daemon ' .. status.failure)
  else
    local name = vim.tbl_get(status, 'model', 'name') or 'no model yet'
    health.ok(('The daemon is %s: %s, %d editors'):format(status.state, name, #status.editors))
  end
end

return M
