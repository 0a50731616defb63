//! Glue: flags in, predictions out.

use artifact::case::Case;
use artifact::dataset::check_id;
use artifact::model::Model;
use artifact::plan::Plan;
use artifact::prediction::Prediction;
use artifact::previous::Previous;
use artifact::selection::Selection;
use clap::Parser;
use infer::{Input, Models, Request};
use net::DeviceArgs;
use stage::{Common, Error, Files, Io, Result};
use std::path::PathBuf;
use std::process::ExitCode;

/// Predicts images with trained models: a label map per case, on the image's own grid.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-infer",
    after_help = "Example:\n  \
    nnu-infer --model models/3d_fullres/fold_0 --model models/3d_fullres/fold_1 --images imagesTs --out predictions"
)]
struct Args {
    /// Model folder that nnu-train wrote; several are averaged
    #[arg(long, value_name = "DIR", required_unless_present = "selection")]
    model: Vec<PathBuf>,
    /// selection.toml that nnu-postprocess select wrote: predicts with all models that it names and does what follows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "cases"])]
    selection: Option<PathBuf>,
    /// Image of one case: one file per channel in the plan's order, or one 4D file
    #[arg(long, value_name = "FILE", required_unless_present_any = ["images", "cases"], conflicts_with_all = ["images", "cases"])]
    image: Vec<PathBuf>,
    /// Case id of --image [default: the first file's name]
    #[arg(long, value_name = "NAME", requires = "image")]
    id: Option<String>,
    /// Folder of images: CASE_0000.nii.gz, CASE_0001.nii.gz, … per channel, or CASE.nii.gz with all channels
    #[arg(long, value_name = "DIR", conflicts_with = "cases")]
    images: Option<PathBuf>,
    /// Folder of preprocessed cases: CASE/case.toml
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Only this case of --images or --cases; may be repeated
    #[arg(long, value_name = "ID", conflicts_with = "image")]
    case: Vec<String>,
    /// Only the cases that the model was validated on
    #[arg(long, requires = "cases", conflicts_with_all = ["image", "images"])]
    validation: bool,
    /// Folder with predictions of the previous stage, CASE/previous.toml or label maps; may be repeated
    #[arg(long, value_name = "DIR", requires = "model")]
    previous: Vec<PathBuf>,
    /// Model folder of the previous stage; may be repeated [default: all fold_K beside the model's configuration]
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with = "previous")]
    previous_model: Vec<PathBuf>,
    /// Preprocessed cases of the configuration that reads these predictions: writes CASE/previous.toml for them too
    #[arg(long, value_name = "DIR", requires = "model")]
    next_stage: Option<PathBuf>,
    /// Distance of neighbouring tiles as a fraction of the patch [default: the plan's]
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    step: Option<f64>,
    /// Don't average over mirrored images: as many times faster as there are flips
    #[arg(long)]
    no_mirroring: bool,
    /// Write probabilities.npy too: f16 [class, z, y, x] on the image's grid
    #[arg(long)]
    probabilities: bool,
    #[command(flatten)]
    on: DeviceArgs,
    /// Folder to write CASE/prediction.toml and CASE/segmentation.nii.gz into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    common: Common,
}

impl stage::Command for Args {
    const STAGE: &'static str = "infer";
    const REVISIONS: &'static [(&'static str, u32)] = &[
        ("infer", infer::REVISION),
        ("net", net::REVISION),
        ("postprocess", postprocess::REVISION),
        ("preprocess", preprocess::REVISION),
    ];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        Files::default()
            .reads("--model", &self.model)
            .reads("--selection", &self.selection)
            .reads("--image", &self.image)
            .reads("--images", &self.images)
            .reads("--cases", &self.cases)
            .reads("--previous", &self.previous)
            .reads("--previous-model", &self.previous_model)
            .reads("--next-stage", &self.next_stage)
            .folder("--out", [&self.out])
    }
}

fn fraction(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(step) if step > 0.0 && step <= 1.0 => Ok(step),
        _ => Err("expected a number above 0, at most 1".into()),
    }
}

const IO: &[Io] = &[
    Io::reads::<Model>("--model"),
    Io::reads::<Plan>("--model"),
    Io::reads::<Selection>("--selection"),
    Io::foreign("reads", "--image", "NIfTI"),
    Io::foreign("reads", "--images", "NIfTI"),
    Io::reads::<Case>("--cases"),
    Io::reads::<Previous>("--previous"),
    Io::reads::<Model>("--previous-model"),
    Io::reads::<Case>("--next-stage"),
    Io::writes::<Prediction>("--out"),
    Io::writes::<Previous>("--out"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &Args, run| infer::run(&request(args)?, run))
}

fn request(args: &Args) -> Result<Request> {
    if let Some(id) = &args.id {
        check_id(id).map_err(|e| Error::usage(format!("--id: {e}")))?;
    }
    let only = args.case.clone();
    let input = if let Some(folder) = args.images.clone() {
        Input::Images { folder, only }
    } else if let Some(folder) = args.cases.clone() {
        Input::Cases { folder, only, validation: args.validation }
    } else {
        Input::Files { files: args.image.clone(), id: args.id.clone() }
    };
    let models = match args.selection.clone() {
        Some(path) => Models::Selection(path),
        None => Models::Folders {
            models: args.model.clone(),
            previous: args.previous.clone(),
            previous_models: args.previous_model.clone(),
            next_stage: args.next_stage.clone(),
        },
    };
    Ok(Request {
        models,
        input,
        step: args.step,
        mirroring: !args.no_mirroring,
        probabilities: args.probabilities,
        device: args.on.clone(),
        out: args.out.clone(),
    })
}
