//! The spool: numbered batches on disk, each committed by itself.

use crate::{Loader, SampledBatch};
use artifact::Error;
use artifact::batch::{Batch, BatchInfo, IMAGE, LABEL};
use artifact::plan::{Configuration, Normalisation, Plan};
use artifact::{Commit, Provenance, hash_bytes};
use serde::Serialize;

/// Which channels were normalised inside the nonzero mask.
pub fn masked_channels(plan: &Plan) -> Vec<bool> {
    plan.channels.iter().map(|c| c.normalisation == Normalisation::ZScoreMasked).collect()
}

/// Hash of everything in the plan that decides what batches hold, of how voxels draw their numbers, and of nothing else:
/// changing the length of a training doesn't make a spool stale.
pub fn plan_hash(plan: &Plan, configuration: &Configuration) -> String {
    #[derive(Serialize)]
    struct Decisive<'a> {
        voxel_numbers: &'static str,
        patch_shape: [usize; 3],
        batch_size: usize,
        masked_channels: Vec<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous_stage: Option<&'a str>,
        sampling: &'a artifact::recipe::Sampling,
        augmentation: &'a artifact::recipe::Augmentation,
    }
    let decisive = Decisive {
        voxel_numbers: crate::counter::GENERATOR,
        patch_shape: configuration.patch_shape,
        batch_size: configuration.batch_size,
        masked_channels: masked_channels(plan),
        previous_stage: configuration.previous_stage.as_deref(),
        sampling: &plan.recipe.sampling,
        augmentation: &plan.recipe.augmentation,
    };
    hash_bytes(toml::to_string(&decisive).expect("settings are plain TOML").as_bytes())
}

/// Writes batch `index`: image and label, then the record.
///
/// # Errors
/// If something can't be written, or the transforms made of a case what is no number.
pub fn write(
    mut commit: Commit,
    index: usize,
    provenance: &Provenance,
    loader: &Loader,
    batch: &SampledBatch,
) -> artifact::Result<()> {
    check(index, loader, batch)?;
    commit.npy(IMAGE, &batch.image.view())?;
    commit.npy(LABEL, &batch.label.view())?;
    let cases = batch.cases.iter().map(|&case| loader.case_id(case).to_string()).collect();
    commit.finish(provenance, &Batch { batch: BatchInfo { index, cases } })
}

/// Every number of a batch is one; else the case is named of which the transforms made another.
fn check(index: usize, loader: &Loader, batch: &SampledBatch) -> artifact::Result<()> {
    for (sample, &case) in batch.image.outer_iter().zip(&batch.cases) {
        if sample.fold(true, |finite, v| finite & v.is_finite()) {
            continue;
        }
        let hint = "look at the image that it was made of, and at its channel's normalisation";
        let opened = &loader.cases[case];
        opened.check_intensities().map_err(|e| e.hint(hint))?;
        let line = format!("batch {index} of it holds NaN or infinity after the transforms");
        return Err(Error::input(opened.image_file(), line).hint(hint));
    }
    Ok(())
}
