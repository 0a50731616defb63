//! What a recipe's numbers may be: key, found, expected.

use super::{Augmentation, Range, Recipe};

/// An elastic deformation smooths over a few voxels; its cost grows with this width, and a patch's edge is a few hundred.
const WIDEST_SIGMA: f64 = 1000.0;

/// Its cost grows with the radius.
const WIDEST_BALL: f64 = 64.0;

/// A rule for one number, as messages put it.
type Rule = (fn(f64) -> bool, &'static str);

const POSITIVE: Rule = (|x| x.is_finite() && x > 0.0, "a positive number");
const FRACTION: Rule = (|x| (0.0..=1.0).contains(&x), "0 to 1");
const SHARE: Rule = (|x| (0.0..1.0).contains(&x), "0 or more and below 1");
const BETWEEN: Rule = (|x| x > 0.0 && x < 1.0, "above 0 and below 1");

impl Recipe {
    /// Ranges and counts that no stage could work with.
    ///
    /// # Errors
    /// One line: key, found, expected.
    pub fn check(&self) -> Result<(), String> {
        self.augmentation.check_ranges()?;
        self.check_numbers()?;
        if self.inference.step > 1.0 {
            return Err(format!(
                "recipe.inference.step = {}, expected at most 1",
                self.inference.step
            ));
        }
        check_axes("augmentation.mirror_axes", &self.augmentation.mirror_axes)?;
        check_axes("inference.mirror_axes", self.inference.mirror_axes.as_deref().unwrap_or(&[]))?;
        self.check_orders()?;
        let s = &self.schedule;
        if s.epochs == 0 || s.iterations_per_epoch == 0 {
            return Err("recipe.schedule.epochs and iterations_per_epoch must be at least 1".into());
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), String> {
        let (a, o, s) = (&self.augmentation, &self.optimiser, &self.schedule);
        let numbers = [
            ("augmentation.rotation_probability", a.rotation_probability, FRACTION),
            ("augmentation.scaling_probability", a.scaling_probability, FRACTION),
            ("augmentation.elastic_probability", a.elastic_probability, FRACTION),
            ("augmentation.noise_probability", a.noise_probability, FRACTION),
            ("augmentation.blur_probability", a.blur_probability, FRACTION),
            ("augmentation.blur_channel_probability", a.blur_channel_probability, FRACTION),
            ("augmentation.brightness_probability", a.brightness_probability, FRACTION),
            ("augmentation.contrast_probability", a.contrast_probability, FRACTION),
            ("augmentation.low_resolution_probability", a.low_resolution_probability, FRACTION),
            (
                "augmentation.low_resolution_channel_probability",
                a.low_resolution_channel_probability,
                FRACTION,
            ),
            ("augmentation.inverted_gamma_probability", a.inverted_gamma_probability, FRACTION),
            ("augmentation.gamma_probability", a.gamma_probability, FRACTION),
            (
                "augmentation.previous_morphology_probability",
                a.previous_morphology_probability,
                FRACTION,
            ),
            (
                "augmentation.previous_morphology_label_probability",
                a.previous_morphology_label_probability,
                FRACTION,
            ),
            ("augmentation.previous_removal_probability", a.previous_removal_probability, FRACTION),
            (
                "augmentation.previous_removal_label_probability",
                a.previous_removal_label_probability,
                FRACTION,
            ),
            (
                "augmentation.previous_removal_max_fraction",
                a.previous_removal_max_fraction,
                FRACTION,
            ),
            ("augmentation.low_resolution_zoom", a.low_resolution_zoom[0], POSITIVE),
            ("augmentation.brightness_factor", a.brightness_factor[0], POSITIVE),
            ("augmentation.contrast_factor", a.contrast_factor[0], POSITIVE),
            ("augmentation.mirror_probability", a.mirror_probability, FRACTION),
            ("sampling.foreground_fraction", self.sampling.foreground_fraction, FRACTION),
            ("augmentation.scaling_factor", a.scaling_factor[0], POSITIVE),
            ("augmentation.gamma", a.gamma[0], POSITIVE),
            ("inference.step", self.inference.step, POSITIVE),
            ("inference.gaussian_sigma", self.inference.gaussian_sigma, POSITIVE),
            ("optimiser.learning_rate", o.learning_rate, POSITIVE),
            ("planning.gpu_memory_gib", self.planning.gpu_memory_gib(), POSITIVE),
            ("planning.reference_memory_gib", self.planning.reference_memory_gib(), POSITIVE),
            // At 1 Adam's bias correction divides by 0, and an average never moves.
            ("optimiser.beta1", o.beta1, SHARE),
            ("optimiser.beta2", o.beta2, SHARE),
            ("optimiser.momentum", o.momentum, SHARE),
            ("optimiser.weight_decay", o.weight_decay, SHARE),
            ("optimiser.epsilon", o.epsilon, POSITIVE),
            ("schedule.train_average_decay", s.train_average_decay, SHARE),
            ("schedule.validation_average_decay", s.validation_average_decay, SHARE),
            ("schedule.reduce_factor", s.reduce_factor, BETWEEN),
        ];
        for (key, x, (allowed, expected)) in numbers {
            if !allowed(x) {
                return Err(format!("recipe.{key} = {x}, expected {expected}"));
            }
        }
        Ok(())
    }

    fn check_orders(&self) -> Result<(), String> {
        let (p, a) = (&self.preprocessing, &self.augmentation);
        let orders = [
            ("preprocessing.image_order", p.image_order, 3),
            ("preprocessing.image_order_coarse_axis", p.image_order_coarse_axis, 3),
            ("preprocessing.label_order", p.label_order, 1),
            ("preprocessing.label_order_coarse_axis", p.label_order_coarse_axis, 1),
            ("augmentation.image_order", a.image_order, 3),
            ("augmentation.label_order", a.label_order, 1),
            ("inference.resample_order", self.inference.resample_order, 1),
            ("inference.resample_order_coarse_axis", self.inference.resample_order_coarse_axis, 1),
        ];
        for (key, order, most) in orders {
            if !(order <= 1 || order == most) {
                let allowed = if most == 3 { "0, 1 or 3" } else { "0 or 1" };
                return Err(format!("recipe.{key} = {order}, expected {allowed}"));
            }
        }
        Ok(())
    }
}

impl Augmentation {
    fn check_ranges(&self) -> Result<(), String> {
        let ranges = [
            ("rotation_degrees_3d", self.rotation_degrees_3d),
            ("rotation_degrees_2d", self.rotation_degrees_2d),
            ("rotation_degrees_2d_elongated", self.rotation_degrees_2d_elongated),
            ("scaling_factor", self.scaling_factor),
            ("elastic_alpha_3d", self.elastic_alpha_3d),
            ("elastic_alpha_2d", self.elastic_alpha_2d),
            ("elastic_sigma", self.elastic_sigma),
            ("noise_sigma", self.noise_sigma),
            ("blur_sigma", self.blur_sigma),
            ("brightness_factor", self.brightness_factor),
            ("contrast_factor", self.contrast_factor),
            ("low_resolution_zoom", self.low_resolution_zoom),
            ("gamma", self.gamma),
            ("previous_morphology_radius", self.previous_morphology_radius),
        ];
        let fault = |key: &str, [low, high]: Range, expected: &str| {
            Err(format!("recipe.augmentation.{key} = [{low}, {high}], expected {expected}"))
        };
        for (key, range) in ranges {
            let [low, high] = range;
            if !(low.is_finite() && high.is_finite() && low <= high) {
                return fault(key, range, "low ≤ high");
            }
            if key == "elastic_sigma" && !(low > 0.0 && high <= WIDEST_SIGMA) {
                return fault(key, range, &format!("above 0 and at most {WIDEST_SIGMA} voxels"));
            }
            let magnitude = key.starts_with("elastic_alpha") || key.ends_with("_sigma");
            if key == "low_resolution_zoom" && high > 1.0 {
                return fault(key, range, "at most 1");
            }
            if key == "previous_morphology_radius" && !(low >= 1.0 && high <= WIDEST_BALL) {
                return fault(key, range, &format!("1 to {WIDEST_BALL} voxels"));
            }
            if magnitude && low < 0.0 {
                return fault(key, range, "0 or more");
            }
        }
        Ok(())
    }
}

/// Axes of a key, each of them known and named once.
fn check_axes(key: &str, axes: &[usize]) -> Result<(), String> {
    let mut times = [0; 3];
    let known = axes.iter().all(|&axis| {
        times.get_mut(axis).is_some_and(|n| {
            *n += 1;
            *n == 1
        })
    });
    if known {
        return Ok(());
    }
    Err(format!("recipe.{key} = {axes:?}, expected each of 0, 1, 2 at most once"))
}
