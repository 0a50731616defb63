//! Classes of a data set.

use serde::{Deserialize, Serialize};

/// One class: its name and the value that stands for it in label maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Name, such as `background` or `liver`.
    pub name: String,
    /// Voxel value in label maps. Data sets may skip numbers; inside cases and networks a class is its index.
    pub value: i32,
}

/// Background first, values unique and not negative, at least one foreground class.
pub(crate) fn check_labels(labels: &[Label]) -> Result<(), String> {
    match labels {
        [] | [_] => {
            return Err(format!(
                "labels has {} entries, expected background and at least one class",
                labels.len()
            ));
        }
        [first, ..] if first.value != 0 => {
            return Err(format!(
                "labels[0] has value {}, expected the background, value 0",
                first.value
            ));
        }
        _ => {}
    }
    for (i, label) in labels.iter().enumerate() {
        if label.value < 0 || label.value > i32::from(i16::MAX) {
            return Err(format!(
                "label {} has value {}, expected 0..=32767",
                label.name, label.value
            ));
        }
        if labels[..i].iter().any(|l| l.value == label.value) {
            return Err(format!(
                "label {} has value {}, which another label has too",
                label.name, label.value
            ));
        }
    }
    Ok(())
}
