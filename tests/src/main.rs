//! `nnu-phantom`: makes the demo's data set.

use clap::Parser;
use e2e::phantom::{Size, is_own, write};
use stage::{Command, Common, Files, Io, Seed};
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a phantom data set in the Decathlon's layout.
#[derive(Debug, Parser)]
#[command(name = "nnu-phantom", after_help = "Example:\n  nnu-phantom --out work/demo/data")]
struct Args {
    /// Training cases
    #[arg(long, value_name = "N", default_value_t = 20)]
    training: usize,
    /// Test cases
    #[arg(long, value_name = "N", default_value_t = 4)]
    test: usize,
    /// Typical shape: z,y,x
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', default_value = "16,40,40")]
    shape: Vec<usize>,
    /// Typical spacing: z,y,x in mm
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', default_value = "3.0,1.2,1.2")]
    spacing: Vec<f64>,
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    common: Common,
}

impl Command for Args {
    const STAGE: &'static str = "phantom";
    const REVISIONS: &'static [(&'static str, u32)] = &[];
    const COMMIT: &'static str = stage::commit!();
    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        Files::default().folder("--out", [&self.out])
    }
}

fn main() -> ExitCode {
    stage::main(&[Io::foreign("writes", "--out", "a data set folder")], |args: &Args, run| {
        let three =
            |flag: &str| stage::Error::usage(format!("{flag}: expected three numbers z,y,x"));
        let shape: [usize; 3] = args.shape.clone().try_into().map_err(|_| three("--shape"))?;
        let spacing_mm: [f64; 3] =
            args.spacing.clone().try_into().map_err(|_| three("--spacing"))?;
        let size = Size { training: args.training, test: args.test, shape, spacing_mm };
        let replace = run.force() || is_own(&args.out);
        let description = args.out.join("dataset.json");
        if description.exists() && !replace {
            return Err(run.outputs().refusal(&description, "describes another data set"));
        }
        write(&args.out, &size, args.seed.seed, replace)?;
        run.info(format!(
            "wrote {} training and {} test cases to {}",
            args.training,
            args.test,
            args.out.display()
        ));
        Ok(())
    })
}
