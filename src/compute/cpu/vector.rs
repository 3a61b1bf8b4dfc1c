//! Formulas over rows of f32, and products of small f32 matrices.

#![expect(
    unsafe_code,
    reason = "tiles are read and written by pointer, inside bounds that are checked before"
)]
#![expect(clippy::needless_range_loop, reason = "closures are not inlined reliably")]

use super::simd::{LANES, Simd};

/// The first elements of a row as whole vectors, and how many are left.
macro_rules! lanes {
    ($row:expr) => {
        $row.as_chunks::<LANES>()
    };
}

/// `sum a[i] b[i]` for slices of equal length.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (lanes!(a), lanes!(b));
    let mut sum = simd.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add(simd.load(a), simd.load(b), sum);
    }
    let mut total = simd.sum(sum);
    for (a, b) in a_rest.iter().zip(b_rest) {
        total += a * b;
    }
    total
}

/// `y += a x`.
#[inline(always)]
pub(super) fn axpy<S: Simd>(simd: S, a: f32, x: &[f32], y: &mut [f32]) {
    let ((x, x_rest), (y, y_rest)) = (lanes!(x), y.as_chunks_mut::<LANES>());
    let factor = simd.splat(a);
    for (x, y) in x.iter().zip(y) {
        simd.store(simd.mul_add(factor, simd.load(x), simd.load(y)), y);
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        *y += a * x;
    }
}

/// `y += a x`, element by element.
#[inline(always)]
pub(super) fn add_elementwise<S: Simd>(simd: S, a: &[f32], x: &[f32], y: &mut [f32]) {
    let ((a, a_rest), (x, x_rest)) = (lanes!(a), lanes!(x));
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    for ((a, x), y) in a.iter().zip(x).zip(y) {
        simd.store(simd.mul_add(simd.load(a), simd.load(x), simd.load(y)), y);
    }
    for ((a, x), y) in a_rest.iter().zip(x_rest).zip(y_rest) {
        *y += a * x;
    }
}

/// One row of the recurrence of Gated DeltaNet: `state = decay past + key delta; out += query state`.
pub(super) struct Step<'a> {
    pub decay: f32,
    pub key: f32,
    pub query: f32,
    pub delta: &'a [f32],
}

impl Step<'_> {
    /// From `past`, or in place where there is none.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&self, simd: S, past: Option<&[f32]>, state: &mut [f32], out: &mut [f32]) {
        let (decay, key, query) = (simd.splat(self.decay), simd.splat(self.key), simd.splat(self.query));
        let (delta, delta_rest) = lanes!(self.delta);
        let (state, state_rest) = state.as_chunks_mut::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        let past = past.map(|past| lanes!(past));
        for i in 0..delta.len() {
            let before = simd.load(past.map_or(&state[i], |(past, _)| &past[i]));
            let new = simd.mul_add(key, simd.load(&delta[i]), simd.mul(decay, before));
            simd.store(new, &mut state[i]);
            simd.store(simd.mul_add(query, new, simd.load(&out[i])), &mut out[i]);
        }
        for i in 0..delta_rest.len() {
            let before = past.map_or(state_rest[i], |(_, past)| past[i]);
            state_rest[i] = self.decay * before + self.key * delta_rest[i];
            out_rest[i] += self.query * state_rest[i];
        }
    }
}

/// `x *= a`.
#[inline(always)]
pub(super) fn scale<S: Simd>(simd: S, a: f32, x: &mut [f32]) {
    let (x, rest) = x.as_chunks_mut::<LANES>();
    let factor = simd.splat(a);
    for x in x {
        simd.store(simd.mul(factor, simd.load(x)), x);
    }
    for x in rest {
        *x *= a;
    }
}

/// `out = a x`
#[inline(always)]
pub(super) fn scaled<S: Simd>(simd: S, a: f32, x: &[f32], out: &mut [f32]) {
    let ((x, x_rest), (out, out_rest)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    let factor = simd.splat(a);
    for (x, out) in x.iter().zip(out) {
        simd.store(simd.mul(factor, simd.load(x)), out);
    }
    for (x, out) in x_rest.iter().zip(out_rest) {
        *out = a * x;
    }
}

/// `out = x * rsqrt(mean(x^2) + eps) * w`.
#[inline(always)]
pub(super) fn rms_norm<S: Simd>(simd: S, x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    out.copy_from_slice(x);
    rms_norm_in_place(simd, out, w, eps);
}

/// [`rms_norm`] in place.
#[inline(always)]
pub(super) fn rms_norm_in_place<S: Simd>(simd: S, x: &mut [f32], w: &[f32], eps: f32) {
    let factor = (dot(simd, x, x) / x.len() as f32 + eps).sqrt().recip();
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks_mut::<LANES>(), lanes!(w));
    let factors = simd.splat(factor);
    for (x, w) in x.iter_mut().zip(w) {
        simd.store(simd.mul(simd.mul(simd.load(x), factors), simd.load(w)), x);
    }
    for (x, w) in x_rest.iter_mut().zip(w_rest) {
        *x *= factor * w;
    }
}

