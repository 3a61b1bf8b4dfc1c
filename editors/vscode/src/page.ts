/**
 * The page that explanations are shown in. What a model writes may contain HTML and pictures, by accident or because the
 * code told it to: the page runs no script but its own, and loads nothing, so that nothing leaves the machine.
 */
export function page(nonce: string): string {
    return `<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
    content="default-src 'none'; style-src 'nonce-${nonce}'; script-src 'nonce-${nonce}'; form-action 'none'">
<style nonce="${nonce}">
    body { max-width: 50em; line-height: 1.5; font-size: var(--vscode-markdown-font-size, 14px); }
    pre { padding: 1em; overflow: auto; background: var(--vscode-textCodeBlock-background); }
    code { font-family: var(--vscode-editor-font-family); font-size: var(--vscode-editor-font-size); }
    pre code { background: none; }
    blockquote { margin: 0; padding-left: 1em; border-left: 4px solid var(--vscode-textBlockQuote-border); }
    table { border-collapse: collapse; }
    th, td { padding: 0.2em 0.8em; border: 1px solid var(--vscode-panel-border); }
</style>
</head>
<body>
<main></main>
<script nonce="${nonce}">
    const main = document.querySelector('main');
    addEventListener('message', ({ data }) => { main.innerHTML = data; });
</script>
</body>
</html>`;
}
