/** What VS Code knows about one setting: `inspect` of a `WorkspaceConfiguration`. */
export interface Inspected {
    globalValue?: unknown;
    workspaceValue?: unknown;
}

/**
 * The settings of the server that the user set, by dotted name: sending the defaults of VS Code too would overrule
 * `fimd.toml`.
 *
 * Only settings that the extension declares are looked up. For those VS Code sees to their scope, so that a folder that
 * was cloned from somewhere cannot set what is not for folders to set.
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
