//! `main` of every stage, and what a running stage can ask of its process.

use crate::progress::short;
use crate::say::say;
use crate::signal::Stop;
use crate::{Common, Error, Exit, Files, Io, Progress, Result};
use artifact::{Commit, Kind, Patience, Provenance, check_replaceable, set_patience, up_to_date};
use std::collections::BTreeMap;
use std::fmt::Display;
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

/// Parses the command line, runs the stage, prints what went wrong, and gives the exit code.
pub fn main<A: Command>(io: &[Io], body: impl FnOnce(&A, &Run) -> Result<()>) -> ExitCode {
    if std::env::args_os().skip(1).take_while(|a| a != "--").any(|a| a == "--io") {
        print_io(io);
        return ExitCode::SUCCESS;
    }
    let args = match parse::<A>() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let label = format!("nnu-{}", A::STAGE);
    let ended = args.files().check().and_then(|()| start::<A>(&args, &label)).and_then(|run| {
        body(&args, &run)?;
        run.info(format!("done in {}, peak memory {}", short(run.begun.elapsed()), peak_memory()));
        Ok(())
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&label, &error);
            ExitCode::from(error.exit as u8)
        }
    }
}

fn parse<A: Command>() -> std::result::Result<A, clap::Error> {
    let command = A::command().version(version::<A>());
    A::from_arg_matches_mut(&mut command.try_get_matches()?)
}

/// What `--version` says after the program's name.
fn version<A: Command>() -> String {
    let revisions = revisions::<A>();
    let revisions: Vec<String> = revisions.iter().map(|(n, r)| format!("{n} {r}")).collect();
    let version = env!("CARGO_PKG_VERSION");
    format!("{version} (commit {})\nrevisions: {}", A::COMMIT, revisions.join(", "))
}

fn revisions<A: Command>() -> BTreeMap<String, u32> {
    let all = [("artifact", artifact::REVISION)];
    all.iter().chain(A::REVISIONS).map(|&(name, revision)| (name.into(), revision)).collect()
}

fn start<A: Command>(args: &A, label: &str) -> Result<Run> {
    let common = args.common();
    let threads = match common.threads {
        Some(0) => return Err(Error::usage("--threads 0, expected at least 1")),
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    // Fails only if a pool is already there, which one process makes once.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let stop = Stop::install().map_err(|e| Error::failed(format!("cannot handle signals: {e}")))?;
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

#[expect(clippy::print_stdout, reason = "this table is what --io is asked for")]
fn print_io(io: &[Io]) {
    for line in io {
        let version = if line.version == 0 { String::new() } else { format!(" {}", line.version) };
        println!("{} {} {}{version}", line.direction, line.flag, line.kind);
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
    pub fn up_to_date<T: Kind>(&self, record: &Path, provenance: &Provenance) -> bool {
        let yes = !self.force && up_to_date::<T>(record, &provenance.key::<T>());
        if yes {
            self.info(format!("{} is up to date", record.display()));
        }
        yes
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
        if self.up_to_date::<T>(record, made) {
            return Ok(None);
        }
        check_replaceable::<T>(record)?;
        let commit = begin(record)?;
        Ok(if self.up_to_date::<T>(record, made) { None } else { Some(commit) })
    }

    /// Whether outputs are to be made again although they are up to date.
    pub fn force(&self) -> bool {
        self.force
    }
}
