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
    CodeAction,
    CodeActionRequest,
    CodeActionResolveRequest,
    CodeActionTriggerKind,
    ExecuteCommandRequest,
    type LanguageClient,
} from 'vscode-languageclient/node';

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
     * Runs the code action of a kind for the selection, or for what is at the cursor. The menu of code actions does the
     * same, but here the work can be cancelled, and no other extension's action of that kind is taken instead.
     */
    async act(client: LanguageClient, { document, selection }: TextEditor, kind: string, title: string): Promise<void> {
        await this.run(title, async (token) => {
            const version = document.version;
            const to = client.code2ProtocolConverter;
            const diagnostics = languages.getDiagnostics(document.uri).filter(({ range }) => range.intersection(selection));
            const offered = await client.sendRequest(
                CodeActionRequest.type,
                {
                    textDocument: to.asTextDocumentIdentifier(document),
                    range: to.asRange(selection),
                    context: {
                        diagnostics: await to.asDiagnostics(diagnostics),
                        only: [kind],
                        triggerKind: CodeActionTriggerKind.Invoked,
                    },
                },
                token,
            );
            const actions = (offered ?? []).filter((action) => CodeAction.is(action));
            const action = actions.find(({ disabled }) => disabled === undefined);
            if (action === undefined) {
                const reason = actions[0]?.disabled?.reason ?? 'there is nothing that it can do here';
                void window.showInformationMessage(`fimd: ${reason}`);
                return;
            }
            const { edit } = action.edit ? action : await client.sendRequest(CodeActionResolveRequest.type, action, token);
            if (edit === undefined) return;
            if (document.version !== version) {
                void window.showWarningMessage('fimd: the document was changed in the meantime; please try again.');
                return;
            }
            await workspace.applyEdit(await client.protocol2CodeConverter.asWorkspaceEdit(edit), { isRefactoring: true });
        });
    }

    private async run(title: string, work: (token: CancellationToken) => Promise<void>): Promise<void> {
        const options = { location: ProgressLocation.Notification, title: `fimd: ${title}`, cancellable: true };
        await window.withProgress(options, async (_progress, token) => {
            const source = new CancellationTokenSource();
            const subscription = token.onCancellationRequested(() => {
                source.cancel();
            });
            this.underWay.add(source);
            try {
                await work(source.token);
            } catch (error) {
                if (!source.token.isCancellationRequested) throw error;
            } finally {
                this.underWay.delete(source);
                subscription.dispose();
                source.dispose();
            }
        });
    }
}
