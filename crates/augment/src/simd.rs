//! Loops compiled for the vector instructions that the machine has, and reads of scattered voxels. Everything `unsafe` of
//! this crate stands here.
//!
//! No function computes something else at one level than at another: products and sums are rounded one by one.
#![expect(
    unsafe_code,
    reason = "vector instructions behind a run-time check; what they read lies within bounds asserted once per row"
)]

/// Vector instructions that code is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Portable,
    Avx2,
    Avx512,
}

/// Vector instructions that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(Kind);

impl Level {
    /// The highest one.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
            if wide && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")
            {
                return Self(Kind::Avx512);
            }
            if is_x86_feature_detected!("avx2") {
                return Self(Kind::Avx2);
            }
        }
        Self(Kind::Portable)
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let highest = Self::detect();
        [Kind::Portable, Kind::Avx2, Kind::Avx512]
            .map(Self)
            .into_iter()
            .filter(move |&level| level <= highest)
    }
}

/// Work in safe Rust that the compiler shall vectorise. `run` and what it calls in its loops must be `#[inline(always)]`.
pub(crate) trait Body {
    type Output;
    fn run(self, level: Level) -> Self::Output;
}

/// Runs `body` compiled for the highest level.
pub(crate) fn run<B: Body>(body: B) -> B::Output {
    run_at(Level::detect(), body)
}

/// Runs `body` compiled for `level`.
pub(crate) fn run_at<B: Body>(level: Level, body: B) -> B::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
        fn avx512<B: Body>(body: B, level: Level) -> B::Output {
            body.run(level)
        }
        #[target_feature(enable = "avx2")]
        fn avx2<B: Body>(body: B, level: Level) -> B::Output {
            body.run(level)
        }
        match level.0 {
            // SAFETY: a level above portable exists only where `Level::detect` found its features.
            Kind::Avx512 => return unsafe { avx512(body, level) },
            // SAFETY: as above.
            Kind::Avx2 => return unsafe { avx2(body, level) },
            Kind::Portable => {}
        }
    }
    body.run(level)
}

/// Cells are read so many at a time: lists of them are as long as a multiple of it.
pub(crate) const TOGETHER: usize = 16;

/// Cells of voxels in an array: the position of each cell's first corner, and from there to the next corner along each
/// axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Corners<'a> {
    pub(crate) first: &'a [u32],
    pub(crate) steps: [usize; 3],
}

impl Corners<'_> {
    /// Whether every corner lies in an array of this many voxels, which 32 bits can count.
    #[inline(always)]
    fn fit(&self, voxels: usize) -> bool {
        let last = self.first.iter().fold(0, |last, &first| last.max(first)) as usize;
        i32::try_from(voxels).is_ok() && last + self.steps.iter().sum::<usize>() < voxels
    }
}

/// Linear interpolation in each cell: `out[i]` at fractions `t` (outermost axis first).
///
/// # Panics
/// If a cell leaves `data`, or lists are of different lengths or no multiple of [`TOGETHER`].
#[inline(always)]
pub(crate) fn linear(
    level: Level,
    data: &[f32],
    cells: Corners<'_>,
    t: [&[f32]; 3],
    out: &mut [f32],
) {
    assert!(cells.fit(data.len()), "a cell outside of the case");
    assert!(out.len().is_multiple_of(TOGETHER) && cells.first.len() == out.len());
    assert!(t.iter().all(|t| t.len() == out.len()));
    #[cfg(target_arch = "x86_64")]
    if level.0 == Kind::Avx512 && cells.steps[2] == 1 {
        // SAFETY: the level says that the features are there; bounds, lengths and neighbours were checked.
        unsafe { avx512::linear(data, cells, t, out) };
        return;
    }
    let _ = level;
    let [dz, dy, dx] = cells.steps;
    let blend = |low: f32, high: f32, t: f32| low + t * (high - low);
    for (i, out) in out.iter_mut().enumerate() {
        let along_x = |at: usize| blend(data[at], data[at + dx], t[2][i]);
        let first = cells.first[i] as usize;
        let front = blend(along_x(first), along_x(first + dy), t[1][i]);
        let back = blend(along_x(first + dz), along_x(first + dz + dy), t[1][i]);
        *out = blend(front, back, t[0][i]);
    }
}

