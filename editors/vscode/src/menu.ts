import { commands, QuickPickItemKind, type QuickPickItem, window } from 'vscode';
import { type Status, counters, look } from './status';

interface Entry extends QuickPickItem {
    run?: () => unknown;
}

/** Shows the status, actions and the statistics of this window in one list. */
export async function showMenu(status: Status, statistics: unknown): Promise<void> {
    const { label, details } = look(status);
    const run = (icon: string, title: string, command: string, ...args: unknown[]): Entry => ({
        label: `$(${icon}) ${title}`,
        run: () => commands.executeCommand(command, ...args),
    });
    const heading = (title: string): Entry => ({ label: title, kind: QuickPickItemKind.Separator });
    const paused = status.state === 'paused';
    const reachable = !['starting', 'stopped', 'missing', 'disconnected'].includes(status.state);
    const entries: Entry[] = [
        { label, ...(details.length > 0 && { detail: details.join(' · ') }) },
        heading('Actions'),
        ...(reachable && paused ? [run('debug-continue', 'Resume', 'fimd.resume')] : []),
        ...(reachable && !paused
            ? [
                  run('debug-pause', 'Pause in all editors for 30 minutes', 'fimd.pause', 30),
                  run('debug-pause', 'Pause in all editors until resumed', 'fimd.pause'),
              ]
            : []),
        run('debug-restart', 'Restart the server', 'fimd.restart'),
        run('settings-gear', 'Settings', 'workbench.action.openSettings', '@ext:fimd.fimd'),
        run('output', 'Log', 'fimd.showLog'),
    ];
    const counted = counters(statistics);
    if (counted.length > 0) entries.push(heading('This window'));
    entries.push(...counted.map(([name, value]) => ({ label: name, description: value })));
    const chosen = await window.showQuickPick(entries, { title: 'fimd', matchOnDescription: true, matchOnDetail: true });
    await chosen?.run?.();
}
