// Drives VS Code by its page: sends keys and reads the screen.

import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { capabilities, check, equal, finish, has, skip, sleep, status, wait, waitEqual } from './checks.mjs';
import { project, settings, start } from './editor.mjs';

const OUT = '/out';
const DEMO = readFileSync('/fimd/tests/data/demo/stack.py', 'utf8').trimEnd();

const can = await capabilities();
process.env.FIMD_LOG='debug';
const openWindow = await start('/fimd/editors/vscode/fimd.vsix');
const windows = [await openWindow()];
const [first] = windows;

const test = (name, body) =>
    check(name, body, async (number) => {
        for (const [index, window] of windows.entries()) {
            await window.screenshot(`${OUT}/vscode-failure-${number}-${index + 1}.png`);
        }
        appendFileSync(`${OUT}/vscode-failure-${number}.txt`, logs());
    });

/** What the extension logged, in all windows. */
function logs() {
    const folder = `${process.env.HOME}/.local/share/code-server/logs`;
    return readdirSync(folder, { recursive: true })
        .filter((file) => file.endsWith('fimd.log'))
        .map((file) => `== ${file}\n${readFileSync(`${folder}/${file}`, 'utf8')}`)
        .join('\n');
}

/** A new file as the demo is, but with another last line, the last key of which is typed. */
async function demo(window = first, last = '    return') {
    const text = DEMO.split('\n').slice(0, -1).concat(last).join('\n');
    await window.open(text.slice(0, -1));
    await window.type(text.slice(-1));
    const ghost = await window.waitGhost();
    return { text, ghost };
}

/** Processes `fimd lsp`. */
function bridges() {
    return readdirSync('/proc')
        .filter((entry) => /^\d+$/.test(entry))
        .filter((pid) => {
            try {
                return readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('/usr/local/bin/fimd\0lsp');
            } catch {
                return false;
            }
        })
        .map(Number);
}

/** Waits until so many processes were replaced by others, and the first window's is ready. */
async function replaced(count, before) {
    await wait('other processes', () => {
        const now = bridges();
        return [now.length === before.length && now.filter((pid) => !before.includes(pid)).length === count, { before, now }];
    });
    await sleep(1000); // until then the status bar may say that the old one is ready
    await first.waitStatus(/^fimd: ready/);
}

const executes = (command) => {
    if (!can.executeCommandProvider?.commands?.includes(command)) skip(`this fimd has no ${command}`);
};

await test('ghost text appears after typing', async () => {
    const { ghost } = await demo();
    equal(ghost, ' result', 'ghost text');
});

await test('typing through ghost text keeps it', async () => {
    const { text, ghost } = await demo();
    await first.type(ghost.slice(0, 3));
    await first.waitText(text + ghost.slice(0, 3));
    for (let i = 0; i < 30; i++) {
        equal(await first.ghost(), ghost.slice(3), 'ghost text'); // at once, and after the next answer
        await sleep(20);
    }
});

await test('Tab inserts exactly what is shown', async () => {
    const { text, ghost } = await demo();
    await first.press('Tab');
    await first.waitText(text + ghost);
});

await test('Tab right after typing through inserts the rest once', async () => {
    const { text, ghost } = await demo();
    await first.type(ghost.slice(0, 2));
    await first.press('Tab');
    await first.waitText(text + ghost);
});

await test('accepting a word leaves the rest on screen', async () => {
    const { text, ghost } = await demo(first, '    for va');
    const word = /^\w+/.exec(ghost)?.[0];
    if (word === undefined || word === ghost) throw new Error(`${JSON.stringify(ghost)} has no two words`);
    await first.press('Control+ArrowRight');
    await first.waitText(text + word);
    await waitEqual('ghost text', () => first.ghost(), ghost.slice(word.length));
});

await test('accepting a line takes no more than it', async () => {
    const text = `${DEMO} result\n\n\ndef main():`;
    await first.open(text);
    await first.press('Alt+Backslash'); // an invoked request may have several lines
    const ghost = await first.waitGhost();
    const lines = /^(\n)([^\n]+\n)/.exec(ghost);
    if (lines === null) throw new Error(`${JSON.stringify(ghost)} has no two lines`);
    await sleep(1500); // until the status bar knows how quick that was
    await first.screenshot(`${OUT}/vscode-ghost-text.png`);
    // To VS Code a line goes to its end, so that the first is but the rest of the cursor's line.
    await first.press('Control+Alt+ArrowRight');
    await first.waitText(text + lines[1]);
    await first.press('Control+Alt+ArrowRight');
    await first.waitText(text + lines[0]);
    await waitEqual('ghost text', () => first.ghost(), ghost.slice(lines[0].length));
    // Where ghost text begins with the indentation of its line, VS Code has Tab indent first.
    await first.press('Tab', 'Tab');
    await first.waitText(text + ghost);
});

await test('Escape dismisses it, and the next key brings it back', async () => {
    await demo();
    await first.press('Escape');
    await first.waitNoGhost(600);
    await first.type(' ');
    await first.waitGhost();
});

await test('Tab does what it did where nothing is shown', async () => {
    await first.open('a', 'txt');
    await first.press('Escape', 'Tab');
    await first.type('b');
    await wait('a tab', () => /^a[ \t]+b$/.test(first.text()));
});

