//! `fuzz-blind MINUTES [FIRST]`: fixed mutations from number FIRST on (else from where the tests stop), over all targets in
//! turn, and a table at the end. Unlike libFuzzer it doesn't see which code an input reaches, but needs nothing to be built
//! in a way of its own, and is several times as fast.

use fuzz::{TARGETS, Target, meter, mutate};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longer than this counts as a hang.
const HANG: Duration = Duration::from_secs(10);

/// Mutations between two looks at the clock.
const TOGETHER: u64 = 64;

/// What became of a target.
#[derive(Default)]
struct Tally {
    inputs: u64,
    spent: Duration,
    slowest: Duration,
    largest: usize,
    findings: u64,
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default: u64| arguments.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (minutes, first) = (number(10), number(1_000_000));
    let each = Duration::from_secs(60 * minutes) / TARGETS.len() as u32;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| target | inputs | inputs/s | findings | slowest | most memory |\n|---|---|---|---|---|---|"
    )?;
    for target in TARGETS {
        let t = run(target, each, first);
        writeln!(
            out,
            "| `{}` | {} | {:.0} | {} | {:.1} ms | {:.1} MiB |",
            target.name,
            t.inputs,
            t.inputs as f64 / t.spent.as_secs_f64(),
            t.findings,
            t.slowest.as_secs_f64() * 1e3,
            t.largest as f64 / f64::from(1 << 20)
        )?;
    }
    Ok(())
}

fn run(target: &Target, each: Duration, first: u64) -> Tally {
    let seeds = (target.seeds)();
    seeds.iter().for_each(|seed| (target.run)(seed));
    meter::largest();
    let mut tally = Tally::default();
    let begun = Instant::now();
    while begun.elapsed() < each {
        for _ in 0..TOGETHER {
            let index = first + tally.inputs;
            let data = mutate::mutated(&seeds, target.name, index);
            let started = Instant::now();
            let panicked = catch_unwind(AssertUnwindSafe(|| target.run_metered(&data))).is_err();
            let took = started.elapsed();
            tally.inputs += 1;
            tally.slowest = tally.slowest.max(took);
            if panicked || took > HANG {
                tally.findings += 1;
                // The panic's own message stands above.
                eprintln!("{} {index}: {took:?}\n{}", target.name, data.escape_ascii());
            }
        }
    }
    tally.spent = begun.elapsed();
    tally.largest = meter::largest();
    tally
}
