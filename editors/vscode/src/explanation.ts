import { randomBytes } from 'node:crypto';
import { commands, type Disposable, ViewColumn, type WebviewPanel, window } from 'vscode';
import { page } from './page';
import type { Explanation } from './server';

/** The view beside the editor that an explanation is streamed to. */
export class ExplanationView implements Disposable {
    private panel: WebviewPanel | undefined;
    private shown = 0;

    /** `onClose`: the user closed the view. */
    constructor(private readonly onClose: () => void) {}

    async show({ id, title, markdown, done }: Explanation): Promise<void> {
        if (id < this.shown) return;
        const html = await render(done ? markdown : `${markdown} …`);
        // A newer one may have arrived while rendering.
        if (id < this.shown) return;
        const fresh = id > this.shown;
        this.shown = id;
        if (this.panel === undefined) {
            // A view that the user closed stays closed, until the next explanation.
            if (!fresh) return;
            this.panel = this.open();
        } else if (fresh) {
            this.panel.reveal(undefined, true);
        }
        this.panel.title = title;
        await this.panel.webview.postMessage(html);
    }

    /** A new server numbers explanations from the start. */
    reset(): void {
        this.shown = 0;
    }

    dispose(): void {
        this.panel?.dispose();
    }

    private open(): WebviewPanel {
        const panel = window.createWebviewPanel(
            'fimd.explanation',
            'Explanation',
            { viewColumn: ViewColumn.Beside, preserveFocus: true },
            { enableScripts: true, enableFindWidget: true, localResourceRoots: [], retainContextWhenHidden: true },
        );
        panel.webview.html = page(randomBytes(16).toString('base64url'));
        panel.onDidDispose(() => {
            this.panel = undefined;
            this.onClose();
        });
        return panel;
    }
}

/** Renders by VS Code, or as plain text where its renderer is disabled. */
async function render(markdown: string): Promise<string> {
    try {
        return await commands.executeCommand<string>('markdown.api.render', markdown);
    } catch {
        const escaped = markdown.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`);
        return `<pre>${escaped}</pre>`;
    }
}
