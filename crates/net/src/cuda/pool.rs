//! Average pooling whose kernel is its stride, and its gradient; see [`crate::host::pool`].

use super::Context;
use super::tensor::{Layout, Tensor, kernel, small};
use kernels::Pointer;

/// As in `kernels/pool.cu`.
const THREADS: usize = 256;

kernels::arguments! {
    struct PoolArgs {
        from: Pointer,
        to: Pointer,
        groups: u32,
        large: [u32; 3],
        small: [u32; 3],
        stride: [u32; 3],
    }
}

/// small = mean of the `stride` voxels of large that it covers.
pub(crate) fn average(ctx: &Context, stride: [usize; 3], large: &Tensor, small: &Tensor) {
    check(large, small, stride);
    let grids = [&large.layout, &small.layout];
    let kernel = kernel!(small.element, "pool_average");
    launch(ctx, kernel, stride, grids, large.pointer, small.pointer, &small.layout);
}

/// large += the gradient of [`average`].
pub(crate) fn spread(ctx: &Context, stride: [usize; 3], small: &Tensor, large: &Tensor) {
    check(large, small, stride);
    let grids = [&large.layout, &small.layout];
    let kernel = kernel!(small.element, "pool_spread");
    launch(ctx, kernel, stride, grids, small.pointer, large.pointer, &large.layout);
}

fn check(large: &Tensor, small: &Tensor, stride: [usize; 3]) {
    let size = [0, 1, 2].map(|a| small.layout.size[a] * stride[a]);
    assert_eq!(large.layout, Layout { size, ..small.layout }, "pooled grid");
    assert_eq!(large.element, small.element, "pooled element");
}

fn launch(
    ctx: &Context,
    kernel: &'static str,
    stride: [usize; 3],
    [l, s]: [&Layout; 2],
    from: Pointer,
    to: Pointer,
    written: &Layout,
) {
    let groups = l.pitch() / 8;
    let arguments = PoolArgs {
        from,
        to,
        groups: small(groups),
        large: l.size.map(small),
        small: s.size.map(small),
        stride: stride.map(small),
    };
    let octets = written.voxels() * groups;
    ctx.launch(kernel, [octets.div_ceil(THREADS), l.batch, 1], THREADS as u32, 0, &arguments);
}
