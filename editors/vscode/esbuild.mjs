// Bundles the extension into dist/extension.js, and the licenses of all that is in it into dist/LICENSES.txt.
import * as esbuild from 'esbuild';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const options = {
    entryPoints: ['src/extension.ts'],
    outfile: 'dist/extension.js',
    bundle: true,
    external: ['vscode'],
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    mainFields: ['module', 'main'],
    metafile: true,
    logLevel: 'warning',
};

function licenses(metafile) {
    const packages = new Set(
        Object.keys(metafile.inputs).flatMap((file) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? []),
    );
    const texts = [...packages].sort().map((name) => {
        const folder = `node_modules/${name}`;
        const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
        if (file === undefined) throw new Error(`${name} has no license file`);
        return [name, readFileSync(`${folder}/${file}`, 'utf8')];
    });
    const own = ['MIT', 'APACHE'].map((name) => ['fimd', readFileSync(`../../LICENSE-${name}`, 'utf8')]);
    return [...own, ...texts].map(([name, text]) => `${'='.repeat(80)}\n${name}\n\n${text.trim()}\n`).join('\n');
}

if (process.argv.includes('--watch')) {
    const context = await esbuild.context({ ...options, sourcemap: true });
    await context.watch();
} else {
    rmSync('dist', { recursive: true, force: true });
    mkdirSync('dist');
    const { metafile } = await esbuild.build({ ...options, minify: true });
    writeFileSync('dist/LICENSES.txt', licenses(metafile));
    console.log(`dist/extension.js: ${Math.round(metafile.outputs['dist/extension.js'].bytes / 1024)} KiB`);
}
