//! Statistics of many f32 values in bounded memory: exact mean, sd, minimum and maximum; percentiles from counts.
//!
//! Values are counted in buckets by the upper 22 bits of an order-preserving key: sign, exponent, 13 bits of mantissa. A
//! bucket is narrower than 2⁻¹³ of its values, and whole numbers below 16384 have one each, so percentiles of CT and
//! of most integer images are exact. nnU-Net estimates them from voxels drawn with replacement; here every voxel counts.

use artifact::plan::Intensity;

const KEY_BITS: u32 = 22;
const PAGE_BITS: u32 = 12;
const PAGE: usize = 1 << PAGE_BITS;

/// Values that share their key.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    count: u64,
    min: f32,
    max: f32,
}

const EMPTY: Bucket = Bucket { count: 0, min: f32::INFINITY, max: f32::NEG_INFINITY };

/// Counts by key, in pages that exist where values are: at most 64 MiB, usually a few.
///
/// Merging is exact, hence its order can't change a result.
#[derive(Debug, Clone)]
pub struct Histogram {
    pages: Vec<Option<Box<[Bucket; PAGE]>>>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { pages: vec![None; 1 << (KEY_BITS - PAGE_BITS)] }
    }
}

/// Bits of `value` so that unsigned order is numeric order.
fn key(value: f32) -> usize {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered >> (32 - KEY_BITS)) as usize
}

impl Histogram {
    /// Counts a finite value.
    pub fn add(&mut self, value: f32) {
        // −0 and 0 are one value.
        let value = value + 0.0;
        let key = key(value);
        let page = self.pages[key >> PAGE_BITS].get_or_insert_with(|| Box::new([EMPTY; PAGE]));
        let bucket = &mut page[key & (PAGE - 1)];
        bucket.count += 1;
        bucket.min = bucket.min.min(value);
        bucket.max = bucket.max.max(value);
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.pages.iter_mut().zip(other.pages) {
            let Some(theirs) = theirs else { continue };
            let Some(mine) = mine else {
                *mine = Some(theirs);
                continue;
            };
            for (a, b) in mine.iter_mut().zip(theirs.iter()) {
                a.count += b.count;
                a.min = a.min.min(b.min);
                a.max = a.max.max(b.max);
            }
        }
    }

    /// Filled buckets in rising order of their values.
    fn buckets(&self) -> impl DoubleEndedIterator<Item = &Bucket> {
        self.pages.iter().flatten().flat_map(|page| page.iter()).filter(|b| b.count > 0)
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets().map(|b| b.count).sum()
    }

    /// Percentile `p` (0 to 100) with linear interpolation between ranks, as `numpy.percentile`; NaN without values.
    ///
    /// Exact where a bucket holds at most two different values; otherwise off by less than 2⁻¹³ of the value.
    pub fn percentile(&self, p: f64) -> f64 {
        let count = self.count();
        if count == 0 {
            return f64::NAN;
        }
        let rank = p / 100.0 * (count - 1) as f64;
        let below = rank.floor();
        let (low, high) = (self.ranked(below as u64), self.ranked(rank.ceil() as u64));
        low + (high - low) * (rank - below)
    }

    /// The value of this rank, counted from 0; within a bucket values are taken as evenly spread.
    fn ranked(&self, rank: u64) -> f64 {
        let mut before = 0;
        for bucket in self.buckets() {
            if rank < before + bucket.count {
                let (min, max) = (f64::from(bucket.min), f64::from(bucket.max));
                let within = (rank - before) as f64 / (bucket.count - 1).max(1) as f64;
                return min + (max - min) * within;
            }
            before += bucket.count;
        }
        f64::NAN
    }
}

/// Count, mean and sum of squared deviations; merged by the rule of Chan, Golub and LeVeque.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of these values, in two passes.
    pub fn of(values: impl Iterator<Item = f32> + Clone) -> Self {
        let (count, sum) =
            values.clone().fold((0u64, 0.0), |(n, sum), v| (n + 1, sum + f64::from(v)));
        if count == 0 {
            return Self::default();
        }
        let mean = sum / count as f64;
        let squares = values.map(|v| (f64::from(v) - mean).powi(2)).sum();
        Self { count, mean, squares }
    }

    /// Of both sets of values. Rounding depends on the order of merging, so callers keep to one.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let gap = other.mean - self.mean;
        Self {
            count: self.count + other.count,
            mean: self.mean + gap * (b / (a + b)),
            squares: self.squares + other.squares + gap * gap * (a * b / (a + b)),
        }
    }
}

/// All statistics of the values that were counted in `histogram` and whose moments are given.
pub fn intensity(histogram: &Histogram, moments: Moments) -> Intensity {
    Intensity {
        mean: moments.mean,
        sd: (moments.squares / moments.count as f64).sqrt(),
        min: histogram.buckets().next().map_or(f64::NAN, |b| b.min.into()),
        median: histogram.percentile(50.0),
        max: histogram.buckets().next_back().map_or(f64::NAN, |b| b.max.into()),
        percentile_00_5: histogram.percentile(0.5),
        percentile_99_5: histogram.percentile(99.5),
    }
}
