-- Queries the daemon by `fimd status --json`, also where fimd is not attached.

local M = {}

---The path of the `fimd` program, or nil.
function M.binary()
  local cmd = vim.lsp.config.fimd.cmd
  local path = type(cmd) == 'table' and vim.fn.exepath(cmd[1]) or ''
  return path ~= '' and path or nil
end

---Runs it; returns its stdout, and whether it succeeded.
---@return string?, boolean
function M.run(...)
  local result = vim.system({ M.binary(), ... }, { text = true }):wait(5000)
  return result.stdout, result.code == 0
end

---@return table? # nil where no daemon runs
function M.status()
  local output, is_there = M.run('status', '--json')
  return is_there and vim.json.decode(output, { luanil = { object = true } }) or nil
end

return M
