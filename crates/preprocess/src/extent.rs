//! What an image becomes at a configuration's spacing: whether that can be held, and whether it looks like a mistake.
//!
//! A header in metres makes thousands of times as many voxels of an image, one in micrometres a single voxel. Both are
//! said before anyone trains on them or waits for them.

use crate::case::target_spacing;
use crate::resample;
use artifact::case::{Case, MOST_VOXELS};
use artifact::nifti::Geometry;
use artifact::plan::{Configuration, Plan};
use stage::{Error, Result, memory};

/// More voxels than this many times those of the image are worth a word. Thick slices among thin ones, 10 mm at 1 mm, with
/// pixels half as large again as planned make 22; a spacing wrong by a factor of ten makes 1000.
const MUCH_LARGER: f64 = 32.0;

/// Voxels along an axis that shrink to fewer than one in so many are worth a word: centimetres taken for millimetres give
/// 10, and no data set has pixels as fine as that beside its median.
const MUCH_SHORTER: f64 = 9.0;

/// An axis of at least so many voxels of which one is left is lost.
const AN_AXIS: usize = 4;

/// An image on its way to a configuration's grid; all axes are the plan's.
#[derive(Debug, Clone, PartialEq)]
pub struct Extent {
    /// Voxels of the image.
    pub image: [usize; 3],
    /// Voxels of what is resampled: the nonzero box, or the image as long as that isn't known.
    pub crop: [usize; 3],
    /// The image's spacing.
    pub from_mm: [f64; 3],
    /// The configuration's.
    pub to_mm: [f64; 3],
    /// Voxels at that spacing.
    pub target: [usize; 3],
}

impl Extent {
    /// Of a whole image.
    pub fn of_image(geometry: &Geometry, settings: &Configuration, plan: &Plan) -> Self {
        let turn = plan.turn(geometry);
        let (image, from_mm) = (turn.order(geometry.shape), turn.order(geometry.spacing_mm));
        Self::new(image, image, from_mm, target_spacing(settings, from_mm))
    }

    /// Of a preprocessed case.
    pub fn of_case(case: &Case) -> Self {
        let original = &case.original;
        let image = original.transposed_shape();
        let (crop, from_mm) = (original.cropped_shape(), original.transposed_spacing_mm());
        let (to_mm, target) = (case.case.spacing_mm, case.case.shape);
        Self { image, crop, from_mm, to_mm, target }
    }

    pub(crate) fn new(
        image: [usize; 3],
        crop: [usize; 3],
        from_mm: [f64; 3],
        to_mm: [f64; 3],
    ) -> Self {
        Self { image, crop, from_mm, to_mm, target: resample::new_shape(crop, from_mm, to_mm) }
    }

    /// Bytes that preprocessing takes at its peak, the image included: source and result, of which the source's channels
    /// go as the result's come; one cropped channel, mask and label, a slab.
    pub fn bytes(&self, plan: &Plan) -> f64 {
        let threshold = plan.recipe.preprocessing.anisotropy_threshold;
        let (from, to) = (self.from_mm, self.to_mm);
        let slab = resample::working_bytes(self.crop, from, to, self.target, threshold) as f64;
        let [image, crop, after] = [self.image, self.crop, self.target].map(voxels);
        let channels = plan.channels.len() as f64;
        let results = (4.0 * (channels * image + after)).max(4.0 * (image + channels * after));
        results + 7.0 * crop + 3.0 * after + slab
    }

    /// Refuses what a case can't hold or this machine hasn't the memory for.
    ///
    /// # Errors
    /// With both shapes and spacings, what is needed and what is there.
    pub fn require(&self, plan: &Plan) -> Result<()> {
        let change = self.change();
        if voxels(self.target) > MOST_VOXELS as f64 {
            let gib = memory::gib(self.bytes(plan));
            let message = format!("{change}: more than 2^36, which would need about {gib} GiB");
            return Err(Error::input(message).hint(SPACING));
        }
        memory::require(self.bytes(plan)).map_err(|e| e.context(change))
    }

