//! Products of many rows with matrices of every type, kernel by kernel, against sums on the host: on tensor cores within
//! what pairs of f16 allow, else within what f32 does.

use cudarc::driver::result;
use fimd::base::dtype::{DType, F8E4M3_VALUES};
use fimd::base::random::Mmix;
use fimd::bench::random::RandomTensor;
use fimd::format::blocks::{self, grids};

use super::build::PRODUCT;
use super::child;
use super::device::{Buffer, Device, Param};
use crate::paths;

/// As `TILE_ROWS` of the kernels.
const TILE_ROWS: usize = 32;
/// Warps of a block.
const WARPS: usize = 8;
/// Matrices that lie one behind the other.
const MATRICES: usize = 3;

/// As kernels take it; see `matrix.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Matrix {
    values: u64,
    scales: u64,
    table: u64,
    stride: u64,
    next_values: u64,
    next_scales: u64,
    rows: i32,
    cols: i32,
    scale_rows: i32,
    scale_cols: i32,
}

/// As kernels take it; see `group.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rows {
    tiles: u64,
    order: u64,
    divisor: i32,
    batch: i32,
}

/// As kernels take it; see `matrix.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Output {
    y: u64,
    gate: u64,
    factor: u64,
    adds: i32,
    unused: i32,
}

fn launch(device: &Device, kernel: &str, grid: [usize; 2], params: &[&dyn Param]) {
    let function = device.function(kernel).unwrap();
    let (grid, block) = ((grid[0] as u32, grid[1] as u32, 1), (32 * WARPS as u32, 1, 1));
    let mut params: Vec<_> = params.iter().map(|&param| Param::place(param)).collect();
    // SAFETY: the kernels are given what they take; the emulator finds what is out of bounds.
    unsafe { result::launch_kernel(function, grid, block, 0, device.stream, &mut params) }.unwrap();
    device.wait().unwrap();
}

fn open(file: &str) -> Device {
    Device::open(&paths::ptx(file))
}

fn file_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => "plain",
        _ if codebook(dtype).is_some() => "codebook",
        _ => "blocks",
    }
}

fn codebook(dtype: DType) -> Option<&'static [u32]> {
    match dtype {
        DType::Iq2Xxs => Some(&grids::IQ2_XXS),
        DType::Iq2Xs => Some(&grids::IQ2_XS),
        DType::Iq2S => Some(&grids::IQ2_S),
        DType::Iq3Xxs => Some(&grids::IQ3_XXS),
        DType::Iq3S => Some(&grids::IQ3_S),
        DType::Iq1S | DType::Iq1M => Some(&grids::IQ1),
        _ => None,
    }
}

/// Matrices on the device, and their values.
struct Stored {
    described: Matrix,
    /// `[MATRICES, rows, cols]`
    values: Vec<f32>,
    is_exact: bool,
    rows: usize,
    cols: usize,
}

/// Random ones; with scales where blocks, `[rows, cols]`, are named.
fn store(device: &Device, dtype: DType, [rows, cols]: [usize; 2], scale_block: Option<[usize; 2]>) -> Stored {
    let row_bytes = dtype.bytes(cols).unwrap();
    let mut bytes = vec![0; row_bytes * rows * MATRICES];
    let mut values = vec![0.0; rows * cols * MATRICES];
    if dtype == DType::F8E4M3 {
        // Any number but those whose seven lowest bits are all ones, which are none.
        let mut random = Mmix(7);
        bytes.iter_mut().for_each(|byte| *byte = (random.below(127) | random.below(2) << 7) as u8);
        values.iter_mut().zip(&bytes).for_each(|(value, &byte)| *value = F8E4M3_VALUES[usize::from(byte)]);
    } else {
        RandomTensor::new(dtype, 0.1, 7).fill(0, &mut bytes);
        blocks::to_f32(dtype, &bytes, &mut values);
    }
    let stride = if dtype.is_blocked() {
        row_bytes
    } else {
        (dtype.block_bytes() * cols.next_multiple_of(8)).next_multiple_of(16)
    };
    let next_values = (stride * rows).next_multiple_of(16);
    let mut padded = vec![0u8; next_values * MATRICES];
    for (i, row) in bytes.chunks(row_bytes).enumerate() {
        padded[i / rows * next_values + i % rows * stride..][..row_bytes].copy_from_slice(row);
    }
    let mut scales = Vec::new();
    let [scale_rows, scale_cols] = scale_block.unwrap_or([1, 1]);
    let (down, across) = (rows.div_ceil(scale_rows), cols.div_ceil(scale_cols));
    if scale_block.is_some() {
        let mut random = Mmix(5);
        scales = (0..MATRICES * down * across).map(|_| 0.5 + random.unit().abs()).collect::<Vec<f32>>();
        for (i, value) in values.iter_mut().enumerate() {
            let (matrix, row, col) = (i / (rows * cols), i / cols % rows, i % cols);
            *value *= scales[(matrix * down + row / scale_rows) * across + col / scale_cols];
        }
    }
    let described = Matrix {
        values: device.upload(&padded).address,
        scales: if scales.is_empty() { 0 } else { device.upload(&scales).address },
        table: codebook(dtype).map_or(0, |table| device.upload(table).address),
        stride: stride as u64,
        next_values: next_values as u64,
        next_scales: (down * across) as u64,
        rows: rows as i32,
        cols: cols as i32,
        scale_rows: scale_rows as i32,
        scale_cols: scale_cols as i32,
    };
    Stored { described, values, is_exact: dtype == DType::F32, rows, cols }
}

