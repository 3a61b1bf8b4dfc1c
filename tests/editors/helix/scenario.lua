-- Drives Helix by its terminal.

package.path = '/fimd/tests/editors/?.lua;' .. package.path
local checks = require('checks')
local check, equal, skip, wait = checks.check, checks.equal, checks.skip, checks.wait

checks.of('helix')
local project = checks.project()
local settings = vim.env.HOME .. '/.config/helix'
vim.fn.mkdir(settings, 'p')
assert(vim.uv.fs_copyfile('/fimd/editors/helix/languages.toml', settings .. '/languages.toml'))

local demo = io.open('/fimd/tests/data/demo/stack.py'):read('*a'):gsub('\n$', '')

---A Helix in a terminal, with a file that holds `text`.
local function start(title, file, text)
  local path = project .. '/' .. file
  local function fill(content)
    local handle = assert(io.open(path, 'wb'))
    handle:write(content)
    handle:close()
  end
  fill(text)
  local terminal = checks.terminal(title, 'hx ' .. file, project)
  local self = { screen = terminal.screen }
  ---Waits after each key: Escape and the next key, read together, would be another key.
  function self.keys(...)
    for _, key in ipairs({ ... }) do
      terminal.keys(key)
      vim.wait(150)
    end
  end
  function self.type(text)
    terminal.text(text)
    vim.wait(150)
  end
  function self.command(command)
    self.keys('Escape', 'Escape')
    self.type(':' .. command)
    self.keys('Enter')
  end
  function self.sees(what, pattern, milliseconds)
    return wait(what, function()
      return self.screen():match(pattern), self.screen()
    end, milliseconds)
  end
  ---Restores the file.
  function self.afresh()
    self.keys('Escape')
    fill(text)
    self.command('reload')
    self.sees('the file as it was', '22 +return *\n')
  end
  function self.saved()
    self.command('write!')
    vim.wait(300)
    return io.open(path, 'rb'):read('*a')
  end
  ---At the end of the file, in insert mode; the menu follows.
  function self.complete(milliseconds)
    self.afresh()
    self.type('ge')
    self.type('A')
    self.sees('insert mode', '\n INS ')
    self.type(' res')
    self.sees('the menu', '\n%s+~?%s+result%s+text', milliseconds)
  end
  self.sees('the file', 'class Stack')
  return self
end

check('the configuration is read', function()
  local health = assert(checks.run('hx', '--health', 'python'))
  assert(health:find('fimd: .*/fimd'), health)
end)

local first
check('the menu offers the completion', function()
  first = start('first', 'stack.py', demo)
  first.complete()
end)

check('choosing it shows it in the text, accepting inserts exactly it', function()
  first.keys('Tab')
  first.sees('the preview', '22 +return result\n')
  checks.picture('helix-menu', first)
  first.keys('Enter')
  equal(vim.trim(first.saved()), demo .. ' result', 'the file')
end)

check('files with DOS line ends keep them', function()
  local dos = start('dos', 'dos.py', (demo:gsub('\n', '\r\n')))
  dos.complete()
  dos.keys('Tab', 'Enter')
  local saved = dos.saved()
  assert(vim.endswith(vim.trim(saved), 'return result'), saved)
  assert(not saved:gsub('\r\n', ''):find('[\r\n]'), 'lines of both kinds in the file')
  dos.command('quit!')
end)

check('settings of the configuration hold', function()
  local path = settings .. '/languages.toml'
  local before = io.open(path):read('*a')
  local text, count = before:gsub('# config = [^\n]*', 'config = { enabled = false }')
  equal(count, 1, 'number of examples in languages.toml')
  io.open(path, 'w'):write(text):close()
  local off = start('off', 'off.py', demo)
  off.type('ge')
  off.type('A')
  off.type(' res')
  vim.wait(1500)
  assert(not off.screen():find('result%s+text'), off.screen())
  off.command('quit!')
  io.open(path, 'w'):write(before):close()
end)

check('document is among the code actions, and writes documentation', function()
  first.afresh()
  first.type('15G')
  first.type('ww') -- `reverse`
  first.type(' a')
  vim.wait(1000)
  if first.screen():find('No configured language server supports code actions') then
    skip('this fimd has no code actions')
  end
  first.sees('document in the list', 'fimd: document `reverse`')
  checks.picture('helix-actions', first)
  for action in first.screen():gmatch('fimd: (%w+)') do
    first.keys('Down')
    if action == 'document' then
      break
    end
  end
  first.keys('Enter')
  local before = demo
  wait('documentation', function()
    local saved = first.saved()
    return #saved > #before + 10, saved
  end, 30000)
end)

check('hover shows documentation', function()
  first.afresh()
  first.type('15G')
  first.type('ww') -- `reverse`
  first.type(' k')
  vim.wait(1000)
  if first.screen():find('No configured language server supports hover') then
    skip('this fimd has no hover')
  end
  first.keys('Escape')
  local bare = first.screen()
  wait('a popup', function()
    first.type(' k')
    vim.wait(1500)
    return first.screen() ~= bare and not first.screen():find('No hover results'), first.screen()
  end, 20000)
  first.keys('Escape')
end)

local second
check('a second Helix shares the daemon', function()
  checks.status()
  second = start('second', 'other.py', demo)
  second.complete()
  checks.wait_editors(2)
end)

check('a killed daemon is started again under running editors', function()
  checks.kill_daemon(function()
    wait('the menu, as somebody types on', function()
      return (pcall(first.complete, 2000))
    end, 30000)
    second.complete()
  end)
end)

checks.finish()
