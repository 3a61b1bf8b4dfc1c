//! Extrapolates the times at two depths to a third.

use serde::Serialize;

/// A measured quantity over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value, none of them NaN.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }

    /// `count` divided by each: a rate, from the time of `count` items.
    pub fn rate(self, count: f64) -> Self {
        Self { median: count / self.median, min: count / self.max, max: count / self.min }
    }
}

/// Times of the same work at some depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depth {
    pub layers: usize,
    /// Milliseconds.
    pub ms: Spread,
}

/// Extrapolates linearly, `a + b layers`, from two depths of which the first is the smaller. The bounds come from
/// the extremes of the runs. The time of a layer is not negative.
pub fn extrapolate(shallow: Depth, deep: Depth, layers: usize) -> Spread {
    let reach = (layers as f64 - deep.layers as f64) / (deep.layers as f64 - shallow.layers as f64);
    let at = |shallow: f64, deep: f64| deep + reach * (deep - shallow).max(0.0);
    Spread {
        median: at(shallow.ms.median, deep.ms.median),
        min: at(shallow.ms.max, deep.ms.min),
        max: at(shallow.ms.min, deep.ms.max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_medians_and_bounds() {
        for (values, median, min, max) in [
            (vec![3.0], 3.0, 3.0, 3.0),
            (vec![5.0, 1.0, 2.0], 2.0, 1.0, 5.0),
            (vec![4.0, 1.0, 2.0, 10.0], 3.0, 1.0, 10.0),
        ] {
            assert_eq!(Spread::of(values), Spread { median, min, max });
        }
        let ms = Spread { median: 4.0, min: 2.0, max: 8.0 };
        assert_eq!(ms.rate(16.0), Spread { median: 4.0, min: 2.0, max: 8.0 });
    }

    #[test]
    fn a_line_goes_through_both_depths() {
        let depth = |layers, median, noise| Depth {
            layers,
            ms: Spread { median, min: median - noise, max: median + noise },
        };
        for (shallow, deep, layers, expected) in [
            // The head alone takes 10, a layer 5.
            (depth(0, 10.0, 0.0), depth(4, 30.0, 0.0), 48, (250.0, 250.0, 250.0)),
            (depth(4, 30.0, 0.0), depth(8, 50.0, 0.0), 48, (250.0, 250.0, 250.0)),
            // Noise grows with the distance.
            (depth(4, 30.0, 1.0), depth(8, 50.0, 1.0), 48, (250.0, 229.0, 271.0)),
            (depth(0, 10.0, 1.0), depth(8, 50.0, 1.0), 8, (50.0, 49.0, 51.0)),
            // Layers do not save time, whatever the noise says.
            (depth(0, 10.0, 2.0), depth(4, 9.0, 2.0), 48, (9.0, 7.0, 44.0)),
        ] {
            let found = extrapolate(shallow, deep, layers);
            assert_eq!((found.median, found.min, found.max), expected, "{shallow:?} {deep:?}");
        }
    }
}
