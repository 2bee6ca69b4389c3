//! The machine code's instructions, by cuobjdump.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rayon::prelude::*;
use serde::Serialize;

use super::tool;
use crate::device::cuda::kernels::{ALL, MODULES};
use crate::error::{Error, Result};

/// How many instructions of some kinds a kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Instructions {
    /// Of every kind.
    pub all: u32,
    /// Products on tensor cores by a warp.
    pub hmma: u32,
    /// The same by four warps, on Hopper.
    pub hgmma: u32,
    /// Reads of local memory: spills, and arrays with a running index.
    pub ldl: u32,
    /// Writes of it.
    pub stl: u32,
}

/// By kernel and architecture.
pub type Counted = BTreeMap<(String, String), Instructions>;

/// Counts in the files that hold a kernel whose name is wanted; says by what,
/// or why not.
///
/// # Errors
/// The disassembler is there and fails.
pub fn count(wanted: impl Fn(&str) -> bool) -> Result<(Counted, String)> {
    let images = MODULES.iter().filter_map(|m| m.image);
    if images.count() == 0 {
        let why = "not counted: this build has no machine code, since it found no nvcc";
        return Ok((Counted::new(), why.to_owned()));
    }
    let (Some(program), Some(_)) = (tool("cuobjdump"), tool("nvdisasm")) else {
        let why = "not counted: cuobjdump and nvdisasm were not found; scripts/cuda-toolkit.sh \
                   installs them, or set CUDA_HOME to a CUDA toolkit";
        return Ok((Counted::new(), why.to_owned()));
    };
    let images: Vec<(&str, &[u8])> = (MODULES.iter().enumerate())
        .filter(|(place, _)| ALL.iter().any(|k| k.module == *place && wanted(k.name)))
        .filter_map(|(_, module)| Some((module.file, module.image?)))
        .collect();
    let counted: Vec<Counted> = (images.par_iter())
        .map(|(name, image)| disassembled(&program, name, image))
        .collect::<Result<_>>()?;
    let counted = counted.into_iter().flatten().collect();
    Ok((counted, "counted by cuobjdump".to_owned()))
}

fn disassembled(program: &Path, name: &str, image: &[u8]) -> Result<Counted> {
    let failed = |why: String| {
        Error::usage(
            format!("cuobjdump cannot read {name}: {why}"),
            "install the cuobjdump and nvdisasm of nvcc's version or a later one",
        )
    };
    let file = Scratch::new(name, image)?;
    let output = Command::new(program).arg("-sass").arg(&file.0).output();
    let output = output.map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().next().unwrap_or("it says nothing");
        return Err(failed(line.to_owned()));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// A file that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Result<Self> {
        let name = format!("eosin-{}-{name}.fatbin", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = Self(path);
        std::fs::write(&file.0, bytes).map_err(|e| Error::io("write", &file.0, e))?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It lies in the folder that the system empties.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn parse(listing: &str) -> Counted {
    let mut counted = Counted::new();
    let (mut architecture, mut kernel) = (String::new(), String::new());
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("arch = ") {
            name.clone_into(&mut architecture);
            kernel.clear();
        } else if let Some(name) = line.strip_prefix("Function : ") {
            name.clone_into(&mut kernel);
        } else if let (Some(name), false) = (mnemonic(line), kernel.is_empty()) {
            let key = (kernel.clone(), architecture.clone());
            let found = counted.entry(key).or_default();
            found.all += 1;
            match name {
                "HMMA" => found.hmma += 1,
                "HGMMA" => found.hgmma += 1,
                "LDL" => found.ldl += 1,
                "STL" => found.stl += 1,
                _ => {}
            }
        }
    }
    counted
}

/// Of `/*0070*/ @!P0 HMMA.16816.F32 R4, .. ;`, `HMMA`. The second line of an
/// instruction has its encoding alone.
fn mnemonic(line: &str) -> Option<&str> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    if address.starts_with("0x") {
        return None;
    }
    let mut words = rest.split_whitespace();
    let first = words.next()?;
    let word = match first.starts_with('@') {
        true => words.next()?,
        false => first,
    };
    word.split(['.', ';']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_by_kernel_and_architecture() {
        let listing = "\
Fatbin elf code:
arch = sm_80
\tcode for sm_80
\t\tFunction : eosin_a_forward_f32
\t.headerflags\t@\"EF_CUDA_SM80\"
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ; /* 0x00000a00ff017624 */
                                                                           /* 0x000fe400078e00ff */
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R2, R4 ;    /* 0x0000000208047210 */
        /*0020*/               @P1 LDL.LU R3, [R1] ;                       /* 0x0000000001037983 */
        /*0030*/                   EXIT ;                                  /* 0x000000000000794d */
\t\tFunction : eosin_b_forward_f32
        /*0000*/                   STL [R1], R3 ;                          /* 0x0000000301007387 */
Fatbin elf code:
arch = sm_90a
\t\tFunction : eosin_a_forward_f32
        /*0000*/                   HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24 ; /* 0x */
";
        let found = parse(listing);
        let of = |k: &str, a: &str| found[&(k.to_owned(), a.to_owned())];
        let a = Instructions {
            all: 4,
            hmma: 1,
            ldl: 1,
            ..Instructions::default()
        };
        assert_eq!(of("eosin_a_forward_f32", "sm_80"), a);
        assert_eq!(of("eosin_b_forward_f32", "sm_80").stl, 1);
        assert_eq!(of("eosin_a_forward_f32", "sm_90a").hgmma, 1);
        assert_eq!(found.len(), 3);
    }
}
