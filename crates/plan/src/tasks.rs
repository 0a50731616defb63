//! What `nnu-plan` does: plan, export, import.

use crate::args::{Args, ExportArgs, FoldArgs, ImportArgs};
use artifact::fingerprint::Fingerprint;
use artifact::plan::{Normalisation, Plan};
use artifact::splits::Splits;
use artifact::{Commit, Provenance, Record, hash_bytes, hash_file};
use plan::measured::Measured;
use plan::nnunet::{self, Described};
use plan::recipe::Resolved;
use plan::settings::Setting;
use plan::{command, folds::split, text::summary};
use stage::{Error, Form, Result, Run};
use std::path::Path;

/// A data set, the ids of its cases where they are known, and what it was read from.
struct Input {
    measured: Measured,
    ids: Option<Vec<String>>,
    made: Provenance,
}

/// Fingerprint and recipe to plan and splits.
pub(crate) fn plan(args: &Args, run: &Run) -> Result<()> {
    let recipe = args.recipe()?;
    let settings = args.settings()?;
    let Some((fingerprint, out)) = args.paths() else {
        return Args::print(recipe, &settings);
    };
    let input = input(args, fingerprint, run)?;
    let recipe_hash = hash_bytes(recipe.document().to_string().as_bytes());
    let (plan, text) = command::assemble(input.measured, recipe.clone(), &settings)?;
    if !plan.configurations.contains_key(plan::SLICES) {
        run.warn("2d is not planned: a slice of the median case is one voxel");
    }
    warn_of_weighting(&plan, &recipe, &settings, run)?;
    let splits = Folds::new(input.ids, args.folds())?;
    let made = args.plan_provenance(input.made.clone()).input("--recipe", recipe_hash);
    write((out, &made), (&plan, &text), splits, input.made, run)
}

fn input(args: &Args, fingerprint: &Path, run: &Run) -> Result<Input> {
    if nnunet::is_fingerprint(fingerprint) {
        let dataset_json = args.dataset_json(fingerprint);
        let described = Described::load(&dataset_json).map_err(|e| {
            let hint =
                "--dataset-json names the dataset.json that belongs to nnU-Net's fingerprint";
            if e.hint.is_none() { e.hint(hint) } else { e }
        })?;
        let made = run.provenance().input("--fingerprint", hash_file(fingerprint)?);
        return Ok(Input {
            measured: nnunet::measured(fingerprint, &described)?,
            ids: described.ids().map(<[String]>::to_vec),
            made: made.input("--dataset-json", hash_file(&dataset_json)?),
        });
    }
    let measured = Record::<Fingerprint>::load(fingerprint)?.body;
    Ok(Input {
        ids: Some(ids(&measured)),
        measured: Measured::from(&measured),
        made: run.provenance().input("--fingerprint", hash_file(fingerprint)?),
    })
}

fn ids(fingerprint: &Fingerprint) -> Vec<String> {
    fingerprint.cases.iter().map(|c| c.id.clone()).collect()
}

/// nnU-Net's fingerprint has one kind of statistics; only CT is normalised by them.
fn warn_of_weighting(
    plan: &Plan,
    recipe: &Resolved,
    settings: &[Setting],
    run: &Run,
) -> Result<()> {
    let mut asked = recipe.clone();
    let key = "planning.intensity_weighting";
    settings.iter().filter(|s| s.key == key).try_for_each(|s| asked.set(s))?;
    let ct = plan.channels.iter().any(|c| c.normalisation == Normalisation::Ct);
    if ct
        && asked.recipe()?.planning.intensity_weighting()
            != plan.recipe.planning.intensity_weighting()
    {
        run.warn(format!("{key} is per_case in this plan: nnU-Net's fingerprint has no statistics per voxel; one made by nnu-fingerprint has both"));
    }
    Ok(())
}

/// Plan and splits, under the plan's lock: those of another program don't come between them.
fn write(
    (out, made): (&Path, &Provenance),
    (plan, text): (&Plan, &str),
    splits: Folds<'_>,
    splits_made: Provenance,
    run: &Run,
) -> Result<()> {
    let commit = run.begin::<Plan>(out, made)?;
    let lock = commit.as_ref().map(Commit::lock);
    if let Some(commit) = commit {
        commit.finish_with_text(made, plan, text)?;
    }
    summary(plan).iter().for_each(|line| run.info(line));
    splits.write(out, splits_made, run)?;
    drop(lock);
    Ok(())
}