/// `x *= factor / sqrt(sum x^2 + 1e-6)`.
#[inline(always)]
pub(super) fn l2_normalize<S: Simd>(simd: S, x: &mut [f32], factor: f32) {
    let factor = factor / (dot(simd, x, x) + 1e-6).sqrt();
    scale(simd, factor, x);
}

/// `exp(x)` to about one unit in the last place; below the smallest normal number, that number.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    let x = simd.min(simd.max(x, simd.splat(-87.33)), simd.splat(88.37));
    let whole = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let n = simd.to_f(whole);
    // ln 2 in two parts, the first exact in products with n.
    let r = simd.mul_sub(n, simd.splat(0.693_359_4), x);
    let r = simd.mul_sub(n, simd.splat(-2.121_944_4e-4), r);
    let mut p = simd.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let power = simd.shl(simd.add_i(whole, simd.splat_i(127)), 23);
    simd.mul(p, simd.bits_f(power))
}

/// `x = exp(a - x)`, for a whole number of vectors.
#[inline(always)]
pub(super) fn exp_difference<S: Simd>(simd: S, a: f32, x: &mut [f32]) {
    for x in x.as_chunks_mut::<LANES>().0 {
        simd.store(exp(simd, simd.sub(simd.splat(a), simd.load(x))), x);
    }
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::F) -> S::F {
    let denominator = simd.add(simd.splat(1.0), exp(simd, simd.sub(simd.splat(0.0), x)));
    simd.div(x, denominator)
}

/// `out *= silu(x)`.
#[inline(always)]
pub(super) fn mul_silu<S: Simd>(simd: S, x: &[f32], out: &mut [f32]) {
    let ((x, x_rest), (out, out_rest)) = (lanes!(x), out.as_chunks_mut::<LANES>());
    for (x, out) in x.iter().zip(out) {
        simd.store(simd.mul(simd.load(out), silu(simd, simd.load(x))), out);
    }
    if !x_rest.is_empty() {
        let x = silu(simd, simd.load(&padded(x_rest)));
        let mut product = padded(out_rest);
        simd.store(simd.mul(simd.load(&product), x), &mut product);
        out_rest.copy_from_slice(&product[..out_rest.len()]);
    }
}

/// `out *= sigmoid(x)`.
#[inline(always)]
pub(super) fn mul_sigmoid<S: Simd>(simd: S, x: &[f32], out: &mut [f32]) {
    let ((x, x_rest), (out, out_rest)) = (lanes!(x), out.as_chunks_mut::<LANES>());
    let one = simd.splat(1.0);
    for (x, out) in x.iter().zip(out) {
        let denominator = simd.add(one, exp(simd, simd.sub(simd.splat(0.0), simd.load(x))));
        simd.store(simd.div(simd.load(out), denominator), out);
    }
    for (x, out) in x_rest.iter().zip(out_rest) {
        *out /= 1.0 + (-x).exp();
    }
}

