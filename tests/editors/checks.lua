-- Shared by the scenarios of all editors: checks, waiting, terminals, and the status of fimd. They run in a root of their
-- own (in_root), as scripts of `nvim -l`.

local M = {}

local editor
local counts = { ok = 0, FAIL = 0, SKIP = 0 }
local terminals = {}
local SKIP = {}

local function say(result, name, why)
  counts[result] = counts[result] + 1
  io.stdout:write(('%-4s %s: %s%s\n'):format(result, editor, name, why and (' (' .. why .. ')') or ''))
  io.stdout:flush()
end

---Names the editor in all lines to come.
function M.of(name)
  editor = name
  for _, old in ipairs(vim.fn.glob('/out/' .. name .. '-failure-*.txt', true, true)) do
    os.remove(old)
  end
end

---Skips a check that this binary does not support.
function M.skip(why)
  error(setmetatable({ why = why }, SKIP), 0)
end

---One check: `run` raises an error if it fails.
function M.check(name, run)
  local ok, problem = xpcall(run, function(problem)
    return getmetatable(problem) == SKIP and problem or debug.traceback(problem, 2)
  end)
  if ok then
    return say('ok', name)
  elseif getmetatable(problem) == SKIP then
    return say('SKIP', name, problem.why)
  end
  say('FAIL', name, vim.fn.strcharpart(vim.split(problem, '\n')[1], 0, 160))
  local file = assert(io.open(('/out/%s-failure-%d.txt'):format(editor, counts.FAIL), 'w'))
  file:write(name, '\n\n', problem, '\n')
  for title, terminal in vim.spairs(terminals) do
    local is_open, screen = pcall(terminal.screen)
    file:write('\n== ', title, '\n', is_open and screen or '(closed)', '\n')
  end
  file:close()
end

---Exits: with 1 if a check failed.
function M.finish()
  local passed = counts.FAIL == 0
  io.stdout:write(('%s: %d ok, %d failed, %d skipped\n'):format(editor, counts.ok, counts.FAIL, counts.SKIP))
  io.stdout:flush()
  os.exit(passed and 0 or 1)
end

---Waits until `get` returns something true, and returns it.
function M.wait(what, get, milliseconds)
  local result
  local last
  local ok = vim.wait(milliseconds or 10000, function()
    result, last = get()
    return result
  end, 20)
  if not ok then
    error(('waited in vain for %s; last seen: %s'):format(what, vim.inspect(last or result)), 0)
  end
  return result
end

function M.equal(actual, expected, what)
  if not vim.deep_equal(actual, expected) then
    error(('%s is %s, not %s'):format(what or 'it', vim.inspect(actual), vim.inspect(expected)), 0)
  end
end

---Runs a command; returns its stdout, or nil and its output.
function M.run(...)
  local result = vim.system({ ... }, { text = true }):wait(20000)
  if result.code == 0 then
    return result.stdout
  end
  return nil, result.stderr
end

---A program in a terminal, whose screen is text.
function M.terminal(title, command, cwd)
  local function tmux(...)
    return assert(M.run('tmux', '-L', 'fimd', ...))
  end
  tmux('-f', '/dev/null', 'new-session', '-d', '-s', title, '-x', '96', '-y', '30', '-c', cwd, command)
  local terminal = {
    keys = function(...)
      tmux('send-keys', '-t', title, ...)
    end,
    text = function(text)
      tmux('send-keys', '-t', title, '-l', text)
    end,
    screen = function(...)
      return tmux('capture-pane', '-p', '-t', title, ...)
    end,
  }
  terminals[title] = terminal
  return terminal
end

---A picture of a terminal's screen, as the file NAME.svg.
function M.picture(name, terminal)
  local file = assert(io.open(('/out/%s.svg'):format(name), 'w'))
  file:write(require('picture')(terminal.screen('-e', '-N')))
  file:close()
end

---Whether the binary has a subcommand.
function M.has(subcommand)
  return M.run('fimd', subcommand, '--help') ~= nil
end

---`fimd status --json`; skips the check where there is no daemon yet.
function M.status()
  if not M.has('status') then
    M.skip('this fimd has no daemon')
  end
  return vim.json.decode(assert(M.run('fimd', 'status', '--json')))
end

---Waits until the daemon counts so many editors.
function M.wait_editors(count)
  M.wait(count .. ' editors in `fimd status`', function()
    local status = M.status()
    return #status.editors == count, status
  end)
end

---Kills the daemon as a crash would, runs `use`, and makes sure that a new one answers.
function M.kill_daemon(use)
  local pid = M.status().pid
  assert(vim.uv.kill(pid, 'sigkill'))
  use()
  M.wait('another daemon', function()
    local ok, status = pcall(M.status)
    return ok and status.pid ~= pid, status
  end)
end

---A folder with the demo file, as a project of the user.
function M.project()
  local folder = vim.env.HOME .. '/project'
  vim.fn.mkdir(folder .. '/.git', 'p')
  assert(vim.uv.fs_copyfile('/fimd/tests/data/demo/stack.py', folder .. '/stack.py'))
  return folder
end

return M
