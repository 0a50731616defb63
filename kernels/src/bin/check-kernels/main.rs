//! Compiles every kernel for every generation of cards, without one, and holds what the compiler made of it against
//! `kernels/budget.toml`: registers, shared memory, stack, no spills, no warnings, tensor core instructions where they
//! are promised. `kernels/check.sh` gets the tools and runs this.
#![expect(clippy::print_stdout, reason = "a table to look at")]

mod budget;
mod resources;
mod sass;

use budget::{Budget, Measured, Measurements, PROMISED};
use clap::Parser;
use kernels::SOURCES;
use kernels::compile::{Compiler, Job, Places, Target, on_all_cores};
use resources::Resources;
use sass::Disassembler;
use std::path::PathBuf;
use std::process::ExitCode;

/// From the oldest cards that the program takes to the newest.
const ARCHES: [u32; 6] = [80, 86, 89, 90, 100, 120];

const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/budget.toml");

const HEADER: &str = "\
# What kernels may use, on any architecture, and which instructions they must contain, on each. Checked by
# kernels/check.sh; after a change that is meant, `kernels/check.sh --write` takes over what is.
";

/// Holds the kernels against kernels/budget.toml
#[derive(Parser)]
struct Args {
    /// Folder of libnvrtc.so; otherwise found as the programs find it
    #[arg(long, value_name = "DIR")]
    nvrtc: Option<PathBuf>,
    /// Folder of nvdisasm; otherwise `../bin` of the folder of libnvrtc.so
    #[arg(long, value_name = "DIR")]
    tools: Option<PathBuf>,
    /// Writes what is into the budget
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match check(&Args::parse()) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("check-kernels: error: {problem}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("check-kernels: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: &Args) -> Result<Vec<String>, String> {
    let cache = cache()?;
    let compiler = compiler(args)?.with_resources().keeping_in(cache.clone());
    let nvdisasm = match (&args.tools, compiler.folder()) {
        (Some(folder), _) => folder.join("nvdisasm"),
        (None, Some(folder)) => folder.join("../bin/nvdisasm"),
        (None, None) => return Err("where is nvdisasm? say it with --tools DIR".into()),
    };
    let (measured, mut problems) = measure(&compiler, &Disassembler::new(nvdisasm, cache)?)?;
    let mut budget = read_budget()?;
    if args.write {
        budget = budget::renewed(&budget, &measured);
        let text = toml::to_string(&budget).map_err(|error| error.to_string())?;
        #[expect(clippy::disallowed_methods, reason = "a file of the repository")]
        let written = std::fs::write(BUDGET, format!("{HEADER}\n{text}"));
        written.map_err(|error| format!("{BUDGET}: {error}"))?;
    }
    problems.extend(budget::problems(&budget, &measured));
    print(&measured);
    let verdict = if problems.is_empty() { "within their budget" } else { "not as they should be" };
    println!("\n{} kernels, {verdict}; {}", measured.len(), compiler.describe());
    Ok(problems)
}

fn compiler(args: &Args) -> Result<Compiler, String> {
    if let Some(folder) = &args.nvrtc {
        return Compiler::open(folder);
    }
    // Any driver: nothing is loaded.
    let target = Target { capability: (12, 0), driver: (u32::MAX, 0) };
    let found = Compiler::find(&Places::of_process(), target);
    found.map(|(compiler, _)| compiler).map_err(|error| error.to_string())
}

/// `target/kernels`, for this program at `target/debug/check-kernels`.
fn cache() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(2).ok_or("this program is in no target folder")?;
    Ok(target.join("kernels"))
}

fn read_budget() -> Result<Budget, String> {
    match std::fs::read_to_string(BUDGET) {
        Ok(text) => toml::from_str(&text).map_err(|error| format!("{BUDGET}: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Budget::new()),
        Err(error) => Err(format!("{BUDGET}: {error}")),
    }
}

/// Compiles and disassembles everything. What doesn't compile, or not without a warning, is among the problems.
fn measure(
    compiler: &Compiler,
    disassembler: &Disassembler,
) -> Result<(Measurements, Vec<String>), String> {
    let (mut measured, mut problems) = (Measurements::new(), Vec::new());
    let jobs: Vec<Job> = ARCHES
        .into_iter()
        .flat_map(|arch| SOURCES.iter().map(move |&source| Job { source, arch }))
        .collect();
    let mut compiled = Vec::new();
    for (job, done) in jobs.iter().zip(compiler.compile(&jobs)) {
        match done {
            Ok(done) => compiled.push((job, done.compiled)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    let instructions =
        on_all_cores(&compiled, |(_, compiled)| disassembler.instructions(&compiled.cubin));
    for ((job, compiled), instructions) in compiled.iter().zip(instructions) {
        let (file, arch) = (job.source.file, job.arch);
        let warnings = resources::warnings(&compiled.log);
        problems.extend(warnings.map(|line| format!("on sm_{arch}: {line}")));
        let (mut resources, mut instructions) = (resources::parse(&compiled.log), instructions?);
        let kernels = kernels::compile::kernels(&compiled.cubin);
        for kernel in kernels.ok_or_else(|| format!("{file}: the output is not a cubin"))? {
            let name = kernel.name;
            if kernel.threads.is_none() || kernel.arguments.is_none() {
                problems.push(format!("{name} on sm_{arch}: its cubin hides threads or arguments"));
            }
            let (Some(resources), Some(instructions)) =
                (resources.remove(&name), instructions.remove(&name))
            else {
                return Err(format!("{file}: the tools say nothing of {name} on sm_{arch}"));
            };
            let on = measured.entry(name.clone()).or_default();
            if on.iter().any(|m| m.arch == arch) {
                problems.push(format!("{name} on sm_{arch}: two files have a kernel of this name"));
            }
            on.push(Measured { arch, resources, instructions });
        }
    }
    Ok((measured, problems))
}

/// A line per kernel: registers on each architecture, otherwise the most of any; instructions the least of any.
fn print(measured: &Measurements) {
    let width = measured.keys().map(String::len).max().unwrap_or(0).max("registers on sm_".len());
    let arches: String = ARCHES.iter().map(|arch| format!("{arch:>5}")).collect();
    println!("{:<width$}{arches}  shared  stack spilled  HMMA  LDSM LDGSTS", "registers on sm_");
    for (kernel, on) in measured {
        let registers: String = ARCHES
            .iter()
            .map(|&arch| on.iter().find(|m| m.arch == arch))
            .map(|m| m.map_or("    –".into(), |m| format!("{:>5}", m.resources.registers)))
            .collect();
        let most =
            |of: fn(&Resources) -> u32| on.iter().map(|m| of(&m.resources)).max().unwrap_or(0);
        let [tensor, matrix, copies] = PROMISED.map(|name| {
            on.iter().map(|m| m.instructions.get(name).copied().unwrap_or(0)).min().unwrap_or(0)
        });
        println!(
            "{kernel:<width$}{registers}{:>8}{:>7}{:>8}{tensor:>6}{matrix:>6}{copies:>7}",
            most(|r| r.shared),
            most(|r| r.stack),
            most(|r| r.spilled),
        );
    }
}
