//! The arithmetic itself, one plain function per formula: the definition of correct that every faster
//! path is tested against.

/// Independent sums of a dot product, so that the compiler can keep them in vector registers.
const LANES: usize = 8;

/// Four dot products of one `x` with four rows.
pub fn dot4(rows: [&[f32]; 4], x: &[f32]) -> [f32; 4] {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let [a, b, c, d] = rows.map(|row| row[..x.len()].as_chunks::<LANES>().0);
    let mut sums = [[0f32; LANES]; 4];
    for ((((x, a), b), c), d) in chunks.iter().zip(a).zip(b).zip(c).zip(d) {
        for lane in 0..LANES {
            sums[0][lane] += a[lane] * x[lane];
            sums[1][lane] += b[lane] * x[lane];
            sums[2][lane] += c[lane] * x[lane];
            sums[3][lane] += d[lane] * x[lane];
        }
    }
    let tail = x.len() - rest.len();
    std::array::from_fn(|i| {
        let rest: f32 = rows[i][tail..].iter().zip(rest).map(|(a, b)| a * b).sum();
        sums[i].iter().sum::<f32>() + rest
    })
}

/// `sum a[i] b[i]`.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) =
        (a.as_chunks::<LANES>(), b[..a.len()].as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `y += a x`.
pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `out = x * rsqrt(mean(x^2) + eps) * w`.
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let scale = (dot(x, x) / x.len() as f32 + eps).sqrt().recip();
    for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
        *out = x * scale * w;
    }
}

/// [`rms_norm`] in place.
pub fn rms_norm_in_place(x: &mut [f32], w: &[f32], eps: f32) {
    let scale = (dot(x, x) / x.len() as f32 + eps).sqrt().recip();
    for (x, w) in x.iter_mut().zip(w) {
        *x *= scale * w;
    }
}

/// `x *= scale / sqrt(sum x^2 + 1e-6)`.
pub fn l2_normalize(x: &mut [f32], scale: f32) {
    let factor = scale / (dot(x, x) + 1e-6).sqrt();
    for x in x {
        *x *= factor;
    }
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `x sigmoid(x)`.
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `ln(1 + exp(x))`, without overflow.
pub fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `x = exp(x) / sum exp(x)`.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    for x in x {
        *x /= sum;
    }
}

/// Rotates the pairs `(i, i + n)` of a head's first `2n` elements by the `n` angles given as
/// `(cos, sin)`.
pub fn rope(head: &mut [f32], angles: &[(f32, f32)]) {
    let (first, second) = head[..2 * angles.len()].split_at_mut(angles.len());
    for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_agree_with_f64_at_every_length() {
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|i| ((i * 37 % 19) as f32 - 9.0) / 7.0).collect();
            let rows: [Vec<f32>; 4] = std::array::from_fn(|r| {
                (0..len).map(|i| ((i * (11 + r) % 23) as f32 - 11.0) / 5.0).collect()
            });
            let four = dot4([&rows[0], &rows[1], &rows[2], &rows[3]], &x);
            for (row, four) in rows.iter().zip(four) {
                let exact: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let norm: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(a * b).abs()).sum();
                let bound = norm * f64::from(f32::EPSILON) * (len as f64 + 2.0);
                assert!((f64::from(four) - exact).abs() <= bound, "dot4, length {len}");
                assert!((f64::from(dot(row, &x)) - exact).abs() <= bound, "dot, length {len}");
            }
        }
    }

    #[test]
    fn softplus_does_not_overflow() {
        assert_eq!(softplus(100.0), 100.0);
        assert!(softplus(-100.0) > 0.0 && softplus(-100.0) < 1e-40);
        assert!((softplus(0.0) - std::f32::consts::LN_2).abs() < 1e-7);
    }

    #[test]
    fn rotation_keeps_length_and_the_rest() {
        let mut head = [3.0, 1.0, 4.0, 2.0, 9.0];
        rope(&mut head, &[(0.0, 1.0), (0.6, 0.8)]);
        let expected = [-4.0, 0.6 - 1.6, 3.0, 1.2 + 0.8, 9.0];
        assert!(head.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{head:?}");
    }
}
