//! Plain Rust that asks of the drivers what AMX does: whole tiles of 16 voxels, all channels of a block, sums finished between
//! the steps. So machines without AMX test how it is driven.

use super::{Extent, MOST_ROWS, Meanwhile, Outer, Portable, SUMS, Steps, Unit, sum_place};
use crate::host::format::Format;
use crate::host::vector::Vector;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles;

// SAFETY: 48 voxels at most, in whole tiles of 16.
unsafe impl Unit for Tiles {
    type Vector = Portable;
    type Open = ();
    const ROUND: usize = 16;

    fn rows<F: Format>() -> usize {
        if F::PARTS == 1 { MOST_ROWS } else { 32 }
    }

    unsafe fn open() {}

    unsafe fn reduce<F: Format, M: Meanwhile>(
        steps: &Steps<'_>,
        extent: Extent,
        sums: *mut f32,
        meanwhile: &mut M,
    ) {
        assert!(F::GROUP == 2 && (1..=Self::rows::<F>()).contains(&extent.rows), "{extent:?}");
        let rows = extent.rows.next_multiple_of(16);
        let mut place = vec![[0.0f32; 16]; SUMS / 16];
        let mut weights = steps.weights;
        // SAFETY: by the contract; nothing is written to `sums` while the last tile's may still be finished.
        unsafe {
            for input in steps.inputs {
                for tap in steps.taps {
                    for row in 0..rows {
                        let voxel = input.voxel.byte_offset(*tap);
                        let voxel = voxel.add(row * extent.step * F::CHUNKS);
                        for half in 0..extent.halves {
                            let to = place[sum_place(row, half) / 16].as_mut_ptr();
                            let mut sum = Portable::load(to);
                            for group in 0..16 {
                                let at = weights.add(half * F::PARTS * F::TILE + group);
                                sum = F::multiply(sum, voxel, group, F::weights(at));
                            }
                            sum.store(to);
                        }
                    }
                    weights = weights.add(2 * F::PARTS * F::TILE);
                    meanwhile.some(steps.inputs.len() * steps.taps.len());
                }
            }
            for row in 0..rows {
                for half in 0..extent.halves {
                    let at = sum_place(row, half);
                    Portable::load(place[at / 16].as_ptr()).store(sums.add(at));
                }
            }
        }
    }

    unsafe fn outer<F: Format, const N: usize>(jobs: &[Outer<N>], sums: [*mut f32; N]) {
        for job in jobs {
            let aligned = job.small_step[0].is_multiple_of(64) && job.groups.is_multiple_of(16);
            assert!(aligned && job.small_step[1] == 4 && job.large_step == 1, "{job:?}");
            for (list, sums) in sums.into_iter().enumerate() {
                for channel in 0..32 {
                    // SAFETY: by the contract.
                    unsafe {
                        let to = sums.add(channel * 16);
                        let mut sum = Portable::load(to);
                        for group in 0..job.groups {
                            let small = job.small.byte_add(channel * job.small_step[0] + group * 4);
                            let large = Portable::load(job.large[list].add(group).cast());
                            sum = F::product(sum, Portable::splat(small.cast()), large);
                        }
                        sum.store(to);
                    }
                }
            }
        }
    }
}
