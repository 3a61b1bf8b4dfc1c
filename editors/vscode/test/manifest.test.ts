import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import manifest from '../package.json';

const source = readdirSync('src')
    .map((file) => readFileSync(`src/${file}`, 'utf8'))
    .join('\n');
/** Commands that the client registers, because the server announces them. */
const ofServer = ['fimd.explain', 'fimd.pause', 'fimd.resume'];

interface Property {
    scope?: string;
    description?: string;
    markdownDescription?: string;
}
const [server, extension] = manifest.contributes.configuration as unknown as [Section, Section];
interface Section {
    title: string;
    properties: Record<string, Property>;
}

describe('the manifest', () => {
    test('has a command for each that is registered, and the other way round', () => {
        const registered = [...source.matchAll(/registerCommand\(\s*'([^']+)'/g)].map((match) => match[1] ?? '');
        const declared = manifest.contributes.commands.map(({ command }) => command);
        expect([...registered, ...ofServer].filter((command) => command !== 'fimd.explain').sort()).toEqual(declared.sort());
        for (const command of ofServer) expect(registered).not.toContain(command);
    });

    test('has the settings of the server in one section and its own in another', () => {
        expect([server.title, extension.title]).toEqual(['fimd', 'fimd: extension']);
        for (const [name, property] of Object.entries({ ...server.properties, ...extension.properties })) {
            expect(name).toMatch(/^fimd\./);
            expect(property.description ?? property.markdownDescription, name).toBeTruthy();
        }
        expect(Object.keys(server.properties).filter((name) => name in extension.properties)).toEqual([]);
    });

    test('lets no folder choose the program', () => {
        for (const name of ['fimd.path', 'fimd.arguments']) expect(extension.properties[name]?.scope).toBe('machine');
    });

    test('uses no proposed API', () => {
        expect(manifest).not.toHaveProperty('enabledApiProposals');
    });

    test('has the version of the server', () => {
        const version = /^version = "(.*)"/m.exec(readFileSync('../../Cargo.toml', 'utf8'))?.[1];
        expect(manifest.version).toBe(version);
    });
});
