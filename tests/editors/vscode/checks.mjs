// Checks, waiting, and the status of fimd.

import { execFileSync, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

export { sleep };

class Skip extends Error {}

const counts = { ok: 0, FAIL: 0, SKIP: 0 };

function say(result, name, why) {
    counts[result] += 1;
    console.log(`${result.padEnd(4)} vscode: ${name}${why === undefined ? '' : ` (${why.split('\n')[0]})`}`);
}

/** One check: `run` throws what is wrong; `failed` is called with how many have failed. */
export async function check(name, run, failed) {
    if (!new RegExp(process.argv[2] ?? '').test(name)) return undefined;
    try {
        await run();
        say('ok', name);
    } catch (error) {
        if (error instanceof Skip) return say('SKIP', name, error.message);
        say('FAIL', name, error.message);
        await failed(counts.FAIL);
    }
}

/** Ends a check that needs what this binary lacks. */
export function skip(why) {
    throw new Skip(why);
}

/** Says how many checks passed; the exit code that says so too. */
export function finish() {
    console.log(`vscode: ${counts.ok} ok, ${counts.FAIL} failed, ${counts.SKIP} skipped`);
    return counts.FAIL === 0 ? 0 : 1;
}

/** Waits until `get` returns something true, and returns it. An array's first element counts, the second is shown. */
export async function wait(what, get, milliseconds = 20_000) {
    const end = Date.now() + milliseconds;
    for (;;) {
        const result = await get();
        const [value, seen] = Array.isArray(result) ? result : [result, result];
        if (value) return value;
        if (Date.now() > end) throw new Error(`waited in vain for ${what}; last seen: ${JSON.stringify(seen)}`);
        await sleep(20);
    }
}

/** Waits until `get` returns `expected`. */
export function waitEqual(what, get, expected) {
    return wait(`${what} to be ${JSON.stringify(expected)}`, async () => {
        const actual = await get();
        return [actual === expected, actual];
    });
}

export function equal(actual, expected, what) {
    const [left, right] = [actual, expected].map((value) => JSON.stringify(value));
    if (left !== right) throw new Error(`${what} is ${left}, not ${right}`);
}

export function run(command, ...args) {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000 });
}

/** Whether the binary has a subcommand. */
export function has(subcommand) {
    try {
        run('fimd', subcommand, '--help');
        return true;
    } catch {
        return false;
    }
}

/** `fimd status --json`; skips the check where there is no daemon yet. */
export function status() {
    if (!has('status')) skip('this fimd has no daemon');
    return JSON.parse(run('fimd', 'status', '--json'));
}

/** What the server says that it can. */
export async function capabilities() {
    const server = spawn('fimd', ['lsp', ...(has('daemon') ? ['--no-daemon'] : [])], { stdio: ['pipe', 'pipe', 'ignore'] });
    const params = { processId: process.pid, rootUri: null, capabilities: {} };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'initialize', params });
    server.stdin.write(`Content-Length: ${body.length}\r\n\r\n${body}`);
    let answer = '';
    for await (const chunk of server.stdout) {
        answer += chunk;
        try {
            const { id, result } = JSON.parse(answer.slice(answer.indexOf('{')));
            if (id === 1) return result.capabilities;
        } catch {
            // It is not complete yet.
        }
    }
    throw new Error(`no answer to initialize: ${answer}`);
}
