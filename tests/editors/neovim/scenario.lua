-- Drives Neovim: keys and queries by RPC, the screen by its terminal.

package.path = '/fimd/tests/editors/?.lua;' .. package.path
local checks = require('checks')
local check, equal, skip, wait = checks.check, checks.equal, checks.skip, checks.wait

checks.of('neovim')
local project = checks.project()
local pack = vim.env.HOME .. '/.local/share/nvim/site/pack/fimd/start'
vim.fn.mkdir(pack, 'p')
assert(checks.run('cp', '-r', '/fimd/editors/neovim', pack .. '/fimd'))

---A Neovim in a terminal.
local function start(title, ...)
  local socket = '/tmp/run/' .. title
  local terminal = checks.terminal(title, table.concat({ 'nvim --listen', socket, ... }, ' '), project)
  wait('the socket of ' .. title, function()
    return vim.uv.fs_stat(socket)
  end)
  local channel = vim.fn.sockconnect('pipe', socket, { rpc = true })
  local self = { terminal = terminal }

  function self.lua(code, ...)
    return vim.rpcrequest(channel, 'nvim_exec_lua', code, { ... })
  end
  wait('the start of ' .. title, function()
    return self.lua('return vim.v.vim_did_enter == 1')
  end)
  function self.input(keys)
    vim.rpcrequest(channel, 'nvim_input', keys)
  end
  function self.command(command)
    return vim.rpcrequest(channel, 'nvim_exec2', command, { output = true }).output
  end
  ---Blocks until all keys so far are processed; in insert mode as well.
  function self.settle()
    wait('keys to be read', function()
      return not vim.rpcrequest(channel, 'nvim_get_mode').blocking and self.lua('return vim.fn.getchar(1) == 0')
    end)
  end
  function self.text()
    return self.lua('return table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), "\\n")')
  end
  function self.cursor()
    return self.lua('return vim.api.nvim_win_get_cursor(0)')
  end
  ---The ghost text on screen, or nil.
  function self.ghost()
    return self.lua([[
      local namespace = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
      local mark = namespace and vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true })[1]
      if not mark then return nil end
      local lines = { mark[4].virt_text[1][1] }
      for _, line in ipairs(mark[4].virt_lines or {}) do
        table.insert(lines, line[1][1])
      end
      return table.concat(lines, '\n')
    ]])
  end
  function self.wait_ghost(milliseconds)
    return wait('ghost text in ' .. title, function()
      local ghost = self.ghost()
      return ghost and ghost ~= vim.NIL and ghost ~= '' and ghost, self.text()
    end, milliseconds)
  end
  function self.wait_none()
    wait('no ghost text in ' .. title, function()
      local ghost = self.ghost()
      return ghost == nil or ghost == vim.NIL, ghost
    end)
  end
  ---The text before and behind the cursor's place in the buffer.
  function self.split()
    return unpack(self.lua([[
      local row, column = unpack(vim.api.nvim_win_get_cursor(0))
      local text = function(...) return table.concat(vim.api.nvim_buf_get_text(0, ...), '\n') end
      return { text(0, 0, row - 1, column, {}), text(row - 1, column, -1, -1, {}) }
    ]]))
  end
  function self.attached()
    wait('fimd to be attached in ' .. title, function()
      return self.lua([[return #vim.lsp.get_clients({ name = 'fimd', bufnr = 0 }) > 0]])
    end)
  end
  function self.can(capability)
    local provider = self.lua(
      [[return vim.lsp.get_clients({ name = 'fimd' })[1].server_capabilities[...] or false]],
      capability
    )
    return provider ~= false and provider
  end
  function self.executes(command)
    local provider = self.can('executeCommandProvider')
    if not provider or not vim.list_contains(provider.commands, command) then
      skip('this fimd has no ' .. command)
    end
  end
  ---The demo file as it was, with the cursor behind its last word, in insert mode: `return` wants a value.
  function self.demo(before, milliseconds)
    self.input('<C-\\><C-n>')
    self.settle()
    self.command('edit! stack.py')
    self.command('silent %delete _ | silent 0read /fimd/tests/data/demo/stack.py | silent $delete _')
    self.attached()
    self.lua([[vim.api.nvim_buf_set_lines(0, -2, -1, false, { ... })]], before or '    retur')
    self.input(before and 'GA' or 'GAn')
    return self.wait_ghost(milliseconds)
  end
  return self
end

local first = start('first', 'stack.py')

check('the help file has its tags', function()
  first.command('helptags ALL')
  first.command('help :Fimd | bdelete')
  first.command('help fimd-mappings | bdelete')
end)

check(':Fimd completes its commands', function()
  equal(first.lua([[return vim.fn.getcompletion('Fimd p', 'cmdline')]]), { 'pause' }, 'completion')
  local all = { 'document', 'explain', 'fix', 'log', 'pause', 'restart', 'resume', 'status' }
  equal(first.lua([[return vim.fn.getcompletion('Fimd ', 'cmdline')]]), all, 'completion')
end)

check('fimd is attached without any configuration', first.attached)

check('ghost text appears after typing', function()
  equal(first.demo(), ' result', 'ghost text')
  wait('ghost text on the screen', function()
    return first.terminal.screen():find('return result', 1, true)
  end)
  checks.picture('neovim-ghost-text', first.terminal)
end)

check('typing through ghost text keeps it', function()
  local ghost = first.demo()
  first.input(ghost:sub(1, 3))
  wait('the typed text', function()
    return vim.endswith(first.text(), 'return' .. ghost:sub(1, 3))
  end)
  for _ = 1, 30 do -- at once, and after the next answer
    equal(first.ghost(), ghost:sub(4), 'ghost text')
    vim.wait(20)
  end
end)

check('accepting inserts exactly what is shown', function()
  local ghost = first.demo()
  local before, behind = first.split()
  first.input('<C-l>')
  wait('the accepted text', function()
    return first.text() == before .. ghost .. behind, first.text()
  end)
  equal({ first.split() }, { before .. ghost, behind }, 'text around the cursor')
end)

check('undo takes back what was accepted, and no more', function()
  first.demo()
  local before = first.text()
  first.input('<C-l>')
  wait('the accepted text', function()
    return first.text() ~= before
  end)
  first.input('<Esc>u')
  wait('the text before', function()
    return first.text() == before, first.text()
  end)
end)

check('accepting right after typing through inserts the rest once', function()
  local ghost = first.demo()
  local before, behind = first.split()
  first.input(ghost:sub(1, 2) .. '<C-l>')
  wait('the accepted text', function()
    return first.text() == before .. ghost .. behind, first.text()
  end)
end)

check('accepting a word leaves the rest on screen', function()
  local ghost = first.demo('    for va')
  assert(ghost:find('^%w+ '), ('%q has no two words'):format(ghost))
  local before, behind = first.split()
  local word = ghost:match('^%w+')
  first.input('<M-Right>')
  wait('the accepted word', function()
    return first.text() == before .. word .. behind, first.text()
  end)
  equal(first.ghost(), ghost:sub(#word + 1), 'ghost text')
end)

check('accepting by words ends with the whole', function()
  local ghost = first.demo('    for va')
  local before, behind = first.split()
  for _ = 1, 20 do
    if first.text() == before .. ghost .. behind then
      break
    end
    first.input('<M-Right>')
    vim.wait(30)
  end
  equal(first.text(), before .. ghost .. behind, 'text')
end)

check('accepting a line takes no more than it', function()
  local ghost = first.demo('def size(self):')
  local line = ghost:match('^\n[^\n]+')
  assert(line and line ~= ghost, ('%q has no two lines'):format(ghost))
  local before, behind = first.split()
  first.input('<M-C-Right>')
  wait('the accepted line', function()
    return first.text() == before .. line .. behind, first.text()
  end)
  equal(first.ghost(), ghost:sub(#line + 1), 'ghost text')
  wait('the rest of the screen', function()
    return first.terminal.screen():find('size%(self%):%s+return [^\n]+\n%s*\n%s+return')
  end)
  first.input('<C-l>')
  wait('the accepted rest', function()
    return first.text() == before .. ghost .. behind, first.text()
  end)
end)

check('the key to accept does what it did where nothing is shown', function()
  first.input('<C-\\><C-n>')
  first.command('enew! | set buftype=nofile')
  first.input('ia<Tab>b')
  wait('a tab', function()
    return first.text() == 'a\tb'
  end)
end)

check('Tab accepts where it is asked to, and indents otherwise', function()
  first.lua([[require('fimd').setup({ keys = { accept = '<Tab>' } })]])
  first.input('<C-\\><C-n>')
  first.command('edit! tab.py | setlocal expandtab shiftwidth=4 softtabstop=4')
  first.attached()
  first.lua([[
    vim.api.nvim_buf_set_lines(0, 0, -1, false, vim.fn.readfile('/fimd/tests/data/demo/stack.py'))
    vim.api.nvim_buf_set_lines(0, -2, -1, false, { '    retur' })
  ]])
  first.input('GAn')
  local ghost = first.wait_ghost()
  first.input('<Tab>')
  wait('the accepted text', function()
    return vim.endswith(first.text(), '    return' .. ghost)
  end)
  first.input('<C-\\><C-n>O<C-u><Tab>pass')
  wait('an indented line', function()
    return first.text():find('\n        pass\n') or first.text():find('\n    pass\n'), first.text()
  end)
  first.lua([[require('fimd').setup({ keys = { accept = '<C-l>' } })]])
end)

check('ghost text can be dismissed, and comes again with the next key', function()
  first.demo()
  first.input('<C-]>')
  first.wait_none()
  vim.wait(600)
  first.wait_none()
  first.input(' ')
  first.wait_ghost()
end)

check('alternatives are asked for by hand', function()
  local ghost = first.demo()
  local function changes(key, from)
    first.input(key)
    return wait('another alternative than ' .. from, function()
      local now = first.ghost()
      return now and now ~= vim.NIL and now ~= from and now, now
    end)
  end
  local another = changes('<M-]>', ghost)
  local before = changes('<M-[>', another)
  equal(changes('<M-]>', before), another, 'the one after the one before')
end)

check('files with DOS line ends have no ^M', function()
  first.input('<C-\\><C-n>')
  local file = assert(io.open(project .. '/dos.py', 'wb'))
  file:write((io.open('/fimd/tests/data/demo/stack.py'):read('*a'):gsub('\n', '\r\n')) .. '\r\n')
  file:close()
  first.command('edit dos.py')
  equal(first.lua('return vim.bo.fileformat'), 'dos', 'fileformat')
  first.attached()
  first.lua([[vim.api.nvim_buf_set_lines(0, -2, -1, false, { 'def reverse_all(lists):', '' })]])
  first.input('GA    ')
  local ghost = first.wait_ghost()
  assert(not ghost:find('\r'), vim.inspect(ghost))
  first.input('<C-l>')
  wait('the accepted text', function()
    return first.text():find(ghost, 1, true)
  end)
  assert(not first.text():find('\r'), 'a carriage return in the buffer')
  first.input('<C-\\><C-n>')
  first.settle()
  first.command('silent write')
  local _, alone = io.open(project .. '/dos.py', 'rb'):read('*a'):gsub('[^\r]\n', '')
  equal(alone, 0, 'number of lines without a carriage return in the file')
end)

check('a buffer without name and filetype is completed too', function()
  first.input('<C-\\><C-n>')
  first.command('enew!')
  first.input('i')
  first.attached()
  first.input('for i in range(10):<CR>    prin')
  first.wait_ghost()
end)

check('settings take effect at once', function()
  if not checks.has('config') then
    skip('this fimd takes no settings from a running editor')
  end
  first.demo()
  first.lua([[require('fimd').setup({ settings = { enabled = false } })]])
  first.input('<C-\\><C-n>A ')
  vim.wait(1000)
  first.wait_none()
  first.lua([[require('fimd').setup({ settings = { enabled = true } })]])
  first.demo()
end)

check('pause and resume', function()
  first.executes('fimd.pause')
  first.demo()
  first.command('Fimd pause 5')
  wait('the state', function()
    local status = first.lua([[return require('fimd').status()]])
    return status == 'fimd paused', status
  end)
  first.input('<C-\\><C-n>A ')
  vim.wait(1000)
  first.wait_none()
  first.command('Fimd resume')
  first.demo()
end)

check('the status names its state', function()
  first.input('<C-\\><C-n>')
  first.settle()
  local status = first.lua([[return require('fimd').status()]])
  assert(status:find('^fimd'), status)
end)

check('hover shows documentation', function()
  if not first.can('hoverProvider') then
    skip('this fimd has no hover')
  end
  first.demo()
  first.input('<C-\\><C-n>')
  first.settle()
  first.lua([[vim.api.nvim_win_set_cursor(0, { 15, 5 })]])
  wait('a hover window', function()
    first.lua([[vim.lsp.buf.hover({ silent = true })]])
    vim.wait(1500)
    return first.lua([[
      for _, win in ipairs(vim.api.nvim_list_wins()) do
        if vim.api.nvim_win_get_config(win).relative ~= '' then
          local lines = vim.api.nvim_buf_get_lines(vim.api.nvim_win_get_buf(win), 0, -1, false)
          return table.concat(lines, '\n')
        end
      end
      return false
    ]])
  end, 20000)
end)

check('explain opens a window that q closes', function()
  first.executes('fimd.explain')
  first.demo()
  first.input('<C-\\><C-n>')
  first.settle()
  first.lua([[vim.api.nvim_win_set_cursor(0, { 15, 5 })]])
  first.command('messages clear | Fimd explain')
  wait('an explanation', function()
    local refusal = first.command('messages'):match('fimd: this model[^\n]*')
    if refusal then
      skip(refusal)
    end
    return first.lua([[return vim.bo.filetype == 'markdown' and vim.fn.getline(1) ~= '']])
  end, 30000)
  vim.wait(1000)
  checks.picture('neovim-explain', first.terminal)
  first.input('q')
  wait('the window to be closed', function()
    return first.lua([[return vim.bo.filetype == 'python']])
  end)
end)

check('document writes documentation', function()
  if not first.can('codeActionProvider') then
    skip('this fimd has no code actions')
  end
  first.demo()
  first.input('<C-\\><C-n>')
  first.settle()
  first.lua([[vim.api.nvim_win_set_cursor(0, { 15, 5 })]])
  local before = first.text()
  first.command('Fimd document')
  wait('documentation', function()
    return #first.text() > #before
  end, 30000)
end)

check('the server is told what is shown and taken in part', function()
  local counters = first.lua([[
    return vim.lsp.get_clients({ name = 'fimd' })[1]:request_sync('fimd/statistics').result
  ]])
  assert(counters.shown > 5, vim.inspect(counters))
  assert(counters.partially_accepted > 2, vim.inspect(counters))
end)

local second
check('a second Neovim shares the daemon', function()
  checks.status()
  second = start('second', 'stack.py')
  second.demo()
  checks.wait_editors(2)
end)

check('a killed daemon is started again under running editors', function()
  first.demo()
  checks.kill_daemon(function()
    -- The text does not change: it has to be replayed to the new daemon.
    wait('ghost text, as somebody types on', function()
      first.input('<BS>')
      vim.wait(100)
      first.input('n')
      return (pcall(first.wait_ghost, 1000))
    end, 20000)
    equal(first.lua([[return #vim.lsp.get_clients({ name = 'fimd' })]]), 1, 'number of servers')
    second.demo()
  end)
  checks.wait_editors(2)
end)

check('a crashed server is started again', function()
  first.demo()
  local server = [[return (vim.lsp.get_clients({ name = 'fimd', bufnr = 0 })[1] or {}).id or false]]
  local id = first.lua(server)
  first.lua([[
    for _, pid in ipairs(vim.api.nvim_get_proc_children(vim.fn.getpid())) do
      if vim.fn.readfile('/proc/' .. pid .. '/comm')[1]:find('fimd') then
        vim.uv.kill(pid, 'sigkill')
      end
    end
  ]])
  vim.wait(500)
  first.input('<CR>') -- Neovim's message of it does not fit on a line
  wait('another server', function()
    local now = first.lua(server)
    return now and now ~= id
  end)
  first.demo()
end)

check('restarting the server brings ghost text back', function()
  first.demo()
  first.input('<C-\\><C-n>')
  first.settle()
  local id = first.lua([[return vim.lsp.get_clients({ name = 'fimd' })[1].id]])
  first.command('Fimd restart')
  wait('another server', function()
    local client = first.lua([[return (vim.lsp.get_clients({ name = 'fimd' })[1] or {}).id or false]])
    return client and client ~= id
  end)
  first.demo()
end)

check('checkhealth is clean', function()
  first.input('<C-\\><C-n>')
  first.settle()
  first.command('checkhealth fimd')
  local report = wait('the report', function()
    local text = first.text()
    return text:find('Attached') and text, text
  end)
  assert(not report:find('ERROR') and not report:find('WARNING'), report)
end)

check('checkhealth names a program that is missing', function()
  first.lua([[vim.lsp.config('fimd', { cmd = { 'absent', 'lsp' } })]])
  first.command('bwipeout! | checkhealth fimd')
  wait('the error', function()
    return first.text():find('ERROR `absent` is not on your path', 1, true), first.text()
  end)
  first.lua([[vim.lsp.config('fimd', { cmd = { 'fimd', 'lsp' } })]])
end)

check('settings given before the start hold, and loading late does', function()
  local init = vim.env.HOME .. '/late.lua'
  local file = assert(io.open(init, 'w'))
  file:write(([[
    vim.api.nvim_create_autocmd('VimEnter', { callback = function()
      vim.defer_fn(function()
        vim.opt.runtimepath:append('%s/fimd')
        vim.cmd.runtime('plugin/fimd.lua')
        require('fimd').setup({ settings = { enabled = false } })
      end, 200)
    end })
  ]]):format(pack))
  file:close()
  local late = start('late', '--clean', '-u', init, 'stack.py')
  late.attached()
  late.input('GA ')
  vim.wait(1500)
  late.wait_none()
  late.lua([[require('fimd').setup({ settings = {} })]])
  if checks.has('config') then
    late.demo()
  end
  late.input('<C-\\><C-n>:qall!<CR>')
end)

check('the log opens', function()
  first.command('Fimd log')
  wait('a log', function()
    local name = first.lua([[return vim.api.nvim_buf_get_name(0)]])
    return name:find('%.log$'), name
  end)
end)

check('nothing went wrong unseen', function()
  local messages = first.command('messages')
  assert(not messages:find('E%d+:') and not messages:find('Error'), messages)
end)

checks.finish()
