//! From probabilities to class indices, as outputs arrive one after the other.
//!
//! The one place where this is decided, for predictions and ensembles alike. Softmax: the class of the largest value, of
//! equals the first (numpy's `argmax`). Regions: each that exceeds the threshold is written in its turn, later over earlier.

use crate::scheme::Scheme;
use ndarray::{Array3, ArrayView3, Zip};

/// How outputs become a class.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// The largest output's; of equals the first.
    Largest,
    /// The last of those above a threshold; none: background.
    Above {
        /// 0.5 for probabilities, 0 for logits.
        threshold: f32,
        /// Class index that each output shows as.
        classes: Vec<i16>,
    },
}

impl Rule {
    /// The rule for probabilities.
    pub fn for_probabilities(scheme: &Scheme) -> Self {
        if scheme.regions.is_empty() {
            return Self::Largest;
        }
        let classes = scheme.regions.iter().map(|r| scheme.class_of(r.value)).collect();
        Self::Above { threshold: 0.5, classes }
    }
}

/// Class indices in the making. Memory: one value and one class per voxel, however many outputs there are.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    rule: &'a Rule,
    /// Largest value so far; without voxels where a threshold decides.
    best: Array3<f32>,
    classes: Array3<i16>,
}

impl<'a> Decision<'a> {
    /// Nothing seen yet: background.
    pub fn new(shape: [usize; 3], rule: &'a Rule) -> Self {
        let compared = if *rule == Rule::Largest { shape } else { [0; 3] };
        Self {
            rule,
            best: Array3::from_elem(compared, f32::NEG_INFINITY),
            classes: Array3::zeros(shape),
        }
    }

    /// Takes the next output's values `[z, y, x]`; outputs come in their order.
    pub fn see(&mut self, output: usize, map: ArrayView3<'_, f32>) {
        match self.rule {
            Rule::Largest => {
                let class = i16::try_from(output).unwrap_or(i16::MAX);
                let all = Zip::from(&mut self.best).and(&mut self.classes).and(&map);
                all.par_for_each(|best, winner, &value| {
                    if value > *best {
                        (*best, *winner) = (value, class);
                    }
                });
            }
            Rule::Above { threshold, classes } => {
                let class = classes[output];
                Zip::from(&mut self.classes).and(&map).par_for_each(|winner, &value| {
                    if value > *threshold {
                        *winner = class;
                    }
                });
            }
        }
    }

    /// The largest value of each voxel so far; empty where a threshold decides.
    pub fn best(&self) -> ArrayView3<'_, f32> {
        self.best.view()
    }

    /// The classes `[z, y, x]`.
    pub fn into_classes(self) -> Array3<i16> {
        self.classes
    }
}
