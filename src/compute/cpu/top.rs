//! Rows of logits reduced to what greedy decoding needs of them, in parts on all threads.

use std::sync::OnceLock;

use super::context::Context;
use super::simd::{Kernel, LANES, Simd};
use super::vector;
use crate::compute::logits::{IdSet, TOP_LOGITS, TopLogits, insert_best};

/// Logits that a task reduces.
const PART: usize = 4096;

/// Logits of which the greatest says whether any is among the best.
const SPAN: usize = 128;

/// [`TopLogits::of`] for each row of `width` logits.
pub(super) fn top_logits(
    context: &mut Context,
    logits: &[f32],
    width: usize,
    allowed: &IdSet,
) -> Vec<TopLogits> {
    let Context { options, pool, .. } = context;
    let (rows, parts) = (logits.len() / width, width.div_ceil(PART));
    let found = vec![OnceLock::new(); rows * parts];
    pool.run(found.len(), |i| {
        let first = i % parts * PART;
        let row = &logits[i / parts * width..][..width];
        let logits = &row[first..width.min(first + PART)];
        found[i].get_or_init(|| options.level.run(Part { first, logits, allowed }));
    });
    let found: Vec<TopLogits> = found.into_iter().filter_map(OnceLock::into_inner).collect();
    found.chunks(parts).map(TopLogits::merge).collect()
}

/// Reduces the logits of the ids from `first` on, at most [`PART`].
struct Part<'a> {
    first: usize,
    logits: &'a [f32],
    allowed: &'a IdSet,
}

impl Kernel for Part<'_> {
    type Output = TopLogits;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> TopLogits {
        let mut logits = [f32::NEG_INFINITY; PART];
        logits[..self.logits.len()].copy_from_slice(self.logits);
        self.allowed.mask(self.first, &mut logits[..self.logits.len()]);
        // Infinities and NaN are found as the definition has them.
        if !logits.iter().fold(true, |all, &logit| all & (logit < f32::INFINITY)) {
            return TopLogits::of_part(self.first, &logits[..self.logits.len()]);
        }
        let mut best = Vec::with_capacity(TOP_LOGITS + 1);
        let mut max = f32::NEG_INFINITY;
        for at in (0..self.logits.len()).step_by(SPAN) {
            let mut greatest = simd.splat(f32::NEG_INFINITY);
            for logits in logits[at..at + SPAN].as_chunks::<LANES>().0 {
                greatest = simd.max(greatest, simd.load(logits));
            }
            let greatest = simd.max_lane(greatest);
            max = max.max(greatest);
            if best.get(TOP_LOGITS - 1).is_none_or(|&(_, least)| greatest > least) {
                let end = self.logits.len().min(at + SPAN);
                for (id, &logit) in (self.first + at..).zip(&logits[at..end]) {
                    insert_best(&mut best, id as u32, logit);
                }
            }
        }
        if max == f32::NEG_INFINITY {
            return TopLogits { best, log_sum_exp: max };
        }
        let (mut sum, shift) = (simd.splat(0.0), simd.splat(max));
        for logits in logits[..self.logits.len().next_multiple_of(LANES)].as_chunks::<LANES>().0 {
            sum = simd.add(sum, vector::exp(simd, simd.sub(simd.load(logits), shift)));
        }
        TopLogits { best, log_sum_exp: max + simd.sum(sum).ln() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Level;
    use super::*;
    use crate::base::random::Mmix;

    /// Compares every level with [`TopLogits::of`].
    #[track_caller]
    fn check(logits: &[f32], width: usize, allowed: &IdSet) {
        for level in Level::supported() {
            let mut context = Context::for_test(level);
            let found = top_logits(&mut context, logits, width, allowed);
            assert_eq!(found.len(), logits.len() / width);
            for (found, row) in found.iter().zip(logits.chunks_exact(width)) {
                let expected = TopLogits::of(row, allowed);
                let bits = |best: &[(u32, f32)]| -> Vec<_> {
                    best.iter().map(|&(id, logit)| (id, logit.to_bits())).collect()
                };
                assert_eq!(bits(&found.best), bits(&expected.best), "{level}, {width}");
                let (found, expected) = (found.log_sum_exp, expected.log_sum_exp);
                let is_equal = (found - expected).abs() <= 2e-6 * expected.abs().max(1.0);
                assert!(
                    is_equal || found == expected || found.is_nan() && expected.is_nan(),
                    "{level}, {width}: {found}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn parts_find_what_the_whole_row_has() {
        let mut random = Mmix(1);
        for width in [1, 7, 15, 16, 17, 127, 129, 4095, 4096, 4097, 3 * PART + 100] {
            for spread in [0.0, 1e-3, 1.0, 30.0, 1e4] {
                let mut allowed = IdSet::below(width);
                (0..width / 5).for_each(|_| allowed.remove(random.bits() % width as u32));
                let logits: Vec<f32> =
                    (0..2 * width).map(|_| spread * random.unit() - spread / 2.0).collect();
                check(&logits, width, &allowed);
            }
        }
    }

    #[test]
    fn parts_of_ids_that_cannot_be_chosen_count_for_nothing() {
        let logits: Vec<f32> = (0..3 * PART).map(|i| (i % 100) as f32).collect();
        check(&logits, logits.len(), &IdSet::below(5));
        check(&logits, logits.len(), &IdSet::below(PART));
        check(&logits, logits.len(), &IdSet::default());
    }

    #[test]
    fn infinities_and_nan_are_found_as_they_are_in_the_whole_row() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            for at in [0, 130, PART + 17] {
                let mut logits: Vec<f32> = (0..2 * PART).map(|i| (i % 7) as f32).collect();
                logits[at] = value;
                check(&logits, logits.len(), &IdSet::below(2 * PART));
            }
        }
    }
}
