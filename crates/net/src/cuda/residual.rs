//! The end of a residual block: norm, plus the skip, then leaky ReLU; see [`crate::host::residual`].

use super::Context;
use super::norm::{Gradients, NormApplyArgs};
use super::ranges::{Ranges, THREADS};
use super::tensor::{Tensor, kernel};
use kernels::Pointer;

/// a = leaky(norm(y) + skip); `a` may be `skip` or `y`.
pub(crate) fn add(
    ctx: &Context,
    y: &Tensor,
    moments: Pointer,
    skip: &Tensor,
    slope: f32,
    a: &Tensor,
) {
    let same = (a.layout, a.element);
    assert_eq!([(y.layout, y.element), (skip.layout, skip.element)], [same; 2], "block's end");
    let Ranges { voxels, groups, range, count } = Ranges::of(&a.layout);
    let (y, skip, to) = (y.pointer, skip.pointer, a.pointer);
    let arguments = NormApplyArgs { y, skip, moments, a: to, voxels, groups, range, slope };
    let kernel = kernel!(a.element, "residual_add");
    ctx.launch(kernel, [count, a.layout.batch, 1], THREADS, 0, &arguments);
}

/// Turns the gradient `da` of the activation `a` into that of the skip, in place, and writes the gradient of `y` to
/// `dy` (which may be `y` or `a`), and dγ and dβ. Scratch as [`super::norm::backward_scratch`].
pub(crate) fn add_backward(
    ctx: &Context,
    y: &Tensor,
    a: &Tensor,
    moments: Pointer,
    slope: f32,
    da: &Tensor,
    dy: &Tensor,
    dgamma: Pointer,
    dbeta: Pointer,
) {
    let same = (da.layout, da.element);
    let all = [y, a, dy].map(|t| (t.layout, t.element));
    assert_eq!(all, [same; 3], "gradient of a block's end");
    assert_ne!(da.pointer, dy.pointer, "the skip's gradient and that of y");
    let (y, a, da_, dy) = (y.pointer, a.pointer, da.pointer, dy.pointer);
    let gradients = Gradients { y, a, da: da_, dy, dgamma, dbeta };
    let sums = kernel!(da.element, "residual_backward_sums");
    let last = kernel!(da.element, "residual_backward");
    gradients.launch(ctx, &da.layout, moments, slope, [sums, last]);
}
