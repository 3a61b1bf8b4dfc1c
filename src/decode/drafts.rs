//! Drafts at the next tokens that cost nothing: what followed the same tokens before (prompt lookup). Pure.
//!
//! A draft is verified by evaluating it in one pass. That pays where several tokens cost little more than one,
//! which depends on the machine and the model (the more experts a pass visits, the more it reads), and where
//! drafts come true. [`DraftCost`] measures both and decides; `steps` does it.

/// Tokens that have to be the same before a draft is made.
const MATCH_TOKENS: usize = 3;

/// Most tokens of a draft.
pub const DRAFT_TOKENS_MAX: usize = 7;

/// How much one measurement counts.
const WEIGHT: f64 = 0.2;

/// After how many drafts that were not tried one is tried to learn what it costs now.
const PROBE_EVERY: usize = 16;

/// What followed the last three of `tokens` when they last occurred: at most `tokens_max` tokens, none
/// where they never did.
pub fn look_up(tokens: &[u32], tokens_max: usize) -> &[u32] {
    let Some(tail) = tokens.len().checked_sub(MATCH_TOKENS).map(|at| &tokens[at..]) else { return &[] };
    let before = &tokens[..tokens.len() - 1];
    let last = before.windows(MATCH_TOKENS).rposition(|window| window == tail);
    let from = last.map_or(tokens.len(), |at| at + MATCH_TOKENS);
    &tokens[from..tokens.len().min(from + tokens_max)]
}

/// What a token costs with drafts and without.
#[derive(Clone, Copy, Debug, Default)]
pub struct DraftCost {
    /// Milliseconds of a pass over one token.
    single_ms: Option<f64>,
    /// Milliseconds for each token that a verified draft brought, the wrong ones' share included.
    drafted_ms: Option<f64>,
    untried: usize,
}

impl DraftCost {
    /// Whether to verify a draft now.
    pub fn wants_draft(&mut self) -> bool {
        let pays = match (self.single_ms, self.drafted_ms) {
            (None, _) => false,
            (_, None) => true,
            (Some(single), Some(drafted)) => drafted < single,
        };
        self.untried = if pays { 0 } else { self.untried + 1 };
        let is_probe = self.single_ms.is_some() && self.untried.is_multiple_of(PROBE_EVERY);
        pays || is_probe
    }

    /// A pass over one token took so long.
    pub fn note_single(&mut self, ms: f64) {
        note(&mut self.single_ms, ms);
    }

    /// Verifying a draft, and taking back what was wrong, took so long and brought so many tokens, at least
    /// one.
    pub fn note_draft(&mut self, ms: f64, tokens: usize) {
        note(&mut self.drafted_ms, ms / tokens as f64);
    }
}

fn note(mean: &mut Option<f64>, ms: f64) {
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
        assert!(!draft_cost.wants_draft(), "nothing to compare with");
        draft_cost.note_single(10.0);
        assert!(draft_cost.wants_draft());
        draft_cost.note_draft(20.0, 4);
        assert!(draft_cost.wants_draft());
        (0..20).for_each(|_| draft_cost.note_draft(20.0, 1));
        let tried = (0..3 * PROBE_EVERY).filter(|_| draft_cost.wants_draft()).count();
        assert_eq!(tried, 3, "only to see whether things have changed");
        (0..20).for_each(|_| draft_cost.note_draft(12.0, 3));
        assert!(draft_cost.wants_draft());
    }
}
