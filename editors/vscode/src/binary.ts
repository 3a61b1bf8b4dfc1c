import { posix, win32 } from 'node:path';

/** What of the surroundings decides where the program is. */
export interface Surroundings {
    env: Readonly<Record<string, string | undefined>>;
    home: string;
    windows: boolean;
    isProgram: (path: string) => boolean;
}

/**
 * Where the `fimd` program is: what the setting says and nothing else if it says something, or else the first on the
 * `PATH` and in cargo's folder. Only absolute paths count: a relative one would depend on the open folder, and that
 * may come from anybody.
 */
export function findBinary(setting: string, { env, home, windows, isProgram }: Surroundings): string | undefined {
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
