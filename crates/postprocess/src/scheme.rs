//! What a data set's label maps hold, and what is scored and postprocessed in them: every foreground class, or every region.

use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Prediction;
use artifact::{Label, Region};

/// Labels, regions and ignore label of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of a network's outputs; none for most data sets.
    pub regions: Vec<Region>,
    /// Label of voxels that don't count.
    pub ignore: Option<Label>,
}

/// What is scored, each as the numbers that belong to it in a label map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// Numbers of each foreground class (one) or region (several).
    pub members: Vec<Vec<i32>>,
    /// Number of voxels in the reference that don't count.
    pub ignore: Option<i32>,
}

impl Scheme {
    /// A plan's.
    pub fn of(plan: &Plan) -> Self {
        Self {
            labels: plan.labels.clone(),
            regions: plan.regions.clone(),
            ignore: plan.ignore.clone(),
        }
    }

    /// A prediction's. Its record doesn't know the ignore label, which predictions never hold.
    pub fn of_prediction(prediction: &Prediction) -> Self {
        let Prediction { labels, regions, .. } = prediction.clone();
        Self { labels, regions, ignore: None }
    }

    /// That of decided rules, which don't know the ignore label either.
    pub fn of_rules(rules: &Postprocessing) -> Self {
        Self { labels: rules.labels.clone(), regions: rules.regions.clone(), ignore: None }
    }

    /// Labels without regions.
    pub fn plain(labels: Vec<Label>) -> Self {
        Self { labels, regions: Vec::new(), ignore: None }
    }

    /// Whether two describe the same predictions: the ignore label doesn't matter.
    pub fn fits(&self, other: &Self) -> bool {
        self.labels == other.labels && self.regions == other.regions
    }

    /// Number of classes with the background: the class index of ignored voxels.
    pub fn classes(&self) -> usize {
        self.labels.len()
    }

    /// Channels of a network's output: regions, or classes with the background.
    pub fn outputs(&self) -> usize {
        if self.regions.is_empty() { self.labels.len() } else { self.regions.len() }
    }

    /// Names of what is scored.
    pub fn names(&self) -> Vec<&str> {
        if self.regions.is_empty() {
            self.labels.iter().skip(1).map(|l| l.name.as_str()).collect()
        } else {
            self.regions.iter().map(|r| r.name.as_str()).collect()
        }
    }

    /// Names with the values that stand for them in predictions.
    pub fn values(&self) -> Vec<i32> {
        if self.regions.is_empty() {
            self.labels.iter().skip(1).map(|l| l.value).collect()
        } else {
            self.regions.iter().map(|r| r.value).collect()
        }
    }

    /// What is scored in maps of label values.
    pub fn by_value(&self) -> Targets {
        let members = if self.regions.is_empty() {
            self.labels.iter().skip(1).map(|l| vec![l.value]).collect()
        } else {
            self.regions.iter().map(|r| r.values.clone()).collect()
        };
        Targets { members, ignore: self.ignore.as_ref().map(|l| l.value) }
    }

    /// What is scored in maps of class indices.
    pub fn by_class(&self) -> Targets {
        let mut targets = self.by_value();
        for value in targets.members.iter_mut().flatten() {
            *value = i32::from(self.class_of(*value));
        }
        targets.ignore = targets.ignore.map(|_| class_index(self.labels.len()));
        targets
    }

    /// Class index of a label value; 0 for one that no label has.
    pub fn class_of(&self, value: i32) -> i16 {
        let class = self.labels.iter().position(|l| l.value == value);
        class.and_then(|c| i16::try_from(c).ok()).unwrap_or(0)
    }
}

impl Targets {
    /// How many.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nothing is scored.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether every target is a number of its own, so that none shares voxels with another.
    pub fn are_disjoint(&self) -> bool {
        let mut all: Vec<i32> = self.members.iter().flatten().copied().collect();
        all.sort_unstable();
        self.members.iter().all(|m| m.len() == 1) && all.windows(2).all(|w| w[0] != w[1])
    }
}

/// Class indices fit i16: a scheme has at most 32768 labels.
fn class_index(class: usize) -> i32 {
    i32::try_from(class).unwrap_or(i32::MAX)
}
