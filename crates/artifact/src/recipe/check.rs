//! What a recipe's numbers may be: key, found, expected.

use super::{Augmentation, PaperPlanning, Planning, Range, Recipe, V2Planning};
use crate::bounds::Rule::{self, Above, Below, Between, Within};
use crate::bounds::{
    self, MAX_CONVS, MAX_COUNT, MAX_FEATURES, MAX_PATCH_EDGE, MAX_STAGES, NEGATIVE_SLOPE,
    NORM_EPSILON,
};

/// Shares and probabilities.
const FRACTION: Rule = Within(0.0, 1.0);
/// At 1 an average would never move, and Adam's bias correction would divide by 0.
const SHARE: Rule = Below(0.0, 1.0);
const PERCENTILE: Rule = Within(0.0, 100.0);
/// Ratios of edges, spacings, voxels.
const RATIO: Rule = Within(0.0, 1e6);
/// A circle and back.
const DEGREES: Rule = Within(-360.0, 360.0);
/// Factors on coordinates and intensities, exponents.
const FACTOR: Rule = Within(0.01, 100.0);
/// Widths of a Gaussian in voxels: far below one it smooths nothing, and its square is lost.
const SMOOTHING: Rule = Within(0.1, 1000.0);
/// Weights of the losses; f32 sums of them stay far from its end.
const WEIGHT: Rule = Within(0.0, 1000.0);

/// Samples of a reference batch, and of the smallest one.
const MAX_SAMPLES: usize = 1 << 16;
/// Of the networks that fill a card.
const MAX_ESTIMATE: usize = 1_000_000_000_000_000;
/// Cubes that patches start from, voxels along an edge.
const MAX_CUBE: usize = 1 << 12;

type Checked = Result<(), String>;

impl Recipe {
    /// Ranges and counts that no stage could work with.
    ///
    /// # Errors
    /// One line: key, found, expected.
    pub fn check(&self) -> Checked {
        self.check_all().map_err(|e| format!("recipe.{e}"))
    }

    fn check_all(&self) -> Checked {
        match &self.planning {
            Planning::Paper(planning) => planning.check(),
            Planning::V2(planning) => planning.check(),
        }
        .map_err(|e| format!("planning.{e}"))?;
        self.check_preprocessing()?;
        FRACTION.check("sampling.foreground_fraction", self.sampling.foreground_fraction)?;
        self.augmentation.check().map_err(|e| format!("augmentation.{e}"))?;
        self.check_training()?;
        // A thousand tiles along an axis of one patch would never end.
        Within(0.01, 1.0).check("inference.step", self.inference.step)?;
        Above(0.0, 1000.0).check("inference.gaussian_sigma", self.inference.gaussian_sigma)?;
        check_axes("inference.mirror_axes", self.inference.mirror_axes.as_deref().unwrap_or(&[]))?;
        self.check_orders()
    }

    fn check_preprocessing(&self) -> Checked {
        let p = &self.preprocessing;
        RATIO.check("preprocessing.anisotropy_threshold", p.anisotropy_threshold)?;
        let (key, n) =
            ("preprocessing.foreground_locations_per_class", p.foreground_locations_per_class);
        bounds::count(key, n, 0, MAX_COUNT)?;
        let key = "preprocessing.foreground_locations_min_fraction";
        FRACTION.check(key, p.foreground_locations_min_fraction)
    }

    fn check_training(&self) -> Checked {
        let (l, o, s) = (&self.loss, &self.optimiser, &self.schedule);
        let numbers = [
            ("loss.dice_weight", l.dice_weight, WEIGHT),
            ("loss.cross_entropy_weight", l.cross_entropy_weight, WEIGHT),
            ("loss.dice_smooth", l.dice_smooth, WEIGHT),
            // One that is too high is named by the training itself, when the loss is no number any more.
            ("optimiser.learning_rate", o.learning_rate, Above(0.0, 1e30)),
            ("optimiser.weight_decay", o.weight_decay, SHARE),
            ("optimiser.beta1", o.beta1, SHARE),
            ("optimiser.beta2", o.beta2, SHARE),
            // Less is 0 beside the square root of an f32's smallest square.
            ("optimiser.epsilon", o.epsilon, Within(1e-16, 1.0)),
            ("optimiser.momentum", o.momentum, SHARE),
            ("optimiser.clip_norm", o.clip_norm, Within(0.0, 1e6)),
            ("schedule.poly_power", s.poly_power, Within(0.0, 100.0)),
            ("schedule.train_average_decay", s.train_average_decay, SHARE),
            ("schedule.validation_average_decay", s.validation_average_decay, SHARE),
            ("schedule.min_improvement", s.min_improvement, WEIGHT),
            ("schedule.reduce_factor", s.reduce_factor, Between(0.0, 1.0)),
            ("schedule.stop_below_learning_rate", s.stop_below_learning_rate, WEIGHT),
        ];
        for (key, x, rule) in numbers {
            rule.check(key, x)?;
        }
        if l.dice_weight == 0.0 && l.cross_entropy_weight == 0.0 {
            return Err(
                "loss.dice_weight = 0 and cross_entropy_weight = 0, expected one above 0".into()
            );
        }
        for (key, n, least) in [
            ("schedule.epochs", s.epochs, 1),
            ("schedule.iterations_per_epoch", s.iterations_per_epoch, 1),
            ("schedule.validation_iterations", s.validation_iterations, 0),
            ("schedule.reduce_after_epochs", s.reduce_after_epochs, 0),
            ("schedule.stop_after_epochs", s.stop_after_epochs, 0),
        ] {
            bounds::count(key, n, least, MAX_COUNT)?;
        }
        Ok(())
    }

