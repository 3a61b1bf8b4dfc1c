//! Each wrapper of inline PTX, and each function that kernels find built in, against scalars. The expected values are
//! computed from the layouts that the PTX ISA documents, so that a real device can be held to them, too.

use half::{bf16, f16};

use super::build::TRIAL;
use super::child;
use super::device::{Device, Shape};

const PTX: &str = include_str!("../../cuda/kernels/wrappers.ptx");
const ONE_WARP: Shape = (1, 32, 0);

/// Words that look random.
fn words(count: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32 ^ (state >> 20) as u32
    };
    (0..count).map(|_| next()).collect()
}

/// Two elements of 16 bits in each word, none of them infinite or NaN, nor too large to be summed.
fn small_halves(count: usize, seed: u64, narrow: fn(f32) -> u16) -> Vec<u32> {
    let element = |bits: u32| u32::from(narrow((bits & 0xff) as f32 / 64.0 - 2.0));
    words(count, seed).into_iter().map(|word| element(word >> 16) << 16 | element(word)).collect()
}

/// Element `(row, column)` of a 16 x 16 left operand: lane, word, and half of the word.
fn left_16(row: usize, column: usize) -> (usize, usize, usize) {
    (row % 8 * 4 + column % 8 / 2, row / 8 + column / 8 * 2, column % 2)
}
/// Of a right operand with 16 rows and 8 columns.
fn right_16(row: usize, column: usize) -> (usize, usize, usize) {
    (column * 4 + row % 8 / 2, 4 + row / 8, row % 2)
}
/// Of the result, 16 x 8: lane and word.
fn result(row: usize, column: usize) -> (usize, usize) {
    (row % 8 * 4 + column / 2, row / 8 * 2 + column % 2)
}

#[test]
fn mma_of_16_bits_multiplies_matrices() {
    child::on_device(TRIAL, || {
        type Format = (&'static str, fn(f32) -> u16, fn(u16) -> f32);
        let formats: [Format; 2] = [
            ("wrap_mma_bf16", |v| bf16::from_f32(v).to_bits(), |b| bf16::from_bits(b).to_f32()),
            ("wrap_mma_f16", |v| f16::from_f32(v).to_bits(), |b| f16::from_bits(b).to_f32()),
        ];
        let device = Device::open(PTX);
        for (kernel, narrow, widen) in formats {
            let operands = small_halves(32 * 6, 1, narrow);
            let before: Vec<f32> = words(32 * 4, 2).iter().map(|word| (word & 0xff) as f32).collect();
            let (on_operands, sums) = (device.upload(&operands), device.upload(&before));
            device.run(kernel, ONE_WARP, &[on_operands.at(), sums.at()]).unwrap();
            let after = device.read::<f32>(sums);
            let element = |(lane, word, half): (usize, usize, usize)| {
                widen((operands[lane * 6 + word] >> (16 * half)) as u16)
            };
            for (row, column) in (0..16).flat_map(|row| (0..8).map(move |column| (row, column))) {
                let product: f32 =
                    (0..16).map(|k| element(left_16(row, k)) * element(right_16(k, column))).sum();
                let (lane, word) = result(row, column);
                let (got, expected) = (after[lane * 4 + word], before[lane * 4 + word] + product);
                assert!(
                    (got - expected).abs() < 1e-3,
                    "{kernel}: row {row}, column {column}: {got}, not {expected}"
                );
            }
        }
    });
}

#[test]
fn mma_of_bytes_is_exact() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let (operands, before) = (words(32 * 6, 3), words(32 * 4, 4));
        let (on_operands, sums) = (device.upload(&operands), device.upload(&before));
        device.run("wrap_mma_i8", ONE_WARP, &[on_operands.at(), sums.at()]).unwrap();
        let after = device.read::<i32>(sums);
        // A word has four neighbours along the depth of 32.
        let element = |lane: usize, word: usize, k: usize| {
            i32::from((operands[lane * 6 + word] >> (8 * (k % 4))) as i8)
        };
        for (row, column) in (0..16).flat_map(|row| (0..8).map(move |column| (row, column))) {
            let (lane, word) = result(row, column);
            let expected = (0..32).fold(before[lane * 4 + word] as i32, |sum, k| {
                let left = element(row % 8 * 4 + k % 16 / 4, row / 8 + k / 16 * 2, k);
                let right = element(column * 4 + k % 16 / 4, 4 + k / 16, k);
                sum.wrapping_add(left * right)
            });
            assert_eq!(after[lane * 4 + word], expected, "row {row}, column {column}");
        }
    });
}

