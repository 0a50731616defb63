//! Dice and cross-entropy at one resolution, and their gradient; see [`crate::ops::loss`]. Terms and slopes stay on the
//! device: nothing waits for them.

use super::Context;
use super::ranges::{self, Ranges, THREADS};
use super::tensor::{Element, Layout, Tensor, small};
use crate::loss::{ClassCounts, LossOptions, Outputs, Targets};
use crate::ops::loss::Terms;
use kernels::{Buffer, GpuError, Pointer};

/// Sums per channel: `dice::kRows` in `kernels/loss.cu`.
const ROWS: usize = 6;

/// Where the terms begin behind the smallest unknown label.
const TERMS: usize = 8;

kernels::arguments! {
    struct LossSumsArgs {
        logits: Pointer,
        target: Pointer,
        members: Pointer,
        voxels: u32,
        groups: u32,
        range: u32,
        channels: u32,
        classes: u32,
        ignore: i32,
        partials: Pointer,
        unknown: Pointer,
    }
}

kernels::arguments! {
    struct LossTermsArgs {
        totals: Pointer,
        terms: Pointer,
        slopes: Pointer,
        smooth: f64,
        dice_weight: f64,
        entropy_weight: f64,
        batch: u32,
        groups: u32,
        channels: u32,
        first: u32,
        parts: u32,
        per_channel: u32,
    }
}

kernels::arguments! {
    struct LossGradientArgs {
        logits: Pointer,
        target: Pointer,
        members: Pointer,
        voxels: u32,
        groups: u32,
        range: u32,
        channels: u32,
        classes: u32,
        ignore: i32,
        slopes: Pointer,
        gradient: Pointer,
        parts: u32,
        reserved: u32,
    }
}

kernels::arguments! {
    struct LossNearestArgs {
        from: Pointer,
        to: Pointer,
        large: [u32; 3],
        small: [u32; 3],
    }
}

/// What labels mean, in device memory.
#[derive(Debug)]
pub(crate) struct Meaning {
    pub targets: Targets,
    classes: usize,
    channels: usize,
    /// A bit per region, `[class][8 regions]`.
    members: Option<Buffer>,
}

impl Meaning {
    /// For a network of so many output channels.
    pub(crate) fn new(ctx: &Context, targets: &Targets, channels: usize) -> Result<Self, GpuError> {
        let members = match &targets.outputs {
            Outputs::Classes => None,
            Outputs::Regions { classes, members } => {
                assert_eq!(members.len(), channels, "regions");
                let groups = channels.div_ceil(8);
                let mut table = vec![0u8; classes.max(&1) * groups];
                for (region, members) in members.iter().enumerate() {
                    for class in members {
                        table[class * groups + region / 8] |= 1 << (region % 8);
                    }
                }
                let buffer = ctx.gpu.buffer(table.len())?;
                ctx.stream.upload(buffer.pointer(), &table)?;
                Some(buffer)
            }
        };
        let classes = targets.classes(channels);
        Ok(Self { targets: targets.clone(), classes, channels, members })
    }
}

/// Bytes of labels `[n, z, y, x]` of a layout.
pub(crate) fn target_bytes(layout: &Layout) -> usize {
    2 * layout.batch * layout.voxels()
}

/// Labels at a coarser resolution: the voxel at each coarse voxel's centre, the upper one of two (torch's
/// `nearest-exact`).
pub(crate) fn nearest(
    ctx: &Context,
    from: Pointer,
    large: [usize; 3],
    to: Pointer,
    coarse: &Layout,
) {
    let arguments =
        LossNearestArgs { from, to, large: large.map(small), small: coarse.size.map(small) };
    let grid = [coarse.voxels().div_ceil(THREADS as usize), coarse.batch, 1];
    ctx.launch("loss_nearest", grid, THREADS, 0, &arguments);
}

/// Bytes of what [`loss`] tells: the smallest unknown label, then f64 terms and counts.
pub(crate) fn terms_bytes(layout: &Layout) -> usize {
    TERMS + 8 * (2 + 3 * layout.pitch())
}

/// Bytes of scratch for [`loss`].
pub(crate) fn scratch(layout: &Layout) -> usize {
    let rows = 8 * ROWS * layout.pitch() * layout.batch * (Ranges::of(layout).count + 1);
    rows + 4 * (2 * layout.batch * layout.pitch() + 1)
}

