//! The command line of `nnu-plan`.

use artifact::Provenance;
use artifact::plan::{NnunetNames, Plan};
use artifact::splits::Splits;
use clap::{Parser, Subcommand};
use plan::folds::FoldOptions;
use plan::recipe::{BUILT_IN, Resolved};
use plan::settings::Setting;
use regex::Regex;
use stage::{Command, Common, Error, Files, Result};
use std::path::{Path, PathBuf};

/// Decides how a data set is segmented: spacing, patches, batches, networks, folds
#[derive(Debug, Parser)]
#[command(
    name = "nnu-plan",
    after_help = EXAMPLE,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) task: Option<Task>,
    /// What nnu-fingerprint measured, or nnU-Net's dataset_fingerprint.json
    #[arg(long, value_name = "FILE", required_unless_present = "print_recipe")]
    fingerprint: Option<PathBuf>,
    /// nnU-Net's dataset.json for its fingerprint [default: dataset.json beside it]
    #[arg(long, value_name = "FILE")]
    dataset_json: Option<PathBuf>,
    /// Where the plan goes; splits.toml goes beside it
    #[arg(long, value_name = "FILE", required_unless_present = "print_recipe")]
    out: Option<PathBuf>,
    /// Built-in recipe (paper, v2, v2-resenc, v2-resenc-m, v2-resenc-l, v2-resenc-xl) or a TOML file, complete or
    /// beginning with base = "NAME" of a built-in one
    #[arg(long, value_name = "NAME|FILE", default_value = "paper")]
    recipe: String,
    /// Change a key of the recipe or of a planned configuration; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// GPU memory to plan for, short for --set planning.gpu_memory_gib=GIB
    #[arg(long, value_name = "GIB")]
    gpu_memory: Option<f64>,
    #[command(flatten)]
    folds: FoldArgs,
    /// Print the recipe with all settings, and exit: the beginning of one's own recipe file
    #[arg(long)]
    print_recipe: bool,
    #[command(flatten)]
    common: Common,
}

const EXAMPLE: &str = "Examples:
  nnu-plan --fingerprint work/fingerprint.toml --set schedule.epochs=50 --out work/plan.toml
  nnu-plan --fingerprint dataset_fingerprint.json --dataset-json dataset.json --recipe v2 --out work/plan.toml
  nnu-plan export --plan work/plan.toml --out plans.json
  nnu-plan import --plans plans.json --dataset-json dataset.json --out work/plan.toml";

/// nnU-Net's plans
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Write a plan as nnU-Net's plans.json
    Export(ExportArgs),
    /// Make a plan of nnU-Net's plans.json
    Import(ImportArgs),
}

/// Write a plan as nnU-Net's plans.json
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// The plan
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: PathBuf,
    /// Where plans.json goes
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// nnU-Net's name of the data set, such as Dataset004_Hippocampus [default: the plan's]
    #[arg(long, value_name = "NAME")]
    dataset_name: Option<String>,
    /// nnU-Net's name of the plans [default: what its planner calls them]
    #[arg(long, value_name = "NAME")]
    plans_name: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl ExportArgs {
    pub(crate) fn names(&self) -> NnunetNames {
        let (dataset, plans) = (self.dataset_name.clone(), self.plans_name.clone());
        NnunetNames { dataset, plans, ..NnunetNames::default() }
    }
}

/// Make a plan of nnU-Net's plans.json
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// nnU-Net's plans
    #[arg(long, value_name = "FILE")]
    pub(crate) plans: PathBuf,
    /// The data set's dataset.json: channels, labels, file ending, number of cases
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset_json: PathBuf,
    /// What nnu-fingerprint measured: its cases make splits.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) fingerprint: Option<PathBuf>,
    /// Where the plan goes
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Recipe for everything that plans.json doesn't say [default: the built-in one of its planner, such as v2]
    #[arg(long, value_name = "NAME|FILE")]
    recipe: Option<String>,
    /// Change a key of the recipe or of an imported configuration; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    folds: FoldArgs,
    #[command(flatten)]
    common: Common,
}

impl ImportArgs {
    pub(crate) fn recipe(&self) -> Result<Option<Resolved>> {
        self.recipe.as_deref().map(recipe).transpose()
    }

    pub(crate) fn settings(&self) -> Result<Vec<Setting>> {
        self.set.iter().map(|text| Setting::parse(text)).collect()
    }

    pub(crate) fn folds(&self) -> &FoldArgs {
        &self.folds
    }

    pub(crate) fn provenance(&self, made: Provenance) -> Provenance {
        if self.set.is_empty() { made } else { made.option("set", self.set.clone()) }
    }
}

