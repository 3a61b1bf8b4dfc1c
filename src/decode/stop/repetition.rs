//! Detects repetitive text.

use std::ops::Range;

use crate::text::words::has_substance;

/// The start of the second of three equal groups of one to four lines at the end of `lines`, in bytes.
pub(super) fn repeated_lines(text: &str, lines: &[Range<usize>]) -> Option<usize> {
    (1..=4).filter(|period| 3 * period <= lines.len()).find_map(|period| {
        let tail = &lines[lines.len() - 3 * period..];
        let same = |i: usize| text[tail[i].clone()] == text[tail[i + period].clone()];
        let is_repeated =
            (0..2 * period).all(same) && has_substance(&text[tail[0].start..tail[period].start]);
        is_repeated.then(|| text[..tail[period].start].trim_end().len())
    })
}

/// Where to cut a text that ends in a pattern of at most 40 bytes, with letters or digits, repeated
/// four times or more over 120 bytes or more: after its first occurrence.
pub(super) fn repeated_tail(text: &str) -> Option<usize> {
    const PERIOD_MAX: usize = 40;
    const LENGTH: usize = 120;
    let bytes = text.as_bytes();
    let equal_from = |period: usize| {
        let equal = (period..bytes.len()).rev().take_while(|&i| bytes[i] == bytes[i - period]).count();
        bytes.len() - equal
    };
    let least = |period: usize| LENGTH.max(4 * period) - period;
    let is_run = |period: usize| {
        let tail = bytes.len().checked_sub(least(period)).filter(|&start| start >= period);
        tail.is_some_and(|start| (start..bytes.len()).rev().all(|i| bytes[i] == bytes[i - period]))
    };
    let period = (1..=PERIOD_MAX).find(|&period| is_run(period))?;
    bytes[bytes.len() - period..].iter().any(u8::is_ascii_alphanumeric).then_some(())?;
    (equal_from(period)..=text.len()).find(|&at| text.is_char_boundary(at))
}