await test('a change of settings takes effect at once', async () => {
    if (!has('config')) skip('this fimd takes no settings from a running editor');
    settings({}, { 'fimd.enabled': false });
    await first.waitStatus(/^fimd: disabled/);
    await first.open(DEMO.slice(0, -1));
    await first.type(DEMO.slice(-1));
    await first.waitNoGhost(1500);
    settings({});
    await first.waitStatus(/^fimd: ready/);
    await demo();
});

await test('pause and resume', async () => {
    executes('fimd.pause');
    await first.command('fimd: Pause Completions in All Editors');
    await first.waitStatus(/^fimd: paused/);
    await first.open(DEMO.slice(0, -1));
    await first.type(DEMO.slice(-1));
    await first.waitNoGhost(1500);
    await first.command('fimd: Resume Completions');
    await first.waitStatus(/^fimd: ready/);
    await demo();
});

await test('the status can be asked for', async () => {
    await first.command('fimd: Show Status');
    await wait('the list', async () => {
        const text = await first.page.locator('.quick-input-list').innerText({ timeout: 1000 }).catch(() => '');
        return [/ready[\s\S]*Restart the server/.test(text), text];
    });
    await first.screenshot(`${OUT}/vscode-status.png`);
    await first.press('Escape');
});

await test('document proposes documentation, and makes it when that is confirmed', async () => {
    if (!can.codeActionProvider) skip('this fimd has no code actions');
    await first.open(DEMO);
    await first.press('Control+Home');
    for (let i = 0; i < 14; i++) await first.press('ArrowDown');
    await first.command('fimd: Document');
    const apply = first.page.getByRole('button', { name: 'Apply' });
    await wait('the proposal, or the change', async () => (await apply.count()) > 0 || first.text() !== DEMO, 60_000);
    await first.screenshot(`${OUT}/vscode-document.png`);
    if ((await apply.count()) > 0) {
        equal(first.text(), DEMO, 'the text before it is confirmed');
        await first.page.locator('.edit-checkbox').first().click();
        await apply.first().click();
    }
    await wait('documentation', () => [first.text().length > DEMO.length, first.text()]);
});

await test('a model that only completes says that it cannot explain', async () => {
    executes('fimd.explain');
    await first.open(DEMO);
    await first.press('Control+Home');
    await first.command('fimd: Explain');
    await wait('the reason', async () => {
        const text = await first.notifications();
        return [text.includes('only completes code'), text];
    });
});

await test('an explanation appears beside the editor, and can do no harm', async () => {
    const loaded = [];
    const elsewhere = createServer((request, response) => {
        loaded.push(request.url);
        response.end();
    }).listen(8124, '127.0.0.1');
    settings({}, { 'fimd.path': '/fimd/tests/editors/vscode/explainer' });
    await first.open(DEMO);
    await sleep(2000); // until it is started
    await first.command('fimd: Explain');
    const shown = async () => {
        const frames = first.page.frames().map((frame) => frame.locator('body').innerText({ timeout: 200 }).catch(() => ''));
        return (await Promise.all(frames)).filter((text) => text.includes('A stack'));
    };
    await wait('the explanation', async () => {
        const texts = await shown();
        return [texts.some((text) => text.includes('That is all.')), texts];
    });
    await sleep(1000);
    equal((await shown()).length, 1, 'views that still show it');
    equal(loaded, [], 'what it loaded');
    elsewhere.close();
    await first.screenshot(`${OUT}/vscode-explanation.png`);
    settings({});
    await first.command('View: Close All Editors');
    await sleep(1000);
    await first.waitStatus(/^fimd: ready/);
});

await test('a second window shares the daemon', async () => {
    status();
    windows.push(await openWindow());
    await demo(windows[1]);
    await waitEqual('editors in fimd status', () => status().editors.length, 2);
    await demo();
});

await test('a killed daemon is started again under running windows', async () => {
    const { pid } = status();
    await demo();
    process.kill(pid, 'SIGKILL');
    await demo();
    await wait('another daemon', () => status().pid !== pid);
    if (windows[1]) await demo(windows[1]);
});

await test('a crashed server is started again', async () => {
    const before = bridges();
    if (before.length === 0) throw new Error('there is no process `fimd lsp`');
    for (const pid of before) process.kill(pid, 'SIGKILL');
    await replaced(before.length, before);
    await demo();
});

await test('the server can be restarted', async () => {
    const before = bridges();
    await first.command('fimd: Restart Server');
    await replaced(1, before);
    await demo();
});

await test('a program that is not there is asked for', async () => {
    settings({}, { 'fimd.path': '/nowhere/fimd' });
    await first.waitStatus(/^fimd: program not found/);
    await wait('the question', async () => {
        const text = await first.notifications();
        return [text.includes('/nowhere/fimd') && text.includes('Choose File'), text];
    });
    settings({});
    await first.waitStatus(/^fimd: ready/);
    await demo();
});

await test('a folder cannot choose the program', async () => {
    const folder = `${process.env.HOME}/untrusted`;
    mkdirSync(`${folder}/.vscode`, { recursive: true });
    writeFileSync(`${folder}/fimd`, `#!/bin/sh\ntouch ${folder}/was-run\n`, { mode: 0o755 });
    const values = { 'fimd.path': `${folder}/fimd`, 'fimd.arguments': ['--set', 'enabled=false'] };
    writeFileSync(`${folder}/.vscode/settings.json`, JSON.stringify(values));
    const window = await openWindow(folder);
    windows.push(window);
    await demo(window);
    equal(existsSync(`${folder}/was-run`), false, 'whether its program was run');
});

process.exit(finish());
