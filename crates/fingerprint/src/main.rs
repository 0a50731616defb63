//! Glue: flags in, table and record out.

use artifact::Commit;
use artifact::dataset::Dataset;
use artifact::fingerprint::Fingerprint;
use clap::Parser;
use fingerprint::{Class, Report, content_hash, error_count, measure, table};
use stage::{Common, Error, Files, Io, Result, Run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks a data set and measures what a plan needs: shapes, spacings, intensities.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-fingerprint",
    after_help = "Example:\n  \
    nnu-fingerprint --dataset Task04_Hippocampus --out work/fingerprint.toml"
)]
struct Args {
    /// Folder with dataset.json and images (Decathlon's or nnU-Net's layout)
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// Record to write
    #[arg(long, value_name = "FILE", required_unless_present = "check_only")]
    out: Option<PathBuf>,
    /// Only look for problems; the table goes to stdout and nothing is written
    #[arg(long, conflicts_with = "out")]
    check_only: bool,
    #[command(flatten)]
    common: Common,
}

impl stage::Command for Args {
    const STAGE: &'static str = "fingerprint";
    const REVISIONS: &'static [(&'static str, u32)] = &[("fingerprint", fingerprint::REVISION)];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        Files::default()
            .reads("--dataset", [&self.dataset])
            .record::<Fingerprint, _>("--out", &self.out)
    }
}

const IO: &[Io] = &[
    Io::foreign("reads", "--dataset", "dataset.json and NIfTI"),
    Io::writes::<Fingerprint>("--out"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &Args, run| {
        let dataset = Dataset::load(&args.dataset)?;
        let tests = match dataset.test.len() {
            0 => String::new(),
            n => format!(", {n} test"),
        };
        run.info(format!("{}: {} training{tests} cases", dataset.name, dataset.training.len()));
        let provenance = |hash: String| run.provenance().input("--dataset", hash);
        let done = |out: &PathBuf| {
            // A file that can't be read is a problem for the table below.
            let hash = content_hash(&args.dataset, &dataset).unwrap_or_default();
            run.up_to_date::<Fingerprint>(out, &provenance(hash))
        };
        let asked = args.out.as_ref().filter(|_| !run.force());
        if asked.filter(|out| out.exists()).map(done).transpose()?.unwrap_or(false) {
            return Ok(());
        }
        // Asks whether the output can be written before the work, not after it.
        let commit = args.out.as_deref().map(Commit::begin).transpose()?;
        // Another program may have made it meanwhile.
        let waited = commit.as_ref().is_some_and(Commit::waited);
        if asked.filter(|_| waited).map(done).transpose()?.unwrap_or(false) {
            return Ok(());
        }
        let progress = run.progress("cases", dataset.training.len() + dataset.test.len());
        let report = measure(&args.dataset, &dataset, || {
            progress.add(1);
            !run.stop_requested()
        })?;
        drop(progress);
        let report = report.ok_or_else(Error::interrupted)?;
        show(args, &report, run)?;
        let Some(body) = &report.fingerprint else { return Err(refusal(args, &report)) };
        if let (Some(out), Some(commit)) = (&args.out, commit) {
            commit.finish(&provenance(report.hash), body)?;
            run.info(format!("wrote {}", out.display()));
        }
        Ok(())
    })
}

/// The table of problems: what --check-only is asked for, else part of the log.
fn show(args: &Args, report: &Report, run: &Run) -> Result<()> {
    let table = table(&report.problems, if args.common.verbose { usize::MAX } else { 3 });
    if !args.check_only {
        run.show(table.lines());
        return Ok(());
    }
    stage::print(if table.is_empty() { "no problems" } else { &table }.lines())
}

fn refusal(args: &Args, report: &Report) -> Error {
    let count = error_count(&report.problems);
    let plural = if count == 1 { "" } else { "s" };
    let message = format!("{}: {count} problem{plural}, expected none", args.dataset.display());
    // Not the data set's fault, or not only.
    if report.problems.iter().any(|p| p.class == Class::Failed) {
        return Error::failed(message);
    }
    Error::input(message)
        .hint("mend these files or take the cases out; --verbose lists every one of them")
}
