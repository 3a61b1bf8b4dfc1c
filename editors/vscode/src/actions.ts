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

const CHANGED = 'fimd: the document was changed in the meantime: please try again.';

/** Work of the model that takes seconds: it can be cancelled, where it is shown or by `cancelAll`. */
export class Actions {
    private readonly underWay = new Set<CancellationTokenSource>();

    cancelAll(): void {
        for (const source of this.underWay) source.cancel();
    }

    /** The command `fimd.explain`. The text comes in notifications, the answer when it is complete. */
    async explain(client: LanguageClient, args: unknown[]): Promise<void> {
        await this.run('explaining', async (token) => {
            const params = { command: 'fimd.explain', arguments: args as never[] };
            await client.sendRequest(ExecuteCommandRequest.type, params, token);
        });
    }

    /** Explains the selection, or what is at the cursor. */
    async explainSelection(client: LanguageClient, { document, selection }: TextEditor): Promise<void> {
        const range = client.code2ProtocolConverter.asRange(selection);
        await this.explain(client, [{ uri: document.uri.toString(), range }]);
    }

    /**
     * Runs the code action whose title says `fimd: VERB …` for the selection, or for what is at the cursor. The menu of
     * code actions does the same, but here the work can be cancelled.
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
            // In the list may be commands too, which old servers have instead of actions.
            const actions = (offered ?? [])
                .filter((action): action is CodeAction => typeof action.command !== 'string')
                .filter((action) => action.title.startsWith(`fimd: ${verb}`));
            const action = actions.find(({ disabled }) => disabled === undefined);
            if (action === undefined) {
                const reason = actions[0]?.disabled?.reason ?? 'there is nothing that it can do here';
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

    /** Nothing is returned when it was cancelled, or came to nothing, which is said. */
    private async run<T>(title: string, work: (token: CancellationToken) => Promise<T>): Promise<T | undefined> {
        const options = { location: ProgressLocation.Notification, title: `fimd: ${title}`, cancellable: true };
        return window.withProgress(options, async (_progress, token) => {
            const source = new CancellationTokenSource();
            const subscription = token.onCancellationRequested(() => {
                source.cancel();
            });
            this.underWay.add(source);
            try {
                return await work(source.token);
            } catch (error) {
                if (source.token.isCancellationRequested) return undefined;
                if (!(error instanceof ResponseError)) throw error;
                void window.showWarningMessage(error.code === LSPErrorCodes.ContentModified ? CHANGED : `fimd: ${error.message}`);
                return undefined;
            } finally {
                this.underWay.delete(source);
                subscription.dispose();
                source.dispose();
            }
        });
    }
}