/// The class of each cell's first corner, and which cells have corners of other classes: bit `i` of `mixed[k]` is cell
/// `k` · [`TOGETHER`] + `i`.
///
/// # Panics
/// As [`linear`].
#[inline(always)]
pub(crate) fn classes(
    level: Level,
    data: &[i16],
    cells: Corners<'_>,
    out: &mut [i16],
    mixed: &mut [u16],
) {
    assert!(cells.fit(data.len()), "a cell outside of the case");
    assert!(cells.first.len() == out.len() && mixed.len() * TOGETHER == out.len());
    #[cfg(target_arch = "x86_64")]
    if level.0 == Kind::Avx512 && cells.steps[2] == 1 {
        // SAFETY: the level says that the features are there; bounds, lengths and neighbours were checked.
        unsafe { avx512::classes(data, cells, out, mixed) };
        return;
    }
    let _ = level;
    let [dz, dy, dx] = cells.steps;
    let chunks = cells.first.chunks_exact(TOGETHER).zip(out.chunks_exact_mut(TOGETHER));
    for ((first, out), mixed) in chunks.zip(mixed) {
        *mixed = 0;
        for (i, (&first, out)) in first.iter().zip(out).enumerate() {
            let first = first as usize;
            *out = data[first];
            let pair = |at: usize| (data[at] ^ *out) | (data[at + dx] ^ *out);
            let other = pair(first) | pair(first + dy) | pair(first + dz) | pair(first + dz + dy);
            *mixed |= u16::from(other != 0) << i;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Corners, TOGETHER};
    use std::arch::x86_64::*;

    /// Two neighbours at each of 16 positions: the lower ones, the upper ones.
    ///
    /// # Safety
    /// Positions and their neighbours lie in `data`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    unsafe fn pairs(data: *const f32, at: __m512i) -> (__m512, __m512) {
        let (low, high) = (_mm512_castsi512_si256(at), _mm512_extracti64x4_epi64::<1>(at));
        // SAFETY: the caller promises that 8 bytes at each position can be read.
        let low = unsafe { _mm512_i32gather_pd::<4>(low, data.cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm512_i32gather_pd::<4>(high, data.cast()) };
        let (low, high) = (_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
        (_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high))
    }

    #[target_feature(enable = "avx512f")]
    fn blend(low: __m512, high: __m512, t: __m512) -> __m512 {
        _mm512_add_ps(low, _mm512_mul_ps(t, _mm512_sub_ps(high, low)))
    }

    /// # Safety
    /// Corners lie in `data`, those along the last axis side by side; all lists have the same length, a multiple of [`TOGETHER`].
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    pub(super) unsafe fn linear(data: &[f32], cells: Corners<'_>, t: [&[f32]; 3], out: &mut [f32]) {
        // Corners lie in `data`, which 32 bits can count, and so do the steps between them.
        let [dz, dy, _] = cells.steps.map(|step| _mm512_set1_epi32(step as i32));
        for i in (0..out.len()).step_by(TOGETHER) {
            // SAFETY: the caller promises lists of this length.
            let first = unsafe { _mm512_loadu_si512(cells.first.as_ptr().add(i).cast()) };
            // SAFETY: as above.
            let [tz, ty, tx] = t.map(|t| unsafe { _mm512_loadu_ps(t.as_ptr().add(i)) });
            let along_x = |at: __m512i| {
                // SAFETY: the caller promises that corners lie in `data`.
                let (low, high) = unsafe { pairs(data.as_ptr(), at) };
                blend(low, high, tx)
            };
            let behind = _mm512_add_epi32(first, dz);
            let front = blend(along_x(first), along_x(_mm512_add_epi32(first, dy)), ty);
            let back = blend(along_x(behind), along_x(_mm512_add_epi32(behind, dy)), ty);
            // SAFETY: `i` counts 16 numbers before the end.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(i), blend(front, back, tz)) };
        }
    }

    /// # Safety
    /// As [`linear`], with one of `mixed` for [`TOGETHER`] of the others.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    pub(super) unsafe fn classes(
        data: &[i16],
        cells: Corners<'_>,
        out: &mut [i16],
        mixed: &mut [u16],
    ) {
        let [dz, dy, _] = cells.steps.map(|step| _mm512_set1_epi32(step as i32));
        for (i, mixed) in (0..out.len()).step_by(TOGETHER).zip(mixed) {
            // SAFETY: the caller promises lists of this length.
            let first = unsafe { _mm512_loadu_si512(cells.first.as_ptr().add(i).cast()) };
            // Two neighbours of 16 bits each.
            let pairs = |at: __m512i| {
                // SAFETY: the caller promises that both corners lie in `data`.
                unsafe { _mm512_i32gather_epi32::<2>(at, data.as_ptr().cast()) }
            };
            let behind = _mm512_add_epi32(first, dz);
            let (a, b) = (pairs(first), pairs(_mm512_add_epi32(first, dy)));
            let (c, d) = (pairs(behind), pairs(_mm512_add_epi32(behind, dy)));
            let differ = |x: __m512i, y: __m512i| _mm512_cmpneq_epi32_mask(x, y);
            let upper = _mm512_rol_epi32::<16>(a);
            *mixed = differ(a, b) | differ(a, c) | differ(a, d) | differ(a, upper);
            let lower = _mm512_cvtepi32_epi16(a);
            // SAFETY: `i` counts 16 numbers before the end.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(i).cast(), lower) };
        }
    }
}
