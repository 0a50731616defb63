//! `import` and `export`: checkpoints of nnU-Net.

use artifact::dataset::DatasetJson;
use artifact::model::{HISTORY, History, Model, ModelInfo, PLAN, PROGRESS, WEIGHTS};
use artifact::plan::{Configuration, Plan};
use artifact::{Commit, Record, hash_file};
use net::checkpoint::{self, Checkpoint};
use net::{Cpu, Device, UNet, weights};
use serde_json::Value;
use stage::{Common, Error, Files, Form, Result, Run};
use std::path::{Path, PathBuf};

/// `nnu-net import`.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// Checkpoint of nnU-Net v2
    #[arg(long, value_name = "CHECKPOINT.pth")]
    pub checkpoint: PathBuf,
    /// Plan of the network, as nnu-plan import makes it from plans.json
    #[arg(long, value_name = "PLAN", required_unless_present = "extract")]
    pub plan: Option<PathBuf>,
    /// Configuration of the plan [default: the checkpoint's]
    #[arg(long, value_name = "NAME", requires = "plan")]
    pub configuration: Option<String>,
    /// Fold of the model [default: the checkpoint's]
    #[arg(long, value_name = "K", requires = "model")]
    pub fold: Option<usize>,
    /// Write the weights alone
    #[arg(long, value_name = "WEIGHTS.npz", requires = "plan")]
    pub out: Option<PathBuf>,
    /// Write a model folder, as nnu-infer --model takes it
    #[arg(long, value_name = "DIR", requires = "plan")]
    pub model: Option<PathBuf>,
    /// Write the plans.json and dataset.json inside the checkpoint to this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["plan", "out", "model"])]
    pub extract: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

/// `nnu-net export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// Folder of a trained model
    #[arg(long, value_name = "DIR", required_unless_present = "weights")]
    pub model: Option<PathBuf>,
    /// Weights, instead of a model
    #[arg(long, value_name = "WEIGHTS.npz", conflicts_with = "model", requires = "plan")]
    pub weights: Option<PathBuf>,
    /// Plan of the weights
    #[arg(long, value_name = "PLAN", requires = "weights", requires = "configuration")]
    pub plan: Option<PathBuf>,
    /// Configuration of the weights
    #[arg(long, value_name = "NAME", requires = "plan")]
    pub configuration: Option<String>,
    /// Fold of the weights
    #[arg(long, value_name = "K", requires = "weights", default_value_t = 0)]
    pub fold: usize,
    /// nnU-Net's plans, as nnu-plan export writes them
    #[arg(long, value_name = "PLANS.json")]
    pub plans: PathBuf,
    /// nnU-Net's description of the data set
    #[arg(long, value_name = "DATASET.json")]
    pub dataset_json: PathBuf,
    /// Where the checkpoint goes
    #[arg(long, value_name = "CHECKPOINT.pth")]
    pub out: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

impl Import {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        let mut files = Files::default()
            .reads("--checkpoint", [&self.checkpoint])
            .reads("--plan", &self.plan)
            .file("--out", &self.out);
        if let Some(folder) = &self.model {
            files = files.record::<Model, _>("--model", [folder.join(MODEL[0])]);
            files = files.sibling("--model", MODEL[1..].iter().map(|name| folder.join(name)));
        }
        if let Some(folder) = &self.extract {
            for name in CARRIED {
                files = files.file("--extract", [folder.join(name)]);
            }
        }
        files
    }
}

impl Export {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        let model = |folder: &PathBuf| MODEL.map(|name| folder.join(name));
        Files::default()
            .reads("--model", self.model.iter().flat_map(model))
            .reads("--weights", &self.weights)
            .reads("--plan", &self.plan)
            .reads("--plans", [&self.plans])
            .reads("--dataset-json", [&self.dataset_json])
            .file("--out", [&self.out])
    }
}

/// The files of a model.
const MODEL: [&str; 5] = ["model.toml", WEIGHTS, PLAN, HISTORY, PROGRESS];
/// What a checkpoint carries.
const CARRIED: [&str; 2] = ["plans.json", "dataset.json"];

fn configuration<'a>(path: &Path, plan: &'a Plan, name: &str) -> Result<&'a Configuration> {
    Ok(plan.configuration(name).map_err(|e| artifact::Error::input(path, e))?)
}

