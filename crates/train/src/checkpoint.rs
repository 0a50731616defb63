//! The state of a training on disk: `checkpoint.toml` names the one `checkpoint_EEEEEE_IIIIII_HHHHHHHHHHHHHHHH.npz` that
//! goes with it.
//!
//! The name ends with the content's hash: what differs has another name, also at the same iteration. So the record moves
//! from one complete state to the next in a single rename, and the state before goes only when the new record is durable;
//! whatever moment a kill chooses, a complete state is there.

use artifact::bounds::MAX_COUNT;
use artifact::model::{Epoch, check_epochs};
use artifact::npz::{self, Named};
use artifact::{Commit, Kind, Provenance, Record, hash_bytes};
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
        if rows != epoch {
            return Err(format!("epochs has {rows} rows, expected checkpoint.epoch = {epoch}"));
        }
        let (iteration, rate) = (self.checkpoint.iteration, self.schedule.learning_rate);
        if iteration > MAX_COUNT {
            return Err(format!(
                "checkpoint.iteration = {iteration}, expected at most {MAX_COUNT}"
            ));
        }
        if !(0.0..=1e30).contains(&rate) {
            return Err(format!("schedule.learning_rate = {rate:e}, expected 0 to 1e30"));
        }
        check_epochs(&self.epochs)
    }
}

const RECORD: &str = "checkpoint.toml";

/// The record's path in a model folder.
pub fn path(folder: &Path) -> PathBuf {
    folder.join(RECORD)
}

/// File name of a state of these bytes at a position.
fn state_name(at: &Position, bytes: &[u8]) -> String {
    let hash = hash_bytes(bytes);
    let hash = &hash.trim_start_matches("b3:")[..16];
    format!("checkpoint_{:06}_{:06}_{hash}.npz", at.epoch, at.iteration)
}

/// Writes a state under the lock of the folder's model, then removes the one before. The state's name, which is set here.
///
/// # Errors
/// If it can't be written; the state before is then still the valid one.
pub fn save(
    model: &Commit,
    folder: &Path,
    provenance: &Provenance,
    mut checkpoint: Checkpoint,
    arrays: &Named,
) -> artifact::Result<String> {
    let mut commit = model.beside(RECORD);
    let bytes = npz::encode(arrays);
    let name = state_name(&checkpoint.checkpoint, &bytes);
    commit.bytes(&name, &bytes)?;
    checkpoint.checkpoint.state = name.clone();
    commit.finish(provenance, &checkpoint)?;
    tidy(folder, &name);
    Ok(name)
}

/// Whether a name is one that a state may have, with or without its hash as before there were any; others' files aren't states.
fn is_state(name: &str) -> bool {
    let parts = name.strip_prefix("checkpoint_").and_then(|rest| rest.strip_suffix(".npz"));
    let Some(parts) = parts.map(|rest| rest.split('_').collect::<Vec<_>>()) else { return false };
    let number = |part: &str| part.len() >= 6 && part.bytes().all(|b| b.is_ascii_digit());
    let hash = |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
    match parts[..] {
        [epoch, iteration] => number(epoch) && number(iteration),
        [epoch, iteration, end] => number(epoch) && number(iteration) && hash(end),
        _ => false,
    }
}

/// Removes every other state that a kill left between a rename and a removal.
pub fn tidy(folder: &Path, keep: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_state(&name) && name != keep {
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
            state: String::new(),
            epoch: 0,
            iteration,
            loss_sum: 0.1 + 0.2,
            steps: iteration as u64,
            ended_by: String::new(),
        };
        let arrays = vec![("a".to_string(), ArrayD::from_elem(vec![2, 3], iteration as f32))];
        (Checkpoint { checkpoint: position, schedule: rule, epochs: vec![] }, arrays)
    }

    fn begin(folder: &Path) -> Commit {
        Commit::begin(&folder.join("model.toml")).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn state(folder: &Path) -> String {
        load(folder).unwrap().unwrap().0.checkpoint.state
    }

    #[test]
    fn a_state_replaces_the_one_before_and_reads_back_exactly() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        let model = begin(folder.path());
        // Tables in the provenance, and no finished epoch: a list that is empty is none of theirs.
        let revisions = [("train".to_string(), 1)].into();
        let made = Provenance { revisions, ..Provenance::default() };
        for iteration in [1, 2] {
            let (c, arrays) = checkpoint(iteration);
            save(&model, folder.path(), &made, c.clone(), &arrays).unwrap();
            let (found, found_arrays) = load(folder.path()).unwrap().unwrap();
            let expected = Position { state: found.checkpoint.state.clone(), ..c.checkpoint };
            assert_eq!(found.checkpoint, expected);
            assert!(
                found.schedule.train_average.is_nan() && found.schedule.best_train.is_infinite()
            );
            assert_eq!(found_arrays, arrays);
        }
        drop(model);
        // What a kill may have left is gone after the next state, or when the training is taken up again.
        let kept = state(folder.path());
        assert_eq!(names(folder.path()), ["checkpoint.toml".to_string(), kept.clone()]);
        for old in ["checkpoint_000000_000001_0123456789abcdef.npz", "checkpoint_000000_000001.npz"]
        {
            Commit::file(&folder.path().join(old), b"old").unwrap();
        }
        let mine = ["checkpoint_000001_backup.npz", "checkpoint_best.npz", "checkpoint_mine_1.npz"];
        for mine in mine {
            Commit::file(&folder.path().join(mine), b"a person's").unwrap();
        }
        tidy(folder.path(), &kept);
        let mut expected = vec!["checkpoint.toml".to_string(), kept];
        expected.extend(mine.map(String::from));
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }

    /// Such as after two stops during one validation: the record must never be away, nor the state that it names.
    #[test]
    fn states_of_one_iteration_have_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let model = begin(folder.path());
        let (c, arrays) = checkpoint(1);
        let save = |c: &Checkpoint, arrays| {
            save(&model, folder.path(), &Provenance::default(), c.clone(), arrays)
        };
        save(&c, &arrays).unwrap();
        let first = state(folder.path());
        save(&c, &arrays).unwrap();
        assert_eq!(state(folder.path()), first);
        let other = vec![("a".to_string(), ArrayD::from_elem(vec![2, 3], 7.0f32))];
        save(&c, &other).unwrap();
        assert_ne!(state(folder.path()), first);
        assert_eq!(load(folder.path()).unwrap().unwrap().1, other);
    }

    #[test]
    fn a_state_that_was_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (c, arrays) = checkpoint(1);
        save(&begin(folder.path()), folder.path(), &Provenance::default(), c, &arrays).unwrap();
        let file = folder.path().join(state(folder.path()));
        let bytes = std::fs::read(&file).unwrap();
        Commit::file(&file, &bytes[..bytes.len() - 1]).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.to_string().contains("hash is b3:"), "{error}");
    }
}
