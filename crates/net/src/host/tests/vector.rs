//! What is more than arithmetic, on every instruction set of this machine: the same bits as plain Rust.

use super::*;
use crate::host::grid::Wide;
use crate::host::transpose::{pair_place, pairs, pairs_both, transpose};
use crate::host::vector::{Vector, compiled};
use crate::ops::tests::random_vec;

compiled! {
    /// Sixteen numbers rounded, and what they are then.
    unsafe fn round<V>(from: &Wide, bits: &mut Chunk, to: &mut Wide) {
        // SAFETY: sixteen of each are there.
        unsafe {
            V::load(from.0.as_ptr()).narrow(bits.0.as_mut_ptr());
            V::widen(bits.0.as_ptr()).store(to.0.as_mut_ptr());
        }
    }
}

compiled! {
    /// Sixteen sums of pairs.
    unsafe fn dot<V>(sum: &Wide, a: &Chunk, b: &Chunk, to: &mut Wide) {
        // SAFETY: sixteen of each are there.
        unsafe {
            let (a, b) = (V::load(a.0.as_ptr().cast()), V::load(b.0.as_ptr().cast()));
            V::load(sum.0.as_ptr()).dot(a, b).store(to.0.as_mut_ptr());
        }
    }
}

fn check<V: Vector, F: Format>() {
    check_rounding::<V>();
    check_products::<V>();
    check_order::<V>();
}

fn check_rounding<V: Vector>() {
    let random = random_vec(1 << 14, 1);
    let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE];
    // Ties, to both sides, and numbers beside them; bits on the border of an exponent.
    let ties = [0x3F80_8000, 0x3F81_8000, 0x3F80_7FFF, 0x3F80_8001, 0x3FFF_8000, 0x3FFF_FFFF];
    let all: Vec<f32> = random
        .iter()
        .enumerate()
        .map(|(i, v)| (v * 2f64.powi(i as i32 % 200 - 100)) as f32)
        .chain(special)
        .chain(ties.map(f32::from_bits))
        .collect();
    for numbers in all.chunks(16) {
        let mut from = Wide::ZERO;
        from.0[..numbers.len()].copy_from_slice(numbers);
        let (mut bits, mut to) = (Chunk::ZERO, Wide::ZERO);
        // SAFETY: `Cpu::available` has only what the machine has.
        unsafe { round::<V>(&from, &mut bits, &mut to) };
        for i in 0..16 {
            let expected = bf16::from_f32(from.0[i]);
            assert_eq!(bits.0[i], expected.to_bits(), "{:e}", from.0[i]);
            assert_eq!(to.0[i].to_bits(), expected.to_f32().to_bits());
        }
    }
    let nan = Wide([f32::from_bits(0x7F80_0001); BLOCK]);
    let (mut bits, mut to) = (Chunk::ZERO, Wide::ZERO);
    // SAFETY: as above.
    unsafe { round::<V>(&nan, &mut bits, &mut to) };
    assert!(to.0[..16].iter().all(|v| v.is_nan()), "NaN is lost: {to:?}");
}

fn check_products<V: Vector>() {
    let (a, b) = (random_vec(BLOCK, 2), random_vec(BLOCK, 3));
    let (mut left, mut right, mut sum, mut to) = (Chunk::ZERO, Chunk::ZERO, Wide::ZERO, Wide::ZERO);
    for i in 0..BLOCK {
        left.0[i] = bf16::from_f64(a[i]).to_bits();
        right.0[i] = bf16::from_f64(b[i]).to_bits();
        sum.0[i] = i as f32;
    }
    // SAFETY: as above.
    unsafe { dot::<V>(&sum, &left, &right, &mut to) };
    for i in 0..16 {
        let product =
            |k: usize| bf16::from_bits(left.0[k]).to_f64() * bf16::from_bits(right.0[k]).to_f64();
        let expected = i as f64 + product(2 * i) + product(2 * i + 1);
        // Two additions, each rounded by half a unit of at most 17.
        let bound = 2.0 * 17.0 * 2f64.powi(-24);
        assert!((f64::from(to.0[i]) - expected).abs() <= bound, "{} {expected}", to.0[i]);
    }
}

fn check_order<V: Vector>() {
    let voxel = |v: usize| {
        let mut chunk = Chunk::ZERO;
        (0..BLOCK).for_each(|c| chunk.0[c] = (v * 100 + c) as u16);
        chunk
    };
    let voxels: Vec<Chunk> = (0..33).map(voxel).collect();
    let pointers: [*const Chunk; 32] = std::array::from_fn(|v| &raw const voxels[v]);
    let mut channels = vec![Chunk::ZERO; 32 * 3];
    let mut lists = vec![vec![Chunk::ZERO; 16]; 6];
    let mut to = lists.iter_mut().map(|list| list.as_mut_ptr());
    let mut next = || to.next().unwrap();
    // SAFETY: as above; 33 voxels are read, and there is room for 32 channels of three chunks, and lists of 16 pairs.
    unsafe {
        transpose::<V>(&pointers, channels.as_mut_ptr(), 3);
        pairs_both::<V>(voxels.as_ptr(), 1, 16, [next(), next()], [next(), next()]);
        pairs::<V>(voxels.as_ptr(), 2, 8, next(), next());
    }
    for v in 0..32 {
        for c in 0..BLOCK {
            assert_eq!(channels[3 * c].0[v], (v * 100 + c) as u16, "voxel {v}, channel {c}");
            let (list, column) = pair_place(c);
            let of = |list: usize, pair: usize, i: usize| lists[list][pair].0[2 * column + i];
            assert_eq!(of(list, v / 2, v % 2), (v * 100 + c) as u16, "even");
            assert_eq!(of(2 + list, v / 2, v % 2), ((v + 1) * 100 + c) as u16, "odd");
            if v < 16 {
                assert_eq!(of(4 + list, v / 2, v % 2), (v * 200 + c) as u16, "every second");
            }
        }
    }
}

#[test]
fn every_instruction_set_rounds_multiplies_and_orders_alike() {
    for cpu in Cpu::available() {
        with_vector!(cpu, check());
    }
}
