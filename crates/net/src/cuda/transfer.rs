//! Between tensors and arrays `[n, c, z, y, x]` of f32 in device memory, as files and the host have them.

use super::Context;
use super::tensor::{Layout, Tensor, kernel, small};
use kernels::Pointer;

/// As in `kernels/tensor.cu`.
const THREADS: usize = 256;

kernels::arguments! {
    struct TensorArgs {
        from: Pointer,
        to: Pointer,
        voxels: u32,
        channels: u32,
    }
}

/// Bytes of an array `[n, c, z, y, x]` of a tensor's sizes.
pub(crate) fn array_bytes(layout: &Layout) -> usize {
    4 * layout.batch * layout.channels * layout.voxels()
}

/// From an array `[n, c, z, y, x]`; rounds to the element.
pub(crate) fn import(ctx: &Context, array: Pointer, tensor: &Tensor) {
    launch(ctx, kernel!(tensor.element, "tensor_import"), array, tensor.pointer, &tensor.layout);
}

/// To an array `[n, c, z, y, x]`.
pub(crate) fn export(ctx: &Context, tensor: &Tensor, array: Pointer) {
    launch(ctx, kernel!(tensor.element, "tensor_export"), tensor.pointer, array, &tensor.layout);
}

fn launch(ctx: &Context, kernel: &'static str, from: Pointer, to: Pointer, layout: &Layout) {
    let arguments =
        TensorArgs { from, to, voxels: small(layout.voxels()), channels: small(layout.channels) };
    let grid = [layout.voxels().div_ceil(THREADS), layout.pitch() / 8, layout.batch];
    ctx.launch(kernel, grid, THREADS as u32, 0, &arguments);
}
