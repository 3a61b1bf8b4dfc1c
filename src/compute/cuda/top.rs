//! Rows of logits reduced to what greedy decoding needs of them, by spans of columns first, of which the results are put
//! together.

use anyhow::Result;

use super::driver::{Address, Device, Function, Param};
use super::module::{File, Modules};
use super::workspace::Space;
use crate::compute::logits::{TOP_LOGITS, TopLogits};

/// Logits that a block reduces, and its threads: as the kernels have them.
const SPAN: usize = 2048;
const THREADS: usize = 256;
/// What comes of a row: keys, and the logarithm of the sum.
const FOUND_BYTES: usize = (TOP_LOGITS + 1) * size_of::<u64>();

/// The kernels.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    reduce: Function,
    merge: Function,
}

/// Workspace for the rows of a head.
pub(super) struct Parts {
    /// `[rows, blocks, TOP_LOGITS]`
    keys: Address,
    /// `[rows, blocks]`
    sums: Address,
    /// `[rows, TOP_LOGITS + 1]`; see [`read`].
    pub found: Address,
    rows: usize,
    vocab: usize,
}

/// Bytes of device memory that say which of `vocab` ids can be chosen.
pub(super) fn allowed_bytes(vocab: usize) -> usize {
    vocab.div_ceil(32) * size_of::<u32>()
}

/// Bytes of workspace besides the logits.
pub(super) fn workspace_bytes(rows: usize, vocab: usize) -> Result<usize> {
    let mut space = Space::counting();
    Parts::new(&mut space, rows, vocab)?;
    Ok(space.used())
}

/// Bytes of the results of `rows` rows.
pub(super) fn bytes(rows: usize) -> usize {
    rows * FOUND_BYTES
}

/// The results of rows, as the kernels write them: keys whose upper half orders logits and whose lower half is the inverted id,
/// 0 for none, then the bits of a logarithm.
pub(super) fn read(bytes: &[u8]) -> impl Iterator<Item = TopLogits> {
    bytes.chunks_exact(FOUND_BYTES).map(|row| {
        let mut words = row.as_chunks().0.iter().map(|&word| u64::from_ne_bytes(word));
        let keys = words.by_ref().take(TOP_LOGITS).filter(|&key| key != 0);
        let best = keys.map(|key| (!(key as u32), logit((key >> 32) as u32))).collect();
        let log_sum_exp = f32::from_bits(words.next().expect("a row has one") as u32);
        TopLogits { best, log_sum_exp }
    })
}

/// The logit of an order.
fn logit(order: u32) -> f32 {
    f32::from_bits(if order >> 31 == 1 { order & !(1 << 31) } else { !order })
}

impl Parts {
    pub(super) fn new(space: &mut Space, rows: usize, vocab: usize) -> Result<Self> {
        let sums = rows * vocab.div_ceil(SPAN);
        Ok(Self {
            keys: space.words(2 * sums * TOP_LOGITS)?,
            sums: space.words(sums)?,
            found: space.words(bytes(rows) / 4)?,
            rows,
            vocab,
        })
    }
}

impl Kernels {
    pub(super) fn new(modules: &mut Modules) -> Result<Self> {
        Ok(Self {
            reduce: modules.function(File::Rows, "top_logits")?,
            merge: modules.function(File::Rows, "merge_logits")?,
        })
    }

    /// Enqueues reducing `logits`, `[rows, vocab]`, of which those with a bit in `allowed` can be chosen.
    pub(super) fn reduce(
        &self,
        device: &Device,
        logits: Address,
        allowed: Address,
        parts: &Parts,
    ) -> Result<()> {
        let &Parts { keys, sums, found, rows, vocab } = parts;
        let blocks = vocab.div_ceil(SPAN);
        let params: [&dyn Param; 5] = [&logits, &allowed, &keys, &sums, &(vocab as i32)];
        device.launch(self.reduce, [blocks, rows, 1], THREADS, &params)?;
        let params: [&dyn Param; 4] = [&keys, &sums, &found, &(blocks as i32)];
        device.launch(self.merge, [rows, 1, 1], THREADS, &params)
    }
}
