//! One case: raw image to the arrays that training and prediction read.

use crate::resample::{self, LabelRules};
use crate::{Extent, foreground, normalise::normalise};
use artifact::case::{Case, CaseInfo, FOREGROUND, IMAGE, LABEL, Original};
use artifact::image::{Turn, Volume};
use artifact::plan::{Configuration, Normalisation, Plan};
use artifact::recipe::StepOrder;
use artifact::{Commit, Provenance, crop};
use ndarray::{Array2, Array3, Array4, ArrayView3, Axis, s};
use stage::{Error, Result};
use std::ops::Range;

/// A preprocessed case; what `artifact::case` describes, in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessed {
    /// `[channel, z, y, x]`, plan axes, resampled and normalised.
    pub image: Array4<f32>,
    /// `[z, y, x]`: class index, −1 outside the nonzero mask.
    pub label: Option<Array3<i16>>,
    /// Rows (class index, z, y, x); goes with the label.
    pub foreground: Option<Array2<i32>>,
    /// Of an image without label: the voxels `[z, y, x]` of its crop box, plan axes and the image's spacing, that lie outside
    /// the nonzero mask; none if there are none.
    pub outside: Option<Array3<bool>>,
    /// The record.
    pub case: Case,
}

impl Preprocessed {
    /// Bytes of the arrays.
    pub fn bytes(&self) -> usize {
        let label = self.label.as_ref().map_or(0, |l| l.len() * size_of::<i16>());
        let foreground = self.foreground.as_ref().map_or(0, |f| f.len() * size_of::<i32>());
        let outside = self.outside.as_ref().map_or(0, Array3::len);
        self.image.len() * size_of::<f32>() + label + foreground + outside
    }
}

/// The configuration of this name.
///
/// # Errors
/// If the plan has none; says which it has.
pub fn configuration<'a>(plan: &'a Plan, name: &str) -> Result<&'a Configuration> {
    plan.configuration(name).map_err(Error::input)
}

/// Raw image (and label as class indices `[z, y, x]` on the same grid) to one case of one configuration.
///
/// Turn to the plan's axes, crop to the box of nonzero voxels, resample and normalise in the recipe's order, draw
/// foreground locations. Label voxels that are 0 and outside the nonzero mask (holes filled) become −1.
///
/// # Errors
/// If the plan has no such configuration, or image and label don't fit it or each other, a voxel isn't finite, or the case
/// is larger than memory.
pub fn preprocess(
    id: &str,
    image: Volume,
    label: Option<Array3<i16>>,
    plan: &Plan,
    configuration: &str,
) -> Result<Preprocessed> {
    let settings = self::configuration(plan, configuration)?;
    check(&image, label.as_ref(), plan)?;
    let Volume { geometry, channels } = image;
    let turn = plan.turn(&geometry);
    let mask = crop::nonzero_mask(turn.channels(channels.view()));
    let region = crop::bounding_box(&mask);
    let labelled = label.is_some();
    let label = label.map(|l| turn.view(l));
    let cropped = crop_label(label.as_ref(), &mask, &region);
    drop((label, mask));

    let original = Original {
        transpose: turn.axes,
        flip: turn.flip,
        crop_lower: region.clone().map(|r| r.start),
        crop_upper: region.clone().map(|r| r.end),
        geometry,
    };
    let grid = Grid::new(&original, settings, plan)?;
    // Without label and mask in use, the resampled map would be thrown away.
    let masked = plan.channels.iter().any(|c| c.normalisation == Normalisation::ZScoreMasked);
    let late = plan.recipe.preprocessing.order == StepOrder::ResampleThenNormalise;
    let resampled =
        if labelled || (masked && late) { Some(grid.label(cropped.view())) } else { None };
    let inside = masked.then(|| {
        let map = if late { resampled.as_ref().unwrap_or(&cropped) } else { &cropped };
        map.iter().map(|&l| l >= 0).collect::<Vec<bool>>()
    });
    let outside = (!labelled && cropped.iter().any(|&l| l < 0)).then(|| cropped.mapv(|l| l < 0));
    drop(cropped);

    let image = grid.image(channels, &region, inside.as_deref())?;
    let label = resampled.filter(|_| labelled);
    let classes = plan.labels.len();
    let rule = &plan.recipe.preprocessing;
    let (most, fraction) =
        (rule.foreground_locations_per_class, rule.foreground_locations_min_fraction);
    let groups = foreground::groups(plan);
    let foreground =
        label.as_ref().map(|l| foreground::locations(id, l.view(), &groups, most, fraction));
    let info = CaseInfo {
        id: id.into(),
        configuration: configuration.into(),
        channels: plan.channels.len(),
        classes,
        regions: plan.regions.len(),
        ignore: plan.ignore.is_some(),
        shape: grid.shape,
        spacing_mm: grid.spacing_mm,
        labelled,
    };
    let case = Case { case: info, original };
    Ok(Preprocessed { image, label, foreground, outside, case })
}

/// Writes a record (`CASE/case.toml`) with its arrays beside it, complete or not at all.
///
/// # Errors
/// If something can't be written.
pub fn write_case(
    mut commit: Commit,
    case: &Preprocessed,
    provenance: &Provenance,
) -> artifact::Result<()> {
    commit.npy(IMAGE, &case.image.view())?;
    if let Some(label) = &case.label {
        commit.npy(LABEL, &label.view())?;
    }
    if let Some(foreground) = &case.foreground {
        commit.npy(FOREGROUND, &foreground.view())?;
    }
    commit.finish(provenance, &case.case)
}

