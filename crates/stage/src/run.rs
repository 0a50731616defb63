//! `main` of every stage, and what a running stage can ask of its process.

use crate::arguments::{parse, revisions};
use crate::progress::short;
use crate::say::say;
use crate::signal::Stop;
use crate::{Common, Error, Exit, Files, Io, Outputs, Progress, Result, threads};
use artifact::{Commit, Kind, Patience, Provenance, check_replaceable, set_patience};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// The parsed command line of a stage.
pub trait Command: clap::Parser {
    /// The crate's name: `plan` for `nnu-plan`.
    const STAGE: &'static str;
    /// `REVISION` of the stage's crate and of every crate it computes with; that of `artifact` is added to them.
    const REVISIONS: &'static [(&'static str, u32)];
    /// The commit that the program is built from: [`crate::commit!`].
    const COMMIT: &'static str;
    /// The common flags.
    fn common(&self) -> &Common;
    /// What is read and what is written; checked before the stage begins.
    fn files(&self) -> Files;
}

/// A running stage.
#[derive(Debug)]
pub struct Run {
    label: String,
    stage: &'static str,
    revisions: BTreeMap<String, u32>,
    quiet: bool,
    verbose: bool,
    force: bool,
    threads: usize,
    begun: Instant,
    stop: Stop,
}

/// How a call ended early.
pub(crate) enum Ended {
    /// What was wrong has been said.
    Told(u8),
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Parses the command line, runs the stage, prints what went wrong, and gives the exit code.
pub fn main<A: Command>(io: &[Io], body: impl FnOnce(&A, &Run) -> Result<()>) -> ExitCode {
    let label = format!("nnu-{}", A::STAGE);
    tell_panics(&label);
    // A panic has told what it is; nothing of what it interrupted is used any more.
    let ended = catch_unwind(AssertUnwindSafe(|| call(io, &label, body)));
    match ended.unwrap_or(Err(Ended::Told(Exit::Failed as u8))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended::Told(code)) => ExitCode::from(code),
        Err(Ended::Failed(error)) => {
            report(&label, &error);
            ExitCode::from(error.exit as u8)
        }
    }
}

fn call<A: Command>(
    io: &[Io],
    label: &str,
    body: impl FnOnce(&A, &Run) -> Result<()>,
) -> std::result::Result<(), Ended> {
    let Some(args) = parse::<A>(io)? else { return Ok(()) };
    args.files().check()?;
    let run = start::<A>(&args, label)?;
    body(&args, &run)?;
    run.info(format!("done in {}, peak memory {}", short(run.begun.elapsed()), peak_memory()));
    Ok(())
}

/// A panic is a fault of the program, said in one line.
fn tell_panics(label: &str) {
    let label = label.to_string();
    std::panic::set_hook(Box::new(move |panic| {
        let what = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map_or(String::new(), |place| format!(" at {place}"));
        say(format_args!("{label}: error: internal error{place}: {what}"));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(|line| say(format_args!("{line}")));
        }
    }));
}

fn start<A: Command>(args: &A, label: &str) -> Result<Run> {
    let common = args.common();
    let stop =
        Stop::install(label).map_err(|e| Error::failed(format!("cannot handle signals: {e}")))?;
    let (wanted, threads) = threads::start(common.threads)?;
    let (name, asked) = (label.to_owned(), stop.clone());
    set_patience(Patience {
        say: Box::new(move |line| say(format_args!("{name}: warning: {line}"))),
        stopped: Box::new(move || asked.requested()),
    });
    let run = Run {
        label: label.into(),
        stage: A::STAGE,
        revisions: revisions::<A>(),
        quiet: common.quiet,
        verbose: common.verbose,
        force: common.force,
        threads,
        begun: Instant::now(),
        stop,
    };
    if threads < wanted {
        run.warn(format!("the system lets {threads} of {wanted} threads start; it takes longer"));
    }
    run.debug(format!("commit {}, {threads} threads", A::COMMIT));
    Ok(run)
}

fn report(label: &str, error: &Error) {
    let word =
        if matches!(error.exit, Exit::Stopped | Exit::Interrupted) { "stopped" } else { "error" };
    say(format_args!("{label}: {word}: {}", error.message));
    if let Some(hint) = &error.hint {
        say(format_args!("  hint: {hint}"));
    }
}

