//! Fixed mutations: the same seed and number give the same bytes on every machine.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers at which something may overflow, divide by nothing, or be no number.
const NUMBERS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "64",
    "65",
    "127",
    "255",
    "32767",
    "32768",
    "65535",
    "1000000",
    "2147483647",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e300",
    "-1e-300",
    "5e-324",
    "nan",
    "inf",
];

/// What opens, closes or separates in texts of any format here.
const TOKENS: [&str; 16] =
    ["[", "]", "{", "}", "(", ")", "\"", "'", ",", ":", "=", ".", "\n", "\\", "null", "true"];

/// Mutation number `index` of these seeds.
pub fn mutated(seeds: &[Vec<u8>], target: &str, index: u64) -> Vec<u8> {
    let name = target.bytes().fold(0u64, |sum, b| sum.wrapping_mul(257).wrapping_add(b.into()));
    let mut rng = ChaCha8Rng::seed_from_u64(name ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut data = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..=4) {
        change(&mut data, seeds, &mut rng);
    }
    data
}

fn change(data: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut impl Rng) {
    let at = rng.random_range(0..=data.len());
    let upto = |rng: &mut dyn Rng, most: usize| (rng.next_u64() % (most as u64 + 1)) as usize;
    match rng.random_range(0..10) {
        0 if at < data.len() => data[at] ^= 1 << rng.random_range(0..8),
        1 if at < data.len() => data[at] = rng.random(),
        2 => interesting(data, at, rng),
        3 => {
            data.drain(at..at + upto(rng, 16.min(data.len() - at)));
        }
        4 => data.truncate(at),
        5 => {
            let length = upto(rng, 64.min(data.len() - at));
            let part = data[at..at + length].to_vec();
            data.splice(at..at, part);
        }
        6 => {
            let other = &seeds[rng.random_range(0..seeds.len())];
            let from = upto(rng, other.len());
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        7 => {
            let token = TOKENS[rng.random_range(0..TOKENS.len())];
            let times = if rng.random_range(0..8) == 0 { 300 } else { 1 };
            data.splice(at..at, token.repeat(times).into_bytes());
        }
        _ => number(data, at, rng),
    }
}

/// Overwrites 1, 2, 4 or 8 bytes with an end of their range, in either byte order.
fn interesting(data: &mut [u8], at: usize, rng: &mut impl Rng) {
    let width = 1 << rng.random_range(0..4);
    let value: u64 = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        u64::MAX,
        i64::MAX as u64,
    ][rng.random_range(0..12)];
    let bytes = if rng.random() { value.to_le_bytes() } else { value.swap_bytes().to_le_bytes() };
    for (to, from) in data[at..].iter_mut().take(width).zip(bytes) {
        *to = from;
    }
}

/// Replaces the first number in the text behind a place.
fn number(data: &mut Vec<u8>, at: usize, rng: &mut impl Rng) {
    let digit = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let Some(begin) = data[at..].iter().position(digit).map(|n| at + n) else { return };
    let length = data[begin..].iter().take_while(|b| digit(b)).count();
    let with = NUMBERS[rng.random_range(0..NUMBERS.len())];
    data.splice(begin..begin + length, with.bytes());
}
