//! A cascade: its configuration, and predictions of its first stage.

use artifact::plan::{Configuration, Plan};
use artifact::previous::{ARRAY, Previous, PreviousInfo, path};
use artifact::{Commit, Provenance};
use ndarray::Array3;
use std::path::Path;

/// Adds `3d_cascade_fullres` to a plan for two foreground classes.
pub(crate) fn with_cascade(mut plan: Plan) -> Plan {
    let mut cascade: Configuration = plan.configuration("3d_fullres").unwrap().clone();
    cascade.cases_from = Some("3d_fullres".into());
    cascade.previous_stage = Some("3d_lowres".into());
    cascade.network.input_channels += 2;
    plan.configurations.insert("3d_cascade_fullres".into(), cascade);
    plan
}

/// What the first stage would have said about a case.
pub(crate) fn info(id: &str, classes: &Array3<i16>) -> PreviousInfo {
    let (z, y, x) = classes.dim();
    PreviousInfo {
        case: id.into(),
        configuration: "3d_lowres".into(),
        folds: vec![0],
        grid: "3d_fullres".into(),
        classes: 3,
        shape: [z, y, x],
    }
}

/// Writes `FOLDER/CASE/previous.toml` as nnu-infer would.
pub(crate) fn write_previous(folder: &Path, previous: PreviousInfo, classes: &Array3<i16>) {
    let mut commit = Commit::begin(&path(folder, &previous.case)).unwrap();
    commit.npy(ARRAY, &classes.view()).unwrap();
    commit.finish(&Provenance::default(), &Previous { previous }).unwrap();
}
