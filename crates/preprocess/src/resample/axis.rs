//! One axis of a separable spline resampling: source positions, weights, prefilter.
//!
//! Arithmetic follows `scipy.ndimage.zoom(grid_mode=True, mode="nearest")`, which `skimage.transform.resize(mode="edge")`
//! calls: voxel centres lie at half integers, and order 3 extends the line by 12 copies of its edge values before the
//! spline prefilter, whose own boundary is half-sample symmetric.
//!
//! Lines are processed [`LANES`] at a time: a tile is `[position][lane]`, so every loop over lanes is a vector loop.

use super::level::{self, Task, mul_add};
use std::ops::Range;

/// Lines per tile. The filter's steps wait for each other along a line: so many lines fill the time.
pub(super) const LANES: usize = 32;

/// One position of [`LANES`] lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Row(pub [f64; LANES]);

impl Row {
    pub(super) const ZERO: Self = Self([0.0; LANES]);
}

/// Where the lines of a tile come from.
pub(super) trait Source {
    /// Loads these positions of the lines, one per row. `#[inline(always)]`, as [`Task`] asks.
    fn load(&self, positions: Range<usize>, rows: &mut [Row]);
}

/// Where resampled lines go.
pub(super) trait Sink {
    /// Takes all outputs, one per row. `#[inline(always)]`, as [`Task`] asks.
    fn store(&mut self, rows: &[Row]);
}

/// Reused buffers of one thread.
#[derive(Default)]
pub(super) struct Tile {
    lines: Vec<Row>,
    out: Vec<Row>,
}

/// Copies of the edge value on each side of a line that is prefiltered.
const PAD: usize = 12;

/// The cubic B-spline filter's pole, √3 − 2.
const POLE: f64 = -0.267_949_192_431_122_7;

/// The prefilter's factor per axis, (1 − pole) (1 − 1 / pole).
const GAIN: f64 = 6.0;

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
    /// As many as the order + 1; the others are 0. A cubic tap's include the prefilter's [`GAIN`].
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

    /// Resamples the lines of `source` to the output positions `outputs`.
    ///
    /// The result doesn't depend, beyond f64 rounding, on which part of the axis `outputs` covers.
    pub fn resample(
        &self,
        outputs: Range<usize>,
        source: &impl Source,
        tile: &mut Tile,
        sink: &mut impl Sink,
    ) {
        level::run(Lines { axis: self, outputs, source, tile, sink });
    }

    /// Positions that the outputs with these taps need, counted from the first padding voxel.
    fn needed(&self, taps: &[Tap]) -> Range<usize> {
        let (Some(head), Some(tail)) = (taps.first(), taps.last()) else { return 0..0 };
        match self.order {
            Order::Nearest => head.first..tail.first + 1,
            Order::Linear => head.first..(tail.first + 2).min(self.source),
            Order::Cubic => {
                let padded = self.source + 2 * PAD;
                head.first.saturating_sub(REACH)..(tail.first + 4 + REACH).min(padded)
            }
        }
    }
}

/// A tile's way from source to sink.
struct Lines<'a, S, T> {
    axis: &'a Axis,
    outputs: Range<usize>,
    source: &'a S,
    tile: &'a mut Tile,
    sink: &'a mut T,
}

impl<S: Source, T: Sink> Task for Lines<'_, S, T> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { axis, outputs, source, tile: Tile { lines, out }, sink } = self;
        if axis.is_identity() {
            lines.resize(outputs.len(), Row::ZERO);
            source.load(outputs, lines);
            return sink.store(lines);
        }
        let taps = &axis.taps[outputs];
        let needed = axis.needed(taps);
        lines.resize(needed.len(), Row::ZERO);
        load(axis, source, needed.clone(), lines);
        if axis.order == Order::Cubic {
            prefilter::<FMA>(lines);
        }
        out.resize(taps.len(), Row::ZERO);
        interpolate::<FMA>(axis.order, taps, needed.start, lines, out);
        sink.store(out);
    }
}

/// Loads positions, which a cubic axis counts from its first padding voxel; padding repeats the edge.
#[inline(always)]
fn load(axis: &Axis, source: &impl Source, needed: Range<usize>, lines: &mut [Row]) {
    let pad = if axis.order == Order::Cubic { PAD } else { 0 };
    let there = |position: usize| position.saturating_sub(pad).min(axis.source - 1);
    let inside = there(needed.start)..there(needed.end - 1) + 1;
    // Where only padding is needed, one voxel is loaded and copied to all places.
    let before = (inside.start + pad).saturating_sub(needed.start).min(lines.len() - inside.len());
    let (head, rest) = lines.split_at_mut(before);
    let (middle, tail) = rest.split_at_mut(inside.len());
    source.load(inside, middle);
    head.fill(middle[0]);
    tail.fill(middle[middle.len() - 1]);
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
                weights: [before, near, far, 1.0 - before - near - far].map(|w| GAIN * w),
            }
        }
    }
}

