//! Which states and traces to keep of a prompt that is evaluated, so that the next one costs little. Pure.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Mark;

/// A later prompt is to find a saved state at most about this many tokens before it departs.
pub(super) const REPLAY_TOKENS: usize = 48;

/// How many tokens before its end a prompt may go on differently: those of a word that was not finished.
const UNSTABLE_END_TOKENS: usize = 16;

/// What to keep of an evaluation, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where to save the state, ascending.
    pub points: Vec<usize>,
    /// Tokens to trace, ascending and apart.
    pub traced: Vec<Range<usize>>,
}

impl Plan {
    /// For the tokens `evaluated`, to the end of a prompt, where the last saved state before them is at
    /// `last_checkpoint`. Besides the `marks` and the end a state is saved every `spacing` tokens.
    pub(super) fn new(
        evaluated: Range<usize>,
        last_checkpoint: usize,
        marks: &[Mark],
        spacing: usize,
    ) -> Self {
        let Range { start, end } = evaluated;
        let mut points = BTreeSet::new();
        let mut traced = Vec::new();
        let base = |points: &BTreeSet<usize>, at: usize| points.range(..=at).next_back().copied();
        for &Mark { at, unstable_tokens } in marks.iter().filter(|mark| (start + 1..=end).contains(&mark.at))
        {
            let first = at.saturating_sub(unstable_tokens);
            if unstable_tokens == 0 || first > start {
                points.insert(first);
            } else if at - base(&points, at).unwrap_or(last_checkpoint) > REPLAY_TOKENS {
                points.insert(at);
            }
            if unstable_tokens > 0 {
                traced.push(first.max(start)..at);
            }
        }
        if end - base(&points, end).unwrap_or(last_checkpoint) > REPLAY_TOKENS {
            let first = end.saturating_sub(UNSTABLE_END_TOKENS);
            points.insert(if first > start { first } else { end });
        }
        let is_short = end - start <= REPLAY_TOKENS;
        traced.push(if is_short { start..end } else { base(&points, end).unwrap_or(start).max(start)..end });
        for at in (start / spacing * spacing..end).step_by(spacing).filter(|&at| at > start) {
            if points.range(at.saturating_sub(spacing / 2)..at + spacing / 2).next().is_none() {
                points.insert(at);
            }
        }
        Self { points: points.into_iter().collect(), traced: joined(traced) }
    }

    /// The part for one pass over `rows`, counted from its first row.
    pub(super) fn rows(&self, rows: &Range<usize>) -> (Vec<usize>, Vec<Range<usize>>) {
        let marks = self.points.iter().filter(|at| (rows.start + 1..=rows.end).contains(at));
        let traced = self.traced.iter().map(|range| range.start.max(rows.start)..range.end.min(rows.end));
        (
            marks.map(|at| at - rows.start).collect(),
            traced.filter(|r| r.start < r.end).map(|r| r.start - rows.start..r.end - rows.start).collect(),
        )
    }
}

/// The same numbers in ranges that do not touch.
fn joined(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_saved_where_prompts_will_depart() {
        let mark = |at, unstable_tokens| Mark { at, unstable_tokens };
        #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
        let cases = [
            // A first prompt: near its end, and every so often.
            (0..400, 0, vec![], vec![256, 384], vec![384..400]),
            (0..10, 0, vec![], vec![], vec![0..10]),
            // Typing: nothing until the last state is far behind.
            (400..402, 384, vec![], vec![], vec![400..402]),
            (440..441, 384, vec![], vec![441], vec![440..441]),
            // Exact marks, and one whose last word may change.
            (0..300, 0, vec![mark(100, 0), mark(290, 0)], vec![100, 290], vec![290..300]),
            (0..300, 0, vec![mark(200, 24), mark(299, 0)], vec![176, 299], vec![176..200, 299..300]),
            (190..300, 170, vec![mark(200, 24), mark(299, 0)], vec![299], vec![190..200, 299..300]),
            (190..300, 100, vec![mark(200, 24), mark(299, 0)], vec![200, 299], vec![190..200, 299..300]),
            // Marks behind what is evaluated need nothing.
            (50..60, 50, vec![mark(40, 0), mark(50, 8)], vec![], vec![50..60]),
        ];
        for (evaluated, last_checkpoint, marks, points, traced) in cases {
            let plan = Plan::new(evaluated.clone(), last_checkpoint, &marks, 256);
            assert_eq!(plan, Plan { points, traced }, "{evaluated:?}, {marks:?}");
        }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
    fn passes_have_their_part() {
        let plan = Plan { points: vec![100, 290], traced: vec![90..130, 290..300] };
        assert_eq!(plan.rows(&(0..100)), (vec![100], vec![90..100]));
        assert_eq!(plan.rows(&(100..200)), (vec![], vec![0..30]));
        assert_eq!(plan.rows(&(200..300)), (vec![90], vec![90..100]));
    }
}