/// `x = silu(x)`.
#[inline(always)]
pub(super) fn silu_in_place<S: Simd>(simd: S, x: &mut [f32]) {
    let (x, rest) = x.as_chunks_mut::<LANES>();
    for x in x {
        simd.store(silu(simd, simd.load(x)), x);
    }
    if !rest.is_empty() {
        let mut last = padded(rest);
        simd.store(silu(simd, simd.load(&last)), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `x = exp(x) / sum exp(x)`.
#[inline(always)]
pub(super) fn softmax<S: Simd>(simd: S, x: &mut [f32]) {
    let mut max = f32::NEG_INFINITY;
    let (vectors, rest) = x.as_chunks_mut::<LANES>();
    if let Some(first) = vectors.first() {
        let mut greatest = simd.load(first);
        for x in vectors.iter() {
            greatest = simd.max(greatest, simd.load(x));
        }
        max = simd.max_lane(greatest);
    }
    for x in rest.iter() {
        max = max.max(*x);
    }
    let (mut sums, shift) = (simd.splat(0.0), simd.splat(max));
    for x in vectors.iter_mut() {
        let value = exp(simd, simd.sub(simd.load(x), shift));
        sums = simd.add(sums, value);
        simd.store(value, x);
    }
    let mut sum = simd.sum(sums);
    for x in rest.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    scale(simd, sum.recip(), x);
}

/// The elements of a short row, then zeros.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut row = [0.0; LANES];
    row[..rest.len()].copy_from_slice(rest);
    row
}

/// A matrix of f32 inside a slice: element `[i, j]` is at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub values: &'a [f32],
    pub row: usize,
    pub col: usize,
}

/// `c[i, ..cols] += sum_k a[i, k] b[k, ..cols]` for `rows` rows of `a` and `c` and `depth` rows of `b`. Rows of
/// `b` are `b_stride` apart, those of `c` `c_stride`.
#[expect(clippy::too_many_arguments, reason = "three matrices and their sizes")]
#[inline(always)]
pub(super) fn add_product<S: Simd>(
    simd: S,
    rows: usize,
    cols: usize,
    depth: usize,
    a: View,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    if rows == 0 || cols == 0 || depth == 0 {
        return;
    }
    assert!((rows - 1) * a.row + (depth - 1) * a.col < a.values.len());
    assert!((depth - 1) * b_stride + cols <= b.len() && (rows - 1) * c_stride + cols <= c.len());
    let mut row = 0;
    macro_rules! tiles {
        ($($tile:literal: $($vectors:literal)*;)*) => {$(
            while S::SUMS >= $tile && rows - row >= $tile {
                let mut col = 0;
                $(while S::SUMS >= $tile * $vectors && col + $vectors * LANES <= cols {
                    // SAFETY: the tile lies inside the matrices, whose sizes are checked above.
                    unsafe { tile::<S, $tile, $vectors>(simd, depth, a, row, b, b_stride, c, c_stride, col) };
                    col += $vectors * LANES;
                })*
                for col in col..cols {
                    for row in row..row + $tile {
                        let mut sum = 0.0;
                        for k in 0..depth {
                            sum += a.values[row * a.row + k * a.col] * b[k * b_stride + col];
                        }
                        c[row * c_stride + col] += sum;
                    }
                }
                row += $tile;
            }
        )*};
    }
    tiles!(8: 2 1; 6: 2 1; 4: 4 2 1; 2: 8 2 1; 1: 8 4 1;);
}

/// # Safety
/// Rows `row..row + T` of `a` and `c`, columns `col..col + N * LANES` of `b` and `c`, and `depth` rows of `b` must
/// lie inside them.
#[expect(clippy::too_many_arguments, reason = "three matrices and a place in them")]
#[inline(always)]
unsafe fn tile<S: Simd, const T: usize, const N: usize>(
    simd: S,
    depth: usize,
    a: View,
    row: usize,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    col: usize,
) {
    let mut sums = [[simd.splat(0.0); N]; T];
    // SAFETY: every element is inside its matrix, by the caller's promise.
    unsafe {
        for k in 0..depth {
            let b = b.as_ptr().add(k * b_stride + col);
            let mut vectors = [simd.splat(0.0); N];
            for n in 0..N {
                vectors[n] = simd.load(&*b.add(n * LANES).cast::<[f32; LANES]>());
            }
            for t in 0..T {
                let x = simd.splat(*a.values.get_unchecked((row + t) * a.row + k * a.col));
                for n in 0..N {
                    sums[t][n] = simd.mul_add(x, vectors[n], sums[t][n]);
                }
            }
        }
        for t in 0..T {
            let c = c.as_mut_ptr().add((row + t) * c_stride + col);
            for n in 0..N {
                let c = &mut *c.add(n * LANES).cast::<[f32; LANES]>();
                simd.store(simd.add(simd.load(c), sums[t][n]), c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Level};
    use super::*;
    use crate::base::random::Mmix;

    /// Every formula over rows of some length, against f64.
    struct Formulas(usize);

    impl Kernel for Formulas {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let mut random = Mmix(self.0 as u64);
            let mut row = || (0..self.0).map(|_| 4.0 * random.unit()).collect::<Vec<f32>>();
            let (a, b, c) = (row(), row(), row());
            let wide = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            let (x, y, z) = (wide(&a), wide(&b), wide(&c));
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let sum = |values: &[f64]| values.iter().sum::<f64>();
            let dot_xy: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x * y).collect();
            close(&[dot(simd, &a, &b)], &[sum(&dot_xy)], 16.0 * self.0 as f64);

            let mut out = b.clone();
            axpy(simd, 0.7, &a, &mut out);
            close(&out, &x.iter().zip(&y).map(|(x, y)| f64::from(0.7f32) * x + y).collect::<Vec<_>>(), 8.0);
            let mut out = c.clone();
            add_elementwise(simd, &a, &b, &mut out);
            close(&out, &dot_xy.iter().zip(&z).map(|(xy, z)| xy + z).collect::<Vec<_>>(), 16.0);
            let updated: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 0.5 * y + 0.25 * x).collect();
            let step = Step { decay: 0.5, key: 0.25, query: 2.0, delta: &a };
            for in_place in [false, true] {
                let (mut new, mut out) = (if in_place { b.clone() } else { vec![7.0; self.0] }, c.clone());
                step.run(simd, if in_place { None } else { Some(&b) }, &mut new, &mut out);
                close(&new, &updated, 8.0);
                close(&out, &updated.iter().zip(&z).map(|(new, z)| z + 2.0 * new).collect::<Vec<_>>(), 16.0);
            }

            let mut out = vec![0.0; self.0];
            rms_norm(simd, &a, &b, 1e-6, &mut out);
            let squares: Vec<f64> = x.iter().map(|x| x * x).collect();
            let factor = (sum(&squares) / self.0 as f64 + 1e-6).sqrt().recip();
            close(&out, &dot_xy.iter().map(|xy| xy * factor).collect::<Vec<_>>(), 32.0);
            let mut out = a.clone();
            l2_normalize(simd, &mut out, 0.5);
            let factor = 0.5 / (sum(&squares) + 1e-6).sqrt();
            close(&out, &x.iter().map(|x| x * factor).collect::<Vec<_>>(), 8.0);

            let mut out = a.clone();
            silu_in_place(simd, &mut out);
            close(&out, &x.iter().map(|&x| silu(x)).collect::<Vec<_>>(), 16.0);
            let mut out = b.clone();
            mul_silu(simd, &a, &mut out);
            close(&out, &x.iter().zip(&y).map(|(&x, y)| silu(x) * y).collect::<Vec<_>>(), 64.0);
            let mut out = b.clone();
            mul_sigmoid(simd, &a, &mut out);
            close(&out, &x.iter().zip(&y).map(|(x, y)| y / (1.0 + (-x).exp())).collect::<Vec<_>>(), 16.0);
            let mut out = a.clone();
            softmax(simd, &mut out);
            let exps: Vec<f64> = x.iter().map(|x| x.exp()).collect();
            close(&out, &exps.iter().map(|x| x / sum(&exps)).collect::<Vec<_>>(), 8.0);
        }
    }

    /// `steps` rounding steps of numbers of order one.
    #[track_caller]
    fn close(found: &[f32], expected: &[f64], steps: f64) {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= f64::from(f32::EPSILON) * steps, "{found} at {i}, not {expected}");
        }
    }

    #[test]
    fn formulas_hold_at_every_length() {
        for level in Level::supported() {
            for len in (1..70).chain([128, 300]) {
                level.run(Formulas(len));
            }
        }
    }

    /// The exponential over its whole range.
    struct Exponentials;

    impl Kernel for Exponentials {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for i in -8800..8800 {
                let x = i as f32 / 100.0;
                let mut row = [x; LANES];
                exp_difference(simd, 2.0 * x, &mut row);
                let expected = f64::from(x.clamp(-87.33, 88.37)).exp();
                let error = (f64::from(row[3]) - expected).abs() / expected;
                assert!(error < 3.0 * f64::from(f32::EPSILON), "exp({x}) is {}", row[3]);
            }
            let mut extremes = [f32::INFINITY; LANES];
            exp_difference(simd, 0.0, &mut extremes);
            assert!(extremes[0] < 2e-38);
        }
    }

    #[test]
    fn exponentials_are_accurate() {
        Level::supported().for_each(|level| level.run(Exponentials));
    }

    struct Products(usize, usize, usize);

    impl Kernel for Products {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let Self(rows, cols, depth) = self;
            let mut random = Mmix((rows * cols + depth) as u64);
            let mut matrix = |len: usize| (0..len).map(|_| random.unit()).collect::<Vec<f32>>();
            let (a, b, start) = (matrix(rows * depth), matrix(depth * cols), matrix(rows * cols));
            let by_rows = View { values: &a, row: depth, col: 1 };
            let by_cols = View { values: &a, row: 1, col: rows };
            for view in [by_rows, by_cols] {
                let mut c = start.clone();
                add_product(simd, rows, cols, depth, view, &b, cols, &mut c, cols);
                for (at, c) in c.iter().enumerate() {
                    let (i, j) = (at / cols, at % cols);
                    let product =
                        |k: usize| f64::from(a[i * view.row + k * view.col]) * f64::from(b[k * cols + j]);
                    let expected = f64::from(start[at]) + (0..depth).map(product).sum::<f64>();
                    let error = (f64::from(*c) - expected).abs();
                    let bound = f64::from(f32::EPSILON) * (depth + 2) as f64;
                    assert!(error <= bound, "{rows} x {cols} x {depth} at {i}, {j}: {c}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn small_products_equal_the_definition() {
        for level in Level::supported() {
            for rows in [1, 2, 4, 7, 8, 21] {
                for cols in [1, 15, 16, 32, 50, 128, 200] {
                    [1, 2, 64].into_iter().for_each(|depth| level.run(Products(rows, cols, depth)));
                }
            }
        }
    }
}
