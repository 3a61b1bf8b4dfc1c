// VS Code in a browser: code-server, and its windows.

import { spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { run, sleep, wait, waitEqual } from './checks.mjs';

const { chromium } = createRequire('/opt/vscode/')('playwright-core');
const PROGRAM = '/opt/vscode/node_modules/.bin/code-server';
const PORT = 8123;
const DATA = `${process.env.HOME}/.local/share/code-server`;

export const project = `${process.env.HOME}/project`;

/** What a user who wants no distraction sets; nothing that has to do with completion. */
const SETTINGS = {
    'chat.disableAIFeatures': true,
    'files.autoSave': 'afterDelay',
    'files.autoSaveDelay': 50, // the text in an editor is read from its file
    'git.ignoreMissingGitWarning': true,
    'window.autoDetectColorScheme': false,
    'workbench.colorTheme': 'Default Dark Modern',
    'workbench.secondarySideBar.defaultVisibility': 'hidden',
    'workbench.startupEditor': 'none',
};

/** The settings of the user, beside the above. Machine settings are those that only count where the server runs. */
export function settings(user, machine = {}) {
    for (const [folder, values] of [
        ['User', { ...SETTINGS, ...user }],
        ['Machine', machine],
    ]) {
        mkdirSync(`${DATA}/${folder}`, { recursive: true });
        writeFileSync(`${DATA}/${folder}/settings.json`, JSON.stringify(values, undefined, 4));
    }
}

/** Installs the extension and starts the editor; returns how to open a window. */
export async function start(extension) {
    mkdirSync(`${project}/.git`, { recursive: true });
    settings({});
    run(PROGRAM, '--install-extension', extension);
    const log = openSync('/tmp/code-server.log', 'w');
    const options = ['--auth', 'none', '--bind-addr', `127.0.0.1:${PORT}`, '--disable-workspace-trust'];
    options.push('--disable-telemetry', '--disable-update-check', '--disable-getting-started-override');
    spawn(PROGRAM, options, { stdio: ['ignore', log, log] });
    await wait('code-server', () => fetch(`http://127.0.0.1:${PORT}/healthz`).then(() => true).catch(() => false));
    const browser = await chromium.launch({
        executablePath: '/usr/bin/chromium',
        args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    });
    return async (folder = project) => {
        const context = await browser.newContext({ viewport: { width: 900, height: 560 }, colorScheme: 'dark' });
        const page = await context.newPage();
        await page.goto(`http://127.0.0.1:${PORT}/?folder=${folder}`);
        await page.waitForSelector('.statusbar-item[id^="fimd."]', { timeout: 120_000 });
        const window = new Window(page);
        await window.waitStatus(/^fimd: ready/);
        // An editor listens for keys to complete only when it has been idle for the first time.
        await window.open('');
        await sleep(1000);
        return window;
    };
}

let files = 0;

class Window {
    constructor(page) {
        this.page = page;
        this.file = undefined;
    }

    async press(...keys) {
        for (const key of keys) await this.page.keyboard.press(key);
    }

    async type(text) {
        await this.page.keyboard.type(text, { delay: 20 });
    }

    /** Opens a new file with a text, alone so that no other is shown to the model, and sets the cursor at its end. */
    async open(text, extension = 'py') {
        this.file = `${project}/stack${++files}.${extension}`;
        writeFileSync(this.file, text);
        await this.page.bringToFront();
        await this.press('Escape', 'Escape', 'Control+k', 'Control+w', 'Control+p');
        await this.pick(this.file, this.file.split('/').at(-1));
        await this.page.waitForSelector(`.tab.active[data-resource-name="stack${files}.${extension}"]`);
        await this.page.waitForSelector('.editor-instance .monaco-editor.focused .view-line');
        await this.press('Control+End');
    }

    /** Types into the list that is open, and takes the first entry once it is the one. */
    async pick(typed, label) {
        await this.page.waitForSelector('.quick-input-widget:visible input');
        await this.page.keyboard.insertText(typed);
        const first = this.page.locator('.quick-input-list .monaco-list-row').first();
        await wait(`${label} in the list`, async () => {
            const text = await first.innerText({ timeout: 1000 }).catch(() => '');
            return [text.includes(label), text];
        });
        await this.press('Enter');
    }

    /** Runs a command from the palette. */
    async command(title) {
        await this.page.bringToFront();
        await this.press('F1');
        await this.pick(title, title);
    }

    text() {
        return readFileSync(this.file, 'utf8');
    }

    async waitText(expected) {
        await waitEqual('the text', () => this.text(), expected);
    }

    /** What is shown as ghost text, or ''. */
    async ghost() {
        return this.page.evaluate(() => {
            const editor = document.querySelector('.editor-instance');
            const inline = [...editor.querySelectorAll('.view-lines .ghost-text-decoration')];
            const below = [...editor.querySelectorAll('.suggest-preview-text .view-line')];
            const lines = [inline.map((part) => part.textContent).join(''), ...below.map((line) => line.textContent)];
            return lines.join('\n').replaceAll('\u00a0', ' ').replaceAll('\u200b', '');
        });
    }

    async waitGhost() {
        return wait('ghost text', () => this.ghost());
    }

    async waitNoGhost(milliseconds) {
        const end = Date.now() + milliseconds;
        await waitEqual('ghost text', () => this.ghost(), '');
        while (Date.now() < end) {
            const ghost = await this.ghost();
            if (ghost !== '') throw new Error(`there is ghost text: ${JSON.stringify(ghost)}`);
            await sleep(20);
        }
    }

    /** What the status bar says of fimd. */
    async status() {
        return this.page
            .locator('.statusbar-item[id="fimd.fimd.fimd.status"]')
            .getAttribute('aria-label', { timeout: 1000 })
            .catch(() => undefined);
    }

    async waitStatus(pattern) {
        await wait(`the status bar to match ${pattern}`, async () => {
            const status = await this.status();
            return [pattern.test(status ?? ''), status];
        });
    }

    /** What notifications say. */
    async notifications() {
        return this.page.locator('.notifications-toasts').innerText({ timeout: 1000 }).catch(() => '');
    }

    async screenshot(path) {
        await this.page.screenshot({ path });
    }
}
