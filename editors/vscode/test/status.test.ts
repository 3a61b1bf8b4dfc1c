import { describe, expect, test } from 'vitest';
import { counters, duration, look } from '../src/status';

describe('the status bar', () => {
    test('says how quick answers are', () => {
        const ready = look({ state: 'ready', model: 'starter', busy: false, answer_ms: 12.4 });
        expect(ready.text).toBe('$(sparkle) fimd 12 ms');
        expect(ready.details).toEqual(['starter', 'Answers take 12 ms (median)']);
        expect(ready.severity).toBe('none');
        expect(look({ state: 'ready' }).text).toBe('$(sparkle) fimd');
    });

    test('says how far loading is', () => {
        const loading = look({ state: 'loading', model: 'starter', percentage: 42.7, answer_ms: 3 });
        expect(loading.text).toBe('$(loading~spin) fimd 42 %');
        expect(loading.label).toBe('fimd: loading 42 %');
    });

    test('stands out when something has to be done', () => {
        const failed = look({ state: 'failed', message: 'no such file' });
        expect(failed).toMatchObject({ text: '$(error) fimd', severity: 'error', details: ['no such file'] });
        expect(look({ state: 'paused', answer_ms: 3 }).text).toBe('$(debug-pause) fimd');
    });
});

test('durations are short', () => {
    expect([0, 0.26, 9.94, 9.96, 250.4, 999.6, 1234, 9949, 9950].map(duration)).toEqual([
        '0 ms',
        '0.3 ms',
        '9.9 ms',
        '10 ms',
        '250 ms',
        '1.0 s',
        '1.2 s',
        '9.9 s',
        '10 s',
    ]);
});

test('counters are shown whichever they are', () => {
    expect(counters({ shown: 3, tokens: { reused_total: 10, share: 0.98765 }, model: 'x', list: [1], none: null })).toEqual([
        ['shown', '3'],
        ['tokens, reused total', '10'],
        ['tokens, share', '0.988'],
        ['model', 'x'],
    ]);
    expect(counters(undefined)).toEqual([]);
});
