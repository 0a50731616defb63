//! The state of a training on disk: `checkpoint.toml` names the one `checkpoint_EEEEEE_IIIIII.npz` that goes with it.
//!
//! Each state has a file name of its own, so the record moves from one complete state to the next in a single rename;
//! whatever moment a kill chooses, a complete state is there.

use artifact::model::Epoch;
use artifact::npz::{self, Named};
use artifact::{Commit, Kind, Provenance, Record};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::ScheduleState;

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where the training stands.
    pub checkpoint: Position,
    /// The schedule's memory.
    pub schedule: ScheduleState,
    /// Finished epochs.
    #[serde(default)]
    pub epochs: Vec<Epoch>,
}

/// Where the training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Everything that decides the training but its length; another value means another training.
    pub training: String,
    /// The sibling with weights and optimiser state.
    pub state: String,
    /// Finished epochs.
    pub epoch: usize,
    /// Finished iterations of the epoch that is under way.
    pub iteration: usize,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// Optimiser steps.
    pub steps: u64,
    /// `plateau` once the schedule ended the training, else empty.
    pub ended_by: String,
}

impl Kind for Checkpoint {
    const KIND: &'static str = "checkpoint";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let (rows, epoch) = (self.epochs.len(), self.checkpoint.epoch);
        if rows == epoch {
            Ok(())
        } else {
            Err(format!("epochs has {rows} rows, expected checkpoint.epoch = {epoch}"))
        }
    }
}

/// The record's path in a model folder.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("checkpoint.toml")
}

/// File name of the state at a position.
pub fn state_name(epoch: usize, iteration: usize) -> String {
    format!("checkpoint_{epoch:06}_{iteration:06}.npz")
}

/// Writes a state, then removes the one before.
///
/// # Errors
/// If it can't be written; the state before is then still the valid one.
pub fn save(
    folder: &Path,
    provenance: &Provenance,
    checkpoint: &Checkpoint,
    arrays: &Named,
) -> artifact::Result<()> {
    let mut commit = Commit::begin(&path(folder))?;
    let name = &checkpoint.checkpoint.state;
    commit.bytes(name, &npz::encode(arrays))?;
    commit.finish(provenance, checkpoint)?;
    tidy(folder, name);
    Ok(())
}

/// Removes every other state, whole or half-written, that a kill left between a rename and a removal.
pub fn tidy(folder: &Path, keep: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let state = name.starts_with("checkpoint_") && name.ends_with(".npz") && name != keep;
        let partial = name.starts_with(".checkpoint") && name.ends_with(".partial");
        if state || partial {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Reads the state, or `None` if there is none.
///
/// # Errors
/// If there is one but it is broken.
pub fn load(folder: &Path) -> artifact::Result<Option<(Checkpoint, Named)>> {
    let record_path = path(folder);
    if !record_path.is_file() {
        return Ok(None);
    }
    let record = Record::<Checkpoint>::load(&record_path)?;
    record.verify(&record_path)?;
    let arrays = npz::read(&folder.join(&record.body.checkpoint.state))?;
    Ok(Some((record.body, arrays)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayD;

    fn checkpoint(iteration: usize) -> (Checkpoint, Named) {
        let rule = ScheduleState {
            learning_rate: 3e-4,
            train_average: f64::NAN,
            validation_average: f64::NAN,
            best_train: f64::INFINITY,
            epochs_since_train: 0,
            best_validation: f64::INFINITY,
            epochs_since_validation: 0,
        };
        let position = Position {
            training: "b3:1".into(),
            state: state_name(0, iteration),
            epoch: 0,
            iteration,
            loss_sum: 0.1 + 0.2,
            steps: iteration as u64,
            ended_by: String::new(),
        };
        let arrays = vec![("a".to_string(), ArrayD::from_elem(vec![2, 3], iteration as f32))];
        (Checkpoint { checkpoint: position, schedule: rule, epochs: vec![] }, arrays)
    }

    #[test]
    fn a_state_replaces_the_one_before_and_reads_back_exactly() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        for iteration in [1, 2] {
            let (c, arrays) = checkpoint(iteration);
            save(folder.path(), &Provenance::default(), &c, &arrays).unwrap();
            let (found, found_arrays) = load(folder.path()).unwrap().unwrap();
            assert_eq!(found.checkpoint, c.checkpoint);
            assert!(
                found.schedule.train_average.is_nan() && found.schedule.best_train.is_infinite()
            );
            assert_eq!(found_arrays, arrays);
        }
        // What a kill may have left is gone after the next state, or when the training is taken up again.
        let names = || {
            let names = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name());
            let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["checkpoint.toml".to_string(), state_name(0, 2)]);
        Commit::file(&folder.path().join(state_name(0, 1)), b"old").unwrap();
        Commit::file(&folder.path().join(".checkpoint_000000_000003.npz.partial"), b"cut").unwrap();
        tidy(folder.path(), &state_name(0, 2));
        assert_eq!(names(), ["checkpoint.toml".to_string(), state_name(0, 2)]);
    }

    #[test]
    fn a_state_that_was_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (c, arrays) = checkpoint(1);
        save(folder.path(), &Provenance::default(), &c, &arrays).unwrap();
        let file = folder.path().join(state_name(0, 1));
        let bytes = std::fs::read(&file).unwrap();
        Commit::file(&file, &bytes[..bytes.len() - 1]).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.to_string().contains("hash is b3:"), "{error}");
    }
}
