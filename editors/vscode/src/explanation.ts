import { randomBytes } from 'node:crypto';
import { commands, type Disposable, ViewColumn, type WebviewPanel, window } from 'vscode';
import { page } from './page';
import type { Explanation } from './server';

/** The view beside the editor in which an explanation appears while the model writes it. */
export class ExplanationView implements Disposable {
    private panel: WebviewPanel | undefined;
    private shown = 0;

    /** `onClose`: the user closed the view. */
    constructor(private readonly onClose: () => void) {}

    async show({ id, title, markdown, done }: Explanation): Promise<void> {
        if (id < this.shown) return;
        const html = await render(done ? markdown : `${markdown} …`);
        // Rendering took a moment, in which a newer one may have come.
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

    /** Another server counts explanations anew. */
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

/** VS Code's own renderer, or the text as it is where that is turned off. */
async function render(markdown: string): Promise<string> {
    try {
        return await commands.executeCommand<string>('markdown.api.render', markdown);
    } catch {
        const escaped = markdown.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`);
        return `<pre>${escaped}</pre>`;
    }
}
