//! One case through all models, back to its own grid, onto the disk.

use crate::ensemble::{Ensemble, Member};
use crate::export::{Interpolation, segment, write_f16};
use crate::prepare::Prepared;
use artifact::case::Case;
use artifact::prediction::{PROBABILITIES, Prediction, PredictionInfo};
use artifact::{Commit, Provenance, nifti, npy};
use half::f16;
use ndarray::{Array3, Array4, ArrayView4, ArrayView5, ArrayViewMut5};
use net::sliding_window::{Accumulator, Window, views};
use net::{Device, UNet};
use stage::{Error, Result, Run};
use std::time::{Duration, Instant};

/// Models, ready to predict.
#[derive(Debug)]
pub struct Predictor {
    ensemble: Ensemble,
    window: Window,
    probabilities: bool,
    net: UNet,
    /// Whose weights the network holds.
    loaded: Option<usize>,
}

/// How long the parts of a case took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// All tiles and views of all models.
    pub network: Duration,
    /// Back to the original grid, and writing.
    pub export: Duration,
}

impl Predictor {
    /// A network of the models' shape; tries every model's weights.
    ///
    /// # Errors
    /// If weights don't fit the plan's network.
    pub fn new(
        ensemble: Ensemble,
        window: Window,
        probabilities: bool,
        device: &Device,
    ) -> Result<Self> {
        let net = UNet::new(&ensemble.configuration.network, device)
            .map_err(|e| Error::input(e.to_string()))?;
        let mut predictor = Self { ensemble, window, probabilities, net, loaded: None };
        for member in 0..predictor.ensemble.members.len() {
            predictor.load(member)?;
        }
        Ok(predictor)
    }

    fn load(&mut self, member: usize) -> Result<()> {
        if self.loaded == Some(member) {
            return Ok(());
        }
        let Member { weights, parameters, .. } = &self.ensemble.members[member];
        self.net.set_parameters(parameters).map_err(|e| {
            Error::input(format!("{}: {e}", weights.display()))
                .hint("weights and plan.toml of a model belong together; train this fold again")
        })?;
        self.loaded = Some(member);
        Ok(())
    }

    /// Predicts a case and writes its record with label map and, if asked for, probabilities.
    ///
    /// # Errors
    /// If a signal asked to stop, the network gives no numbers, or something can't be written.
    pub fn predict(&mut self, run: &Run, id: &str, prepared: Prepared) -> Result<Took> {
        let shape = prepared.case.case.shape;
        let bytes = self.memory_bytes(&prepared.case)?;
        let count = self.ensemble.members.len() * views(shape, &self.window);
        run.info(format!(
            "{id}: {} × {} × {} voxels, {count} patches, about {} MB of memory",
            shape[0],
            shape[1],
            shape[2],
            bytes.div_ceil(1_000_000)
        ));
        let begun = Instant::now();
        // A place that can't be written to is better found before the network runs.
        let commit = Commit::begin(&prepared.record)?;
        let maps = self.probabilities_of(run, id, prepared.image(), count)?;
        let network = begun.elapsed();
        let begun = Instant::now();
        let Prepared { record, provenance, case, .. } = prepared;
        self.write(commit, &provenance, id, &case, maps.view())?;
        if !self.probabilities {
            // An earlier call's: it isn't this record's any more.
            let _ = std::fs::remove_file(record.with_file_name(PROBABILITIES));
        }
        Ok(Took { network, export: begun.elapsed() })
    }

    /// `[class, z, y, x]` on the preprocessed grid.
    fn probabilities_of(
        &mut self,
        run: &Run,
        id: &str,
        image: ArrayView4<'_, f32>,
        count: usize,
    ) -> Result<Array4<f32>> {
        let progress = run.progress(&format!("{id}: patches"), count);
        let (_, z, y, x) = image.dim();
        let classes = self.ensemble.configuration.network.output_channels;
        let mut sums = Accumulator::new([z, y, x], classes, &self.window);
        for member in 0..self.ensemble.members.len() {
            self.load(member)?;
            let net = &mut self.net;
            let mut forward = |x: ArrayView5<'_, f32>, out: ArrayViewMut5<'_, f32>| {
                net.forward_into(x, out).map_err(|e| Error::failed(e.to_string()))
            };
            sums.add(image, &mut forward, &mut |done| {
                progress.add(done);
                run.check_stop()
            })?;
        }
        let maps = sums.finish();
        match maps.iter().all(|p| p.is_finite()) {
            true => Ok(maps),
            false => Err(Error::failed("the network's output holds NaN or infinity").hint(
                "look at this case's intensities and at the training's history for a diverged loss",
            )),
        }
    }

