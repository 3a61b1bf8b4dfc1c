import { expect, test } from 'vitest';
import { declaredSettings, explicitSettings } from '../src/settings';

test('only what the user set is sent, false and empty values too', () => {
    const values: Record<string, object> = {
        enabled: { defaultValue: true, globalValue: false },
        alternatives: { defaultValue: 3 },
        'budget.soft_ms': { defaultValue: 250, globalValue: 400 },
        'disabled.languages': { defaultValue: [], globalValue: ['csv'], workspaceValue: [] },
        logprob_min: { globalValue: null },
    };
    const names = [...Object.keys(values), 'unknown'];
    expect(explicitSettings(names, (name) => values[name])).toEqual({
        enabled: false,
        'budget.soft_ms': 400,
        'disabled.languages': ['csv'],
    });
});

test('a workspace can exclude more than the user, and never less', () => {
    const both = (globalValue: unknown, workspaceValue: unknown) => ({ globalValue, workspaceValue });
    for (const [name, user, workspace, sent] of [
        ['enabled', false, true, false],
        ['enabled', true, false, false],
        ['hover.enabled', false, true, false],
        ['trigger', 'manual', 'automatic', 'manual'],
        ['trigger', 'automatic', 'manual', 'manual'],
        ['context.tokens_max', 0, 512, 0],
        ['context.tokens_max', 512, 0, 0],
        ['disabled.globs', ['*.csv'], ['!*.csv', '*.txt'], ['*.csv', '*.txt']],
        ['disabled.languages', [], ['*', '!rust'], ['*', '!rust']],
        ['privacy.secret_files', ['a'], [], ['a']],
        ['alternatives', 3, 1, 1],
    ] as const) {
        expect(explicitSettings([name], () => both(user, workspace))).toEqual({ [name]: sent });
    }
});

test('the settings of the server are those of the generated section', () => {
    const configuration = [
        { title: 'fimd', properties: { 'fimd.enabled': {}, 'fimd.budget.soft_ms': {} } },
        { title: 'fimd: extension', properties: { 'fimd.path': {} } },
    ];
    expect(declaredSettings({ contributes: { configuration } })).toEqual(['enabled', 'budget.soft_ms']);
});
