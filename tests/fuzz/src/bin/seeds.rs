//! `fuzz-seeds FOLDER`: writes every target's seeds into `FOLDER/TARGET`, where libFuzzer begins.

use std::path::Path;

#[expect(clippy::disallowed_methods, reason = "inputs of a fuzzer are no artifacts")]
fn main() -> std::io::Result<()> {
    let root = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    for target in fuzz::TARGETS {
        let folder = Path::new(&root).join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i:03}")), seed)?;
        }
    }
    Ok(())
}
