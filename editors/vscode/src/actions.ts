import {
    type CancellationToken,
    CancellationTokenSource,
    languages,
    ProgressLocation,
    type TextEditor,
    window,
    workspace,
} from 'vscode';
import {
    type CodeAction,
    CodeActionRequest,
    CodeActionResolveRequest,
    CodeActionTriggerKind,
    ExecuteCommandRequest,
    type LanguageClient,
    LSPErrorCodes,
    ResponseError,
} from 'vscode-languageclient/node';

const CHANGED = 'fimd: the document has changed: please try again.';

/** Long-running requests, which the user can cancel, also by `cancelAll`. */
export class Actions {
    private readonly inFlight = new Set<CancellationTokenSource>();

    cancelAll(): void {
        for (const source of this.inFlight) source.cancel();
    }

    /** The command `fimd.explain`. The text is streamed in notifications; the response follows when it is complete. */
    async explain(client: LanguageClient, args: unknown[]): Promise<void> {
        await this.run('explaining', async (token) => {
            const params = { command: 'fimd.explain', arguments: args as never[] };
            await client.sendRequest(ExecuteCommandRequest.type, params, token);
        });
    }

    /** Explains the selection, or the symbol at the cursor. */
    async explainSelection(client: LanguageClient, { document, selection }: TextEditor): Promise<void> {
        const range = client.code2ProtocolConverter.asRange(selection);
        await this.explain(client, [{ uri: document.uri.toString(), range }]);
    }

    /**
     * Runs the code action whose title begins with `fimd: VERB` for the selection, or for the symbol at the cursor. Unlike
     * in the menu of code actions, the request can be cancelled.
     */
    async act(client: LanguageClient, { document, selection }: TextEditor, verb: string, title: string): Promise<void> {
        const version = document.version;
        const edit = await this.run(title, async (token) => {
            const to = client.code2ProtocolConverter;
            const diagnostics = languages.getDiagnostics(document.uri).filter(({ range }) => range.intersection(selection));
            const offered = await client.sendRequest(
                CodeActionRequest.type,
                {
                    textDocument: to.asTextDocumentIdentifier(document),
                    range: to.asRange(selection),
                    context: {
                        diagnostics: await to.asDiagnostics(diagnostics),
                        triggerKind: CodeActionTriggerKind.Invoked,
                    },
                },
                token,
            );
            // The list may contain commands too.
            const actions = (offered ?? [])
                .filter((action): action is CodeAction => typeof action.command !== 'string')
                .filter((action) => action.title.startsWith(`fimd: ${verb}`));
            const action = actions.find(({ disabled }) => disabled === undefined);
            if (action === undefined) {
                const reason = actions[0]?.disabled?.reason ?? 'no such action here';
                void window.showInformationMessage(`fimd: ${reason}`);
                return undefined;
            }
            return action.edit ?? (await client.sendRequest(CodeActionResolveRequest.type, action, token)).edit;
        });
        if (edit === undefined) return;
        if (document.version !== version) {
            void window.showWarningMessage(CHANGED);
            return;
        }
        await workspace.applyEdit(await client.protocol2CodeConverter.asWorkspaceEdit(edit), { isRefactoring: true });
    }

    /** Returns undefined when cancelled, or after showing a failure. */
    private async run<T>(title: string, work: (token: CancellationToken) => Promise<T>): Promise<T | undefined> {
        const options = { location: ProgressLocation.Notification, title: `fimd: ${title}`, cancellable: true };
        return window.withProgress(options, async (_progress, token) => {
            const source = new CancellationTokenSource();
            const subscription = token.onCancellationRequested(() => {
                source.cancel();
            });
            this.inFlight.add(source);
            try {
                return await work(source.token);
            } catch (error) {
                if (source.token.isCancellationRequested) return undefined;
                if (!(error instanceof ResponseError)) throw error;
                void window.showWarningMessage(error.code === LSPErrorCodes.ContentModified ? CHANGED : `fimd: ${error.message}`);
                return undefined;
            } finally {
                this.inFlight.delete(source);
                subscription.dispose();
                source.dispose();
            }
        });
    }
}
