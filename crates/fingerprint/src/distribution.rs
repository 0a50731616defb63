//! Statistics of many f32 values in bounded memory: exact mean, sd, minimum and maximum; percentiles from counts.
//!
//! Values are counted in buckets by the upper 22 bits of an order-preserving key: sign, exponent, 13 bits of mantissa. A
//! bucket is narrower than 2⁻¹³ of its values, and whole numbers below 16384 have one each, so percentiles of CT and
//! of most integer images are exact.
//!
//! Two weightings of the same values: every voxel counts the same (the paper), or every case does, its n voxels 1 / n
//! each. The second is what nnU-Net estimates: it draws equally many voxels from every case, with replacement.

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

    fn min(&self) -> f64 {
        self.buckets().next().map_or(f64::NAN, |b| b.min.into())
    }

    fn max(&self) -> f64 {
        self.buckets().next_back().map_or(f64::NAN, |b| b.max.into())
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

/// A case's share of the whole, which its values divide among themselves; 2²⁴ cases fit into a `u64`.
const SHARE: u64 = 1 << 40;

/// The values of many cases, counted once per voxel and once by shares of their case.
///
/// Shares are whole numbers as counts are: the order in which cases come can't change a result.
#[derive(Debug, Clone)]
pub struct Pool {
    voxels: Histogram,
    /// Per bucket of `voxels`, in pages that exist where its pages do.
    shares: Vec<Option<Box<[u64; PAGE]>>>,
    /// Cases with at least one value.
    cases: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            voxels: Histogram::default(),
            shares: vec![None; 1 << (KEY_BITS - PAGE_BITS)],
            cases: 0,
        }
    }
}

impl Pool {
    /// Adds a case, unless it has no values.
    pub fn add(&mut self, case: Histogram) {
        let count = u128::from(case.count());
        if count == 0 {
            return;
        }
        self.cases += 1;
        // What a bucket gets is the difference of two rounded sums, so the buckets' shares add up to the case's.
        let (mut before, mut given) = (0u128, 0);
        for (shares, page) in self.shares.iter_mut().zip(&case.pages) {
            let Some(page) = page else { continue };
            let shares = shares.get_or_insert_with(|| Box::new([0; PAGE]));
            for (share, bucket) in shares.iter_mut().zip(page.iter()).filter(|(_, b)| b.count > 0) {
                before += u128::from(bucket.count);
                // At most SHARE.
                let until = (before * u128::from(SHARE) / count) as u64;
                *share += until - given;
                given = until;
            }
        }
        self.voxels.merge(case);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.voxels.count()
    }

    /// How many cases have values.
    pub fn cases(&self) -> u64 {
        self.cases
    }

    /// Percentile `p` (0 to 100) where every case counts the same; NaN without values.
    ///
    /// That is the smallest value up to which more than `p` percent of the weight lies: the limit of `numpy.percentile`
    /// over ever more values drawn from each case. Where a value ends at `p` percent exactly, it is numpy's value for
    /// the cases repeated until all have equally many values: `1 − p / 100` of the way to the next value. As exact
    /// as [`Histogram::percentile`].
    pub fn case_percentile(&self, p: f64) -> f64 {
        let target = p / 100.0 * (self.cases * SHARE) as f64;
        // Every case's sums are rounded by less than one.
        let rounded = self.cases as f64;
        let (mut before, mut last) = (0u64, None);
        for (bucket, &share) in self.weighted() {
            let (min, max) = (f64::from(bucket.min), f64::from(bucket.max));
            if let Some(last) = last
                && (before as f64 - target).abs() <= rounded
            {
                return last + (min - last) * (1.0 - p / 100.0);
            }
            let within = target - before as f64;
            if within < share as f64 - rounded {
                return min + (max - min) * (within / share as f64);
            }
            before += share;
            last = Some(max);
        }
        last.unwrap_or(f64::NAN)
    }

    /// Filled buckets in rising order of their values, each with the sum of its cases' shares.
    fn weighted(&self) -> impl Iterator<Item = (&Bucket, &u64)> {
        let pages = self.voxels.pages.iter().flatten().zip(self.shares.iter().flatten());
        pages.flat_map(|(page, shares)| page.iter().zip(shares.iter())).filter(|(b, _)| b.count > 0)
    }

    /// Statistics in which every voxel counts the same; `moments` are those of all values.
    pub fn per_voxel(&self, moments: Moments) -> Intensity {
        self.intensity(moments, |p| self.voxels.percentile(p))
    }

    /// Statistics in which every case counts the same; `moments` are the cases' [`Moments::as_one`], merged.
    pub fn per_case(&self, moments: Moments) -> Intensity {
        self.intensity(moments, |p| self.case_percentile(p))
    }

    fn intensity(&self, moments: Moments, percentile: impl Fn(f64) -> f64) -> Intensity {
        Intensity {
            mean: moments.mean,
            sd: (moments.squares / moments.count as f64).sqrt(),
            min: self.voxels.min(),
            median: percentile(50.0),
            max: self.voxels.max(),
            percentile_00_5: percentile(0.5),
            percentile_99_5: percentile(99.5),
        }
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

    /// With the weight of a single value: merged so, sets count the same, whatever their sizes.
    #[must_use]
    pub fn as_one(self) -> Self {
        match self.count {
            0 => self,
            n => Self { count: 1, mean: self.mean, squares: self.squares / n as f64 },
        }
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
