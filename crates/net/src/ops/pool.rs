//! Average pooling whose kernel is its stride, and its gradient.

use crate::cpu::simd::{Body, run};
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane, Layout, Tensor};
use rayon::prelude::*;

fn check(large: &Layout, small: &Layout, stride: [usize; 3]) {
    let size = [0, 1, 2].map(|a| small.size[a] * stride[a]);
    let expected = Layout { size, halo: large.halo, ..*small };
    assert_eq!(*large, expected, "pooled grid");
}

/// Planes of the small grid that belong to a sample and block, seen from a plane of the large one, and the reverse.
fn plane(inner: usize, depth: usize, z: impl Fn(usize) -> usize, other_depth: usize) -> usize {
    inner / depth * other_depth + z(inner % depth)
}

/// One plane of the small grid from `from`, the large planes that it averages.
struct Average<'a> {
    from: &'a [&'a [Lane]],
    large: &'a Layout,
    small: &'a Layout,
    stride: [usize; 3],
    to: &'a mut [Lane],
}

impl Body for Average<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (l, s, [sz, sy, sx]) = (self.large, self.small, self.stride);
        let share = 1.0 / (sz * sy * sx) as f32;
        for y in 0..s.size[1] {
            let start = s.plane_origin() + y * s.row_pitch();
            for (x, to) in self.to[start..start + s.size[2]].iter_mut().enumerate() {
                let mut sum = Lane::ZERO;
                for plane in self.from {
                    for v in 0..sy {
                        let at = l.plane_origin() + (y * sy + v) * l.row_pitch() + x * sx;
                        for lane in &plane[at..at + sx] {
                            for c in 0..LANES {
                                sum.0[c] += lane.0[c];
                            }
                        }
                    }
                }
                for c in 0..LANES {
                    to.0[c] = sum.0[c] * share;
                }
            }
        }
    }
}

/// small = mean of the `stride` voxels of large that it covers.
pub(crate) fn average(level: SimdLevel, stride: [usize; 3], large: &Tensor, small: &mut Tensor) {
    let (l, s) = (large.layout, small.layout);
    check(&l, &s, stride);
    small.par_planes_mut().for_each(|(i, to)| {
        let first = plane(i, s.size[0], |z| z * stride[0], l.size[0]);
        let planes = [large.plane(first), large.plane(first + stride[0] - 1)];
        let from = &planes[..stride[0].min(2)];
        run(level, Average { from, large: &l, small: &s, stride, to });
    });
}

/// Adds a plane's share of a pooled gradient.
struct Spread<'a> {
    from: &'a [Lane],
    large: &'a Layout,
    small: &'a Layout,
    stride: [usize; 3],
    to: &'a mut [Lane],
}

impl Body for Spread<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (l, s, [sz, sy, sx]) = (self.large, self.small, self.stride);
        let share = 1.0 / (sz * sy * sx) as f32;
        for y in 0..l.size[1] {
            let from = s.plane_origin() + y / sy * s.row_pitch();
            let start = l.plane_origin() + y * l.row_pitch();
            let to = self.to[start..start + l.size[2]].chunks_exact_mut(sx);
            for (to, lane) in to.zip(&self.from[from..from + s.size[2]]) {
                for to in to {
                    for c in 0..LANES {
                        to.0[c] += lane.0[c] * share;
                    }
                }
            }
        }
    }
}

/// large += the gradient of [`average`].
pub(crate) fn spread(level: SimdLevel, stride: [usize; 3], small: &Tensor, large: &mut Tensor) {
    let (l, s) = (large.layout, small.layout);
    check(&l, &s, stride);
    large.par_planes_mut().for_each(|(i, to)| {
        let from = small.plane(plane(i, l.size[0], |z| z / stride[0], s.size[0]));
        run(level, Spread { from, large: &l, small: &s, stride, to });
    });
}
