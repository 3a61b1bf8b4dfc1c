-- The server's status, from `fimd/status`.

local M = {}

---The last status of each client, as editors/README.md describes it.
---@type table<integer, table>
local last = {}

function M.update(client_id, status)
  last[client_id] = status
  vim.api.nvim_exec_autocmds('User', { pattern = 'FimdStatus', modeline = false, data = status })
  vim.cmd.redrawstatus({ bang = true })
end

---@param buf? integer
---@return table?
function M.of(buf)
  local client = vim.lsp.get_clients({ name = 'fimd', bufnr = buf or 0 })[1]
  return client and (last[client.id] or { state = 'ready' })
end

---@param buf? integer
---@return string
function M.text(buf)
  local status = M.of(buf)
  if not status then
    return ''
  elseif status.state == 'loading' then
    return status.percentage and ('fimd %d%%'):format(status.percentage) or 'fimd loading'
  elseif status.state ~= 'ready' then
    return 'fimd ' .. status.state
  elseif status.busy then
    return 'fimd …'
  end
  return status.answer_ms and ('fimd %d ms'):format(status.answer_ms) or 'fimd'
end

return M
