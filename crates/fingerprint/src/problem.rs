//! What can be wrong with a data set, and the table that says so.

use stage::Shown;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A kind of problem, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A listed or expected file isn't there.
    MissingFile,
    /// A file is broken or of no readable type.
    UnreadableFile,
    /// A case could not be measured, by a fault of this program.
    Failed,
    /// A case has more or fewer channels than the data set declares.
    ChannelCount,
    /// Channels or label of a case differ in shape.
    Shape,
    /// Channels or label of a case differ in spacing.
    Spacing,
    /// Label values that no class has.
    UndeclaredLabel,
    /// Label values that are no whole numbers.
    NonIntegerLabel,
    /// NaN or infinite voxels.
    NonFinite,
    /// Intensities that the normalisation of their channel doesn't take.
    Range,
    /// An id that can't name a folder.
    BadId,
    /// An id stands for two cases.
    DuplicateId,
    /// `numTraining` isn't the number of cases found.
    CaseCount,
    /// No case has a voxel of any class, or no image shows anything.
    NothingToLearn,
    /// A label whose axes point elsewhere in space than its image's: it was flipped, or its axes exchanged.
    TurnedLabel,
    /// Channels or label of a case lie at different places.
    Place,
    /// Two channels of a case are one file by links.
    LinkedChannels,
    /// All channels of an image are constant.
    BlankImage,
    /// One of several channels is constant.
    ConstantChannel,
    /// A label map without any class.
    NoForeground,
    /// A declared class that occurs in no case.
    UnusedClass,
    /// A spacing far from the other cases'.
    SpacingOutlier,
    /// A size far from the other cases'.
    SizeOutlier,
    /// An image without label that no other stage would take.
    TestImage,
    /// A label map of such an image that doesn't fit it.
    TestLabel,
}

impl Class {
    /// Whether the data set can be used nevertheless.
    pub fn is_warning(self) -> bool {
        self >= Self::Place
    }

    fn name(self) -> &'static str {
        match self {
            Self::MissingFile => "missing file",
            Self::UnreadableFile => "unreadable file",
            Self::Failed => "failed",
            Self::ChannelCount => "wrong number of channels",
            Self::Shape => "shapes differ",
            Self::Spacing => "spacings differ",
            Self::UndeclaredLabel => "undeclared label value",
            Self::NonIntegerLabel => "label value not a whole number",
            Self::NonFinite => "NaN or infinite voxels",
            Self::Range => "values out of range",
            Self::BadId => "unusable case id",
            Self::DuplicateId => "duplicate case id",
            Self::CaseCount => "wrong number of cases",
            Self::NothingToLearn => "no labelled voxels",
            Self::TurnedLabel => "label turned against its image",
            Self::Place => "places in space differ",
            Self::LinkedChannels => "channels linked to one file",
            Self::BlankImage => "blank image",
            Self::ConstantChannel => "constant channel",
            Self::NoForeground => "label without foreground",
            Self::UnusedClass => "class that never occurs",
            Self::SpacingOutlier => "spacing far from the others'",
            Self::SizeOutlier => "size far from the others'",
            Self::TestImage => "test image nnu-infer refuses",
            Self::TestLabel => "test label that can't be scored",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What kind.
    pub class: Class,
    /// The file (relative to the data set), case or key concerned.
    pub subject: String,
    /// What was found and expected.
    pub detail: String,
}

impl Problem {
    /// A finding about `subject`.
    pub fn new(class: Class, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { class, subject: subject.into(), detail: detail.into() }
    }
}

/// Number of problems that are no mere warnings.
pub fn error_count(problems: &[Problem]) -> usize {
    problems.iter().filter(|p| !p.class.is_warning()).count()
}

/// One row per class: severity, class, count; below it up to `examples` findings. Empty without problems.
pub fn table(problems: &[Problem], examples: usize) -> String {
    let mut groups = BTreeMap::<Class, Vec<&Problem>>::new();
    for problem in problems {
        groups.entry(problem.class).or_default().push(problem);
    }
    let mut text = String::new();
    for (class, found) in groups {
        let severity = if class.is_warning() { "warning" } else { "error" };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{severity:<8} {:<31} {:>6}", class.name(), found.len());
        for problem in found.iter().take(examples) {
            let finding = format!("{}: {}", problem.subject, problem.detail);
            let _ = writeln!(text, "         {}", Shown(finding));
        }
        if found.len() > examples {
            let _ = writeln!(text, "         … and {} more", found.len() - examples);
        }
    }
    text
}
