import { describe, expect, test } from 'vitest';
import { findBinary } from '../src/binary';

const find = (setting: string, PATH: string, ...programs: string[]) =>
    findBinary(setting, { env: { PATH }, home: '/home/me', windows: false, isProgram: (path) => programs.includes(path) });

describe('the program', () => {
    test('is the first on the path', () => {
        expect(find('', '/usr/bin:/opt/bin', '/opt/bin/fimd', '/home/me/.cargo/bin/fimd')).toBe('/opt/bin/fimd');
    });

    test('is found in the folder of cargo', () => {
        expect(find('', '/usr/bin', '/home/me/.cargo/bin/fimd')).toBe('/home/me/.cargo/bin/fimd');
        expect(find('', '')).toBeUndefined();
    });

    test('is what the setting says and nothing else', () => {
        expect(find('/opt/fimd', '/usr/bin', '/opt/fimd', '/usr/bin/fimd')).toBe('/opt/fimd');
        expect(find(' ~/fimd ', '/usr/bin', '/home/me/fimd')).toBe('/home/me/fimd');
        expect(find('/opt/gone', '/usr/bin', '/usr/bin/fimd')).toBeUndefined();
    });

    test('never depends on the open folder', () => {
        expect(find('./fimd', '/usr/bin', './fimd', 'fimd')).toBeUndefined();
        expect(find('', '.:bin::/usr/bin', 'fimd', 'bin/fimd', './fimd', '/usr/bin/fimd')).toBe('/usr/bin/fimd');
    });

    test('has a suffix on Windows, where the path may be called Path', () => {
        const programs = ['D:\\tools\\fimd.exe', 'C:\\Users\\me\\.cargo\\bin\\fimd.exe'];
        const environment = { home: 'C:\\Users\\me', windows: true, isProgram: (path: string) => programs.includes(path) };
        expect(findBinary('', { ...environment, env: { Path: 'C:\\bin;D:\\tools' } })).toBe(programs[0]);
        expect(findBinary('', { ...environment, env: {} })).toBe(programs[1]);
        expect(findBinary('~\\.cargo\\bin\\fimd.exe', { ...environment, env: {} })).toBe(programs[1]);
    });
});
