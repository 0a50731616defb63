//! nnU-Net v2's own files: `dataset_fingerprint.json` and `dataset.json` in, `plans.json` in and out.

mod described;
mod export;
mod fingerprint;
mod import;
mod limits;
mod network;
mod table;

pub use described::Described;
pub use export::{export, pretty};
pub use fingerprint::{is_fingerprint, measured};
pub use import::{Imported, import};

use artifact::image::Reader;
use artifact::plan::{Encoder, Normalisation};

/// What nnU-Net does in its own way, whatever an exported plan says; one line each.
pub fn departures(plan: &artifact::plan::Plan) -> Vec<String> {
    limits::departures(plan)
}

/// Its data sets' folders are called `Dataset004_Hippocampus`.
const DATASET: &str = "Dataset";

/// Its classes of networks.
const PLAIN: &str = "dynamic_network_architectures.architectures.unet.PlainConvUNet";
const RESIDUAL: &str = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet";

/// The only function that resamples as `nnu-preprocess` does.
const RESAMPLING: &str = "resample_data_or_seg_to_shape";
const PREPROCESSOR: &str = "DefaultPreprocessor";
const LABEL_MANAGER: &str = "LabelManager";
const NONLINEARITY: &str = "torch.nn.LeakyReLU";
/// Arguments of a network that name classes.
const IMPORTED_ARGUMENTS: [&str; 4] = ["conv_op", "norm_op", "dropout_op", "nonlin"];
/// `torch.nn.LeakyReLU` without arguments.
const DEFAULT_SLOPE: f32 = 0.01;

/// Its planners: class, name of their plans, our recipe.
const PLANNERS: [(&str, &str, &str); 5] = [
    ("ExperimentPlanner", "nnUNetPlans", "v2"),
    ("ResEncUNetPlanner", "nnUNetResEncUNetPlans", "v2-resenc"),
    ("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", "v2-resenc-m"),
    ("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", "v2-resenc-l"),
    ("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", "v2-resenc-xl"),
];

/// Its classes of normalisation, and whether they are told to use the nonzero mask.
const NORMALISATIONS: [(&str, bool, Normalisation); 6] = [
    ("CTNormalization", false, Normalisation::Ct),
    ("ZScoreNormalization", false, Normalisation::ZScore),
    ("ZScoreNormalization", true, Normalisation::ZScoreMasked),
    ("RescaleTo01Normalization", false, Normalisation::RescaleTo01),
    ("RGBTo01Normalization", false, Normalisation::RgbTo01),
    ("NoNormalization", false, Normalisation::None),
];

/// The planner that a recipe stands for; that of the encoder for recipes of one's own.
fn planner(recipe: &str, encoder: Encoder) -> (&'static str, &'static str) {
    let own = match encoder {
        Encoder::Plain => &PLANNERS[0],
        Encoder::Residual => &PLANNERS[1],
    };
    let (class, plans, _) = PLANNERS.iter().find(|(_, _, name)| *name == recipe).unwrap_or(own);
    (class, plans)
}

/// The folder of a configuration's cases: residual encoders share those of the plain one where nothing differs.
fn cases_folder(configuration: &str, plans: &str, encoder: Encoder) -> String {
    let shared = encoder == Encoder::Residual && matches!(configuration, "2d" | "3d_fullres");
    let plans = if shared { PLANNERS[0].1 } else { plans };
    format!("{plans}_{configuration}")
}

/// The class that reads images of this ending; without another reader the one that nnU-Net takes for the ending.
fn image_reader(reader: Reader, ending: &str, flat: bool) -> &'static str {
    if let Some(class) = reader.class() {
        return class;
    }
    match ending {
        ".png" | ".bmp" => "NaturalImage2DIO",
        ".tif" if flat => "NaturalImage2DIO",
        ".tif" | ".tiff" => "Tiff3DIO",
        ".nii" => "NibabelIO",
        _ => "SimpleITKIO",
    }
}

/// Classes of the layers of a network for images of that many dimensions.
fn layer(kind: &str, dimensions: usize) -> String {
    match kind {
        "conv_op" => format!("torch.nn.modules.conv.Conv{dimensions}d"),
        _ => format!("torch.nn.modules.instancenorm.InstanceNorm{dimensions}d"),
    }
}
