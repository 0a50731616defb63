//! Plain Rust for any machine; the definition that the other units are held against.

use crate::host::vector::{Level, Vector};

/// Sixteen numbers, which a compiler turns into what vectors there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable([f32; 16]);

/// The bfloat16 in the low and in the high half of 32 bits.
#[inline(always)]
fn halves(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xFFFF_0000)]
}

/// Rounded to the nearest bfloat16, ties to even; NaN stays one.
#[inline(always)]
pub(super) fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    (if value.is_nan() { bits >> 16 | 0x40 } else { nearest }) as u16
}

/// The operation on each of sixteen.
macro_rules! each {
    ($i:ident => $value:expr) => {{
        let mut out = [0.0; 16];
        for $i in 0..16 {
            out[$i] = $value;
        }
        Portable(out)
    }};
}

impl Vector for Portable {
    const LEVEL: Level = Level::Portable;
    const ROWS: usize = 3;
    const HALVES: usize = 1;
    const CHANNELS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises sixteen numbers.
        Self(unsafe { from.cast::<[f32; 16]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises the place of sixteen numbers.
        unsafe { to.cast::<[f32; 16]>().write(self.0) };
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller promises a number.
        Self([unsafe { *from }; 16])
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        each!(i => self.0[i] + other.0[i])
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        each!(i => self.0[i] - other.0[i])
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        each!(i => self.0[i] * other.0[i])
    }
    // Not f32::mul_add: without the instruction that is a slow library call.
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        each!(i => self.0[i] + a.0[i] * b.0[i])
    }
    #[inline(always)]
    unsafe fn mul_sub(self, a: Self, b: Self) -> Self {
        each!(i => self.0[i] - a.0[i] * b.0[i])
    }
    #[inline(always)]
    unsafe fn leaky(self, sign: Self, slope: Self) -> Self {
        each!(i => if sign.0[i] > 0.0 { self.0[i] } else { self.0[i] * slope.0[i] })
    }
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        each!(i => {
            let ([a0, a1], [b0, b1]) = (halves(a.0[i]), halves(b.0[i]));
            self.0[i] + a0 * b0 + a1 * b1
        })
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> Self {
        // SAFETY: the caller promises sixteen.
        let from = unsafe { from.cast::<[u16; 16]>().read() };
        each!(i => f32::from_bits(u32::from(from[i]) << 16))
    }
    #[inline(always)]
    unsafe fn narrow(self, to: *mut u16) {
        let mut out = [0; 16];
        for i in 0..16 {
            out[i] = rounded(self.0[i]);
        }
        // SAFETY: the caller promises the place of sixteen.
        unsafe { to.cast::<[u16; 16]>().write(out) };
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64) {
        for i in 0..16 {
            // SAFETY: the caller promises sixteen sums.
            unsafe { *sums.add(i) += f64::from(self.0[i]) };
        }
    }
}