impl Stored {
    /// The product of a row with output `row` of a matrix, and by how much it may differ.
    fn product(&self, matrix: usize, row: usize, x: &[f32], is_exact: bool) -> (f64, f64) {
        let weights = &self.values[(matrix * self.rows + row) * self.cols..][..self.cols];
        let terms = weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
        let (sum, absolute) =
            terms.fold((0.0, 0.0), |(sum, absolute), term| (sum + term, absolute + term.abs()));
        let greatest = x.iter().fold(0.0, |max: f64, &x| max.max(f64::from(x).abs()));
        // Weights and activations keep 22 binary digits, unless they are very small, and sums 24.
        let rounded = absolute * 2f64.powi(-18) + self.cols as f64 * greatest * 2f64.powi(-24);
        (sum, if is_exact { absolute * 1e-6 } else { rounded })
    }
}

/// Rows of activations on the device, and packed.
struct Input {
    values: Vec<f32>,
    /// Their address, and as `Input` of `group.cuh`.
    rows: u64,
    input: [u64; 3],
}

fn input(device: &Device, cols: usize, values: Vec<f32>) -> Input {
    let (count, stride) = (values.len() / cols, cols.next_multiple_of(64));
    let rows = device.upload(&values).address;
    let (packed, scales) = (device.unset::<u16>(2 * count * stride), device.unset::<f32>(count));
    let nothing = 0u64;
    let (packed_at, scales_at) = (packed.address, scales.address);
    let params: [&dyn Param; 7] =
        [&rows, &nothing, &nothing, &packed_at, &scales_at, &(count as i32), &(cols as i32)];
    launch(&open("rows"), "pack_rows", [count.div_ceil(WARPS), 1], &params);
    let (packed, scales) = (device.read::<u16>(packed), device.read::<f32>(scales));
    for (row, (packed, scale)) in packed.chunks(2 * stride).zip(&scales).enumerate() {
        let values = &values[row * cols..][..cols];
        let greatest = values.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        for i in 0..stride {
            let part = |of: usize| half::f16::from_bits(packed[i / 32 * 64 + i % 32 + of]).to_f32();
            let (found, expected) = ((part(0) + part(32)) * scale, values.get(i).copied().unwrap_or(0.0));
            let bound = expected.abs() * 2f32.powi(-22) + greatest * 1e-11;
            assert!((found - expected).abs() <= bound, "row {row}: {found}, not {expected}");
        }
    }
    Input { values, rows, input: [rows, packed_at, scales_at] }
}

/// Rows whose magnitudes differ.
fn activations(count: usize, cols: usize) -> Vec<f32> {
    let mut random = Mmix(11);
    let magnitude = |row: usize| match row % 7 {
        2 => 1e5,
        3 => 1e-20,
        4 => 0.0,
        5 => 3e9,
        _ => 1.0,
    };
    (0..count * cols).map(|i| random.unit() * magnitude(i / cols)).collect()
}

