/** The parameters of `fimd/status`. */
export interface ServerStatus {
    state: 'ready' | 'loading' | 'paused' | 'disabled' | 'failed' | 'disconnected';
    model?: string;
    message?: string;
    percentage?: number;
    busy?: boolean;
    answer_ms?: number;
}

/** The status of the server, or of the extension while none is running. */
export interface Status extends Omit<ServerStatus, 'state'> {
    state: ServerStatus['state'] | 'starting' | 'stopped' | 'missing';
}

/** How a status looks in the status bar. */
export interface Look {
    text: string;
    label: string;
    details: string[];
    severity: 'none' | 'warning' | 'error';
}

const STATES: Record<Status['state'], { icon: string; words: string; severity?: Look['severity'] }> = {
    ready: { icon: 'sparkle', words: 'ready' },
    loading: { icon: 'loading~spin', words: 'loading' },
    paused: { icon: 'debug-pause', words: 'paused' },
    disabled: { icon: 'circle-slash', words: 'disabled' },
    failed: { icon: 'error', words: 'failed', severity: 'error' },
    disconnected: { icon: 'debug-disconnect', words: 'disconnected', severity: 'warning' },
    starting: { icon: 'loading~spin', words: 'starting' },
    stopped: { icon: 'error', words: 'stopped', severity: 'error' },
    missing: { icon: 'warning', words: 'program not found', severity: 'warning' },
};

export function look(status: Status): Look {
    const { icon, words, severity = 'none' } = STATES[status.state];
    const measure =
        status.state === 'ready' && status.answer_ms !== undefined
            ? duration(status.answer_ms)
            : status.state === 'loading' && status.percentage !== undefined
              ? `${Math.floor(status.percentage)} %`
              : undefined;
    const details = [status.model, status.message].filter((line): line is string => line !== undefined && line !== '');
    if (status.answer_ms !== undefined) details.push(`Answers take ${duration(status.answer_ms)} (median)`);
    return {
        text: `$(${icon}) fimd${measure === undefined ? '' : ` ${measure}`}`,
        label: `fimd: ${words}${status.state === 'loading' && measure !== undefined ? ` ${measure}` : ''}`,
        details,
        severity,
    };
}

/** Formats milliseconds with at most three digits. */
export function duration(ms: number): string {
    if (ms >= 9950) return `${Math.round(ms / 1000)} s`;
    if (ms >= 999.5) return `${(ms / 1000).toFixed(1)} s`;
    return `${ms >= 9.95 || ms === 0 ? Math.round(ms) : ms.toFixed(1)} ms`;
}

/** The counters of `fimd/statistics`, as lines. */
export function counters(statistics: unknown, prefix = ''): [string, string][] {
    if (typeof statistics !== 'object' || statistics === null || Array.isArray(statistics)) return [];
    return Object.entries(statistics).flatMap(([key, value]: [string, unknown]): [string, string][] => {
        const name = prefix + key.replaceAll('_', ' ');
        switch (typeof value) {
            case 'number':
                return [[name, Number.isInteger(value) ? value.toString() : value.toPrecision(3)]];
            case 'string':
            case 'boolean':
                return [[name, String(value)]];
            default:
                return counters(value, `${name}, `);
        }
    });
}