/// Turns samples into cubic B-spline coefficients divided by [`GAIN`], in place; half-sample symmetric at both ends.
#[inline(always)]
fn prefilter<const FMA: bool>(lines: &mut [Row]) {
    let n = lines.len();
    // The causal filter's start: the line mirrored endlessly, summed with the pole's powers.
    let mut first = lines[0];
    let mut power = POLE;
    for i in 0..REACH {
        // … 2 1 0 | 0 1 2 …: walking left from the line's begin meets 0, 1, 2, …, then turns at its end.
        let turn = i % (2 * n);
        let row = &lines[if turn < n { turn } else { 2 * n - 1 - turn }];
        for lane in 0..LANES {
            first.0[lane] = mul_add::<FMA>(power, row.0[lane], first.0[lane]);
        }
        power *= POLE;
    }
    lines[0] = first;
    for i in 1..n {
        let [before, here] = two(lines, i - 1);
        for lane in 0..LANES {
            here.0[lane] = mul_add::<FMA>(POLE, before.0[lane], here.0[lane]);
        }
    }
    lines[n - 1].0.iter_mut().for_each(|c| *c *= POLE / (POLE - 1.0));
    for i in (0..n - 1).rev() {
        let [here, after] = two(lines, i);
        for lane in 0..LANES {
            here.0[lane] = mul_add::<FMA>(POLE, after.0[lane], -POLE * here.0[lane]);
        }
    }
}

/// Rows `at` and `at + 1`.
#[inline(always)]
fn two(lines: &mut [Row], at: usize) -> &mut [Row; 2] {
    lines[at..].first_chunk_mut().expect("the second isn't past the end")
}

/// Weighted sums of rows; `lines` begins at position `from`.
#[inline(always)]
fn interpolate<const FMA: bool>(
    order: Order,
    taps: &[Tap],
    from: usize,
    lines: &[Row],
    out: &mut [Row],
) {
    for (tap, out) in taps.iter().zip(out) {
        let at = tap.first - from;
        let w = &tap.weights;
        match order {
            Order::Nearest => *out = lines[at],
            Order::Linear => {
                let (a, b) = (&lines[at].0, &lines[(at + 1).min(lines.len() - 1)].0);
                for lane in 0..LANES {
                    out.0[lane] = mul_add::<FMA>(w[0], a[lane], w[1] * b[lane]);
                }
            }
            Order::Cubic => {
                let rows: &[Row; 4] = lines[at..].first_chunk().expect("the padding has all four");
                let [a, b, c, d] = [&rows[0].0, &rows[1].0, &rows[2].0, &rows[3].0];
                for lane in 0..LANES {
                    let outer = mul_add::<FMA>(w[3], d[lane], w[0] * a[lane]);
                    let inner = mul_add::<FMA>(w[2], c[lane], w[1] * b[lane]);
                    out.0[lane] = outer + inner;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::level::Level;
    use super::*;

    fn line(i: usize) -> f64 {
        ((i * 37) % 101) as f64 - 50.0
    }

    /// Lane `l` holds the line times l + 1.
    struct Multiples;

    impl Source for Multiples {
        fn load(&self, positions: Range<usize>, rows: &mut [Row]) {
            assert_eq!(positions.len(), rows.len());
            for (i, row) in positions.zip(rows) {
                row.0.iter_mut().enumerate().for_each(|(l, v)| *v = line(i) * (l + 1) as f64);
            }
        }
    }

    impl Sink for Vec<Row> {
        fn store(&mut self, rows: &[Row]) {
            self.extend_from_slice(rows);
        }
    }

    fn resample(axis: &Axis, outputs: Range<usize>) -> Vec<Row> {
        let mut out = Vec::new();
        axis.resample(outputs, &Multiples, &mut Tile::default(), &mut out);
        out
    }

    #[test]
    fn vector_levels_agree_to_rounding() {
        for order in [Order::Nearest, Order::Linear, Order::Cubic] {
            let axis = Axis::new(50, 71, order);
            let found: Vec<Vec<Row>> = Level::available()
                .map(|level| {
                    let (mut tile, mut sink) = (Tile::default(), Vec::new());
                    let (tile, source, outputs) = (&mut tile, &Multiples, 0..71);
                    let lines = Lines { axis: &axis, outputs, source, tile, sink: &mut sink };
                    level::run_at(level, lines);
                    sink
                })
                .collect();
            for other in &found[1..] {
                for (a, b) in found[0].iter().flat_map(|r| r.0).zip(other.iter().flat_map(|r| r.0))
                {
                    // Some ten roundings of coefficients up to 3 × 50 × LANES.
                    let tolerance = 10.0 * f64::EPSILON * 150.0 * LANES as f64;
                    assert!((a - b).abs() <= tolerance, "{order:?}: {a} and {b}");
                }
            }
        }
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
                        assert!(
                            (p.0[lane] - w.0[lane]).abs() <= tolerance,
                            "{order:?} lane {lane}"
                        );
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
            assert!((row.0[0] - line(i)).abs() <= 20.0 * f64::EPSILON * 150.0, "voxel {i}");
        }
    }

    #[test]
    fn weights_sum_to_one_inside_the_axis() {
        for order in [Order::Nearest, Order::Linear, Order::Cubic] {
            for (source, target) in [(1, 1), (1, 7), (7, 1), (10, 23), (23, 10)] {
                let axis = Axis::new(source, target, order);
                for k in 0..target {
                    let Tap { first, weights } = *axis.tap(k);
                    let one = if order == Order::Cubic { GAIN } else { 1.0 };
                    let sum = weights.iter().sum::<f64>() / one;
                    assert!((sum - 1.0).abs() <= 4.0 * f64::EPSILON);
                    let last = source - 1 + if order == Order::Cubic { 2 * PAD - 3 } else { 0 };
                    assert!(first <= last, "{order:?} {source} -> {target}: {first}");
                }
            }
        }
    }
}
