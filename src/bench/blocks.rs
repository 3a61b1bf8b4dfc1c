//! What a device does with dense blocks in a second: its kernels, and not the numbers of its maker.

use std::time::Instant;

use anyhow::{Result, anyhow};

use super::random::RandomTensor;
use crate::base::Cancel;
use crate::base::dtype::DType;
use crate::base::random::Mmix;
use crate::compute::{
    Backend, BlockScale, ExpertWeights, Interrupted, Keep, MoeWeights, Pass, PassOut, PassSizes,
    SharedWeights, StoredMatrix,
};
use crate::format::{Bytes, Tensor};

/// Widths of the rows and of the block, and how often it is computed. From the second on it is measured only where the one before
/// was fast: the weights are to be more than caches hold.
pub const SIZES: [(usize, usize, usize); 3] = [(256, 256, 1), (1024, 4096, 4), (2048, 16_384, 8)];
/// The same, where the time that a kernel takes besides is to count for little on the fastest devices, too.
pub const LARGE_SIZES: [(usize, usize, usize); 4] =
    [(256, 256, 1), (1024, 4096, 4), (2048, 16_384, 8), (4096, 32_768, 8)];
/// Rows and columns that share a scale, of weights that have scales apart.
const SCALE_BLOCK: [usize; 2] = [128, 128];
/// The root mean square of all E4M3 numbers, about.
const LARGE_E4M3: f32 = 100.0;
/// Rows of activations where a device is bound by arithmetic.
pub const ROWS: usize = 64;
/// What takes longer in all, in seconds, is not measured with more.
const LONG_S: f64 = 0.02;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Bytes of weights that one row is multiplied with in a second.
    pub weights_per_s: f64,
    /// Multiply-adds in a second with [`ROWS`] rows.
    pub macs_per_s: f64,
}

/// Sizes of passes over a block.
pub fn pass_sizes(hidden: usize, width: usize) -> PassSizes {
    PassSizes {
        rows_max: ROWS,
        positions_max: ROWS,
        hidden,
        vocab: 1,
        dense_width: width,
        ..PassSizes::default()
    }
}

/// Rows and columns that share a scale in matrices of a type.
pub fn scale_block(dtype: DType) -> Option<[usize; 2]> {
    (dtype == DType::F8E4M3).then_some(SCALE_BLOCK)
}

/// Measures with weights of a type and some of these sizes; `open` gives a backend with room for a block of them.
pub fn measure<B: Backend>(
    dtype: DType,
    all_sizes: &[(usize, usize, usize)],
    open: impl Fn(&PassSizes, DType) -> Result<B>,
) -> Result<Speed> {
    let mut last = None;
    for &(hidden, width, times) in all_sizes {
        let sizes = pass_sizes(hidden, width);
        let weights = (3 * hidden * width) as f64;
        let mut backend = open(&sizes, dtype)?;
        let seconds = seconds(&mut backend, &sizes, dtype, times)?;
        let [one, many] = seconds.map(|seconds| seconds / times as f64);
        last = Some(Speed {
            weights_per_s: weights * dtype.bits() / 8.0 / one,
            macs_per_s: weights * ROWS as f64 / many,
        });
        if seconds[0] > LONG_S || seconds[1] > LONG_S {
            break;
        }
    }
    last.ok_or_else(|| anyhow!("nothing was measured"))
}

/// Seconds of `times` blocks with one row and with [`ROWS`].
fn seconds<B: Backend>(backend: &mut B, sizes: &PassSizes, dtype: DType, times: usize) -> Result<[f64; 2]> {
    let &PassSizes { hidden, dense_width: width, .. } = sizes;
    backend.prepare(sizes)?;
    let mut matrix = |rows: usize, cols: usize, key: u64| {
        let mut bytes =
            vec![0; dtype.bytes(cols).ok_or_else(|| anyhow!("{dtype} has larger blocks"))? * rows];
        let norm = (cols as f32).sqrt().recip();
        match scale_block(dtype) {
            None => RandomTensor::new(dtype, norm, key).fill(0, &mut bytes),
            // Any of E4M3 but those with all bits set, which are no numbers.
            Some(_) => {
                let mut random = Mmix(key);
                bytes.iter_mut().for_each(|byte| *byte = (random.below(127) | random.below(2) << 7) as u8);
            }
        }
        let values =
            Tensor { name: "random".into(), dtype, shape: vec![rows, cols], bytes: Bytes::from(bytes) };
        let scale = scale_block(dtype).map(|[block_rows, block_cols]| BlockScale {
            values: vec![norm / LARGE_E4M3; rows.div_ceil(block_rows) * cols.div_ceil(block_cols)],
            block_rows,
            block_cols,
        });
        backend.matrix(StoredMatrix { rows, cols, values, scale })
    };
    let expert = ExpertWeights {
        gate: matrix(width, hidden, 1)?,
        up: matrix(width, hidden, 2)?,
        down: matrix(hidden, width, 3)?,
    };
    let norm = backend.vector(vec![1.0; hidden])?;
    let shared = Some(SharedWeights { expert, gate: None });
    let weights: B::Moe = MoeWeights { norm, eps: 1e-6, routed: None, shared }.into();
    let (mut x, products) = (backend.rows(ROWS, hidden)?, backend.rows(1, 1)?);
    let cancel = Cancel::new();
    let mut pass = |rows: usize, times: usize| {
        let values: Vec<f32> = (0..rows * hidden).map(|i| (i % 7) as f32 - 3.0).collect();
        let started = Instant::now();
        backend.begin(&Pass { start: 0, rows, blocks: &[], cancel: &cancel, keep: Keep::default() });
        backend.load(&values, &mut x);
        (0..times).for_each(|_| backend.moe(&weights, &mut x));
        match backend.finish(&mut [], &x, &products, &mut PassOut::default()) {
            Ok(()) => Ok(started.elapsed().as_secs_f64()),
            Err(Interrupted::Device(error)) => Err(error),
            Err(Interrupted::Cancelled) => Err(anyhow!("a measurement was cancelled")),
        }
    };
    // The first pass loads what it needs.
    pass(1, 1)?;
    let one = pass(1, times)?;
    Ok([one, pass(ROWS, times)?])
}
