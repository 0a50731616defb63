//! What the assembler says of kernels, asked by `--ptxas-options=-v`.

use std::collections::BTreeMap;

/// Of one kernel on one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes of a thread's stack: arrays that registers could not hold because they are indexed.
    pub stack: u32,
    /// Bytes of registers written to memory and read back for want of registers.
    pub spilled: u32,
}

/// By kernel. Functions that were not inlined count for the kernel before them.
pub fn parse(log: &str) -> BTreeMap<String, Resources> {
    let mut found: BTreeMap<String, Resources> = BTreeMap::new();
    let mut kernel = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().map(str::to_owned);
            continue;
        }
        let Some(kernel) = kernel.clone() else { continue };
        let resources = found.entry(kernel).or_default();
        if let Some(bytes) = number_before(line, " bytes stack frame") {
            resources.stack = resources.stack.max(bytes);
            for spill in [" bytes spill stores", " bytes spill loads"] {
                resources.spilled += number_before(line, spill).unwrap_or(0);
            }
        }
        if let Some(registers) = number_before(line, " registers") {
            resources.registers = registers;
            resources.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    found
}

/// 71 of `Used 71 registers` for ` registers`.
fn number_before(line: &str, what: &str) -> Option<u32> {
    let (before, _) = line.split_once(what)?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Lines that a compiler's user should see.
pub fn warnings(log: &str) -> impl Iterator<Item = &str> {
    log.lines().map(str::trim).filter(|line| line.contains("warning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_log_is_read() {
        let log = "\
mix.cu(3): warning #177-D: variable \"i\" was declared but never referenced

ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gather' for 'sm_90'
ptxas info    : Function properties for gather
ptxas         .     256 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 71 registers, used 0 barriers, 256 bytes cumulative stack size
ptxas info    : Compile time = 9.289 ms
ptxas info    : Compiling entry function 'scale' for 'sm_90'
ptxas info    : Function properties for scale
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 392 bytes cmem[0]
";
        let found = parse(log);
        let gather = Resources { registers: 71, shared: 0, stack: 256, spilled: 20 };
        let scale = Resources { registers: 10, shared: 1024, stack: 0, spilled: 0 };
        let expected = BTreeMap::from([("gather".into(), gather), ("scale".into(), scale)]);
        assert_eq!(found, expected);
        assert_eq!(
            warnings(log).collect::<Vec<_>>(),
            ["mix.cu(3): warning #177-D: variable \"i\" was declared but never referenced"]
        );
    }
}
