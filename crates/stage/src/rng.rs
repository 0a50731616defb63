//! Random streams that depend on what is drawn, never on when or by which thread.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The stream for `(seed, what…)`, such as `(seed, epoch, iteration, sample)`.
pub fn rng(seed: u64, what: &[u64]) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for word in what {
        hasher.update(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// A word of [`rng`]'s stream name made from text, such as a case id.
pub fn word(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn streams_differ_by_every_word_and_repeat() {
        let draw = |seed, what: &[u64]| rng(seed, what).random::<u64>();
        assert_eq!(draw(1, &[2, 3]), draw(1, &[2, 3]));
        let others = [
            draw(1, &[2, 3]),
            draw(0, &[2, 3]),
            draw(1, &[3, 2]),
            draw(1, &[2]),
            draw(1, &[2, 3, 0]),
        ];
        for (i, a) in others.iter().enumerate() {
            assert!(!others[..i].contains(a));
        }
    }
}
