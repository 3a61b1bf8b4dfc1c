//! The recurrence of Gated DeltaNet row by row and in chunks, against its definition in f64.

use cudarc::driver::result;
use fimd::base::random::Mmix;

use super::build::PRODUCT;
use super::child;
use super::device::{Device, Param};
use crate::paths;

/// As of the kernels.
const CHUNK: usize = 16;
/// Bytes of what a chunk has for each key head and for each value head.
const CHUNK_KEYS_BYTES: usize = 16384;
const CHUNK_HEAD_BYTES: usize = 2176;

/// As kernels take it; see `delta.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    key_heads: i32,
    value_heads: i32,
    key_dim: i32,
    value_dim: i32,
    taps: i32,
    tiled: i32,
    eps: f32,
    rows: i32,
}

#[derive(Clone, Copy, Debug)]
enum Decays {
    /// Such as models have.
    Usual,
    /// So near to 1 that nothing is forgotten, or 1.
    None,
    /// Of which the product of a few is no number of f32 above 0.
    Total,
    /// Some of each.
    Mixed,
}

#[derive(Clone, Copy, Debug)]
enum Keys {
    Random,
    /// One key again and again, and beta of 1: the triangular system of a chunk is as bad as it gets.
    Repeated,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    key_heads: usize,
    value_heads: usize,
    key_dim: usize,
    value_dim: usize,
    is_tiled: bool,
    /// Rows that are there, of which `first` to `end` are taken.
    rows: usize,
    first: usize,
    end: usize,
    decays: Decays,
    keys: Keys,
    /// What values are multiplied by, and the state before.
    values: f32,
    states: f32,
}

impl Case {
    const USUAL: Self = Self {
        key_heads: 2,
        value_heads: 4,
        key_dim: 32,
        value_dim: 48,
        is_tiled: false,
        rows: 70,
        first: 0,
        end: 70,
        decays: Decays::Usual,
        keys: Keys::Random,
        values: 1.0,
        states: 1.0,
    };

    fn width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    fn key_head(&self, head: usize) -> usize {
        if self.is_tiled { head % self.key_heads } else { head / (self.value_heads / self.key_heads) }
    }
}

/// What the kernels are given: `[rows, width]`, `[rows, 2 value_heads]`, and `[value_heads, value_dim, key_dim]`.
struct Inputs {
    channels: Vec<f32>,
    gates: Vec<f32>,
    state: Vec<f32>,
}

impl Inputs {
    fn new(case: &Case, random: &mut Mmix) -> Self {
        let &Case { key_heads, value_heads, key_dim, value_dim, rows, .. } = case;
        let mut channels = Vec::with_capacity(rows * case.width());
        let mut one: Vec<Vec<f32>> = Vec::new();
        for row in 0..rows {
            for head in 0..2 * key_heads {
                let is_query = head < key_heads;
                let mut unit: Vec<f32> = (0..key_dim).map(|_| random.unit()).collect();
                let norm = unit.iter().map(|x| x * x).sum::<f32>().sqrt();
                let scale = if is_query { (key_dim as f32).sqrt().recip() } else { 1.0 } / norm;
                unit.iter_mut().for_each(|x| *x *= scale);
                if matches!(case.keys, Keys::Repeated) && !is_query {
                    if row == 0 {
                        one.push(unit.clone());
                    }
                    unit.clone_from(&one[head - key_heads]);
                }
                channels.extend(unit);
            }
            channels.extend((0..value_heads * value_dim).map(|_| case.values * random.unit()));
        }
        let mut gates = Vec::with_capacity(rows * 2 * value_heads);
        for _ in 0..rows {
            let beta = |random: &mut Mmix| match case.keys {
                Keys::Random => (4.0 * random.unit()).exp().recip().min(1.0),
                Keys::Repeated => 1.0,
            };
            gates.extend((0..value_heads).map(|_| beta(random)));
            gates.extend((0..value_heads).map(|_| {
                let kind = match case.decays {
                    Decays::Mixed => (random.unit() * 1.49 + 1.5) as usize,
                    Decays::Usual => 0,
                    Decays::None => 1,
                    Decays::Total => 2,
                };
                let x = random.unit();
                match kind {
                    0 => (-(2.0 * x).exp() / 10.0).exp(),
                    1 => 1.0 - (1e-6 * x).max(0.0),
                    _ => (1e-30 * x).max(0.0),
                }
            }));
        }
        let state = (0..value_heads * value_dim * key_dim).map(|_| case.states * random.unit()).collect();
        Self { channels, gates, state }
    }

    /// Outputs of the rows that are taken, and the state after them.
    fn reference(&self, case: &Case) -> [Vec<f64>; 2] {
        let &Case { key_heads, value_heads, key_dim, value_dim, first, end, .. } = case;
        let mut state: Vec<f64> = self.state.iter().map(|&x| x.into()).collect();
        let mut out = Vec::new();
        for row in first..end {
            let channels = &self.channels[row * case.width()..][..case.width()];
            let gates = &self.gates[2 * row * value_heads..][..2 * value_heads];
            let number = |at: usize| f64::from(channels[at]);
            for head in 0..value_heads {
                let query = case.key_head(head) * key_dim;
                let key = query + key_heads * key_dim;
                let (beta, decay) = (f64::from(gates[head]), f64::from(gates[value_heads + head]));
                for col in 0..value_dim {
                    let own = &mut state[(head * value_dim + col) * key_dim..][..key_dim];
                    own.iter_mut().for_each(|x| *x *= decay);
                    let past: f64 = own.iter().enumerate().map(|(k, x)| x * number(key + k)).sum();
                    let value = number(2 * key_heads * key_dim + head * value_dim + col);
                    own.iter_mut()
                        .enumerate()
                        .for_each(|(k, x)| *x += number(key + k) * (value - past) * beta);
                    out.push(own.iter().enumerate().map(|(k, x)| x * number(query + k)).sum());
                }
            }
        }
        [out, state]
    }
}

