-- Renders the screen of a terminal as SVG.

local BACKGROUND, FOREGROUND = '#14161b', '#e0e2ea'
local CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 12
local NAMED = {
  '#07080d', '#ffc0b9', '#b3f6c0', '#fce094', '#a6dbff', '#ffcaff', '#8cf8f7', '#eef1f8',
  '#4f5258', '#ffc0b9', '#b3f6c0', '#fce094', '#a6dbff', '#ffcaff', '#8cf8f7', '#eef1f8',
}

-- Some SVG viewers collapse runs of spaces and trailing ones.
local ESCAPES = { ['&'] = '&amp;', ['<'] = '&lt;', ['>'] = '&gt;', [' '] = '&#160;' }

local function indexed(index)
  if index < 16 then
    return NAMED[index + 1]
  elseif index >= 232 then
    local grey = 8 + 10 * (index - 232)
    return ('#%02x%02x%02x'):format(grey, grey, grey)
  end
  local function level(step)
    return step == 0 and 0 or 55 + 40 * step
  end
  index = index - 16
  return ('#%02x%02x%02x'):format(level(math.floor(index / 36)), level(math.floor(index / 6) % 6), level(index % 6))
end

---Applies the parameters of one escape sequence to a style.
local function restyle(style, parameters)
  local codes = vim.tbl_map(tonumber, vim.split(parameters == '' and '0' or parameters, '[;:]'))
  local i = 1
  while codes[i] do
    local code = codes[i]
    local which = code < 40 and 'fg' or 'bg'
    if code == 0 then
      style = {}
    elseif code == 1 then
      style.bold = true
    elseif code == 3 then
      style.italic = true
    elseif code == 4 then
      style.underline = true
    elseif code == 7 then
      style.reverse = true
    elseif code == 22 then
      style.bold = nil
    elseif code == 23 then
      style.italic = nil
    elseif code == 24 then
      style.underline = nil
    elseif code == 27 then
      style.reverse = nil
    elseif (code == 38 or code == 48) and codes[i + 1] == 2 then
      style[which] = ('#%02x%02x%02x'):format(codes[i + 2], codes[i + 3], codes[i + 4])
      i = i + 4
    elseif (code == 38 or code == 48) and codes[i + 1] == 5 then
      style[which] = indexed(codes[i + 2])
      i = i + 2
    elseif code == 39 or code == 49 then
      style[which] = nil
    elseif code >= 30 and code <= 37 or code >= 40 and code <= 47 then
      style[which] = indexed(code % 10)
    elseif code >= 90 and code <= 97 or code >= 100 and code <= 107 then
      style[which] = indexed(code % 10 + 8)
    end
    i = i + 1
  end
  return style
end

---@param screen string lines with escape sequences, as `tmux capture-pane -e` prints them
return function(screen)
  local boxes, texts = {}, {}
  local style = {}
  local columns = 0
  local lines = vim.split((screen:gsub('%s+$', '')), '\n')
  for row, line in ipairs(lines) do
    local column = 0
    local function run(text)
      if text == '' then
        return
      end
      local width = vim.fn.strdisplaywidth(text)
      local fg, bg = style.fg or FOREGROUND, style.bg
      if style.reverse then
        fg, bg = bg or BACKGROUND, fg
      end
      local x, y = MARGIN + column * CELL_WIDTH, MARGIN + (row - 1) * LINE_HEIGHT
      if bg and bg ~= BACKGROUND then
        table.insert(boxes, ('<path fill="%s" d="M%.1f %dh%.1fv%dh-%.1fz"/>'):format(
          bg, x, y, width * CELL_WIDTH, LINE_HEIGHT, width * CELL_WIDTH
        ))
      end
      local indent, visible = text:match('^( *)(.-) *$')
      if visible ~= '' then
        local escaped = visible:gsub('[&<> ]', ESCAPES)
        table.insert(texts, ('<text x="%.1f" y="%d" textLength="%.1f" fill="%s"%s%s%s>%s</text>'):format(
          x + #indent * CELL_WIDTH, y + 13, vim.fn.strdisplaywidth(visible) * CELL_WIDTH, fg,
          style.bold and ' font-weight="bold"' or '',
          style.italic and ' font-style="italic"' or '',
          style.underline and ' text-decoration="underline"' or '',
          escaped
        ))
      end
      column = column + width
    end
    local from = 1
    while true do
      local first, last, parameters = line:find('\27%[([%d;:]*)m', from)
      run(line:sub(from, (first or 0) - 1))
      if not first then
        break
      end
      style = restyle(style, parameters)
      from = last + 1
    end
    columns = math.max(columns, column)
  end
  local width = math.ceil(2 * MARGIN + columns * CELL_WIDTH)
  local height = 2 * MARGIN + #lines * LINE_HEIGHT
  return table.concat({
    ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d">'):format(width, height, width),
    '<style>text{font:14px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}</style>',
    ('<rect width="100%%" height="100%%" rx="6" fill="%s"/>'):format(BACKGROUND),
    '<g shape-rendering="crispEdges">' .. table.concat(boxes, '\n') .. '</g>',
    table.concat(texts, '\n'),
    '</svg>\n',
  }, '\n')
end