#[track_caller]
fn check(what: &str, found: f32, (expected, bound): (f64, f64)) {
    let error = (f64::from(found) - expected).abs();
    // Not the other way round: NaN is no number that is near enough.
    assert!(error <= bound, "{what}: {found}, not {expected}: {error} > {bound}");
}

/// The shapes and types that are tried: blocks fill no whole chunk of 64 columns where they need not.
fn all(device_of: impl Fn(&str) -> Device, mut test: impl FnMut(&Device, DType, &Stored)) {
    let devices = ["plain", "blocks", "codebook"].map(|file| (file, device_of(file)));
    for dtype in DType::ALL {
        let (_, device) = devices.iter().find(|(file, _)| *file == file_of(dtype)).unwrap();
        let cols = match dtype.block_len() {
            1 => [83, 200],
            32 => [96, 544],
            64 => [64, 320],
            _ => [256, 512],
        };
        for (i, shape) in [[37, cols[0]], [80, cols[1]]].into_iter().enumerate() {
            let scale_block = (dtype == DType::F8E4M3).then_some([[4, 24], [5, 20]][i]);
            test(device, dtype, &store(device, dtype, shape, scale_block));
        }
    }
}

#[test]
fn many_rows_are_multiplied_with_every_type() {
    child::on_device_with(PRODUCT, &[("ORDER", "5")], || {
        all(open, |device, dtype, stored| {
            let (rows, cols) = (stored.rows, stored.cols);
            for (batch, splits) in [(1usize, 8usize), (9, 4), (65, 2)] {
                let x = input(device, cols, activations(batch, cols));
                let y: Vec<f32> = (0..batch * rows).map(|i| i as f32 / 64.0).collect();
                let name = dtype.to_string().to_lowercase();
                let grouped = Rows { tiles: 0, order: 0, divisor: 1, batch: batch as i32 };
                let outputs = |kernel: &str| {
                    let on_device = device.upload(&y);
                    let out = Output { y: on_device.address, gate: 0, factor: 0, adds: 1, unused: 0 };
                    match kernel {
                        "group" => {
                            let splits = if stored.is_exact { 1 } else { splits };
                            let blocks = if stored.is_exact {
                                rows.div_ceil(WARPS)
                            } else {
                                rows.div_ceil(16 * WARPS / splits)
                            };
                            let params: [&dyn Param; 5] =
                                [&stored.described, &grouped, &x.input, &out, &(splits as i32)];
                            launch(
                                device,
                                &format!("group_{name}"),
                                [blocks, batch.div_ceil(TILE_ROWS)],
                                &params,
                            );
                        }
                        _ => {
                            let params: [&dyn Param; 4] = [&stored.described, &x.rows, &out, &(batch as i32)];
                            launch(
                                device,
                                &format!("matmul_{name}"),
                                [rows.div_ceil(WARPS), batch.div_ceil(4)],
                                &params,
                            );
                        }
                    }
                    device.read::<f32>(on_device)
                };
                for kernel in ["group", "matmul"].into_iter().take(if batch == 9 { 2 } else { 1 }) {
                    let is_exact = stored.is_exact || kernel == "matmul";
                    for (i, &found) in outputs(kernel).iter().enumerate() {
                        let (of, row) = (i / rows, i % rows);
                        let (sum, bound) = stored.product(0, row, &x.values[of * cols..][..cols], is_exact);
                        let expected = sum + f64::from(y[i]);
                        let what = format!("{kernel}_{name}, {batch} rows, row {of}, output {row}");
                        check(&what, found, (expected, bound + expected.abs() * 1e-6));
                    }
                }
            }
        });
    });
}

