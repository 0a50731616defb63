//! Random numbers of voxels, each a function of (seed, channel, voxel) alone: any voxel can be drawn by itself, in any
//! order, on any device. The kernels draw the same ones by the same formulas.
//!
//! Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The key is the seed; the counter
//! holds voxel / 4 in words 0 and 1 and the channel in word 2; voxel `4 k + i` takes word `i` of block `k`.

use crate::simd::{self, Body, Level};

/// Name of the generator; what was drawn by another one is not the same.
pub const GENERATOR: &str = "philox4x32-10";

/// Blocks that are drawn side by side.
const LANES: usize = 16;

/// Voxels of one step.
const STEP: usize = 4 * LANES;

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// A counter, or what is drawn for it: word by word, a lane per block.
type Words = [[u32; LANES]; 4];

/// Philox 4x32-10 for every lane.
#[inline(always)]
fn philox(mut counter: Words, mut key: [u32; 2]) -> Words {
    for _ in 0..ROUNDS {
        let mut next = counter;
        for i in 0..LANES {
            let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0][i]);
            let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2][i]);
            next[0][i] = (b >> 32) as u32 ^ counter[1][i] ^ key[0];
            next[1][i] = b as u32;
            next[2][i] = (a >> 32) as u32 ^ counter[3][i] ^ key[1];
            next[3][i] = a as u32;
        }
        counter = next;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What is made of random words, four per block of four voxels, and of the voxels' values. Functions are
/// `#[inline(always)]`, which closures can't be: they are compiled for the vectors of their caller.
trait Numbers {
    fn of(words: Words) -> [f32; STEP];
    fn apply(&self, value: &mut f32, number: f32);
}

/// Draws for all of `values`, the voxels of `channel` in C order.
struct Draw<'a, N> {
    values: &'a mut [f32],
    seed: u64,
    channel: usize,
    numbers: N,
}

impl<N: Numbers> Body for Draw<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: Level) {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        for (step, values) in self.values.chunks_mut(STEP).enumerate() {
            let mut counter = [[0; LANES], [0; LANES], [self.channel as u32; LANES], [0; LANES]];
            for i in 0..LANES {
                let block = (step * LANES + i) as u64;
                counter[0][i] = block as u32;
                counter[1][i] = (block >> 32) as u32;
            }
            let drawn = N::of(philox(counter, key));
            for (value, number) in values.iter_mut().zip(drawn) {
                self.numbers.apply(value, number);
            }
        }
    }
}

/// Fills `values`, the voxels of `channel` in C order, with numbers uniform in −1..1.
pub fn uniform(values: &mut [f32], seed: u64, channel: usize) {
    simd::run(Draw { values, seed, channel, numbers: Uniform });
}

struct Uniform;

impl Numbers for Uniform {
    #[inline(always)]
    fn of(words: Words) -> [f32; STEP] {
        let mut drawn = [[0.0; LANES]; 4];
        for (words, drawn) in words.iter().zip(&mut drawn) {
            for (word, value) in words.iter().zip(drawn) {
                // 24 bits: both steps are exact.
                *value = (word >> 8) as i32 as f32 * (1.0 / 8_388_608.0) - 1.0;
            }
        }
        by_voxel(&drawn)
    }

    #[inline(always)]
    fn apply(&self, value: &mut f32, number: f32) {
        *value = number;
    }
}

/// Adds `sigma` × standard normal numbers to `values`, the voxels of `channel` in C order.
pub fn add_normal(values: &mut [f32], sigma: f32, seed: u64, channel: usize) {
    simd::run(Draw { values, seed, channel, numbers: Normal { sigma } });
}

struct Normal {
    sigma: f32,
}

impl Numbers for Normal {
    #[inline(always)]
    fn of(words: Words) -> [f32; STEP] {
        let mut normal = [[0.0; LANES]; 4];
        for i in 0..LANES {
            [normal[0][i], normal[1][i]] = box_muller(words[0][i], words[1][i]);
            [normal[2][i], normal[3][i]] = box_muller(words[2][i], words[3][i]);
        }
        by_voxel(&normal)
    }

    #[inline(always)]
    fn apply(&self, value: &mut f32, number: f32) {
        *value += self.sigma * number;
    }
}

/// From word by word to block by block.
#[inline(always)]
fn by_voxel(drawn: &[[f32; LANES]; 4]) -> [f32; STEP] {
    let mut ordered = [0.0; STEP];
    for i in 0..LANES {
        for word in 0..4 {
            ordered[4 * i + word] = drawn[word][i];
        }
    }
    ordered
}