#[test]
fn ldmatrix_hands_out_matrices() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let matrices: Vec<u16> = (0..4 * 64).map(|at| at as u16 * 7 + 3).collect();
        let (on_matrices, out) = (device.upload(&matrices), device.unset::<u32>(32 * 14));
        device.run("wrap_ldmatrix", ONE_WARP, &[on_matrices.at(), out.at()]).unwrap();
        let got = device.read::<u32>(out);
        for lane in 0..32 {
            let pair = |matrix: usize, is_transposed: bool| {
                let at = |half: usize| match is_transposed {
                    false => lane / 4 * 8 + lane % 4 * 2 + half,
                    true => (lane % 4 * 2 + half) * 8 + lane / 4,
                };
                u32::from(matrices[matrix * 64 + at(1)]) << 16 | u32::from(matrices[matrix * 64 + at(0)])
            };
            let loads = |is_transposed| [0, 0, 1, 0, 1, 2, 3].map(|matrix| pair(matrix, is_transposed));
            assert_eq!(got[lane * 14..][..14], [loads(false), loads(true)].concat(), "lane {lane}");
        }
    });
}

#[test]
fn asynchronous_copies_arrive_in_groups() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let input = words(32 * 12, 5);
        let (on_input, out) = (device.upload(&input), device.unset::<u32>(32 * 11));
        device.run("wrap_cp_async", ONE_WARP, &[on_input.at(), out.at()]).unwrap();
        for (lane, got) in device.read::<u32>(out).chunks(11).enumerate() {
            let other = lane ^ 1;
            let mut expected = input[other * 12..][..11].to_vec();
            if other % 2 == 1 {
                expected[4..8].fill(0);
            }
            assert_eq!(got, expected, "lane {lane}");
        }
    });
}

#[test]
fn numbers_change_their_format() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let (from_f16, from_bf16) = (device.unset::<f32>(1 << 16), device.unset::<f32>(1 << 16));
        device.run("wrap_widen", (256, 256, 0), &[from_f16.at(), from_bf16.at()]).unwrap();
        let is_same = |got: f32, expected: f32| got == expected || (got.is_nan() && expected.is_nan());
        for (bits, got) in device.read::<f32>(from_f16).into_iter().enumerate() {
            assert!(is_same(got, f16::from_bits(bits as u16).to_f32()), "f16 {bits:04x} is {got}");
        }
        for (bits, got) in device.read::<f32>(from_bf16).into_iter().enumerate() {
            assert!(is_same(got, bf16::from_bits(bits as u16).to_f32()), "bf16 {bits:04x} is {got}");
        }
        let out = device.unset::<f32>(256);
        device.run("wrap_e4m3", (1, 256, 0), &[out.at()]).unwrap();
        for (bits, got) in device.read::<f32>(out).into_iter().enumerate() {
            assert!(is_same(got, fimd::base::dtype::F8E4M3_VALUES[bits]), "E4M3 {bits:02x} is {got}");
        }

        // Around each f16 and bf16: itself, halfway to the next, and a little to both sides of that.
        let mut values = vec![
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            65519.996,
            65520.0,
            1e-45,
            0.0,
        ];
        for (at, bits) in words(30_000, 6).into_iter().enumerate() {
            let value = f32::from_bits(bits);
            let value = if at % 3 == 0 { f16::from_bits(bits as u16).to_f32() } else { value };
            // Which a value of 13 or 16 further binary digits lies halfway to.
            let halfway = f32::from_bits(value.to_bits() | if at % 2 == 0 { 0x1000 } else { 0x8000 });
            values.extend([
                value,
                halfway,
                f32::from_bits(halfway.to_bits() + 1),
                f32::from_bits(halfway.to_bits() - 1),
            ]);
        }
        values.retain(|value| !value.is_nan());
        values.truncate(values.len() / 256 * 256);
        let count = values.len();
        let outs = [device.unset::<u16>(count), device.unset::<u16>(count)];
        let pairs = [device.unset::<u32>(count), device.unset::<u32>(count)];
        let arguments =
            [device.upload(&values), outs[0], outs[1], pairs[0], pairs[1]].map(|buffer| buffer.at());
        device.run("wrap_narrow", (count as u32 / 256, 256, 0), &arguments).unwrap();
        let narrow: [fn(f32) -> u16; 2] = [|v| f16::from_f32(v).to_bits(), |v| bf16::from_f32(v).to_bits()];
        for format in 0..2 {
            let (got, got_pairs) = (device.read::<u16>(outs[format]), device.read::<u32>(pairs[format]));
            for (at, value) in values.iter().enumerate() {
                let (expected, next) = (narrow[format](*value), narrow[format](values[at ^ 1]));
                assert_eq!(got[at], expected, "{value:e} in format {format}");
                assert_eq!(
                    got_pairs[at],
                    u32::from(next) << 16 | u32::from(expected),
                    "{value:e} and the next"
                );
            }
        }
    });
}

