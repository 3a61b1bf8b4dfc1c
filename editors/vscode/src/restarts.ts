/** Exponential back-off of restarts after crashes, with a limit. */
export class Restarts {
    private crashes: number[] = [];

    /** Milliseconds to wait after a crash at time `now`; `undefined` for no restart. */
    delayAfterCrash(now: number): number | undefined {
        this.crashes = [...this.crashes.filter((time) => now - time < WINDOW_MS), now];
        const earlier = this.crashes.length - 1;
        if (earlier >= CRASHES_MAX) return undefined;
        return earlier === 0 ? 0 : 500 * 2 ** (earlier - 1);
    }
}

const WINDOW_MS = 180_000;
const CRASHES_MAX = 6;