/// How cases are split
#[derive(Debug, clap::Args)]
pub(crate) struct FoldArgs {
    /// Folds of the cross-validation
    #[arg(long, value_name = "K", default_value_t = 5)]
    folds: usize,
    /// Keep cases of one patient together; the patient is the pattern's first (…) or whole match in the case id
    #[arg(long, value_name = "REGEX")]
    group_by: Option<String>,
    /// Seed of the folds; 12345 gives nnU-Net's own
    #[arg(long, value_name = "N", default_value_t = 12345)]
    fold_seed: u32,
}

impl Command for Args {
    const STAGE: &'static str = "plan";
    const REVISIONS: &'static [(&'static str, u32)] = &[("plan", plan::REVISION)];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        match &self.task {
            None => &self.common,
            Some(Task::Export(args)) => &args.common,
            Some(Task::Import(args)) => &args.common,
        }
    }

    fn files(&self) -> Files {
        match &self.task {
            None => {
                let nnunet = self.dataset_json.clone();
                planned(&self.out, Some(&self.recipe))
                    .reads("--fingerprint", &self.fingerprint)
                    .reads("--dataset-json", nnunet)
            }
            Some(Task::Export(args)) => {
                Files::default().reads("--plan", [&args.plan]).file("--out", [&args.out])
            }
            Some(Task::Import(args)) => planned([&args.out], args.recipe.as_deref())
                .reads("--plans", [&args.plans])
                .reads("--dataset-json", [&args.dataset_json])
                .reads("--fingerprint", &args.fingerprint),
        }
    }
}

/// A plan, the splits beside it, and the recipe, which may be a file.
fn planned<'a>(out: impl IntoIterator<Item = &'a PathBuf>, recipe: Option<&str>) -> Files {
    let mut files = Files::default().reads("--recipe", recipe);
    for plan in out {
        files = files.record::<Plan, _>("--out", [plan]);
        let splits = plan.with_file_name("splits.toml");
        files = files.record::<Splits, _>("splits.toml beside --out", [splits]);
    }
    files
}

impl Args {
    /// Fingerprint and output; none if only the recipe is to be printed.
    pub(crate) fn paths(&self) -> Option<(&Path, &Path)> {
        let paths = self.fingerprint.as_deref().zip(self.out.as_deref());
        paths.filter(|_| !self.print_recipe)
    }

    /// `--dataset-json`, or the file of that name beside nnU-Net's fingerprint.
    pub(crate) fn dataset_json(&self, fingerprint: &Path) -> PathBuf {
        let given = self.dataset_json.clone();
        given.unwrap_or_else(|| fingerprint.with_file_name("dataset.json"))
    }

    pub(crate) fn recipe(&self) -> Result<Resolved> {
        recipe(&self.recipe)
    }

    pub(crate) fn folds(&self) -> &FoldArgs {
        &self.folds
    }

    /// `--gpu-memory`, then every `--set` in order; the last one of a key counts.
    pub(crate) fn settings(&self) -> Result<Vec<Setting>> {
        let memory = self.gpu_memory.map(|gib| format!("planning.gpu_memory_gib={gib}"));
        memory.iter().chain(&self.set).map(|text| Setting::parse(text)).collect()
    }

    pub(crate) fn plan_provenance(&self, made: Provenance) -> Provenance {
        let made = match self.gpu_memory {
            Some(gib) => made.option("gpu_memory", gib),
            None => made,
        };
        if self.set.is_empty() { made } else { made.option("set", self.set.clone()) }
    }

    /// The recipe with its settings, to stdout.
    pub(crate) fn print(mut recipe: Resolved, settings: &[Setting]) -> Result<()> {
        for setting in settings {
            recipe.set(setting)?;
        }
        stage::print_file(&recipe.document().to_string())
    }
}

impl FoldArgs {
    pub(crate) fn options(&self) -> Result<FoldOptions> {
        let pattern = self.group_by.as_deref().map(Regex::new).transpose();
        let group_by = pattern.map_err(|e| {
            let message = e.to_string();
            let last = message.lines().last().unwrap_or("not a regular expression");
            let pattern = self.group_by.as_deref().unwrap_or_default();
            Error::usage(format!("--group-by {pattern}: {}", last.trim_start_matches("error: ")))
        })?;
        Ok(FoldOptions { folds: self.folds, seed: self.fold_seed, group_by })
    }

    pub(crate) fn provenance(&self, made: Provenance) -> Provenance {
        let folds = i64::try_from(self.folds).unwrap_or(i64::MAX);
        let made = made.option("folds", folds).seed(u64::from(self.fold_seed));
        match &self.group_by {
            Some(pattern) => made.option("group_by", pattern.as_str()),
            None => made,
        }
    }
}

/// The recipe without settings. A name without path separator or ending is a built-in recipe's.
fn recipe(name: &str) -> Result<Resolved> {
    let path = Path::new(name);
    if BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
        || (path.extension().is_none() && path.components().count() == 1 && !path.exists())
    {
        return Resolved::built_in(name);
    }
    let text = artifact::file::text(path, "read this recipe")?;
    Resolved::from_text(&text, path)
}
