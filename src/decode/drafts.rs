//! Drafts for speculative decoding by n-gram lookup: the tokens that followed the same tokens before. Pure.
//!
//! A draft is verified in one pass. That pays where a pass over several tokens costs little more than one over a single
//! token, which depends on the machine and the model (the more experts a pass visits, the more it reads), and where the
//! accept rate is high. [`DraftCost`] measures both and decides; `steps` verifies.

/// Tokens of the n-gram to look up.
const MATCH_TOKENS: usize = 3;

/// Most tokens of a draft.
pub const DRAFT_TOKENS_MAX: usize = 7;

/// The weight of a new measurement.
const WEIGHT: f64 = 0.2;

/// Skipped drafts between two that are verified to measure their cost.
const PROBE_EVERY: usize = 16;

/// The tokens after the last earlier occurrence of the final n-gram of `tokens`: at most `tokens_max`, none where there
/// is no such occurrence.
pub fn look_up(tokens: &[u32], tokens_max: usize) -> &[u32] {
    let Some(tail) = tokens.len().checked_sub(MATCH_TOKENS).map(|at| &tokens[at..]) else { return &[] };
    let before = &tokens[..tokens.len() - 1];
    let last = before.windows(MATCH_TOKENS).rposition(|window| window == tail);
    let from = last.map_or(tokens.len(), |at| at + MATCH_TOKENS);
    &tokens[from..tokens.len().min(from + tokens_max)]
}

/// The cost per token with and without drafts.
#[derive(Clone, Copy, Debug, Default)]
pub struct DraftCost {
    /// Milliseconds of a pass over one token.
    single_ms: Option<f64>,
    /// Milliseconds per accepted token of a draft, the cost of rejected ones included.
    drafted_ms: Option<f64>,
    skipped: usize,
}

impl DraftCost {
    /// Whether to verify a draft now.
    pub fn should_draft(&mut self) -> bool {
        let pays = match (self.single_ms, self.drafted_ms) {
            (None, _) => false,
            (_, None) => true,
            (Some(single), Some(drafted)) => drafted < single,
        };
        self.skipped = if pays { 0 } else { self.skipped + 1 };
        let is_probe = self.single_ms.is_some() && self.skipped.is_multiple_of(PROBE_EVERY);
        pays || is_probe
    }

    /// Records the milliseconds of a pass over one token.
    pub fn record_single(&mut self, ms: f64) {
        record(&mut self.single_ms, ms);
    }

    /// Records the milliseconds for verifying a draft and rewinding rejected tokens, and the tokens it yielded, at least
    /// one.
    pub fn record_draft(&mut self, ms: f64, tokens: usize) {
        record(&mut self.drafted_ms, ms / tokens as f64);
    }
}

fn record(mean: &mut Option<f64>, ms: f64) {
    *mean = Some(mean.map_or(ms, |before| before + WEIGHT * (ms - before)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_what_followed_last() {
        let tokens = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3];
        assert_eq!(look_up(&tokens, 7), [6, 7, 1, 2, 3]);
        assert_eq!(look_up(&tokens, 2), [6, 7]);
        assert_eq!(look_up(&[5, 5, 5, 5, 5], 7), [5]);
        for tokens in [&[][..], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4, 2, 3]] {
            assert!(look_up(tokens, 7).is_empty());
        }
    }

    #[test]
    fn drafts_are_verified_while_they_pay() {
        let mut draft_cost = DraftCost::default();
        assert!(!draft_cost.should_draft(), "nothing to compare with");
        draft_cost.record_single(10.0);
        assert!(draft_cost.should_draft());
        draft_cost.record_draft(20.0, 4);
        assert!(draft_cost.should_draft());
        (0..20).for_each(|_| draft_cost.record_draft(20.0, 1));
        let tried = (0..3 * PROBE_EVERY).filter(|_| draft_cost.should_draft()).count();
        assert_eq!(tried, 3, "only to see whether things have changed");
        (0..20).for_each(|_| draft_cost.record_draft(12.0, 3));
        assert!(draft_cost.should_draft());
    }
}
