//! Machine instructions of kernels, as `nvdisasm` prints them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// How often each instruction stands in a kernel, without its modifiers: `HMMA` for `HMMA.16816.F32.BF16`.
pub type Instructions = BTreeMap<String, u32>;

/// By kernel.
pub type ByKernel = BTreeMap<String, Instructions>;

/// The tool, and where what it found is kept: it takes half a second per file.
#[derive(Debug)]
pub struct Disassembler {
    nvdisasm: PathBuf,
    /// Of the tool.
    hash: [u8; 32],
    cache: PathBuf,
}

impl Disassembler {
    /// # Errors
    /// If there is no such file.
    pub fn new(nvdisasm: PathBuf, cache: PathBuf) -> Result<Self, String> {
        let tool = std::fs::read(&nvdisasm);
        let tool = tool.map_err(|error| format!("{}: {error}", nvdisasm.display()))?;
        Ok(Self { nvdisasm, hash: *blake3::hash(&tool).as_bytes(), cache })
    }

    /// # Errors
    /// If the tool doesn't run to its end.
    pub fn instructions(&self, cubin: &[u8]) -> Result<ByKernel, String> {
        let key = blake3::Hasher::new_keyed(&self.hash).update(cubin).finalize();
        let path = self.cache.join(format!("{}.toml", &key.to_hex()[..32]));
        let kept = std::fs::read_to_string(&path).ok();
        if let Some(kept) = kept.and_then(|text| toml::from_str(&text).ok()) {
            return Ok(kept);
        }
        let found = self.disassemble(cubin)?;
        let text = toml::to_string(&found).map_err(|error| error.to_string())?;
        let keep = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.cache)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.cache)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        keep().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(found)
    }

    fn disassemble(&self, cubin: &[u8]) -> Result<ByKernel, String> {
        let name = self.nvdisasm.display();
        let mut file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        file.write_all(cubin).map_err(|error| error.to_string())?;
        let output = Command::new(&self.nvdisasm).args(["-c", "-ndf"]).arg(file.path()).output();
        let output = output.map_err(|error| format!("{name}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{name}: {}", said.lines().next().unwrap_or("it failed")));
        }
        Ok(parse(&String::from_utf8_lossy(&output.stdout)))
    }
}

fn parse(text: &str) -> ByKernel {
    let mut found = ByKernel::new();
    let mut kernel = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            kernel = Some(name.to_owned());
        } else if line.starts_with("\t.section") {
            kernel = None;
        } else if let (Some(kernel), Some(instruction)) = (&kernel, instruction(line)) {
            let counts = found.entry(kernel.clone()).or_default();
            *counts.entry(instruction.to_owned()).or_default() += 1;
        }
    }
    found
}

/// `LDG` of `/*0010*/  @!P0 LDG.E R2, [R4] ;`.
fn instruction(line: &str) -> Option<&str> {
    let (_, code) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let mut words = code.split_whitespace();
    let first = words.next()?;
    let name = if first.starts_with('@') { words.next()? } else { first };
    let name = name.split(['.', ';']).next()?;
    name.starts_with(|c: char| c.is_ascii_uppercase()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_by_kernel() {
        let text = "
	.section	.debug_frame,\"\",@progbits
        /*0000*/ 	.byte	0xff, 0xff, 0xff, 0xff
	.section	.text.gather,\"ax\",@progbits
.text.gather:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R7], desc[UR4][R2.64] ;
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R12, RZ ;
.L_x_0:
        /*0030*/              @UP1 HMMA.16816.F32.BF16 R8, R4, R14, R8 ;
        /*0040*/                   EXIT ;
	.section	.text.scale,\"ax\",@progbits
.text.scale:
        /*0000*/                   EXIT;
";
        let counts = |names: &[(&str, u32)]| {
            names.iter().map(|&(name, count)| (name.to_owned(), count)).collect::<Instructions>()
        };
        let gather = counts(&[("EXIT", 1), ("HMMA", 2), ("LDC", 1), ("LDGSTS", 1)]);
        let expected =
            BTreeMap::from([("gather".into(), gather), ("scale".into(), counts(&[("EXIT", 1)]))]);
        assert_eq!(parse(text), expected);
    }
}