fn check(image: &Volume, label: Option<&Array3<i16>>, plan: &Plan) -> Result<()> {
    let (channels, z, y, x) = image.channels.dim();
    if channels != plan.channels.len() {
        return Err(Error::input(format!(
            "image has {channels} channels, but the plan expects {}",
            plan.channels.len()
        ))
        .hint("give the plan that was made for this data set"));
    }
    if let Some(label) = label.filter(|l| l.dim() != (z, y, x)) {
        return Err(Error::input(format!(
            "label has shape {:?}, but the image has {:?}",
            label.shape(),
            [z, y, x]
        )));
    }
    for (channel, values) in plan.channels.iter().zip(image.channels.axis_iter(Axis(0))) {
        if values.fold(true, |finite, v| finite & v.is_finite()) {
            continue;
        }
        if let Some((at, value)) = values.indexed_iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::input(format!(
                "channel {} is {value} at voxel {at:?} (z, y, x), expected finite numbers",
                channel.name
            )));
        }
    }
    Ok(())
}

/// The label in the crop box, −1 where it's 0 and outside the mask; 0 and −1 alone without a label.
fn crop_label(
    label: Option<&Array3<i16>>,
    mask: &Array3<bool>,
    region: &[Range<usize>; 3],
) -> Array3<i16> {
    let [z, y, x] = region.clone();
    let outside = |inside: bool| if inside { 0 } else { -1 };
    let mask = mask.slice(s![z.clone(), y.clone(), x.clone()]);
    let Some(label) = label else { return mask.mapv(outside) };
    let mut cropped = Array3::zeros(mask.dim());
    ndarray::Zip::from(&mut cropped)
        .and(label.slice(s![z, y, x]))
        .and(mask)
        .for_each(|to, &class, &inside| *to = if class == 0 { outside(inside) } else { class });
    cropped
}

/// The case's target grid and the rules for getting there.
struct Grid<'a> {
    plan: &'a Plan,
    turn: Turn,
    from_mm: [f64; 3],
    spacing_mm: [f64; 3],
    shape: [usize; 3],
}

impl<'a> Grid<'a> {
    /// Fails if the case can't be held.
    fn new(original: &Original, settings: &Configuration, plan: &'a Plan) -> Result<Self> {
        let from_mm = original.transposed_spacing_mm();
        let spacing_mm = target_spacing(settings, from_mm);
        let extent =
            Extent::new(original.transposed_shape(), original.cropped_shape(), from_mm, spacing_mm);
        extent.require(plan)?;
        Ok(Self { plan, turn: original.turn(), from_mm, spacing_mm, shape: extent.target })
    }

    fn label(&self, label: ArrayView3<'_, i16>) -> Array3<i16> {
        let rules = LabelRules::from(&self.plan.recipe.preprocessing);
        resample::resample_label(label, self.from_mm, self.spacing_mm, self.shape, rules)
    }

    /// Cuts `region` (plan axes) out of all channels, resamples and normalises it; `inside` is on the grid where
    /// normalisation happens.
    ///
    /// The last channel comes first: its memory is given back before that of the next result is used.
    fn image(
        &self,
        channels: Array4<f32>,
        region: &[Range<usize>; 3],
        inside: Option<&[bool]>,
    ) -> Result<Array4<f32>> {
        let (count, z, y, x) = channels.dim();
        let mut source = match channels.is_standard_layout() {
            true => channels.into_raw_vec_and_offset().0,
            false => channels.iter().copied().collect(),
        };
        let [depth, height, width] = self.shape;
        let mut image = Array4::zeros((count, depth, height, width));
        for index in (0..count).rev() {
            let channel = ArrayView3::from_shape((z, y, x), &source[index * z * y * x..])
                .expect("the channels before this one are still there");
            let channel = self.turn.view(channel);
            let channel =
                channel.slice(s![region[0].clone(), region[1].clone(), region[2].clone()]);
            let mut out = image.index_axis_mut(Axis(0), index);
            self.channel(channel, index, inside, out.as_slice_mut().expect("C order"))?;
            source.truncate(index * z * y * x);
            source.shrink_to_fit();
        }
        Ok(image)
    }

    /// Resamples and normalises channel `index` into `out`.
    fn channel(
        &self,
        channel: ArrayView3<'_, f32>,
        index: usize,
        inside: Option<&[bool]>,
        out: &mut [f32],
    ) -> Result<()> {
        let settings = &self.plan.channels[index];
        let scale = |values: &mut [f32]| {
            normalise(values, settings.normalisation, &settings.intensity, inside)
                .map_err(|e| Error::input(format!("channel {}: {e}", settings.name)))
        };
        let p = &self.plan.recipe.preprocessing;
        let resample = |values: ArrayView3<'_, f32>, out: &mut [f32]| {
            resample::resample_into(
                values,
                self.from_mm,
                self.spacing_mm,
                self.shape,
                p.image_order,
                p.image_order_coarse_axis,
                p.anisotropy_threshold,
                out,
            );
        };
        let unchanged = channel.shape() == self.shape;
        if unchanged || p.order == StepOrder::ResampleThenNormalise {
            resample(channel, out);
            return scale(out);
        }
        let mut values = channel.as_standard_layout().into_owned();
        scale(values.as_slice_mut().expect("standard layout"))?;
        resample(values.view(), out);
        Ok(())
    }
}

/// The configuration's spacing; along axis 0 the case's own where slices are kept as they are.
pub fn target_spacing(settings: &Configuration, from_mm: [f64; 3]) -> [f64; 3] {
    let [z, y, x] = settings.spacing_mm;
    if settings.keep_slice_distance { [from_mm[0], y, x] } else { [z, y, x] }
}
