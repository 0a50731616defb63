//! Products on vector units: a tile's sums stay in registers while all input channels of all taps go by; per group of
//! inputs a broadcast for each voxel, and a load of weights for each half of the outputs.

use super::{Extent, Meanwhile, Outer, Steps, Unit, sum_place};
use crate::host::format::Format;
use crate::host::vector::{Vector, compiled};
use std::marker::PhantomData;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vectors<V>(PhantomData<V>);

compiled! {
    /// `R` voxels × `H` halves.
    unsafe fn tile<V, F: Format; const R: usize, const H: usize, const S: usize>(
        steps: &Steps<'_>,
        first_half: usize,
        sums: *mut f32,
    ) {
        // SAFETY: by the contract of `Unit::reduce`.
        unsafe {
            let mut all = [[V::zero(); H]; R];
            let mut weights = steps.weights.add(first_half * F::PARTS * F::TILE);
            for input in steps.inputs {
                for tap in steps.taps {
                    let voxel = input.voxel.byte_offset(*tap);
                    for group in 0..input.groups {
                        let mut of_group = [F::weights::<V>(weights.add(group)); H];
                        for h in 1..H {
                            of_group[h] = F::weights::<V>(weights.add(h * F::PARTS * F::TILE + group));
                        }
                        for r in 0..R {
                            let voxel = voxel.add(r * S * F::CHUNKS);
                            for h in 0..H {
                                all[r][h] = F::multiply(all[r][h], voxel, group, of_group[h]);
                            }
                        }
                    }
                    weights = weights.add(2 * F::PARTS * F::TILE);
                }
            }
            for r in 0..R {
                for h in 0..H {
                    all[r][h].store(sums.add(sum_place(r, first_half + h)));
                }
            }
        }
    }
}

compiled! {
    /// `C` channels of the small side from `first` on × `N` lists.
    unsafe fn products<V, F: Format; const C: usize, const N: usize>(
        jobs: &[Outer<N>],
        first: usize,
        sums: [*mut f32; N],
    ) {
        // SAFETY: by the contract of `Unit::outer`.
        unsafe {
            let mut all = [[V::zero(); N]; C];
            for c in 0..C {
                for l in 0..N {
                    all[c][l] = V::load(sums[l].add((first + c) * 16));
                }
            }
            for job in jobs {
                let [channel, group] = job.small_step;
                let mut small = job.small.byte_add(first * channel);
                let mut large = job.large;
                for _ in 0..job.groups {
                    let mut b = [V::zero(); N];
                    for l in 0..N {
                        b[l] = V::load(large[l].cast());
                        large[l] = large[l].wrapping_add(job.large_step);
                    }
                    for c in 0..C {
                        let a = V::splat(small.byte_add(c * channel).cast());
                        for l in 0..N {
                            all[c][l] = F::product(all[c][l], a, b[l]);
                        }
                    }
                    small = small.wrapping_byte_add(group);
                }
            }
            for c in 0..C {
                for l in 0..N {
                    all[c][l].store(sums[l].add((first + c) * 16));
                }
            }
        }
    }
}

/// One half or two of a tile's outputs.
///
/// # Safety
/// As [`Unit::reduce`].
unsafe fn rows<V: Vector, F: Format, const R: usize>(
    steps: &Steps<'_>,
    extent: Extent,
    sums: *mut f32,
) {
    // SAFETY: passed on.
    unsafe {
        if V::HALVES == 2 && extent.halves == 2 {
            return match extent.step {
                1 => tile::<V, F, R, 2, 1>(steps, 0, sums),
                _ => tile::<V, F, R, 2, 2>(steps, 0, sums),
            };
        }
        for half in 0..extent.halves {
            match extent.step {
                1 => tile::<V, F, R, 1, 1>(steps, half, sums),
                _ => tile::<V, F, R, 1, 2>(steps, half, sums),
            }
        }
    }
}

// SAFETY: `reduce` computes at most `ROWS` voxels, rounded up to a multiple of two.
unsafe impl<V: Vector> Unit for Vectors<V> {
    type Vector = V;
    type Open = ();
    const ROUND: usize = 2;

    fn rows<F: Format>() -> usize {
        V::ROWS
    }

    unsafe fn open() {}

    #[inline]
    unsafe fn reduce<F: Format, M: Meanwhile>(
        steps: &Steps<'_>,
        extent: Extent,
        sums: *mut f32,
        _meanwhile: &mut M,
    ) {
        assert!(extent.step == 1 || extent.step == 2, "x stride {}", extent.step);
        // SAFETY: passed on.
        unsafe {
            match extent.rows {
                1 => rows::<V, F, 1>(steps, extent, sums),
                2 => rows::<V, F, 2>(steps, extent, sums),
                3 => rows::<V, F, 3>(steps, extent, sums),
                4 => rows::<V, F, 4>(steps, extent, sums),
                n if V::ROWS <= 6 || n <= 6 => rows::<V, F, 6>(steps, extent, sums),
                7 | 8 => rows::<V, F, 8>(steps, extent, sums),
                9 | 10 => rows::<V, F, 10>(steps, extent, sums),
                11 | 12 => rows::<V, F, 12>(steps, extent, sums),
                _ => rows::<V, F, 14>(steps, extent, sums),
            }
        }
    }

    #[inline]
    unsafe fn outer<F: Format, const N: usize>(jobs: &[Outer<N>], sums: [*mut f32; N]) {
        for first in (0..32).step_by(V::CHANNELS) {
            // SAFETY: passed on.
            unsafe {
                match V::CHANNELS {
                    8 => products::<V, F, 8, N>(jobs, first, sums),
                    2 => products::<V, F, 2, N>(jobs, first, sums),
                    _ => products::<V, F, 1, N>(jobs, first, sums),
                }
            }
        }
    }
}
