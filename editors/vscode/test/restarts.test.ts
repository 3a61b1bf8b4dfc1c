import { expect, test } from 'vitest';
import { Restarts } from '../src/restarts';

test('a server that keeps crashing is started less and less soon, then not at all', () => {
    const restarts = new Restarts();
    const delays = [0, 1, 2, 3, 4, 5, 6].map((second) => restarts.delayAfterCrash(second * 1000));
    expect(delays).toEqual([0, 500, 1000, 2000, 4000, 8000, undefined]);
});

test('crashes are forgotten', () => {
    const restarts = new Restarts();
    for (let hour = 0; hour < 10; hour++) expect(restarts.delayAfterCrash(hour * 3_600_000)).toBe(0);
});
