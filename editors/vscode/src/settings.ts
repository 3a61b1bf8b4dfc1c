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
        const value = inspected?.workspaceValue ?? inspected?.globalValue;
        if (value !== undefined && value !== null) settings[name] = value;
    }
    return settings;
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