/// Peak resident memory of this process, such as `812 MB`.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.map_or("unknown".into(), |k| format!("{} MB", (k * 1024).div_ceil(1_000_000)))
}

impl Run {
    /// A line of the log.
    pub fn info(&self, line: impl Display) {
        if !self.quiet {
            say(format_args!("{}: {line}", self.label));
        }
    }

    /// A line of the log with `--verbose`.
    pub fn debug(&self, line: impl Display) {
        if self.verbose {
            say(format_args!("{}: {line}", self.label));
        }
    }

    /// A warning; printed even with `--quiet`.
    pub fn warn(&self, line: impl Display) {
        say(format_args!("{}: warning: {line}", self.label));
    }

    /// Lines of a table that is no less important than a warning.
    pub fn show<L: Display>(&self, lines: impl IntoIterator<Item = L>) {
        lines.into_iter().for_each(|line| say(format_args!("{line}")));
    }

    /// Prints an error that doesn't end the run, such as one failed case of many.
    pub fn report(&self, error: &Error) {
        report(&self.label, error);
    }

    /// A progress display over `total` units.
    pub fn progress(&self, what: &str, total: usize) -> Progress {
        Progress::new(&self.label, what, total, self.quiet)
    }

    /// Threads that the run may use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a signal asked to stop; for stages that can save their state first.
    pub fn stop_requested(&self) -> bool {
        self.stop.requested()
    }

    /// From now on the stage saves its state at a signal, however long that takes; until then, what isn't between two
    /// units of work soon after a signal is ended there.
    pub fn saves_at_signal(&self) {
        self.stop.wait_for_stage();
    }

    /// Ends the run between two units of work if a signal asked to.
    ///
    /// # Errors
    /// [`Error::interrupted`].
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.requested() { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// The provenance of this stage's outputs, to be completed with options and inputs.
    pub fn provenance(&self) -> Provenance {
        Provenance {
            stage: self.stage.into(),
            revisions: self.revisions.clone(),
            ..Provenance::default()
        }
    }

    /// Whether `record` is already what this call would write; says so. Never with `--force`.
    ///
    /// # Errors
    /// If there is something that this stage didn't make.
    pub fn up_to_date<T: Kind>(&self, record: &Path, provenance: &Provenance) -> Result<bool> {
        let yes = self.outputs().up_to_date::<T>(record, provenance)?;
        if yes {
            self.info(format!("{} is up to date", record.display()));
        }
        Ok(yes)
    }

    /// What may be replaced by this call.
    pub fn outputs(&self) -> Outputs {
        Outputs::new(self.stage, self.force)
    }

    /// Starts the output whose record is `record`; none if it is what this call would write, perhaps made by another
    /// program that this one waited for.
    ///
    /// # Errors
    /// As [`Commit::begin`]; also if something else lies under the record's name.
    pub fn begin<T: Kind>(&self, record: &Path, made: &Provenance) -> Result<Option<Commit>> {
        self.begin_with::<T>(record, made, Commit::begin)
    }

    /// As [`Self::begin`], but ends the program if another one is at work on the output.
    ///
    /// # Errors
    /// As [`Commit::begin_unless_held`]; also if something else lies under the record's name.
    pub fn begin_unless_held<T: Kind>(
        &self,
        record: &Path,
        made: &Provenance,
    ) -> Result<Option<Commit>> {
        self.begin_with::<T>(record, made, Commit::begin_unless_held)
    }

    fn begin_with<T: Kind>(
        &self,
        record: &Path,
        made: &Provenance,
        begin: impl FnOnce(&Path) -> artifact::Result<Commit>,
    ) -> Result<Option<Commit>> {
        check_replaceable::<T>(record)?;
        if self.up_to_date::<T>(record, made)? {
            return Ok(None);
        }
        let commit = begin(record)?;
        Ok(if self.up_to_date::<T>(record, made)? { None } else { Some(commit) })
    }

    /// Whether outputs are to be made again although they are up to date.
    pub fn force(&self) -> bool {
        self.force
    }
}