/// A checkpoint becomes weights or a model folder.
pub fn import(args: &Import, run: &Run) -> Result<()> {
    if let Some(folder) = &args.extract {
        return extract(&args.checkpoint, folder, run);
    }
    let Some(plan_path) = &args.plan else { return Err(Error::usage("--plan is missing")) };
    if args.out.is_none() && args.model.is_none() {
        return Err(Error::usage("import writes nothing: give --out or --model, or both"));
    }
    let plan: Plan = Record::load(plan_path)?.body;
    let name = match &args.configuration {
        Some(name) => name.clone(),
        None => checkpoint::configuration(&args.checkpoint)?,
    };
    let c = configuration(plan_path, &plan, &name)?;
    args.out.iter().try_for_each(|out| run.outputs().may_write(out, Form::NPZ))?;
    let found = checkpoint::read(&args.checkpoint, &c.network)?;
    compare(&found, &name, run);
    let axes = found.other_mirror_axes(&plan.recipe);
    if let Some(axes) = &axes {
        run.info(format!(
            "mirroring: the checkpoint's predictions are mirrored along axes {axes:?} of the plan, where the plan says {:?}",
            plan.recipe.mirror_axes()
        ));
    }
    if let Some(out) = &args.out {
        if args.model.is_none() && axes.is_some() {
            run.warn("weights alone don't say along which axes predictions are mirrored; --model writes that too");
        }
        Commit::file(out, &weights::to_npz(&found.parameters))?;
        run.info(format!("wrote {}", out.display()));
    }
    match &args.model {
        Some(folder) => {
            let plan = model_plan(plan_path, &plan, axes.as_deref(), run)?;
            write_model(args, folder, plan_path, &plan, &name, &found, run)
        }
        None => Ok(()),
    }
}

/// Says where the checkpoint is of another configuration.
fn compare(found: &Checkpoint, name: &str, run: &Run) {
    if let Some(other) = found.configuration.as_deref().filter(|other| *other != name) {
        run.warn(format!("the checkpoint was trained for {other}, taken as {name}"));
    }
}

/// The bytes of the model's plan: the given file, or one that mirrors as the checkpoint says.
fn model_plan(path: &Path, plan: &Plan, axes: Option<&[usize]>, run: &Run) -> Result<Vec<u8>> {
    let bytes = artifact::file::read(path, "read")?;
    let Some(axes) = axes else { return Ok(bytes) };
    let mut plan = plan.clone();
    plan.recipe.inference.mirror_axes = Some(axes.to_vec());
    // Not of the checkpoint: the folds of a model have one plan.
    let provenance =
        run.provenance().option("mirror_axes", option(axes)).input("plan", hash_file(path)?);
    let text = artifact::text(&provenance, &plan);
    Ok(text.map_err(|e| artifact::Error::input(path, e))?.into_bytes())
}

fn option(axes: &[usize]) -> toml::Value {
    axes.iter().map(|axis| i64::try_from(*axis).unwrap_or(i64::MAX)).collect::<Vec<_>>().into()
}

fn write_model(
    args: &Import,
    folder: &Path,
    plan_path: &Path,
    plan: &[u8],
    name: &str,
    found: &Checkpoint,
    run: &Run,
) -> Result<()> {
    let Some(fold) = args.fold.or(found.fold) else {
        return Err(Error::usage(format!(
            "{}: its fold is not a number; say --fold K",
            args.checkpoint.display()
        )));
    };
    let provenance = run
        .provenance()
        .option("configuration", name)
        .option("fold", i64::try_from(fold).unwrap_or(i64::MAX))
        .input("checkpoint", hash_file(&args.checkpoint)?)
        .option("mirror_axes", option(&found.mirror_axes))
        .input("plan", hash_file(plan_path)?);
    let record = folder.join("model.toml");
    let training = folder.join("checkpoint.toml");
    if training.exists() && !record.exists() && !run.force() {
        return Err(run.outputs().refusal(&training, "a training is under way here"));
    }
    // A training that is under way here takes days.
    let Some(mut commit) = run.begin_unless_held::<Model>(&record, &provenance)? else {
        return Ok(());
    };
    // Of a model that was trained here before: an imported one has no history.
    commit.without(HISTORY);
    commit.without(PROGRESS);
    commit.bytes(WEIGHTS, &weights::to_npz(&found.parameters))?;
    commit.bytes(PLAN, plan)?;
    let model = ModelInfo {
        configuration: name.into(),
        fold,
        epochs: found.epochs.unwrap_or(1).max(1),
        ended_by: "imported".into(),
        precision: "f32".into(),
        validation: vec![],
        validation_dice: vec![],
    };
    commit.finish(&provenance, &Model { model })?;
    run.info(format!("wrote {}", record.display()));
    Ok(())
}

fn extract(path: &Path, folder: &Path, run: &Run) -> Result<()> {
    let carried = checkpoint::carried(path)?;
    let mut files = Vec::new();
    for (name, value) in CARRIED.into_iter().zip([&carried.plans, &carried.dataset]) {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::failed(e.to_string()))?;
        let (to, bytes) = (folder.join(name), format!("{text}\n").into_bytes());
        // Nothing tells the file of another checkpoint from that of a data set.
        let other = to.exists() && artifact::file::read(&to, "read")? != bytes;
        if other && !run.force() {
            return Err(run.outputs().refusal(&to, "is another one than the checkpoint's"));
        }
        files.push((to, bytes));
    }
    for (to, bytes) in files {
        Commit::file(&to, &bytes)?;
        run.info(format!("wrote {}", to.display()));
    }
    Ok(())
}

