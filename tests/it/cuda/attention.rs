//! Attention of many rows in tiles, against the kernel that takes each row alone.

use cudarc::driver::result;
use fimd::base::random::Mmix;
use half::f16;

use super::build::PRODUCT;
use super::child;
use super::device::{Device, Param};
use crate::paths;

/// As `KV_BLOCK` of the kernels.
const KV_BLOCK: usize = 64;
/// As `QUERIES` of the kernels.
const TILE: usize = 32;
/// Layers of the cache, of which the last one is read.
const LAYERS: usize = 2;

/// As kernels take it; see `attention.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    rotary_dim: i32,
    query_width: i32,
    eps: f32,
    layer: i32,
    unused: i32,
    start: u64,
    block_len: u64,
}

struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    is_gated: bool,
    /// Positions before the rows.
    start: usize,
    rows: usize,
    splits: usize,
}

/// What both kernels give.
fn run(device: &Device, case: &Case) -> [Vec<f32>; 2] {
    let &Case { heads, kv_heads, head_dim, is_gated, start, rows, splits } = case;
    let query_width = if is_gated { 2 * head_dim } else { head_dim };
    let blocks = (start + rows).div_ceil(KV_BLOCK);
    let block_len = LAYERS * kv_heads * 2 * KV_BLOCK * head_dim;
    let mut random = Mmix(17);
    let queries: Vec<f32> = (0..rows * heads * query_width).map(|_| 6.0 * random.unit()).collect();
    // Positions behind the last one were never written.
    let mut cache = vec![f16::NAN.to_bits(); (blocks + 1) * block_len];
    // Blocks lie in any order, and not at the beginning.
    let table: Vec<u32> = (0..blocks).rev().map(|block| block as u32 + 1).collect();
    for position in 0..start + rows {
        for head in 0..2 * kv_heads {
            let part = (LAYERS - 1) * 2 * kv_heads + head;
            let block = table[position / KV_BLOCK] as usize;
            let at = block * block_len + (part * KV_BLOCK + position % KV_BLOCK) * head_dim;
            cache[at..at + head_dim].fill_with(|| f16::from_f32(2.0 * random.unit()).to_bits());
        }
    }
    let shape = Shape {
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        head_dim: head_dim as i32,
        rotary_dim: 0,
        query_width: query_width as i32,
        eps: 0.0,
        layer: LAYERS as i32 - 1,
        unused: 0,
        start: device.upload(&[start as i32, 0, 0, 0]).address,
        block_len: block_len as u64,
    };
    let (queries, cache, table) =
        (device.upload(&queries).address, device.upload(&cache).address, device.upload(&table).address);
    let launch = |kernel: &str, grid: (u32, u32, u32), threads: u32, params: &[&dyn Param]| {
        let function = device.function(kernel).unwrap();
        let mut params: Vec<_> = params.iter().map(|&param| Param::place(param)).collect();
        // SAFETY: the kernels are given what they take; the emulator finds what is out of bounds.
        unsafe { result::launch_kernel(function, grid, (threads, 1, 1), 0, device.stream, &mut params) }
            .unwrap();
        device.wait().unwrap();
    };
    let (heads_u, rows_u, splits_u) = (heads as u32, rows as u32, splits as u32);
    ["attend_f16", "attend_tile"].map(|kernel| {
        let out = device.unset::<f32>(rows * heads * head_dim);
        let partial = device.unset::<f32>(rows * heads * splits * (head_dim + 2));
        let params: [&dyn Param; 7] =
            [&shape, &queries, &cache, &table, &out.address, &partial.address, &(rows as i32)];
        if kernel == "attend_f16" {
            launch(kernel, (heads_u, rows_u, splits_u), 128, &params[..6]);
        } else {
            let width = [64, 128, 256].into_iter().find(|&width| head_dim <= width).unwrap();
            let tiles = (rows * heads / kv_heads).div_ceil(TILE) as u32;
            let name = format!("attend_tile_{width}");
            launch(&name, (tiles, kv_heads as u32, splits_u), width as u32 / 2, &params);
        }
        if splits > 1 {
            let merged: [&dyn Param; 5] =
                [&shape, &queries, &partial.address, &out.address, &(splits as i32)];
            launch("attend_merge", (heads_u, rows_u, 1), 64, &merged);
        }
        device.read::<f32>(out)
    })
}

#[test]
fn tiles_of_rows_attend_as_rows_do() {
    child::on_device_with(PRODUCT, &[("ORDER", "3")], || {
        let device = Device::open(&paths::ptx("attention"));
        // Heads, KV heads, width, gates, positions before, rows, splits.
        let cases = [
            (4, 2, 8, false, 0, 5, 1),
            (6, 2, 40, true, 61, 37, 1),
            (4, 1, 64, false, 130, 70, 2),
            (2, 2, 72, true, 1, 64, 1),
            (8, 1, 128, true, 200, 9, 4),
            (3, 3, 136, false, 63, 33, 2),
            (16, 2, 256, true, 100, 29, 1),
            // A split that has no block.
            (4, 4, 256, true, 0, 65, 4),
        ];
        for (heads, kv_heads, head_dim, is_gated, start, rows, splits) in cases {
            let case = Case { heads, kv_heads, head_dim, is_gated, start, rows, splits };
            let [expected, found] = run(&device, &case);
            let largest = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
            let error = crate::reference::distance(&expected, &found);
            println!("{heads} heads of {head_dim}, {rows} rows from {start}: {error} of {largest}");
            assert!(largest > 0.0 && error <= 1e-5 * largest, "heads of {head_dim}: {error} of {largest}");
        }
    });
}
