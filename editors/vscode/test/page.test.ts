import { expect, test } from 'vitest';
import { page } from '../src/page';

test('the page loads nothing and runs only its own script', () => {
    const html = page('abc');
    expect(html).toContain("default-src 'none'");
    expect(html).not.toMatch(/unsafe|https?:/);
    expect(html.match(/<script[^>]*>/g)).toEqual(['<script nonce="abc">']);
});
