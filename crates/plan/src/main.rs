//! `nnu-plan`: fingerprint and recipe to plan.toml and splits.toml.

mod args;

use args::Args;
use artifact::fingerprint::Fingerprint;
use artifact::plan::Plan;
use artifact::splits::Splits;
use artifact::{Commit, Record, hash_bytes, hash_file};
use plan::{command::assemble, folds::split, text::summary};
use stage::{Io, Result, Run};
use std::process::ExitCode;

const IO: [Io; 4] = [
    Io::reads::<Fingerprint>("--fingerprint"),
    Io::foreign("reads", "--recipe", "recipe"),
    Io::writes::<Plan>("--out"),
    Io::writes::<Splits>("--out/../splits.toml"),
];

fn main() -> ExitCode {
    stage::main(&IO, make)
}

fn make(args: &Args, run: &Run) -> Result<()> {
    let recipe = args.recipe()?;
    let settings = args.settings()?;
    let Some((fingerprint, out)) = args.paths() else {
        return Args::print(recipe, &settings);
    };
    let measured = Record::<Fingerprint>::load(fingerprint)?.body;
    let hash = hash_file(fingerprint)?;
    let recipe_hash = hash_bytes(recipe.document().to_string().as_bytes());
    let (plan, text) = assemble(&measured, recipe, &settings)?;
    let ids: Vec<String> = measured.cases.iter().map(|c| c.id.clone()).collect();
    let (splits, warning) = split(&ids, &args.folds()?)?;

    let made = args.plan_provenance(run.provenance()).input("--fingerprint", &hash);
    let made = made.input("--recipe", recipe_hash);
    if !run.up_to_date::<Plan>(out, &made) {
        Commit::begin(out)?.finish_with_text(&made, &plan, &text)?;
    }
    summary(&plan).iter().for_each(|line| run.info(line));
    if let Some(warning) = warning {
        run.warn(warning);
    }
    let out = out.with_file_name("splits.toml");
    let made = args.splits_provenance(run.provenance()).input("--fingerprint", &hash);
    if !run.up_to_date::<Splits>(&out, &made) {
        Commit::begin(&out)?.finish(&made, &splits)?;
    }
    Ok(())
}
