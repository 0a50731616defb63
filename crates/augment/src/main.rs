//! `nnu-augment`: a spool of augmented batches, or a sheet of them to look at.

mod args;

use args::{Args, IO};
use artifact::plan::Plan;
use artifact::{Provenance, Record, batch};
use augment::{
    Loader, Mode, cases_hash, open_cases, open_previous, preview, previous_hash, spool,
    training_cases,
};
use stage::{Form, Result, Run};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    stage::main(IO, |args: &Args, run| {
        let plan = Record::<Plan>::load(&args.plan)?.body;
        let in_plan = |e| artifact::Error::input(&args.plan, e);
        let configuration = plan.configuration(&args.configuration).map_err(in_plan)?;
        let made_for = plan.cases_of(&args.configuration).map_err(in_plan)?;
        let ids = training_cases(&args.splits_path(), args.fold)?;
        let cases = open_cases(&args.cases, &ids, made_for)?;
        let masked = spool::masked_channels(&plan);
        let cascade = configuration.previous_stage.is_some();
        let mut loader =
            Loader::new(cases, configuration, &plan.recipe, Mode::Training, args.seed.seed)?
                .with_masked_channels(&masked);
        if cascade || !args.previous.is_empty() {
            loader = loader.with_previous(open_previous(&args.previous, &ids)?)?;
        }
        if let Some(path) = &args.preview {
            run.outputs().may_write(path, Form::PNG)?;
            let names: Vec<String> = plan.labels.iter().map(|l| l.name.clone()).collect();
            preview::sheet(&loader, &names).save(path)?;
            run.info(format!("{} written", path.display()));
        }
        let (Some(folder), Some(batches)) = (&args.out, args.batches) else { return Ok(()) };
        let mut provenance = run
            .provenance()
            .seed(args.seed.seed)
            .option("configuration", args.configuration.as_str())
            .input("plan", spool::plan_hash(&plan, configuration))
            .input("cases", cases_hash(&args.cases, &ids)?);
        if cascade {
            provenance = provenance.input("previous", previous_hash(&args.previous, &ids)?);
        }
        write_spool(run, &loader, folder, batches, &provenance)
    })
}

fn write_spool(
    run: &Run,
    loader: &Loader,
    folder: &Path,
    batches: usize,
    provenance: &Provenance,
) -> Result<()> {
    if let Some(more) = batch::numbers(folder)?.into_iter().find(|number| *number >= batches) {
        run.warn(format!(
            "{}: holds batch {more:06} of an earlier call, beyond the {batches} asked for; nnu-train would use it too",
            folder.display()
        ));
    }
    let progress = run.progress("batches", batches);
    for index in 0..batches {
        run.check_stop()?;
        let number = i64::try_from(index).unwrap_or(i64::MAX);
        let provenance = provenance.clone().option("batch", number);
        let record = batch::path(folder, index);
        if let Some(commit) = run.begin::<batch::Batch>(&record, &provenance)? {
            spool::write(commit, index, &provenance, loader, &loader.batch(index as u64))?;
        }
        progress.add(1);
    }
    Ok(())
}