/// Two independent standard normal numbers from 64 random bits: radius √(−2 ln u), direction uniform.
///
/// The direction is π/4 + `a` in the first quadrant, and a sign for each of the two; so cos and sin of it are
/// (cos a ∓ sin a) / √2, and the √2 goes into the radius.
#[inline(always)]
fn box_muller(first: u32, second: u32) -> [f32; 2] {
    // 24 bits in 2⁻²⁴..=1.
    let u = ((first >> 8) as i32 + 1) as f32 * (1.0 / 16_777_216.0);
    let radius = (-logarithm(u)).sqrt();
    // The lower 30 bits as a signed fraction of a quarter turn, −½..½.
    let a = (second << 2) as i32 as f32 * (std::f32::consts::FRAC_PI_2 / 4_294_967_296.0);
    let q = a * a;
    // Taylor series; at π/4 their next terms are 2e-9 and 3e-8.
    let sine = a
        * (1.0
            + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0 + q * (1.0 / 362_880.0)))));
    let cosine = 1.0 + q * (-0.5 + q * (1.0 / 24.0 + q * (-1.0 / 720.0 + q * (1.0 / 40_320.0))));
    let signed = |x: f32, sign: u32| f32::from_bits(x.to_bits() ^ (sign & 0x8000_0000));
    [signed(radius * (cosine - sine), second), signed(radius * (cosine + sine), second << 1)]
}

/// ln `x` for normal `x` > 0, within 1e-7 of its value or 1e-9: from the exponent, and the series of the area tangent of the
/// mantissa.
#[inline(always)]
fn logarithm(x: f32) -> f32 {
    let (whole, series) = split_logarithm(x.to_bits());
    whole * std::f32::consts::LN_2 + series
}

/// The whole part of log₂ and ln of the rest, for the bits of a normal number: the mantissa is taken between √½ and √2.
#[inline(always)]
pub(crate) fn split_logarithm(bits: u32) -> (f32, f32) {
    let shifted = bits.wrapping_sub(SQRT_HALF);
    let whole = (shifted as i32 >> 23) as f32;
    let mantissa = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF);
    // ln m = 2 (s + s³/3 + s⁵/5 + …), s = (m − 1) / (m + 1), at most 0.172.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let q = s * s;
    let series = 1.0 + q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    (whole, 2.0 * s * series)
}

/// The bits of √½.
const SQRT_HALF: u32 = 0x3f35_04f3;

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their library (Random123, kat_vectors).
    #[test]
    fn philox_gives_the_published_answers() {
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(
                philox(counter.map(|word| [word; LANES]), key),
                expected.map(|w| [w; LANES])
            );
        }
    }

    #[test]
    fn a_voxel_s_number_depends_on_no_other_voxel() {
        let (mut all, mut few) = ([0.0; 1000], [0.0; 301]);
        for draw in [uniform, |v: &mut [f32], seed, channel| add_normal(v, 1.0, seed, channel)] {
            all.fill(0.0);
            few.fill(0.0);
            draw(&mut all, 1 << 40 | 5, 2);
            draw(&mut few, 1 << 40 | 5, 2);
            assert_eq!(all[..301], few);
        }
    }

    #[test]
    fn box_muller_is_its_formula() {
        for k in 0..1_000_000u32 {
            let (first, second) = (k.wrapping_mul(0x9e37_79b9), k.wrapping_mul(0xbb67_ae85));
            let u = f64::from((first >> 8) + 1) / f64::from(1 << 24);
            let radius = (-2.0 * u.ln()).sqrt();
            let quarter = f64::from((second << 2) as i32) / f64::from(1u32 << 31) / 2.0 + 0.5;
            let (sine, cosine) = (quarter * std::f64::consts::FRAC_PI_2).sin_cos();
            let sign = |bit: u32| if second >> bit & 1 == 1 { -1.0 } else { 1.0 };
            let expected = [radius * cosine * sign(31), radius * sine * sign(30)];
            for (found, expected) in box_muller(first, second).into_iter().zip(expected) {
                // A dozen roundings of numbers up to the radius.
                let tolerance = 12.0 * f64::from(f32::EPSILON) / 2.0 * radius;
                assert!(
                    (f64::from(found) - expected).abs() <= tolerance,
                    "{first:x} {second:x}: {found}, expected {expected}"
                );
            }
        }
    }
}
