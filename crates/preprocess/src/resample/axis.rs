//! One axis of a separable spline resampling: source positions, weights, prefilter.
//!
//! Arithmetic follows `scipy.ndimage.zoom(grid_mode=True, mode="nearest")`, which `skimage.transform.resize(mode="edge")`
//! calls: voxel centres lie at half integers, and order 3 extends the line by 12 copies of its edge values before the
//! spline prefilter, whose own boundary is half-sample symmetric.
//!
//! Lines are processed [`LANES`] at a time: a tile is `[position][lane]`, so every loop over lanes is a vector loop.

/// Lines per tile. 16 f32 are one cache line of the source.
pub(super) const LANES: usize = 16;

/// One position of [`LANES`] lines.
pub(super) type Row = [f64; LANES];

/// Copies of the edge value on each side of a line that is prefiltered.
const PAD: usize = 12;

/// The cubic B-spline filter's pole, √3 − 2.
const POLE: f64 = -0.267_949_192_431_122_7;

/// After so many positions the pole's power (5e-19) is nothing beside an f64's rounding (1.1e-16).
const REACH: usize = 32;

/// Interpolation between voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Nearest voxel.
    Nearest,
    /// Linear.
    Linear,
    /// Cubic B-spline.
    Cubic,
}

impl From<u8> for Order {
    fn from(order: u8) -> Self {
        match order {
            0 => Self::Nearest,
            1 => Self::Linear,
            3 => Self::Cubic,
            _ => panic!("spline order {order}, expected 0, 1 or 3 (plans are checked for this)"),
        }
    }
}

/// Where one output voxel takes its value from. Positions of a cubic axis count from the first padding voxel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    pub first: usize,
    /// As many as the order + 1; the others are 0.
    pub weights: [f64; 4],
}

/// Resampling along one axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    order: Order,
    source: usize,
    taps: Vec<Tap>,
}

impl Axis {
    /// From `source` to `target` voxels over the same extent.
    pub fn new(source: usize, target: usize, order: Order) -> Self {
        let scale = source as f64 / target as f64;
        let tap = |k| tap((k as f64 + 0.5) * scale - 0.5, source, order);
        Self { order, source, taps: (0..target).map(tap).collect() }
    }

    /// Nothing changes along this axis: a spline goes through its voxels.
    pub fn is_identity(&self) -> bool {
        self.source == self.taps.len()
    }

    /// Voxels after resampling.
    pub fn target(&self) -> usize {
        self.taps.len()
    }

    /// Where output voxel `k` comes from.
    pub fn tap(&self, k: usize) -> &Tap {
        &self.taps[k]
    }

    /// Resamples a tile: `load(i, row)` gives source position `i`, output positions `outputs` go to `out`.
    ///
    /// The result doesn't depend, beyond f64 rounding, on which part of the axis `outputs` covers.
    pub fn resample(
        &self,
        outputs: std::ops::Range<usize>,
        tile: &mut Vec<Row>,
        out: &mut [Row],
        load: impl Fn(usize, &mut Row),
    ) {
        let taps = &self.taps[outputs];
        let (Some(head), Some(tail)) = (taps.first(), taps.last()) else { return };
        let (from, to, pad) = match self.order {
            Order::Nearest => (head.first, tail.first + 1, 0),
            Order::Linear => (head.first, (tail.first + 2).min(self.source), 0),
            Order::Cubic => {
                let padded = self.source + 2 * PAD;
                (head.first.saturating_sub(REACH), (tail.first + 4 + REACH).min(padded), PAD)
            }
        };
        tile.clear();
        tile.resize(to - from, [0.0; LANES]);
        for (row, at) in tile.iter_mut().zip(from..) {
            load(at.saturating_sub(pad).min(self.source - 1), row);
        }
        if self.order == Order::Cubic {
            prefilter(tile);
        }
        interpolate(self.order, taps, from, tile, out);
    }
}

/// The tap of the output voxel whose centre is at source coordinate `at`.
fn tap(at: f64, source: usize, order: Order) -> Tap {
    let clamped = at.clamp(0.0, (source - 1) as f64);
    match order {
        Order::Nearest => {
            Tap { first: (clamped + 0.5).floor() as usize, weights: [1.0, 0.0, 0.0, 0.0] }
        }
        Order::Linear => {
            let near = 1.0 - (clamped - clamped.floor());
            Tap { first: clamped.floor() as usize, weights: [near, 1.0 - near, 0.0, 0.0] }
        }
        Order::Cubic => {
            // Between −0.5 and source − 0.5: with the padding, all four taps exist.
            let at = at + PAD as f64;
            let x = at - at.floor();
            let z = 1.0 - x;
            let before = z * z * z / 6.0;
            let near = (x * x * (x - 2.0) * 3.0 + 4.0) / 6.0;
            let far = (z * z * (z - 2.0) * 3.0 + 4.0) / 6.0;
            Tap {
                first: at.floor() as usize - 1,
                weights: [before, near, far, 1.0 - before - near - far],
            }
        }
    }
}

