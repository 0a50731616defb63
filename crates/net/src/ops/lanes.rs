//! Sixteen voxels at once, in plain Rust that vectorises where it is compiled for vectors.

/// One number of each of sixteen voxels.
pub(super) type Lanes = [f32; WIDTH];

pub(super) const WIDTH: usize = 16;

/// e^x to 2 ulps for x ≤ 0; below −87, where f32 ends, e^−87.
///
/// x = n ln 2 + r with whole n and |r| ≤ ln 2 / 2, so that e^x = 2^n e^r. ln 2 is subtracted in two pieces, the first
/// short enough to be exact times n; e^r is its Taylor polynomial of degree 7, off by 5e-9 at most.
#[inline(always)]
pub(super) fn exp(x: &Lanes) -> Lanes {
    /// 1.5 · 2^23: adding it leaves the nearest whole number in the last bits.
    const WHOLE: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let mut out = [0.0; WIDTH];
    for i in 0..WIDTH {
        let x = if x[i] > -87.0 { x[i] } else { -87.0 };
        let shifted = x * std::f32::consts::LOG2_E + WHOLE;
        let n = shifted - WHOLE;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        let mut p = 1.0 / 5040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 0.5;
        p = p * (r * r) + r + 1.0;
        let exponent = shifted.to_bits().wrapping_sub(WHOLE.to_bits()).wrapping_add(127);
        out[i] = p * f32::from_bits(exponent << 23);
    }
    out
}

/// Σ ln of numbers from 1 to 2^15, as the logarithm of their products: one logarithm for 64 numbers.
#[derive(Debug)]
pub(super) struct LogSum {
    products: [f64; WIDTH],
    factors: u32,
    sum: f64,
}

impl LogSum {
    pub(super) fn new() -> Self {
        Self { products: [1.0; WIDTH], factors: 0, sum: 0.0 }
    }

    /// Adds ln of sixteen numbers.
    #[inline(always)]
    pub(super) fn add(&mut self, values: &[f64; WIDTH]) {
        for i in 0..WIDTH {
            self.products[i] *= values[i];
        }
        self.factors += 1;
        // 64 · 15 bits stay inside f64's exponent.
        if self.factors == 64 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.sum += self.products.iter().map(|p| p.ln()).sum::<f64>();
        (self.products, self.factors) = ([1.0; WIDTH], 0);
    }

    pub(super) fn total(mut self) -> f64 {
        self.settle();
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps() {
        let mut worst = 0.0f64;
        for step in 0..200_000 {
            let x = -87.0 * step as f32 / 200_000.0;
            let (found, expected) = (exp(&[x; WIDTH])[3], f64::from(x).exp());
            worst = worst.max((f64::from(found) - expected).abs() / expected);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(&[0.0; WIDTH]), [1.0; WIDTH]);
        assert!(exp(&[f32::NEG_INFINITY; WIDTH])[0] < 2e-38);
    }

    #[test]
    fn a_sum_of_logarithms_is_one() {
        let mut sum = LogSum::new();
        let mut expected = 0.0;
        for i in 0..1000 {
            let values: [f64; WIDTH] = std::array::from_fn(|j| 1.0 + (i * 37 + j) as f64);
            sum.add(&values);
            expected += values.iter().map(|v| v.ln()).sum::<f64>();
        }
        // 64 products and a logarithm per 64 values: relative errors of some f64 ulps.
        assert!((sum.total() - expected).abs() < 1e-12 * expected);
    }
}