/// What is exported: weights of a configuration, and how they came about.
struct Source {
    weights: PathBuf,
    plan_path: PathBuf,
    configuration: String,
    fold: usize,
    epochs: usize,
    history: History,
}

impl Source {
    fn of_model(folder: &Path) -> Result<Self> {
        let path = folder.join("model.toml");
        let record = Record::<Model>::load(&path)?;
        record.verify(&path)?;
        let history = folder.join(HISTORY);
        let history = match history.exists() {
            true => Record::<History>::load(&history)?.body,
            false => History::default(),
        };
        let info = record.body.model;
        Ok(Self {
            weights: folder.join(WEIGHTS),
            plan_path: folder.join(PLAN),
            configuration: info.configuration,
            fold: info.fold,
            epochs: info.epochs,
            history,
        })
    }

    fn of(args: &Export) -> Result<Self> {
        match (&args.model, &args.weights, &args.plan, &args.configuration) {
            (Some(folder), ..) => Self::of_model(folder),
            (None, Some(weights), Some(plan), Some(configuration)) => Ok(Self {
                weights: weights.clone(),
                plan_path: plan.clone(),
                configuration: configuration.clone(),
                fold: args.fold,
                epochs: 0,
                history: History::default(),
            }),
            _ => Err(Error::usage("give --model, or --weights with --plan and --configuration")),
        }
    }
}

/// A model becomes a checkpoint.
pub fn export(args: &Export, run: &Run) -> Result<()> {
    run.outputs().may_write(&args.out, Form::PTH)?;
    let source = Source::of(args)?;
    let plan: Plan = Record::load(&source.plan_path)?.body;
    let c = configuration(&source.plan_path, &plan, &source.configuration)?;
    plan.check_for_nnunet().map_err(|e| artifact::Error::input(&source.plan_path, e))?;
    let (plans, dataset) = (read_json(&args.plans)?, read_json(&args.dataset_json)?);
    let flat = checkpoint::is_flat(&c.network, c.patch_shape);
    let name = &source.configuration;
    checkpoint::check_plans(&plans, name, &c.network, flat)
        .and_then(|()| checkpoint::check_geometry(&plans, name, c, plan.geometry.transpose, flat))
        .map_err(|e| {
            artifact::Error::input(&args.plans, e)
                .hint("write it from the same plan: nnu-plan export")
        })?;
    let described = DatasetJson::load(&args.dataset_json)?;
    checkpoint::check_dataset(&dataset, &described, &plan)
        .map_err(|e| artifact::Error::input(&args.dataset_json, e))?;
    let at = |e: net::Error| Error::input(format!("{}: {e}", source.weights.display()));
    let device = Device::Cpu(Cpu::detect());
    let mut net = UNet::new(&c.network, &device).map_err(at)?;
    net.set_parameters(&weights::read(&source.weights, &c.network)?).map_err(at)?;
    let mirror_axes = exported_mirror_axes(&plan, flat, run);
    let export = checkpoint::Export {
        network: &c.network,
        flat,
        plans: &plans,
        dataset: &dataset,
        configuration: &source.configuration,
        fold: source.fold,
        epochs: source.epochs,
        history: &source.history.epochs,
        mirror_axes: &mirror_axes,
    };
    let bytes = checkpoint::encode(&net.parameters().map_err(at)?, &export).map_err(at)?;
    Commit::file(&args.out, &bytes)?;
    run.info(format!("wrote {}", args.out.display()));
    Ok(())
}

/// Axes of the patch, rising. nnU-Net mirrors the same axes of every image, wherever left and right are in it.
fn exported_mirror_axes(plan: &Plan, flat: bool, run: &Run) -> Vec<usize> {
    let never = &plan.recipe.augmentation.never_mirror;
    let axes = plan.recipe.mirrored_in_prediction().iter();
    let mut axes: Vec<usize> =
        axes.filter_map(|axis| axis.checked_sub(usize::from(flat))).collect();
    axes.sort_unstable();
    if !(never.is_empty() || axes.is_empty()) {
        run.warn(format!(
            "recipe.augmentation.never_mirror = {never:?}: nnU-Net doesn't know axes of the body; exported so that it predicts \
             without mirroring"
        ));
        axes.clear();
    }
    axes
}

fn read_json(path: &Path) -> Result<Value> {
    let text = artifact::file::json(path, "read")?;
    Ok(serde_json::from_str(&text)
        .map_err(|e| artifact::Error::input(path, format!("not JSON: {e}")))?)
}