#[test]
fn visits_in_tiles_are_multiplied_with_their_experts() {
    child::on_device_with(PRODUCT, &[("ORDER", "9")], || {
        const DIVISOR: usize = 3;
        // Expert, and visits of its tiles.
        let tiles = [(2usize, 7usize), (0, 32), (1, 1), (0, 20)];
        let visits = 63;
        all(open, |device, dtype, stored| {
            let (rows, cols) = (stored.rows, stored.cols);
            let x = input(device, cols, activations(visits / DIVISOR, cols));
            // All visits but three.
            let order: Vec<u32> = (0..visits as u32).map(|i| i * 38 % visits as u32).collect();
            let mut first = 0;
            let described: Vec<[i32; 4]> = tiles
                .iter()
                .map(|&(expert, count)| {
                    first += count;
                    [expert as i32, (first - count) as i32, count as i32, 0]
                })
                .collect();
            let (tiles_at, order_at) = (device.upload(&described).address, device.upload(&order).address);
            let mut random = Mmix(3);
            let gate: Vec<f32> = (0..visits * rows).map(|_| random.unit() * 4.0).collect();
            let factor: Vec<f32> = (0..visits).map(|_| random.unit()).collect();
            let y: Buffer = device.upload(&vec![7.0f32; visits * rows]);
            let out = Output {
                y: y.address,
                gate: device.upload(&gate).address,
                factor: device.upload(&factor).address,
                adds: 0,
                unused: 0,
            };
            let grouped = Rows { tiles: tiles_at, order: order_at, divisor: DIVISOR as i32, batch: 0 };
            let (splits, blocks) =
                if stored.is_exact { (1, rows.div_ceil(WARPS)) } else { (4, rows.div_ceil(32)) };
            let params: [&dyn Param; 5] = [&stored.described, &grouped, &x.input, &out, &splits];
            let name = dtype.to_string().to_lowercase();
            launch(device, &format!("group_{name}"), [blocks, tiles.len()], &params);
            let found = device.read::<f32>(y);
            let mut is_visited = vec![false; visits];
            for [expert, first, count, _] in described {
                for &visit in &order[first as usize..(first + count) as usize] {
                    let visit = visit as usize;
                    assert!(!std::mem::replace(&mut is_visited[visit], true));
                    let x = &x.values[visit / DIVISOR * cols..][..cols];
                    for row in 0..rows {
                        let at = visit * rows + row;
                        let (sum, bound) = stored.product(expert as usize, row, x, stored.is_exact);
                        let g = f64::from(gate[at]);
                        let by = g / (1.0 + (-g).exp()) / (1.0 + f64::from(-factor[visit]).exp());
                        let what = format!("group_{name}, visit {visit}, output {row}");
                        check(&what, found[at], (sum * by, bound * by.abs() + (sum * by).abs() * 1e-5));
                    }
                }
            }
            for (visit, outputs) in found.chunks(rows).enumerate().filter(|(visit, _)| !is_visited[*visit]) {
                assert!(outputs.iter().all(|&value| value == 7.0), "visit {visit} is of no tile");
            }
        });
    });
}

#[test]
fn visits_are_put_together_by_slot() {
    child::on_device(PRODUCT, || {
        let device = open("experts");
        let mut random = Mmix(3);
        for (visits, slots) in [(1, 1), (7, 3), (96, 8), (1300, 5), (5000, 512), (3000, 1024)] {
            let chosen: Vec<i32> = (0..visits).map(|_| random.below(slots + 1) as i32 - 1).collect();
            let count = visits / TILE_ROWS + slots.min(visits);
            let (slots_at, order) = (device.upload(&chosen).address, device.unset::<u32>(visits));
            let tiles = device.unset::<[i32; 4]>(count);
            let (visit_count, tile_count) = (visits as i32, count as i32);
            let params: [&dyn Param; 5] =
                [&slots_at, &order.address, &tiles.address, &visit_count, &tile_count];
            launch(&device, "sort_visits", [1, 1], &params);
            let (order, tiles) = (device.read::<u32>(order), device.read::<[i32; 4]>(tiles));
            let mut found = vec![Vec::new(); slots];
            let mut next = 0;
            for [slot, first, count, _] in tiles {
                assert!(count == 0 || first == next, "tiles follow each other");
                assert!((0..=TILE_ROWS as i32).contains(&count));
                let own = &order[first as usize..(first + count) as usize];
                found[slot as usize].extend(own.iter().map(|&visit| visit as usize));
                next += count;
            }
            for (slot, mut found) in found.into_iter().enumerate() {
                found.sort_unstable();
                let expected: Vec<usize> = (0..visits).filter(|&v| chosen[v] == slot as i32).collect();
                assert_eq!(found, expected, "slot {slot} of {slots}, {visits} visits");
            }
        }
    });
}
