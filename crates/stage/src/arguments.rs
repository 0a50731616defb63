//! The command line: parsed, or the help, the version or what is wrong with it shown.

use crate::run::{Command, Ended};
use crate::say::{print, say, write};
use crate::{Io, Result, Shown};
use clap::error::ErrorKind;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;

/// The arguments; none if the call only asked for something to be shown.
pub(crate) fn parse<A: Command>(io: &[Io]) -> std::result::Result<Option<A>, Ended> {
    let given: Vec<OsString> = std::env::args_os().collect();
    if given.iter().skip(1).take_while(|a| *a != "--").any(|a| a == "--io") {
        print(io.iter().map(ToString::to_string))?;
        return Ok(None);
    }
    let error = match parsed::<A>(&given) {
        Ok(arguments) => return Ok(Some(arguments)),
        Err(error) => error,
    };
    if !error.use_stderr() {
        show(&error)?;
        return Ok(None);
    }
    complain::<A>(&given, &error);
    Err(Ended::Told(u8::try_from(error.exit_code()).unwrap_or(2)))
}

fn parsed<A: Command>(given: &[OsString]) -> std::result::Result<A, clap::Error> {
    let mut command = A::command().version(version::<A>());
    let mut matches = command.try_get_matches_from_mut(given)?;
    A::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut command))
}

/// Help or version, with colours on a terminal.
fn show(error: &clap::Error) -> Result<()> {
    if std::io::stdout().is_terminal() {
        let _ = error.print();
        return Ok(());
    }
    write(&error.render().to_string())
}

/// Says what is wrong with the command line. The message quotes it, so it is made of arguments that are safe to show.
fn complain<A: Command>(given: &[OsString], error: &clap::Error) {
    let safe = |argument: &OsString| Shown(argument.to_string_lossy()).to_string().into();
    let safe: Vec<OsString> = given.iter().map(safe).collect();
    if safe == given {
        let _ = error.print();
        return;
    }
    match parsed::<A>(&safe) {
        Err(error) if error.use_stderr() && error.kind() != ErrorKind::InvalidUtf8 => {
            let _ = error.print();
        }
        // Only what can't be shown made it wrong.
        _ => error.render().to_string().lines().for_each(|line| say(format_args!("{line}"))),
    }
}

/// What `--version` says after the program's name.
fn version<A: Command>() -> String {
    let revisions = revisions::<A>();
    let revisions: Vec<String> = revisions.iter().map(|(n, r)| format!("{n} {r}")).collect();
    let version = env!("CARGO_PKG_VERSION");
    format!("{version} (commit {})\nrevisions: {}", A::COMMIT, revisions.join(", "))
}

/// Revisions of all code that decides a stage's bytes.
pub(crate) fn revisions<A: Command>() -> BTreeMap<String, u32> {
    let all = [("artifact", artifact::REVISION)];
    all.iter().chain(A::REVISIONS).map(|&(name, revision)| (name.into(), revision)).collect()
}
