//! A program that doesn't come to its next unit of work: what the signals' tests end.

use stage::{Common, Error, Files, Io, Result, Run};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, clap::Parser)]
#[command(name = "nnu-stuck")]
struct Args {
    /// In what: loop, read, join, pool or save
    how: String,
    #[command(flatten)]
    common: Common,
}

impl stage::Command for Args {
    const STAGE: &'static str = "stuck";
    const REVISIONS: &'static [(&'static str, u32)] = &[];
    const COMMIT: &'static str = "unknown";

    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        Files::default()
    }
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

fn stuck(args: &Args, run: &Run) -> Result<()> {
    let name = args.how.as_str();
    // The test sends its signals when it has read this.
    stage::print(["ready"])?;
    let _ = std::io::stdout().flush();
    match name {
        "loop" => spin(),
        "read" => {
            let _ = std::io::stdin().lock().read(&mut [0]);
        }
        "join" => {
            let _ = std::thread::spawn(spin).join();
        }
        "pool" => rayon::scope(|scope| (0..4).for_each(|_| scope.spawn(|_| spin()))),
        "save" => {
            run.saves_at_signal();
            while !run.stop_requested() {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_secs(12));
            return Err(Error::stopped("saved"));
        }
        _ => loop {
            run.check_stop()?;
            std::thread::sleep(Duration::from_millis(5));
        },
    }
    Ok(())
}

fn main() -> ExitCode {
    stage::main(&[Io::foreign("reads", "stdin", "nothing")], stuck)
}