    fn write(
        &self,
        mut commit: Commit,
        provenance: &Provenance,
        id: &str,
        case: &Case,
        maps: ArrayView4<'_, f32>,
    ) -> Result<()> {
        let plan = &self.ensemble.plan;
        let interpolation = Interpolation {
            order: plan.recipe.inference.resample_order,
            order_coarse_axis: plan.recipe.inference.resample_order_coarse_axis,
            anisotropy_threshold: plan.recipe.preprocessing.anisotropy_threshold,
        };
        let geometry = &case.original.geometry;
        let mut classes = Array3::zeros((0, 0, 0));
        if self.probabilities {
            let [z, y, x] = geometry.shape;
            commit.stream(PROBABILITIES, |out| {
                out.write_all(&npy::encode_header::<f16>(&[maps.dim().0, z, y, x]))?;
                classes = segment(maps, case, interpolation, &mut |class, map| {
                    // Nothing was seen outside the crop box: background.
                    let outside = if class == 0 { 1.0 } else { 0.0 };
                    write_f16(out, map, &case.original, outside)
                })?;
                Ok(())
            })?;
        } else {
            classes = segment(maps, case, interpolation, &mut |_, _| Ok(()))
                .map_err(|e| Error::failed(e.to_string()))?;
        }
        let mut class_voxels = vec![0u64; plan.labels.len()];
        for &class in &classes {
            class_voxels[usize::from(class)] += 1;
        }
        let values: Vec<i32> = plan.labels.iter().map(|l| l.value).collect();
        // A plan's label values are at most 32767.
        let labels = classes.mapv_into(|c| u16::try_from(values[usize::from(c)]).unwrap_or(0));
        let gzip = plan.dataset.file_ending != ".nii";
        let name = if gzip { "segmentation.nii.gz" } else { "segmentation.nii" };
        commit.bytes(name, &nifti::encode_labels(labels.view(), geometry, gzip)?)?;
        let info = PredictionInfo {
            case: id.into(),
            segmentation: name.into(),
            shape: geometry.shape,
            spacing_mm: geometry.spacing_mm,
            class_voxels,
        };
        let body = Prediction {
            prediction: info,
            labels: plan.labels.clone(),
            regions: plan.regions.clone(),
        };
        Ok(commit.finish(provenance, &body)?)
    }

    /// What a case takes at its peak, the next case left out: the larger of network and export, which follow each other.
    fn memory_bytes(&self, case: &Case) -> Result<u64> {
        let spec = &self.ensemble.configuration.network;
        let net = UNet::memory_bytes(spec, self.window.tile_batch, self.window.patch, false)
            .map_err(|e| Error::input(e.to_string()))?;
        let volume = |shape: [usize; 3]| shape.iter().product::<usize>() as u64;
        let weights =
            |m: &Member| m.parameters.iter().map(|(_, a)| 4 * a.len() as u64).sum::<u64>();
        let [seen, crop] = [case.case.shape, case.original.cropped_shape()].map(volume);
        let image = volume(case.original.geometry.shape);
        let (channels, classes) = (spec.input_channels as u64, spec.output_channels as u64);
        let held = net
            + self.ensemble.members.iter().map(weights).sum::<u64>()
            + 4 * seen * (channels + classes);
        // Weights of the voxels and patches; or the best value, its class and one class's map in f64 and f32.
        let patch = 4 * volume(self.window.patch) * (1 + channels + classes);
        let resampled = if case.case.shape == case.original.cropped_shape() { 0 } else { 12 };
        Ok(held + (4 * seen + patch).max(crop * (6 + resampled) + 4 * image))
    }
}