/// The splits to write, or none.
struct Folds<'a> {
    splits: Option<(Splits, Option<String>)>,
    args: &'a FoldArgs,
}

impl<'a> Folds<'a> {
    fn new(ids: Option<Vec<String>>, args: &'a FoldArgs) -> Result<Self> {
        let options = args.options()?;
        let splits = ids.map(|ids| split(&ids, &options)).transpose()?;
        Ok(Self { splits, args })
    }

    /// `splits.toml` beside the plan.
    fn write(self, plan: &Path, made: Provenance, run: &Run) -> Result<()> {
        let Some((splits, warning)) = self.splits else {
            run.info("splits.toml is not written: nnU-Net's files don't name the cases");
            return Ok(());
        };
        if let Some(warning) = warning {
            run.warn(warning);
        }
        let out = plan.with_file_name("splits.toml");
        let made = self.args.provenance(made);
        if let Some(commit) = run.begin::<Splits>(&out, &made)? {
            commit.finish(&made, &splits)?;
        }
        Ok(())
    }
}

const PLANS: Form = Form::new("plans.json of nnU-Net", |bytes| {
    let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    json.is_some_and(|json| json.get("plans_name").is_some())
});

/// Plan to `plans.json`.
pub(crate) fn export(args: &ExportArgs, run: &Run) -> Result<()> {
    let plan = Record::<Plan>::load(&args.plan)?.body;
    let fault = |e: String| Error::input(format!("{}: {e}", args.plan.display()));
    let plans = nnunet::export(&plan, &args.names()).map_err(fault)?;
    run.outputs().may_write(&args.out, PLANS)?;
    for departure in nnunet::departures(&plan) {
        run.warn(departure);
    }
    Commit::file(&args.out, nnunet::pretty(&plans).as_bytes())?;
    run.info(format!("{} configurations in {}", plan.configurations.len(), args.out.display()));
    Ok(())
}

/// That `dataset.json` names a class that reads images otherwise than the one of the plans, which is followed.
fn other_reader(args: &ImportArgs, plan: &Plan, described: &Described) -> Option<String> {
    let (planned, told) = (plan.dataset.reader, described.json.reader?);
    if planned == told {
        return None;
    }
    let meaning = |turns: bool| if turns { "turns images to RAS" } else { "takes them as stored" };
    let how = match planned.turns() == told.turns() {
        true => "the two take spacings and intensities from headers by rules of their own".into(),
        false => {
            let (planned, told) = (meaning(planned.turns()), meaning(told.turns()));
            format!("the former {planned}, the latter {told}")
        }
    };
    Some(format!(
        "{}: image_reader_writer = \"{}\" is followed, although {} says overwrite_image_reader_writer = \"{}\": {how}",
        args.plans.display(),
        plan.nnunet.image_reader.as_deref().unwrap_or(planned.name()),
        args.dataset_json.display(),
        described.json.image_reader.as_deref().unwrap_or(told.name()),
    ))
}

/// `plans.json` to plan, and splits where the cases are known.
pub(crate) fn import(args: &ImportArgs, run: &Run) -> Result<()> {
    let recipe = args.recipe()?;
    let recipe_hash = recipe.as_ref().map(|r| hash_bytes(r.document().to_string().as_bytes()));
    let (plan, text) = command::import(&args.plans, &args.dataset_json, recipe, &args.settings()?)?;
    let mut made = run.provenance().input("--plans", hash_file(&args.plans)?);
    made = made.input("--dataset-json", hash_file(&args.dataset_json)?);
    let described = Described::load(&args.dataset_json)?;
    if let Some(difference) = other_reader(args, &plan, &described) {
        run.warn(difference);
    }
    let mut known = described.ids().map(<[String]>::to_vec);
    let mut splits_made = made.clone();
    if let Some(path) = &args.fingerprint {
        known = Some(ids(&Record::<Fingerprint>::load(path)?.body));
        splits_made = run.provenance().input("--fingerprint", hash_file(path)?);
    }
    let folds = Folds::new(known, args.folds())?;
    if let Some(hash) = recipe_hash {
        made = made.input("--recipe", hash);
    }
    write((&args.out, &args.provenance(made)), (&plan, &text), folds, splits_made, run)
}
