import { posix, win32 } from 'node:path';

/** The environment of the search for the program. */
export interface Environment {
    env: Readonly<Record<string, string | undefined>>;
    home: string;
    windows: boolean;
    isProgram: (path: string) => boolean;
}

/**
 * The path of the `fimd` program: the setting, or if that is empty the first on the `PATH` and in cargo's folder. Only
 * absolute paths are used: a relative one would depend on the open folder, which is untrusted.
 */
export function findBinary(setting: string, { env, home, windows, isProgram }: Environment): string | undefined {
    const paths = windows ? win32 : posix;
    const path = setting.trim().replace(/^~(?=$|[/\\])/, () => home);
    if (path !== '') return paths.isAbsolute(path) && isProgram(path) ? path : undefined;
    const name = windows ? 'fimd.exe' : 'fimd';
    const searched = Object.entries(env).find(([key]) => (windows ? key.toUpperCase() : key) === 'PATH')?.[1] ?? '';
    return [...searched.split(paths.delimiter), paths.join(home, '.cargo', 'bin')]
        .filter((folder) => paths.isAbsolute(folder))
        .map((folder) => paths.join(folder, name))
        .find(isProgram);
}