/// Turns samples into cubic B-spline coefficients, in place; half-sample symmetric at both ends.
fn prefilter(tile: &mut [Row]) {
    let n = tile.len();
    for row in tile.iter_mut() {
        row.iter_mut().for_each(|c| *c *= 6.0);
    }
    // The causal filter's start: the line mirrored endlessly, summed with the pole's powers.
    let mut sum = [0.0; LANES];
    let mut power = POLE;
    for i in 0..REACH {
        // … 2 1 0 | 0 1 2 …: walking left from the line's begin meets 0, 1, 2, …, then turns at its end.
        let turn = i % (2 * n);
        let row = &tile[if turn < n { turn } else { 2 * n - 1 - turn }];
        for (s, c) in sum.iter_mut().zip(row) {
            *s += power * c;
        }
        power *= POLE;
    }
    add(&mut tile[0], &sum);
    for i in 1..n {
        let (before, here) = tile.split_at_mut(i);
        for (c, p) in here[0].iter_mut().zip(&before[i - 1]) {
            *c += POLE * p;
        }
    }
    tile[n - 1].iter_mut().for_each(|c| *c *= POLE / (POLE - 1.0));
    for i in (0..n - 1).rev() {
        let (here, after) = tile.split_at_mut(i + 1);
        for (c, a) in here[i].iter_mut().zip(&after[0]) {
            *c = POLE * (a - *c);
        }
    }
}

fn add(row: &mut Row, other: &Row) {
    for (a, b) in row.iter_mut().zip(other) {
        *a += b;
    }
}

/// Weighted sums of tile rows; the tile begins at position `from`.
fn interpolate(order: Order, taps: &[Tap], from: usize, tile: &[Row], out: &mut [Row]) {
    for (tap, out) in taps.iter().zip(out) {
        let at = tap.first - from;
        let w = &tap.weights;
        match order {
            Order::Nearest => *out = tile[at],
            Order::Linear => {
                let (a, b) = (&tile[at], &tile[(at + 1).min(tile.len() - 1)]);
                for lane in 0..LANES {
                    out[lane] = w[0] * a[lane] + w[1] * b[lane];
                }
            }
            Order::Cubic => {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| &tile[at + i]);
                for lane in 0..LANES {
                    out[lane] = w[0] * a[lane] + w[1] * b[lane] + w[2] * c[lane] + w[3] * d[lane];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(i: usize) -> f64 {
        ((i * 37) % 101) as f64 - 50.0
    }

    /// Lane `l` holds the line times l + 1.
    fn resample(axis: &Axis, outputs: std::ops::Range<usize>) -> Vec<Row> {
        let mut out = vec![[0.0; LANES]; outputs.len()];
        axis.resample(outputs, &mut Vec::new(), &mut out, |i, row| {
            row.iter_mut().enumerate().for_each(|(l, v)| *v = line(i) * (l + 1) as f64);
        });
        out
    }

    #[test]
    fn part_of_an_axis_is_as_the_whole_to_rounding() {
        for order in [Order::Nearest, Order::Linear, Order::Cubic] {
            let axis = Axis::new(200, 317, order);
            let whole = resample(&axis, 0..317);
            for outputs in [0..20, 100..116, 301..317] {
                let part = resample(&axis, outputs.clone());
                for (p, w) in part.iter().zip(&whole[outputs]) {
                    for lane in 0..LANES {
                        // Some ten roundings of coefficients up to 3 × 50 × (lane + 1).
                        let tolerance = 10.0 * f64::EPSILON * 150.0 * (lane + 1) as f64;
                        assert!((p[lane] - w[lane]).abs() <= tolerance, "{order:?} lane {lane}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_cubic_spline_goes_through_its_voxels() {
        // Tripling puts every third output voxel on a source voxel.
        let axis = Axis::new(30, 90, Order::Cubic);
        for (i, row) in resample(&axis, 0..90).iter().skip(1).step_by(3).enumerate() {
            assert!((row[0] - line(i)).abs() <= 20.0 * f64::EPSILON * 150.0, "voxel {i}");
        }
    }

    #[test]
    fn weights_sum_to_one_inside_the_axis() {
        for order in [Order::Nearest, Order::Linear, Order::Cubic] {
            for (source, target) in [(1, 1), (1, 7), (7, 1), (10, 23), (23, 10)] {
                let axis = Axis::new(source, target, order);
                for k in 0..target {
                    let Tap { first, weights } = *axis.tap(k);
                    assert!((weights.iter().sum::<f64>() - 1.0).abs() <= 4.0 * f64::EPSILON);
                    let last = source - 1 + if order == Order::Cubic { 2 * PAD - 3 } else { 0 };
                    assert!(first <= last, "{order:?} {source} -> {target}: {first}");
                }
            }
        }
    }
}
