import { accessSync, constants, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { createInterface } from 'node:readline';
import { commands, languages, type LogOutputChannel, type TextEditor, window, workspace } from 'vscode';
import {
    CloseAction,
    ErrorAction,
    LanguageClient,
    type LanguageClientOptions,
    RevealOutputChannelOn,
} from 'vscode-languageclient/node';
import { findBinary } from './binary';
import { Restarts } from './restarts';
import { explicitSettings } from './settings';
import type { ServerStatus, Status } from './status';

/** Callbacks for the events of a server. */
export interface Events {
    onStatus(status: Status): void;
    onRunning(): void;
    onExplanation(explanation: Explanation): void;
    /** The program was not found. */
    onMissing(path: string): void;
    /** The server has stopped and is not restarted automatically. */
    onFailure(message: string): void;
    executeCommand: NonNullable<NonNullable<LanguageClientOptions['middleware']>['executeCommand']>;
}

/** The parameters of `fimd/explanation`. */
export interface Explanation {
    id: number;
    title: string;
    markdown: string;
    done: boolean;
}

/** Sends errors to the log only; failures are shown by `Events.onFailure`. */
class QuietClient extends LanguageClient {
    override error(message: string, data?: unknown): void {
        super.error(message, data, false);
    }
}

/**
 * `fimd lsp`, one process at a time. Starts and stops are queued, and a crashed process is restarted. (It is a bridge,
 * which itself restarts a crashed daemon.)
 */
export class Server {
    private client: QuietClient | undefined;
    private running = false;
    private selector: { scheme: string; language: string }[] = [];
    private queue = Promise.resolve();
    private restarts = new Restarts();
    private timer: NodeJS.Timeout | undefined;

    constructor(
        private readonly settings: readonly string[],
        private readonly log: LogOutputChannel,
        private readonly events: Events,
    ) {}

    /** The client of the running server. */
    get connection(): LanguageClient | undefined {
        return this.running ? this.client : undefined;
    }

    /** Starts or restarts the server for the user. */
    async restart(): Promise<void> {
        this.restarts = new Restarts();
        await this.begin();
    }

    async stop(): Promise<void> {
        await this.enqueue(() => this.end());
    }

    /** Sends the settings after a change of them. */
    async sendSettings(): Promise<void> {
        await this.connection?.sendNotification('workspace/didChangeConfiguration', { settings: this.explicit() });
    }

    /** Notifies the server of the focused document. */
    async focus(editor: TextEditor | undefined): Promise<void> {
        const served = editor !== undefined && languages.match(this.selector, editor.document) > 0;
        const params = served ? { textDocument: { uri: editor.document.uri.toString() } } : {};
        await this.connection?.sendNotification('textDocument/didFocus', params);
    }

    private begin(): Promise<void> {
        return this.enqueue(async () => {
            await this.end();
            await this.start();
        });
    }

    private enqueue(work: () => Promise<void>): Promise<void> {
        clearTimeout(this.timer);
        // A server that is still starting may be stuck, and cannot be shut down by a request yet.
        if (!this.running) this.client?.serverProcess?.kill();
        this.queue = this.queue.then(work).catch((error: unknown) => {
            this.log.error(String(error));
        });
        return this.queue;
    }

    private async start(): Promise<void> {
        const config = workspace.getConfiguration('fimd');
        const path = config.get('path', '');
        const command = findBinary(path, {
            env: process.env,
            home: homedir(),
            windows: process.platform === 'win32',
            isProgram,
        });
        if (command === undefined) {
            this.events.onMissing(path);
            return;
        }
        this.selector = config
            .get('languages', ['*'])
            .flatMap((language) => ['file', 'untitled'].map((scheme) => ({ scheme, language })));
        this.events.onStatus({ state: 'starting' });
        this.log.info(`Starting ${command}`);
        const args = ['lsp', ...config.get<string[]>('arguments', [])];
        const client: QuietClient = new QuietClient('fimd', 'fimd', { command, args }, this.options());
        client.registerFeature({
            fillClientCapabilities: (capabilities) => {
                capabilities.experimental = { fimd: { status: true, explanation: true } };
            },
            initialize: () => undefined,
            getState: () => ({ kind: 'static' }),
            clear: () => undefined,
        });
        client.onNotification('fimd/status', (status: ServerStatus) => {
            if (client === this.client) this.events.onStatus(status);
        });
        client.onNotification('fimd/explanation', (explanation: Explanation) => {
            this.events.onExplanation(explanation);
        });
        this.client = client;
        try {
            await client.start();
        } catch (error) {
            this.client = undefined;
            this.events.onFailure(`fimd did not start: ${error instanceof Error ? error.message : String(error)}`);
            return;
        }
        await this.setRunning(true);
        this.events.onRunning();
        await this.focus(window.activeTextEditor);
    }

    private async end(): Promise<void> {
        const client = this.client;
        this.client = undefined;
        await this.setRunning(false);
        if (client === undefined) return;
        try {
            await client.dispose();
        } catch {
            // It crashed, or did not exit within two seconds and was killed by the client.
        }
    }

    /** Handles an unexpected exit of the server. */
    private async crashed(): Promise<void> {
        await this.setRunning(false);
        const delay = this.restarts.delayAfterCrash(Date.now());
        if (delay === undefined) {
            this.events.onFailure('fimd crashed repeatedly and was not restarted.');
            return;
        }
        this.events.onStatus({ state: 'disconnected', message: 'The server crashed and is restarting' });
        clearTimeout(this.timer);
        this.timer = setTimeout(() => void this.begin(), delay);
    }

    private async setRunning(running: boolean): Promise<void> {
        this.running = running;
        await commands.executeCommand('setContext', 'fimd.running', running);
    }

    private explicit(): Record<string, unknown> {
        const config = workspace.getConfiguration('fimd');
        return explicitSettings(this.settings, (name) => config.inspect(name));
    }

    private options(): LanguageClientOptions {
        return {
            documentSelector: this.selector,
            initializationOptions: () => this.explicit(),
            outputChannel: this.log,
            revealOutputChannelOn: RevealOutputChannelOn.Never,
            initializationFailedHandler: () => false,
            errorHandler: {
                error: () => ({ action: ErrorAction.Continue, handled: true }),
                closed: async () => {
                    if (this.running) await this.crashed();
                    return { action: CloseAction.DoNotRestart, handled: true, message: 'The connection to the server was closed.' };
                },
            },
            stdioOptions: {
                stdout: () => undefined, // has the protocol
                stderr: (stream) => {
                    createInterface(stream).on('line', (line) => {
                        this.log.info(line);
                    });
                },
            },
            middleware: {
                executeCommand: this.events.executeCommand,
                workspace: {
                    // By default the client would include VS Code's defaults.
                    configuration: (params, token, next) =>
                        params.items.every(({ section }) => section === 'fimd')
                            ? params.items.map(() => this.explicit())
                            : next(params, token),
                },
            },
        };
    }
}

function isProgram(path: string): boolean {
    try {
        accessSync(path, constants.X_OK);
        return statSync(path).isFile();
    } catch {
        return false;
    }
}
