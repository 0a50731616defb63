//! Every target over its seeds and a fixed number of mutations: no panic, nothing slow, no memory beyond the input's worth.

use fuzz::{TARGETS, Target, meter, mutate};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A hundredth of what a fuzzer calls a hang, but for machines that are busy.
const SLOW: Duration = Duration::from_secs(10);

/// How an input fared: what went wrong, if anything.
fn fault(target: &Target, data: &[u8]) -> Result<Duration, String> {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| target.run_metered(data)));
    let took = begun.elapsed();
    match result {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").into())
        }
        Ok(()) if took > SLOW => Err(format!("took {took:?}")),
        Ok(()) => Ok(took),
    }
}

// One test: the meter counts for the whole process.
#[test]
fn every_parser_bears_fixed_mutations_of_good_inputs() {
    let mut faults = Vec::new();
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        // What is made once, such as thread pools, is no input's.
        seeds.iter().for_each(|seed| (target.run)(seed));
        meter::largest();
        let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
        let mutations = (0..target.fixed as u64).map(|i| mutate::mutated(&seeds, target.name, i));
        let mut inputs = 0;
        for (i, data) in seeds.iter().cloned().chain(mutations).enumerate() {
            inputs += 1;
            match fault(target, &data) {
                Ok(took) => slowest = slowest.max(took),
                Err(message) => {
                    let shown = data.escape_ascii().to_string();
                    let shown: String = shown.chars().take(4000).collect();
                    faults.push(format!("{} {i}: {message}\n{shown}", target.name));
                }
            }
        }
        eprintln!(
            "{:12} {inputs:6} inputs in {:5.2} s, slowest {:6.1} ms, at most {:8} bytes held",
            target.name,
            begun.elapsed().as_secs_f64(),
            slowest.as_secs_f64() * 1e3,
            meter::largest()
        );
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults[..faults.len().min(10)].join("\n\n")
    );
}
