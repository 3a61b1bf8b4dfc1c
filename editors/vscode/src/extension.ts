import {
    commands,
    type ExtensionContext,
    MarkdownString,
    type ProviderResult,
    StatusBarAlignment,
    type TextEditor,
    ThemeColor,
    Uri,
    window,
    workspace,
} from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';
import { Actions } from './actions';
import { ExplanationView } from './explanation';
import { showMenu } from './menu';
import { type Events, Server } from './server';
import { declaredSettings } from './settings';
import { type Status, look } from './status';

/** Settings that need a restart of the server. */
const AT_START = ['fimd.path', 'fimd.arguments', 'fimd.languages'];

let running: Server | undefined;

export function activate(context: ExtensionContext): void {
    const log = window.createOutputChannel('fimd', { log: true });
    const item = window.createStatusBarItem('fimd.status', StatusBarAlignment.Right, 100);
    item.name = 'fimd';
    item.command = 'fimd.showStatus';
    item.show();

    let status: Status;
    const show = (now: Status): void => {
        status = now;
        const { text, label, details, severity } = look(now);
        item.text = text;
        item.accessibilityInformation = { label: [label, ...details].join(', ') };
        item.tooltip = new MarkdownString();
        item.tooltip.appendText([label, ...details].join('\n\n'));
        item.backgroundColor = severity === 'none' ? undefined : new ThemeColor(`statusBarItem.${severity}Background`);
    };
    show({ state: 'starting' });

    const actions = new Actions();
    const view = new ExplanationView(() => {
        actions.cancelAll();
    });

    const events: Events = {
        onStatus: show,
        onRunning: () => {
            // A server that supports the status has usually sent it by now.
            if (status.state === 'starting') show({ state: 'ready' });
        },
        onExplanation: (explanation) => void view.show(explanation),
        onMissing: (path) => {
            show({ state: 'missing', ...(path !== '' && { message: `fimd.path is ${path}` }) });
            void askForBinary(context, path);
        },
        onFailure: (message) => {
            show({ state: 'stopped', message });
            void window.showErrorMessage(message, 'Restart', 'Open Log').then(async (choice) => {
                if (choice === 'Restart') await restart();
                if (choice === 'Open Log') log.show();
            });
        },
        executeCommand: (command, args, next): ProviderResult<unknown> =>
            command === 'fimd.explain' && server.connection ? actions.explain(server.connection, args) : next(command, args),
    };
    const server = new Server(declaredSettings(context.extension.packageJSON), log, events);
    running = server;

    const restart = async (): Promise<void> => {
        view.reset();
        await server.restart();
    };

    /** A command about the text in the active editor. */
    const about = (run: (client: LanguageClient, editor: TextEditor) => Promise<void>) => async (): Promise<void> => {
        const editor = window.activeTextEditor;
        if (server.connection !== undefined && editor !== undefined) await run(server.connection, editor);
    };

    context.subscriptions.push(
        log,
        item,
        view,
        commands.registerCommand('fimd.restart', restart),
        commands.registerCommand('fimd.showLog', () => {
            log.show();
        }),
        commands.registerCommand('fimd.showStatus', async () => {
            const statistics = server.connection?.sendRequest('fimd/statistics').catch(() => undefined);
            await showMenu(status, await statistics);
        }),
        commands.registerCommand(
            'fimd.explainSelection',
            about((client, editor) => actions.explainSelection(client, editor)),
        ),
        commands.registerCommand(
            'fimd.fix',
            about((client, editor) => actions.act(client, editor, 'fix', 'fixing')),
        ),
        commands.registerCommand(
            'fimd.document',
            about((client, editor) => actions.act(client, editor, 'document', 'documenting')),
        ),
        window.onDidChangeActiveTextEditor((editor) => server.focus(editor)),
        workspace.onDidChangeConfiguration(async (event) => {
            if (AT_START.some((name) => event.affectsConfiguration(name))) await restart();
            else if (event.affectsConfiguration('fimd')) await server.sendSettings();
        }),
    );
    void restart();
}

export async function deactivate(): Promise<void> {
    await running?.stop();
}

async function askForBinary(context: ExtensionContext, path: string): Promise<void> {
    const message =
        path === ''
            ? 'The program fimd is neither on the PATH nor in ~/.cargo/bin.'
            : `There is no program at ${path}, which is what the setting fimd.path says.`;
    const choice = await window.showWarningMessage(message, 'Choose File…', 'How to Install');
    if (choice === 'How to Install') {
        await commands.executeCommand('markdown.showPreview', Uri.joinPath(context.extensionUri, 'README.md'));
    } else if (choice === 'Choose File…') {
        const files = await window.showOpenDialog({ title: 'The fimd program', openLabel: 'Use' });
        // The change of the setting starts the server.
        const file = files?.[0];
        if (file !== undefined) await workspace.getConfiguration('fimd').update('path', file.fsPath, true);
    }
}
