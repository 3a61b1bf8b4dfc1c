import {
    CancellationTokenSource,
    commands,
    type ExtensionContext,
    MarkdownString,
    ProgressLocation,
    type ProviderResult,
    StatusBarAlignment,
    ThemeColor,
    Uri,
    window,
    workspace,
} from 'vscode';
import { ExecuteCommandRequest } from 'vscode-languageclient/node';
import { ExplanationView } from './explanation';
import { showMenu } from './menu';
import { type Events, Server } from './server';
import { declaredSettings } from './settings';
import { type Status, look } from './status';

/** Settings that count when the server is started. */
const AT_START = ['fimd.path', 'fimd.arguments', 'fimd.languages'];

let server: Server | undefined;

export function activate(context: ExtensionContext): void {
    const log = window.createOutputChannel('fimd', { log: true });
    const item = window.createStatusBarItem('fimd.status', StatusBarAlignment.Right, 100);
    item.name = 'fimd';
    item.command = 'fimd.showStatus';
    item.show();

    let status: Status = { state: 'starting' };
    const show = (now: Status): void => {
        status = now;
        const { text, label, details, severity } = look(now);
        item.text = text;
        item.accessibilityInformation = { label: text.replace(/^\$\([^)]*\) fimd/, label) };
        item.tooltip = new MarkdownString();
        item.tooltip.appendText([label, ...details].join('\n\n'));
        item.backgroundColor = severity === 'none' ? undefined : new ThemeColor(`statusBarItem.${severity}Background`);
    };
    show(status);

    const explaining = new Set<CancellationTokenSource>();
    const view = new ExplanationView(() => {
        for (const source of explaining) source.cancel();
    });

    /** `fimd.explain` as it goes to the server: for as long as its answer is wanted. */
    const explain = (args: unknown[]): Thenable<void> =>
        window.withProgress(
            { location: ProgressLocation.Notification, title: 'fimd: explaining', cancellable: true },
            async (_progress, token) => {
                const source = new CancellationTokenSource();
                const subscription = token.onCancellationRequested(() => {
                    source.cancel();
                });
                explaining.add(source);
                try {
                    const params = { command: 'fimd.explain', arguments: args as never[] };
                    await started.connection?.sendRequest(ExecuteCommandRequest.type, params, source.token);
                } catch (error) {
                    if (!source.token.isCancellationRequested) throw error;
                } finally {
                    explaining.delete(source);
                    subscription.dispose();
                    source.dispose();
                }
            },
        );

    const events: Events = {
        onStatus: show,
        onRunning: () => {
            // A server that sends its status has most likely done so by now.
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
                if (choice === 'Restart') await server?.restart();
                if (choice === 'Open Log') log.show();
            });
        },
        executeCommand: (command, args, next): ProviderResult<unknown> =>
            command === 'fimd.explain' ? explain(args) : next(command, args),
    };
    const started = new Server(declaredSettings(context.extension.packageJSON), log, events);
    server = started;

    /** Runs the code action of a kind where the cursor is, as its menu would. */
    const act = (kind: string) => () => commands.executeCommand('editor.action.codeAction', { kind, apply: 'first' });

    const restart = async (): Promise<void> => {
        view.reset();
        await started.restart();
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
            const statistics = started.connection?.sendRequest('fimd/statistics').catch(() => undefined);
            await showMenu(status, await statistics);
        }),
        commands.registerCommand('fimd.explainSelection', async () => {
            const editor = window.activeTextEditor;
            const connection = started.connection;
            if (editor === undefined || connection === undefined) return;
            await explain([
                {
                    uri: editor.document.uri.toString(),
                    range: connection.code2ProtocolConverter.asRange(editor.selection),
                },
            ]);
        }),
        commands.registerCommand('fimd.fix', act('quickfix.fimd')),
        commands.registerCommand('fimd.document', act('refactor.rewrite.fimd')),
        window.onDidChangeActiveTextEditor((editor) => started.focus(editor)),
        workspace.onDidChangeConfiguration(async (event) => {
            if (AT_START.some((name) => event.affectsConfiguration(name))) await restart();
            else if (event.affectsConfiguration('fimd')) await started.sendSettings();
        }),
    );
    void restart();
}

export async function deactivate(): Promise<void> {
    await server?.stop();
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
