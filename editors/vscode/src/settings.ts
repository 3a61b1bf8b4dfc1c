/** What VS Code knows about one setting: `inspect` of a `WorkspaceConfiguration`. */
export interface Inspected {
    globalValue?: unknown;
    workspaceValue?: unknown;
}

/**
 * The settings of the server that the user has set, by dotted name: VS Code's defaults would override `fimd.toml`.
 *
 * Only declared settings are looked up, as VS Code enforces their scope: an untrusted workspace cannot set machine
 * settings.
 */
export function explicitSettings(
    declared: readonly string[],
    inspect: (name: string) => Inspected | undefined,
): Record<string, unknown> {
    const settings: Record<string, unknown> = {};
    for (const name of declared) {
        const inspected = inspect(name);
        const value = combined(name, inspected?.globalValue ?? undefined, inspected?.workspaceValue ?? undefined);
        if (value !== undefined && value !== null) settings[name] = value;
    }
    return settings;
}

/**
 * The value of the workspace, or of the user where there is none. A workspace can exclude more than the user, and never
 * less: it may come from a repository.
 */
function combined(name: string, user: unknown, workspace: unknown): unknown {
    if (user === undefined || workspace === undefined) return workspace ?? user;
    switch (name) {
        case 'enabled':
        case 'hover.enabled':
            return user === false ? user : workspace;
        case 'trigger':
            return user === 'manual' ? user : workspace;
        case 'context.tokens_max':
            return Math.min(Number(user), Number(workspace));
        case 'disabled.languages':
        case 'disabled.globs':
        case 'privacy.secret_files':
            return union(user, workspace);
        default:
            return workspace;
    }
}

function isList(value: unknown): value is unknown[] {
    return Array.isArray(value);
}

/** Both lists, without what in that of the workspace would take something out of the user's. */
function union(user: unknown, workspace: unknown): unknown {
    if (!isList(user) || !isList(workspace)) return workspace;
    const excluded = user.length === 0 ? workspace : workspace.filter((item) => !String(item).startsWith('!'));
    return [...user, ...excluded];
}

interface Section {
    title: string;
    properties: Record<string, unknown>;
}

/** The dotted names, without `fimd.`, of the settings that the manifest has for the server. */
export function declaredSettings(manifest: unknown): string[] {
    const { contributes } = manifest as { contributes: { configuration: Section[] } };
    const section = contributes.configuration.find(({ title }) => title === 'fimd');
    return Object.keys(section?.properties ?? {}).map((key) => key.replace(/^fimd\./, ''));
}
