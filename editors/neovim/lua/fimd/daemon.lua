-- The daemon, as `fimd status --json` sees it: also where no buffer is served.

local M = {}

---The program that this Neovim starts, or nil.
function M.binary()
  local cmd = vim.lsp.config.fimd.cmd
  local path = type(cmd) == 'table' and vim.fn.exepath(cmd[1]) or ''
  return path ~= '' and path or nil
end

---Runs it; what it printed, and whether it succeeded.
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