#[test]
fn pairs_of_f16_are_rounded_once() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let finite = |words: Vec<u32>| words.into_iter().map(|w| w & 0xbfff_bfff).collect::<Vec<u32>>();
        let operands = [7, 8, 9].map(|seed| finite(words(1 << 16, seed)));
        let out = device.unset::<u32>(4 << 16);
        let [a, b, c] = [0, 1, 2].map(|at: usize| device.upload(&operands[at]).at());
        device.run("wrap_f16x2", (256, 256, 0), &[a, b, c, out.at()]).unwrap();
        for (at, got) in device.read::<u32>(out).chunks(4).enumerate() {
            for half in [0, 16] {
                let bits = |word: u32| (word >> half) as u16;
                let [a, b, c] =
                    [0, 1, 2].map(|which: usize| f16::from_bits(bits(operands[which][at])).to_f64());
                // f64 holds all of these but sums of numbers that are far apart, which do not come close to a tie.
                for (which, exact) in [a + b, a - b, a * b, a * b + c].into_iter().enumerate() {
                    let (got, expected) = (f16::from_bits(bits(got[which])), rounded(exact));
                    assert!(
                        got == expected,
                        "{at}: operation {which} of {a}, {b}, {c} is {got}, not {expected}"
                    );
                }
            }
        }
    });
}

/// The f16 next to a number; of two that are as near, the even one. (`f16::from_f64` looks at half of the bits.)
fn rounded(exact: f64) -> f16 {
    let near = f16::from_f64(exact);
    let neighbours =
        [near.to_bits().wrapping_sub(1), near.to_bits(), near.to_bits().wrapping_add(1)].map(f16::from_bits);
    let distance = |candidate: f16| (candidate.to_f64() - exact).abs();
    let is_better = |a: f16, b: f16| {
        distance(a) < distance(b) || (distance(a) == distance(b) && a.to_bits().is_multiple_of(2))
    };
    neighbours.into_iter().fold(near, |best, next| if is_better(next, best) { next } else { best })
}

#[test]
fn lanes_exchange_words() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let input = words(32, 10);
        let (on_input, out) = (device.upload(&input), device.unset::<u32>(32 * 16));
        device.run("wrap_lanes", ONE_WARP, &[on_input.at(), out.at()]).unwrap();
        let got = device.read::<u32>(out);
        for lane in 0..32usize {
            let value = input[lane];
            let (got, exact) = got[lane * 16..][..16].split_at(15);
            let bytes = |word: u32| word.to_le_bytes().map(|byte| i32::from(byte as i8));
            let dot: i32 =
                bytes(value).iter().zip(bytes(value.wrapping_mul(0x01030507))).map(|(a, b)| a * b).sum();
            // Bytes 3 and 5 of value and complement, the sign of byte 7, and that of byte 0.
            let permuted = [
                value.to_le_bytes()[3],
                (!value).to_le_bytes()[1],
                sign((!value).to_le_bytes()[3]),
                sign(value.to_le_bytes()[0]),
            ];
            let expected = [
                input[5],
                input[lane / 8 * 8 + 1],
                input[lane ^ 9],
                // Later parts of the warp cannot be read.
                if lane ^ 12 < lane / 8 * 8 + 8 { input[lane ^ 12] } else { value },
                input[lane.checked_sub(3).unwrap_or(lane)],
                if lane % 4 >= 3 { input[lane - 3] } else { value },
                input[if lane + 3 < 32 { lane + 3 } else { lane }],
                input[if lane % 16 + 3 < 16 { lane + 3 } else { lane }],
                (0..32).map(|lane| u32::from(input[lane].is_multiple_of(3)) << lane).sum(),
                input.iter().fold(0u32, |sum, value| sum.wrapping_add(*value)),
                *input.iter().max().unwrap(),
                (dot - 3) as u32,
                u32::from_le_bytes(permuted),
                1,
                if lane < 16 { input[lane ^ 1] } else { *input[16..].iter().min().unwrap() },
            ];
            assert_eq!(got, expected, "lane {lane}");
            let (power, expected) = (f32::from_bits(exact[0]), 2f32.powi((value % 64) as i32 - 32));
            assert!(
                (power - expected).abs() <= 4.0 * f32::EPSILON * expected,
                "lane {lane}: {power}, not {expected}"
            );
        }
    });
}

/// All ones where the highest bit is set, or nothing.
fn sign(byte: u8) -> u8 {
    if byte & 0x80 != 0 { 0xff } else { 0 }
}
