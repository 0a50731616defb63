//! Instance norm with scale and shift, then leaky ReLU; see [`crate::host::norm`].

use super::ranges::{Ranges, THREADS};
use super::tensor::{Layout, Tensor, kernel, small};
use super::{Context, ranges};
use kernels::Pointer;

/// As in `kernels/norm.cu`.
const MOMENTS_THREADS: u32 = 1024;

/// Statistics and parameters of a norm, f32 `[sample][pitch][4]`: mean, 1 / √(variance + ε), γ, β; 0 in the padding.
pub(crate) fn moments_bytes(layout: &Layout) -> usize {
    16 * layout.batch * layout.pitch()
}

kernels::arguments! {
    struct NormMomentsArgs {
        partials: Pointer,
        gamma: Pointer,
        beta: Pointer,
        moments: Pointer,
        tiles: u32,
        channels: u32,
        pitch: u32,
        epsilon: f32,
    }
}

kernels::arguments! {
    pub(super) struct NormApplyArgs {
        y: Pointer,
        skip: Pointer,
        moments: Pointer,
        a: Pointer,
        voxels: u32,
        groups: u32,
        range: u32,
        slope: f32,
    }
}

kernels::arguments! {
    pub(super) struct NormSumsArgs {
        y: Pointer,
        a: Pointer,
        da: Pointer,
        moments: Pointer,
        partials: Pointer,
        voxels: u32,
        groups: u32,
        range: u32,
        slope: f32,
    }
}

kernels::arguments! {
    pub(super) struct NormBackwardArgs {
        y: Pointer,
        a: Pointer,
        moments: Pointer,
        totals: Pointer,
        da: Pointer,
        dy: Pointer,
        dgamma: Pointer,
        dbeta: Pointer,
        voxels: u32,
        groups: u32,
        range: u32,
        channels: u32,
        batch: u32,
        slope: f32,
    }
}

/// Statistics of a convolution's output from those of its tiles, `partials` f32 `[sample][tile][3][pitch]`: count,
/// mean, Σ (v − mean)². `gamma` and `beta` have as many f32 as there are channels.
pub(crate) fn moments(
    ctx: &Context,
    partials: Pointer,
    tiles: usize,
    layout: &Layout,
    gamma: Pointer,
    beta: Pointer,
    epsilon: f32,
    moments: Pointer,
) {
    assert!(tiles > 0, "statistics of no tile");
    let arguments = NormMomentsArgs {
        partials,
        gamma,
        beta,
        moments,
        tiles: small(tiles),
        channels: small(layout.channels),
        pitch: small(layout.pitch()),
        epsilon,
    };
    let grid = [layout.pitch() / 8, layout.batch, 1];
    ctx.launch("norm_moments", grid, MOMENTS_THREADS, 0, &arguments);
}

/// a = leaky(norm(y)); `a` may be `y`.
pub(crate) fn apply(ctx: &Context, y: &Tensor, moments: Pointer, slope: f32, a: &Tensor) {
    assert_eq!((y.layout, y.element), (a.layout, a.element), "norm input");
    let Ranges { voxels, groups, range, count } = Ranges::of(&a.layout);
    let (y, to, skip) = (y.pointer, a.pointer, Pointer::default());
    let arguments = NormApplyArgs { y, skip, moments, a: to, voxels, groups, range, slope };
    let kernel = kernel!(a.element, "norm_apply");
    ctx.launch(kernel, [count, a.layout.batch, 1], THREADS, 0, &arguments);
}

/// Bytes of scratch for [`backward`] and [`super::residual::add_backward`].
pub(crate) fn backward_scratch(layout: &Layout) -> usize {
    16 * layout.batch * layout.pitch() * (Ranges::of(layout).count + 1)
}

/// Turns the gradient `da` of the activation into the gradient of `y`, in place, and writes dγ and dβ, as many f32 as
/// there are channels.
pub(crate) fn backward(
    ctx: &Context,
    y: &Tensor,
    moments: Pointer,
    slope: f32,
    da: &Tensor,
    dgamma: Pointer,
    dbeta: Pointer,
) {
    let (a, dy) = (Pointer::default(), da.pointer);
    let gradients = Gradients { y: y.pointer, a, da: da.pointer, dy, dgamma, dbeta };
    assert_eq!((y.layout, y.element), (da.layout, da.element), "norm gradient");
    let sums = kernel!(da.element, "norm_backward_sums");
    let last = kernel!(da.element, "norm_backward");
    gradients.launch(ctx, &da.layout, moments, slope, [sums, last]);
}

/// Pointers of a backward pass: of the norm alone (no `a`, `dy` is `da`), or of a residual block's end.
pub(super) struct Gradients {
    pub y: Pointer,
    pub a: Pointer,
    pub da: Pointer,
    pub dy: Pointer,
    pub dgamma: Pointer,
    pub dbeta: Pointer,
}

impl Gradients {
    /// Sums of ranges, totals of samples, gradients.
    pub(super) fn launch(
        &self,
        ctx: &Context,
        layout: &Layout,
        moments: Pointer,
        slope: f32,
        kernels: [&'static str; 2],
    ) {
        let Self { y, a, da, dy, dgamma, dbeta } = *self;
        let Ranges { voxels, groups, range, count } = Ranges::of(layout);
        let (batch, pitch) = (layout.batch, layout.pitch());
        let totals = ctx.scratch(backward_scratch(layout));
        let partials = totals.offset(16 * batch * pitch);
        let sums = NormSumsArgs { y, a, da, moments, partials, voxels, groups, range, slope };
        ctx.launch(kernels[0], [count, batch, 1], THREADS, 0, &sums);
        ranges::totals(ctx, partials, totals, count, 2 * pitch, batch);
        let last = NormBackwardArgs {
            y,
            a,
            moments,
            totals,
            da,
            dy,
            dgamma,
            dbeta,
            voxels,
            groups,
            range,
            channels: small(layout.channels),
            batch: small(batch),
            slope,
        };
        ctx.launch(kernels[1], [count, batch, 1], THREADS, 0, &last);
    }
}