    fn check_orders(&self) -> Checked {
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
                return Err(format!("{key} = {order}, expected {allowed}"));
            }
        }
        Ok(())
    }
}

impl Augmentation {
    fn check(&self) -> Checked {
        self.check_probabilities()?;
        RATIO.check("slice_by_slice_above", self.slice_by_slice_above)?;
        RATIO.check("elongated_above", self.elongated_above)?;
        self.check_ranges()?;
        check_axes("mirror_axes", &self.mirror_axes)
    }

    fn check_probabilities(&self) -> Checked {
        let numbers = [
            ("rotation_probability", self.rotation_probability),
            ("scaling_probability", self.scaling_probability),
            ("elastic_probability", self.elastic_probability),
            ("noise_probability", self.noise_probability),
            ("blur_probability", self.blur_probability),
            ("blur_channel_probability", self.blur_channel_probability),
            ("brightness_probability", self.brightness_probability),
            ("contrast_probability", self.contrast_probability),
            ("low_resolution_probability", self.low_resolution_probability),
            ("low_resolution_channel_probability", self.low_resolution_channel_probability),
            ("inverted_gamma_probability", self.inverted_gamma_probability),
            ("gamma_probability", self.gamma_probability),
            ("mirror_probability", self.mirror_probability),
            ("previous_morphology_probability", self.previous_morphology_probability),
            ("previous_morphology_label_probability", self.previous_morphology_label_probability),
            ("previous_removal_probability", self.previous_removal_probability),
            ("previous_removal_label_probability", self.previous_removal_label_probability),
            ("previous_removal_max_fraction", self.previous_removal_max_fraction),
        ];
        numbers.iter().try_for_each(|(key, x)| FRACTION.check(key, *x))
    }

    fn check_ranges(&self) -> Checked {
        // Displacements reach beyond any patch, noise beyond any unnormalised CT; smoothing costs as it grows wider.
        let displacement = Within(0.0, 1e5);
        let ranges: [(&str, Range, Rule); 14] = [
            ("rotation_degrees_3d", self.rotation_degrees_3d, DEGREES),
            ("rotation_degrees_2d", self.rotation_degrees_2d, DEGREES),
            ("rotation_degrees_2d_elongated", self.rotation_degrees_2d_elongated, DEGREES),
            ("scaling_factor", self.scaling_factor, FACTOR),
            ("elastic_alpha_3d", self.elastic_alpha_3d, displacement),
            ("elastic_alpha_2d", self.elastic_alpha_2d, displacement),
            ("elastic_sigma", self.elastic_sigma, SMOOTHING),
            ("noise_sigma", self.noise_sigma, Within(0.0, 1e4)),
            ("blur_sigma", self.blur_sigma, Within(0.0, 50.0)),
            ("brightness_factor", self.brightness_factor, FACTOR),
            ("contrast_factor", self.contrast_factor, FACTOR),
            ("low_resolution_zoom", self.low_resolution_zoom, Within(0.01, 1.0)),
            ("gamma", self.gamma, FACTOR),
            ("previous_morphology_radius", self.previous_morphology_radius, Within(1.0, 64.0)),
        ];
        for (key, range, rule) in ranges {
            rule.check_all(key, &range)?;
            if range[0] > range[1] {
                return Err(format!("{key} = [{}, {}], expected low ≤ high", range[0], range[1]));
            }
        }
        Ok(())
    }
}

/// Axes of a key, each of them known and named once.
fn check_axes(key: &str, axes: &[usize]) -> Checked {
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
    Err(format!("{key} = {axes:?}, expected each of 0, 1, 2 at most once"))
}

/// GiB of a card; a thousand times what cards have.
const MEMORY: Rule = Above(0.0, 1e5);
/// A smaller step towards the low resolution would take for ever.
const STEP: Rule = Within(1.01, 100.0);

