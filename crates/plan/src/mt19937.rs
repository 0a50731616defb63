//! The generator behind `numpy.random.RandomState`, as far as shuffling needs it.
//!
//! Mersenne Twister MT19937 (Matsumoto and Nishimura 1998) seeded by Knuth's recurrence; bounded integers by masking and
//! rejection, as NumPy's legacy interface draws them. Folds must equal those that nnU-Net makes with scikit-learn.

const N: usize = 624;
const M: usize = 397;

/// 32-bit words.
#[derive(Debug, Clone)]
pub struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// As `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            let mixed = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30));
            state[i] = mixed.wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    /// A number from 0 to `most`, both included.
    pub fn up_to(&mut self, most: u32) -> u32 {
        let mask = u32::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.word() & mask;
            if value <= most {
                return value;
            }
        }
    }

    /// As `RandomState.shuffle`: from the last element down, each is exchanged with one at or before it.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.up_to(u32::try_from(i).unwrap_or(u32::MAX));
            items.swap(i, j as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_word_of_the_default_seed_is_the_standard_s() {
        // ISO C++ [rand.predef]: the 10000th draw of mt19937, default seed 5489, is 4123659995.
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.word()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn bounded_draws_stay_in_their_bounds() {
        let mut generator = Mt19937::new(1);
        for most in [0, 1, 2, 6, 255, 256] {
            let draws: Vec<u32> = (0..400).map(|_| generator.up_to(most)).collect();
            assert!(draws.iter().all(|&d| d <= most));
            assert!(most > 6 || (0..=most).all(|v| draws.contains(&v)), "{most}");
        }
    }
}
