//! What kernels may use and must contain, committed as `kernels/budget.toml`.

use crate::resources::Resources;
use crate::sass::Instructions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Instructions that a new kernel promises if it has them: tensor cores, `ldmatrix`, `cp.async`.
pub const PROMISED: [&str; 3] = ["HMMA", "LDSM", "LDGSTS"];

/// What a kernel may use, on any architecture, and must contain, on each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Most registers of a thread.
    pub registers: u32,
    /// Most bytes of static shared memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared: u32,
    /// Most bytes of a thread's stack.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stack: u32,
    /// Instructions that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sass: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// By kernel.
pub type Budget = BTreeMap<String, Allowed>;

/// A kernel on one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// 90 for `sm_90`.
    pub arch: u32,
    /// The assembler's numbers.
    pub resources: Resources,
    /// The disassembler's.
    pub instructions: Instructions,
}

/// By kernel, each on all architectures.
pub type Measurements = BTreeMap<String, Vec<Measured>>;

/// Everything that doesn't hold, a line each.
pub fn problems(budget: &Budget, measured: &Measurements) -> Vec<String> {
    let mut problems = Vec::new();
    for (kernel, on) in measured {
        let Some(allowed) = budget.get(kernel) else {
            problems.push(format!("{kernel}: it has no budget; write one with --write"));
            continue;
        };
        for Measured { arch, resources, instructions } in on {
            for (what, found, most) in [
                ("registers", resources.registers, allowed.registers),
                ("bytes of static shared memory", resources.shared, allowed.shared),
                ("bytes of stack", resources.stack, allowed.stack),
                ("spilled bytes", resources.spilled, 0),
            ] {
                if found > most {
                    problems
                        .push(format!("{kernel} on sm_{arch}: {found} {what}, allowed are {most}"));
                }
            }
            for name in allowed.sass.iter().filter(|name| !instructions.contains_key(*name)) {
                problems
                    .push(format!("{kernel} on sm_{arch}: no {name}, which the budget promises"));
            }
        }
    }
    let stale = budget.keys().filter(|kernel| !measured.contains_key(*kernel));
    problems.extend(stale.map(|kernel| {
        format!("{kernel}: it has a budget, but is in no file; remove that with --write")
    }));
    problems
}

/// What was measured, as a budget. Promises stay; new kernels promise what they have.
pub fn renewed(budget: &Budget, measured: &Measurements) -> Budget {
    let renew = |(kernel, on): (&String, &Vec<Measured>)| {
        let most =
            |of: fn(&Resources) -> u32| on.iter().map(|m| of(&m.resources)).max().unwrap_or(0);
        let has = |name: &&str| on.iter().all(|m| m.instructions.contains_key(*name));
        let sass = budget.get(kernel).map_or_else(
            || PROMISED.into_iter().filter(has).map(str::to_owned).collect(),
            |old| old.sass.clone(),
        );
        let (registers, shared) = (most(|r| r.registers), most(|r| r.shared));
        (kernel.clone(), Allowed { registers, shared, stack: most(|r| r.stack), sass })
    };
    measured.iter().map(renew).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(arch: u32, registers: u32, spilled: u32, sass: &[&str]) -> Measured {
        let resources = Resources { registers, shared: 1024, stack: 0, spilled };
        let instructions = sass.iter().map(|&name| (name.to_owned(), 1)).collect();
        Measured { arch, resources, instructions }
    }

    fn budget(text: &str) -> Budget {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_over_or_missing_is_said() {
        let on = |kernel: &str, on: Vec<Measured>| (kernel.to_owned(), on);
        let found = Measurements::from([
            on("gather", vec![measured(80, 128, 0, &["HMMA"]), measured(90, 130, 4, &["HMMA"])]),
            on("scale", vec![measured(80, 16, 0, &[])]),
        ]);
        let budget = budget(
            "gather = { registers = 128, shared = 512, sass = ['HMMA', 'LDSM'] }\nold = { registers = 1 }",
        );
        assert_eq!(
            problems(&budget, &found),
            [
                "gather on sm_80: 1024 bytes of static shared memory, allowed are 512",
                "gather on sm_80: no LDSM, which the budget promises",
                "gather on sm_90: 130 registers, allowed are 128",
                "gather on sm_90: 1024 bytes of static shared memory, allowed are 512",
                "gather on sm_90: 4 spilled bytes, allowed are 0",
                "gather on sm_90: no LDSM, which the budget promises",
                "scale: it has no budget; write one with --write",
                "old: it has a budget, but is in no file; remove that with --write",
            ]
        );
        // A new budget forgives neither spills nor broken promises.
        assert_eq!(
            problems(&renewed(&budget, &found), &found),
            [
                "gather on sm_80: no LDSM, which the budget promises",
                "gather on sm_90: 4 spilled bytes, allowed are 0",
                "gather on sm_90: no LDSM, which the budget promises",
            ]
        );
    }

    #[test]
    fn new_kernels_promise_what_they_have_everywhere() {
        let both = ["HMMA", "LDSM"];
        let found = vec![measured(80, 100, 0, &both), measured(90, 90, 0, &both[..1])];
        let found = Measurements::from([("gather".to_owned(), found)]);
        let renewed = renewed(&Budget::new(), &found);
        let text = toml::to_string(&renewed).unwrap();
        assert_eq!(text, "[gather]\nregisters = 100\nshared = 1024\nsass = [\"HMMA\"]\n");
        assert_eq!(budget(&text), renewed);
    }
}