impl PaperPlanning {
    fn check(&self) -> Checked {
        let numbers = [
            ("reference_memory_gib", self.reference_memory_gib, MEMORY),
            ("gpu_memory_gib", self.gpu_memory_gib, MEMORY),
            ("max_dataset_fraction_per_batch", self.max_dataset_fraction_per_batch, FRACTION),
            ("target_spacing_percentile", self.target_spacing_percentile, PERCENTILE),
            ("masked_normalisation_below", self.masked_normalisation_below, RATIO),
            ("cascade_above_patches", self.cascade_above_patches, RATIO),
            ("low_resolution_step", self.low_resolution_step, STEP),
            ("anisotropy_threshold", self.anisotropy_threshold, RATIO),
            ("negative_slope", self.negative_slope.into(), NEGATIVE_SLOPE),
            ("norm_epsilon", self.norm_epsilon.into(), NORM_EPSILON),
        ];
        numbers.iter().try_for_each(|(key, x, rule)| rule.check(key, *x))?;
        bounds::counts("reference_patch_3d", &self.reference_patch_3d, 1, MAX_CUBE)?;
        bounds::counts("reference_patch_2d", &self.reference_patch_2d, 1, MAX_PATCH_EDGE)?;
        for (key, n, most) in [
            ("reference_batch_3d", self.reference_batch_3d, MAX_SAMPLES),
            ("max_patch_edge_3d", self.max_patch_edge_3d, MAX_PATCH_EDGE),
            ("reference_batch_2d", self.reference_batch_2d, MAX_SAMPLES),
            ("base_features", self.base_features, MAX_FEATURES),
            ("max_features_3d", self.max_features_3d, MAX_FEATURES),
            ("max_features_2d", self.max_features_2d, MAX_FEATURES),
            ("convs_per_stage", self.convs_per_stage, MAX_CONVS),
            ("pool_until_smaller_than", self.pool_until_smaller_than, MAX_PATCH_EDGE),
            ("max_poolings_3d", self.max_poolings_3d, MAX_STAGES - 1),
            ("max_poolings_2d", self.max_poolings_2d, MAX_STAGES - 1),
            ("min_batch_size", self.min_batch_size, MAX_SAMPLES),
        ] {
            bounds::count(key, n, 1, most)?;
        }
        Ok(())
    }
}

impl V2Planning {
    fn check(&self) -> Checked {
        let numbers = [
            ("reference_memory_gib", self.reference_memory_gib, MEMORY),
            ("gpu_memory_gib", self.gpu_memory_gib, MEMORY),
            ("max_dataset_fraction_per_batch", self.max_dataset_fraction_per_batch, FRACTION),
            ("similar_spacing_below", self.similar_spacing_below, Above(1.0, 1e6)),
            ("target_spacing_percentile", self.target_spacing_percentile, PERCENTILE),
            ("anisotropy_threshold", self.anisotropy_threshold, RATIO),
            ("coarse_axis_percentile", self.coarse_axis_percentile, PERCENTILE),
            ("coarse_axis_margin_mm", self.coarse_axis_margin_mm, Within(0.0, 1000.0)),
            ("masked_normalisation_below", self.masked_normalisation_below, RATIO),
            ("cascade_below_fraction", self.cascade_below_fraction, FRACTION),
            ("low_resolution_step", self.low_resolution_step, STEP),
            ("low_resolution_finer_than", self.low_resolution_finer_than, RATIO),
            ("low_resolution_min_reduction", self.low_resolution_min_reduction, RATIO),
            ("negative_slope", self.negative_slope.into(), NEGATIVE_SLOPE),
            ("norm_epsilon", self.norm_epsilon.into(), NORM_EPSILON),
        ];
        numbers.iter().try_for_each(|(key, x, rule)| rule.check(key, *x))?;
        let estimate = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        for (key, n, most) in [
            ("reference_estimate_3d", estimate(self.reference_estimate_3d), MAX_ESTIMATE),
            ("reference_batch_3d", self.reference_batch_3d, MAX_SAMPLES),
            ("reference_estimate_2d", estimate(self.reference_estimate_2d), MAX_ESTIMATE),
            ("reference_batch_2d", self.reference_batch_2d, MAX_SAMPLES),
            ("start_edge_3d", self.start_edge_3d, MAX_CUBE),
            ("start_edge_2d", self.start_edge_2d, MAX_PATCH_EDGE),
            ("min_batch_size", self.min_batch_size, MAX_SAMPLES),
            ("min_bottleneck_edge", self.min_bottleneck_edge, MAX_PATCH_EDGE),
            ("min_edge_pooled_alone", self.min_edge_pooled_alone, MAX_PATCH_EDGE),
            ("base_features", self.base_features, MAX_FEATURES),
            ("max_features_3d", self.max_features_3d, MAX_FEATURES),
            ("max_features_2d", self.max_features_2d, MAX_FEATURES),
        ] {
            bounds::count(key, n, 1, most)?;
        }
        for (key, all) in
            [("encoder_convs", &self.encoder_convs), ("decoder_convs", &self.decoder_convs)]
        {
            bounds::entries(key, all.len(), 1, MAX_STAGES)?;
            bounds::counts(key, all, 1, MAX_CONVS)?;
        }
        Ok(())
    }
}