/// The terms of f32 `logits` with labels `target`, i16 `[n, z, y, x]`; with `gradient` (which may be `logits`), that of
/// the logits times `scale`. Labels below 0 count as background; one that is no class counts as ignored, and
/// [`read`] tells it.
pub(crate) fn loss(
    ctx: &Context,
    logits: &Tensor,
    target: Pointer,
    meaning: &Meaning,
    options: &LossOptions,
    gradient: Option<(&Tensor, f64)>,
    terms: Pointer,
) {
    let layout = logits.layout;
    assert_eq!(logits.element, Element::F32, "logits");
    assert_eq!(layout.channels, meaning.channels, "channels of the loss");
    assert_eq!(options.targets, meaning.targets, "what labels mean");
    let regions = meaning.members.is_some();
    let (batch, pitch) = (layout.batch, layout.pitch());
    let Ranges { voxels, groups, range, count } = Ranges::of(&layout);
    let totals = ctx.scratch(scratch(&layout));
    let partials = totals.offset(8 * ROWS * pitch * batch);
    let slopes = partials.offset(8 * ROWS * pitch * batch * count);
    let members = meaning.members.as_ref().map_or(Pointer::default(), Buffer::pointer);
    let ignore = options.targets.ignore.map_or(i32::MIN, i32::from);
    let (channels, classes) = (small(layout.channels), small(meaning.classes));
    let logits = logits.pointer;

    ctx.keep(ctx.stream.fill(terms, 0xff, TERMS));
    let sums = LossSumsArgs {
        logits,
        target,
        members,
        voxels,
        groups,
        range,
        channels,
        classes,
        ignore,
        partials,
        unknown: terms,
    };
    let kernel = if regions { "loss_sums_regions" } else { "loss_sums_classes" };
    ctx.launch(kernel, [count, batch, 1], THREADS, 0, &sums);
    ranges::totals(ctx, partials, totals, count, ROWS * pitch, batch);

    let parts = if options.batch_dice { 1 } else { small(batch) };
    let first = usize::from(!regions && !options.dice_background).min(layout.channels - 1);
    let scale = gradient.map_or(0.0, |(_, scale)| scale);
    let finish = LossTermsArgs {
        totals,
        terms: terms.offset(TERMS),
        slopes,
        smooth: f64::from(options.smooth),
        dice_weight: f64::from(options.dice_weight) * scale,
        entropy_weight: f64::from(options.cross_entropy_weight) * scale,
        batch: small(batch),
        groups,
        channels,
        first: small(first),
        parts,
        per_channel: u32::from(regions && options.targets.ignore.is_none()),
    };
    ctx.launch("loss_terms", [1, 1, 1], THREADS, 0, &finish);

    let Some((gradient, _)) = gradient else { return };
    assert_eq!(gradient.layout, layout, "gradient of the logits");
    let arguments = LossGradientArgs {
        logits,
        target,
        members,
        voxels,
        groups,
        range,
        channels,
        classes,
        ignore,
        slopes,
        gradient: gradient.pointer,
        parts,
        reserved: 0,
    };
    let kernel = match (regions, gradient.element) {
        (false, Element::Bf16) => "loss_gradient_classes_bf16",
        (false, Element::F32) => "loss_gradient_classes_f32",
        (true, Element::Bf16) => "loss_gradient_regions_bf16",
        (true, Element::F32) => "loss_gradient_regions_f32",
    };
    ctx.launch(kernel, [count, batch, 1], THREADS, 0, &arguments);
}

/// Waits for the terms of the last [`loss`]; or the smallest label that is neither a class nor ignored.
pub(crate) fn read(
    ctx: &Context,
    layout: &Layout,
    terms: Pointer,
) -> Result<Result<Terms, i16>, GpuError> {
    let pitch = layout.pitch();
    let head = TERMS / 8;
    let mut values = vec![0.0f64; head + 2 + 3 * pitch];
    ctx.stream.download(terms, &mut values)?;
    // The first four bytes are a whole number.
    if let Ok(label) = i16::try_from(values[0].to_bits() & u64::from(u32::MAX)) {
        return Ok(Err(label));
    }
    let values = &values[head..];
    // Whole numbers below 2⁵³.
    let count = |row: usize, channel: usize| values[2 + row * pitch + channel] as u64;
    let counts = (0..layout.channels)
        .map(|c| ClassCounts { tp: count(0, c), fp: count(1, c), fn_: count(2, c) })
        .collect();
    Ok(Ok(Terms { dice: values[0], cross_entropy: values[1], counts }))
}