/// Outputs and the state after the rows, by the kernel that takes one row after the other or by those that take chunks.
fn run(device: &Device, case: &Case, inputs: &Inputs, in_chunks: bool) -> [Vec<f32>; 2] {
    let shape = Shape {
        key_heads: case.key_heads as i32,
        value_heads: case.value_heads as i32,
        key_dim: case.key_dim as i32,
        value_dim: case.value_dim as i32,
        taps: 4,
        tiled: case.is_tiled.into(),
        eps: 1e-6,
        rows: case.rows as i32,
    };
    let (channels, gates) = (device.upload(&inputs.channels).address, device.upload(&inputs.gates).address);
    // The state is replaced.
    let state = device.upload(&inputs.state);
    let (first, end) = (case.first as i32, case.end as i32);
    let out = device.unset::<f32>(case.rows * case.value_heads * case.value_dim);
    let launch = |kernel: &str, grid: [usize; 2], threads: usize, params: &[&dyn Param]| {
        let function = device.function(kernel).unwrap();
        let mut params: Vec<_> = params.iter().map(|&param| Param::place(param)).collect();
        let (grid, block) = ((grid[0] as u32, grid[1] as u32, 1), (threads as u32, 1, 1));
        // SAFETY: the kernels are given what they take; the emulator finds what is out of bounds.
        unsafe { result::launch_kernel(function, grid, block, 0, device.stream, &mut params) }.unwrap();
        device.wait().unwrap();
    };
    if in_chunks {
        let chunks = (case.end - case.first).div_ceil(CHUNK);
        let keys = device.unset::<u8>(chunks * case.key_heads * CHUNK_KEYS_BYTES).address;
        let heads = device.unset::<u8>(chunks * case.value_heads * CHUNK_HEAD_BYTES).address;
        let params: [&dyn Param; 7] = [&shape, &channels, &gates, &keys, &heads, &first, &end];
        launch("delta_chunks", [chunks, case.value_heads], CHUNK * CHUNK, &params);
        let tiles = case.value_dim.div_ceil(CHUNK);
        let warps = tiles.min(4);
        let params: [&dyn Param; 9] =
            [&shape, &channels, &keys, &heads, &state.address, &state.address, &out.address, &first, &end];
        launch("delta_chunked", [tiles.div_ceil(warps), case.value_heads], 32 * warps, &params);
    } else {
        let params: [&dyn Param; 8] =
            [&shape, &channels, &gates, &state.address, &state.address, &out.address, &first, &end];
        launch("delta_rule", [case.value_dim.div_ceil(4), case.value_heads], 128, &params);
    }
    let of_row = case.value_heads * case.value_dim;
    let all = device.read::<f32>(out);
    let is_set = |buffer: &[f32]| buffer.iter().any(|x| !x.is_nan());
    if !child::is_own() {
        assert!(!is_set(&all[..case.first * of_row]) && !is_set(&all[case.end * of_row..]), "{case:?}");
    }
    [all[case.first * of_row..case.end * of_row].to_vec(), device.read::<f32>(state)]
}

/// The largest difference, as a share of the largest number.
fn error(expected: &[f64], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let largest = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
    assert!(largest > 0.0 && largest.is_finite());
    let differences = expected.iter().zip(found).map(|(a, &b)| (a - f64::from(b)).abs());
    // Not a number is none of them.
    differences.fold(0.0, |max, x| if x <= max { max } else { x }) / largest
}

#[test]
fn chunks_of_rows_are_computed_as_rows_are() {
    child::on_device_with(PRODUCT, &[("ORDER", "3")], || {
        let device = Device::open(&paths::ptx("delta"));
        let usual = Case::USUAL;
        let mut cases = vec![
            usual,
            Case { is_tiled: true, ..usual },
            // The shape of the published models, a head of each kind.
            Case { key_heads: 1, value_heads: 2, key_dim: 128, value_dim: 128, end: 67, ..usual },
            // Odd widths: a warp that has no column but its first.
            Case { key_heads: 1, value_heads: 3, key_dim: 27, value_dim: 65, ..usual },
            Case { key_dim: 1, value_dim: 1, ..usual },
            // One row, a part of a chunk, whole chunks, rows from the middle.
            Case { end: 1, ..usual },
            Case { end: 15, ..usual },
            Case { end: 64, ..usual },
            Case { first: 5, end: 38, ..usual },
            // Numbers of which f16 has none, or few digits.
            Case { values: 1e6, ..usual },
            Case { values: 1e-7, states: 1e-7, ..usual },
            Case { values: 1e-9, ..usual },
            Case { values: 1e9, states: 1e-9, ..usual },
        ];
        for keys in [Keys::Random, Keys::Repeated] {
            for decays in [Decays::Usual, Decays::None, Decays::Total, Decays::Mixed] {
                cases.push(Case { keys, decays, ..usual });
            }
        }
        let mut random = Mmix(crate::gpu::seed());
        // Tensor cores cut sums off, where the emulated ones round them.
        let bound = if child::is_own() { 1e-5 } else { 2e-6 };
        for case in cases {
            let inputs = Inputs::new(&case, &mut random);
            let expected = inputs.reference(&case);
            for in_chunks in [false, true] {
                let found = run(&device, &case, &inputs, in_chunks);
                let [outputs, state] = [0, 1].map(|part| error(&expected[part], &found[part]));
                println!("in chunks: {in_chunks}, outputs {outputs:.1e}, states {state:.1e}: {case:?}");
                assert!(outputs <= bound && state <= bound, "in chunks: {in_chunks}, {case:?}");
            }
        }
    });
}