    /// What looks like a spacing in another unit: an axis that all but vanishes, or a volume that grows many times.
    pub fn strange(&self) -> Option<String> {
        let lost = |axis: usize| {
            let (before, after) = (self.crop[axis], self.target[axis]);
            let shorter = self.to_mm[axis] / self.from_mm[axis] > MUCH_SHORTER && before > after;
            (before >= AN_AXIS && after == 1) || shorter
        };
        let growth = voxels(self.target) / voxels(self.crop);
        let what = if (0..3).any(lost) {
            "almost nothing is left of an axis".to_owned()
        } else if growth > MUCH_LARGER {
            format!("{growth:.0} times as many")
        } else {
            return None;
        };
        Some(format!("{}: {what}; {SPACING}", self.change()))
    }

    /// Voxels along an axis of the result, which may be more than can be counted.
    fn after(&self, axis: usize) -> String {
        if self.target[axis] < usize::MAX {
            return self.target[axis].to_string();
        }
        let exponent = (self.crop[axis] as f64).log10() + self.from_mm[axis].log10()
            - self.to_mm[axis].log10();
        format!("about 10^{exponent:.0}")
    }

    /// Both grids, in the plan's axes.
    fn change(&self) -> String {
        let by = |[z, y, x]: [String; 3]| format!("{z} × {y} × {x}");
        let mm = |spacing: [f64; 3]| by(spacing.map(|mm| stage::digits(mm, 4)));
        format!(
            "{} voxels of {} mm become {} of {} mm",
            by(self.crop.map(|n| n.to_string())),
            mm(self.from_mm),
            by([0, 1, 2].map(|axis| self.after(axis))),
            mm(self.to_mm)
        )
    }
}

const SPACING: &str = "look whether the spacing in its header is right, and in mm";

fn voxels(shape: [usize; 3]) -> f64 {
    shape.iter().map(|&n| n as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strange(shape: [usize; 3], from: [f64; 3], to: [f64; 3]) -> Option<String> {
        Extent::new(shape, shape, from, to).strange()
    }

    #[test]
    fn spacings_in_another_unit_are_strange() {
        let one = [1.0; 3];
        for (factor, shape) in [(0.001, [12, 16, 20]), (0.1, [500; 3]), (25.4, [12, 16, 20])] {
            assert!(strange(shape, [factor; 3], one).is_some(), "{factor}");
        }
        assert_eq!(
            strange([12, 16, 20], [0.001; 3], one).unwrap(),
            "12 × 16 × 20 voxels of 0.001 × 0.001 × 0.001 mm become 1 × 1 × 1 of 1 × 1 × 1 mm: almost nothing is left \
             of an axis; look whether the spacing in its header is right, and in mm"
        );
        let grown = strange([12, 16, 20], [4.0; 3], one).unwrap();
        assert!(grown.contains("become 48 × 64 × 80 of 1 × 1 × 1 mm: 64 times as many"), "{grown}");
        // One axis alone.
        assert!(strange([4, 64, 64], [0.2, 1.0, 1.0], one).is_some());
    }

    #[test]
    fn mixed_protocols_are_not_strange() {
        let cases = [
            // The thickest slices of the Decathlon's liver at its plan's spacing, the finest pixels of its lung.
            ([74, 512, 512], [6.0, 0.9, 0.9], [1.0, 0.77, 0.77]),
            ([512; 3], [0.625, 0.5, 0.5], [1.25, 0.79, 0.79]),
            // Lower resolution of a cascade; slices that were never thick; a picture, which has one slice.
            ([900, 512, 512], [0.5, 0.6, 0.6], [2.5, 2.0, 2.0]),
            ([20, 320, 320], [3.6, 0.6, 0.6], [3.6, 0.62, 0.62]),
            ([1, 480, 640], [999.0, 1.0, 1.0], [999.0, 1.0, 1.0]),
            ([3, 64, 64], [0.3, 1.0, 1.0], [1.0, 1.0, 1.0]),
        ];
        for (shape, from, to) in cases {
            assert_eq!(strange(shape, from, to), None);
        }
    }

    #[test]
    fn shapes_beyond_every_number_are_counted_all_the_same() {
        let extent = Extent::new([24, 24, 12], [24, 24, 12], [1e300; 3], [1e-300; 3]);
        assert_eq!(extent.target, [usize::MAX; 3]);
        let said = extent.strange().unwrap();
        assert!(said.contains("times as many"), "{said}");
        assert!(said.contains(" become about 10^601 × about 10^601 × about 10^601 of "), "{said}");
        let (from, to, target) = (extent.from_mm, extent.to_mm, extent.target);
        assert_eq!(resample::working_bytes(extent.crop, from, to, target, 3.0), usize::MAX);
    }
}
