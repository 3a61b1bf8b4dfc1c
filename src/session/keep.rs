//! Where to save checkpoints and traces of a prompt, so that the next one costs little. Pure.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Mark;
use crate::compute::logits::LogitForm;

/// Target for the tokens to replay: a later prompt should diverge at most this far behind a checkpoint.
pub(super) const REPLAY_TOKENS: usize = 48;

/// Tokens at the end of a prompt that may change: those of an unfinished word.
const UNSTABLE_END_TOKENS: usize = 16;

/// What to save of an evaluation, by position, and what comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Positions of checkpoints, ascending.
    pub checkpoints: Vec<usize>,
    /// Tokens to trace, ascending and disjoint.
    pub traced: Vec<Range<usize>>,
    pub logits: LogitForm,
}

impl Plan {
    /// For the tokens `evaluated`, to the end of a prompt. Besides those at the `marks` and the end there is a checkpoint
    /// every `spacing` tokens.
    pub(super) fn new(
        evaluated: Range<usize>,
        last_checkpoint: usize,
        marks: &[Mark],
        spacing: usize,
    ) -> Self {
        let Range { start, end } = evaluated;
        let mut checkpoints = BTreeSet::new();
        let mut traced = Vec::new();
        let base = |checkpoints: &BTreeSet<usize>, at: usize| checkpoints.range(..=at).next_back().copied();
        for &Mark { at, unstable_tokens } in marks.iter().filter(|mark| (start + 1..=end).contains(&mark.at))
        {
            let first = at.saturating_sub(unstable_tokens);
            if unstable_tokens == 0 || first > start {
                checkpoints.insert(first);
            } else if at - base(&checkpoints, at).unwrap_or(last_checkpoint) > REPLAY_TOKENS {
                checkpoints.insert(at);
            }
            if unstable_tokens > 0 {
                traced.push(first.max(start)..at);
            }
        }
        if end - base(&checkpoints, end).unwrap_or(last_checkpoint) > REPLAY_TOKENS {
            let first = end.saturating_sub(UNSTABLE_END_TOKENS);
            checkpoints.insert(if first > start { first } else { end });
        }
        let is_short = end - start <= REPLAY_TOKENS;
        traced.push(if is_short {
            start..end
        } else {
            base(&checkpoints, end).unwrap_or(start).max(start)..end
        });
        for at in (start / spacing * spacing..end).step_by(spacing).filter(|&at| at > start) {
            if checkpoints.range(at.saturating_sub(spacing / 2)..at + spacing / 2).next().is_none() {
                checkpoints.insert(at);
            }
        }
        let checkpoints = checkpoints.into_iter().collect();
        Self { checkpoints, traced: merged(traced), logits: LogitForm::default() }
    }

    /// The part for one pass over `rows`, relative to its first row.
    pub(super) fn rows(&self, rows: &Range<usize>) -> (Vec<usize>, Vec<Range<usize>>) {
        let marks = self.checkpoints.iter().filter(|at| (rows.start + 1..=rows.end).contains(at));
        let traced = self.traced.iter().map(|range| range.start.max(rows.start)..range.end.min(rows.end));
        (
            marks.map(|at| at - rows.start).collect(),
            traced.filter(|r| r.start < r.end).map(|r| r.start - rows.start..r.end - rows.start).collect(),
        )
    }
}

/// Merges overlapping and adjacent ranges.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_saved_where_prompts_diverge() {
        let mark = |at, unstable_tokens| Mark { at, unstable_tokens };
        #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
        let cases = [
            // A first prompt: near its end, and every `spacing` tokens.
            (0..400, 0, vec![], vec![256, 384], vec![384..400]),
            (0..10, 0, vec![], vec![], vec![0..10]),
            // Typing: nothing until the last checkpoint is far behind.
            (400..402, 384, vec![], vec![], vec![400..402]),
            (440..441, 384, vec![], vec![441], vec![440..441]),
            // Exact marks, and one whose last word may change.
            (0..300, 0, vec![mark(100, 0), mark(290, 0)], vec![100, 290], vec![290..300]),
            (0..300, 0, vec![mark(200, 24), mark(299, 0)], vec![176, 299], vec![176..200, 299..300]),
            (190..300, 170, vec![mark(200, 24), mark(299, 0)], vec![299], vec![190..200, 299..300]),
            (190..300, 100, vec![mark(200, 24), mark(299, 0)], vec![200, 299], vec![190..200, 299..300]),
            // Marks before the evaluated tokens need nothing.
            (50..60, 50, vec![mark(40, 0), mark(50, 8)], vec![], vec![50..60]),
        ];
        for (evaluated, last_checkpoint, marks, checkpoints, traced) in cases {
            let plan = Plan::new(evaluated.clone(), last_checkpoint, &marks, 256);
            assert_eq!(plan, Plan { checkpoints, traced, ..Plan::default() }, "{evaluated:?}, {marks:?}");
        }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
    fn passes_have_their_part() {
        let plan = Plan { checkpoints: vec![100, 290], traced: vec![90..130, 290..300], ..Plan::default() };
        assert_eq!(plan.rows(&(0..100)), (vec![100], vec![90..100]));
        assert_eq!(plan.rows(&(100..200)), (vec![], vec![0..30]));
        assert_eq!(plan.rows(&(200..300)), (vec![90], vec![90..100]));
    }
}
