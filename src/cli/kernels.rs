//! `eosin kernels`: what the compiler made of each CUDA kernel.
//!
//! Registers, stack, spills and shared memory are what ptxas said in this build
//! or, built without nvcc, what the committed kernels/resources.tsv holds.
//! Instructions are counted where NVIDIA's cuobjdump and nvdisasm are found.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::console;
use crate::device::cuda::kernels::{ALL, RESOURCES, TOOLKIT};
use crate::error::{Error, Result};

mod sass;

use sass::Instructions;

#[derive(Args)]
pub struct KernelsArgs {
    /// Only kernels with this in their name, such as matmul or backward_bf16
    filter: Option<String>,
    /// Leave out the instructions, which take a minute to count for all kernels
    #[arg(long)]
    no_sass: bool,
    /// Bytes of shared memory that a launch asks for besides the kernel's own, for its occupancy
    #[arg(long, default_value_t = 0)]
    shared: u32,
}

#[derive(Serialize)]
struct Listing {
    /// Where the resources are from.
    source: String,
    /// The disassembler, or why no instructions were counted.
    instructions: String,
    /// Bytes of shared memory that launches are supposed to ask for.
    besides: u32,
    kernels: Vec<Line>,
}

/// One kernel on one architecture.
#[derive(Serialize)]
struct Line {
    kernel: String,
    architecture: String,
    /// Of a block.
    threads: u32,
    /// Of a thread.
    registers: u32,
    stack: u32,
    spill_stores: u32,
    spill_loads: u32,
    /// Bytes of a block, without what a launch asks for besides.
    shared: u32,
    /// None for an architecture whose limits are not known here.
    occupancy: Option<Occupancy>,
    instructions: Option<Instructions>,
}

/// How full a multiprocessor can be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Occupancy {
    /// Resident blocks of a multiprocessor.
    blocks: u32,
    /// Their share of the warps that it can hold.
    share: f64,
    limit: &'static str,
}

/// What a multiprocessor holds, from the table of technical specifications in
/// the appendix on compute capabilities of the CUDA C++ Programming Guide.
struct Limits {
    warps: u32,
    blocks: u32,
    /// Bytes that all blocks share, of which each takes [`RESERVED`] for itself.
    shared: u32,
}

const REGISTERS: u32 = 64 << 10;
/// Registers are handed to warps in pieces of this many, to four warps at once.
const REGISTER_UNIT: u32 = 256;
const WARP_UNIT: u32 = 4;
const RESERVED: u32 = 1024;
const SHARED_UNIT: u32 = 128;

fn limits(architecture: &str) -> Option<Limits> {
    let number = architecture.strip_prefix("sm_")?;
    let (warps, blocks, kilobytes) = match number.trim_end_matches(['a', 'f']) {
        "80" => (64, 32, 164),
        "86" => (48, 16, 100),
        "87" => (48, 16, 164),
        "89" => (48, 24, 100),
        "90" | "100" => (64, 32, 228),
        _ => return None,
    };
    Some(Limits {
        warps,
        blocks,
        shared: kilobytes << 10,
    })
}

/// Resident blocks of `threads` threads with so many registers each and so many
/// bytes of shared memory.
fn occupancy(architecture: &str, threads: u32, registers: u32, shared: u32) -> Option<Occupancy> {
    let limits = limits(architecture)?;
    let warps = threads.div_ceil(32).max(1);
    let of_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / of_warp / WARP_UNIT * WARP_UNIT / warps;
    let of_block = shared
        .min(u32::MAX / 2)
        .saturating_add(RESERVED)
        .next_multiple_of(SHARED_UNIT);
    let (blocks, limit) = [
        (limits.warps / warps, "warps"),
        (limits.blocks, "blocks"),
        (by_registers, "registers"),
        (limits.shared / of_block, "shared memory"),
    ]
    .into_iter()
    .min_by_key(|(blocks, _)| *blocks)?;
    Some(Occupancy {
        blocks,
        share: f64::from(blocks * warps) / f64::from(limits.warps),
        limit,
    })
}

pub fn kernels(args: &KernelsArgs, json: bool) -> Result<()> {
    let committed = include_str!("../../kernels/resources.tsv");
    let table = RESOURCES.unwrap_or(committed);
    let mut lines = lines(table, args.shared);
    if let Some(filter) = &args.filter {
        lines.retain(|line| line.kernel.contains(filter.as_str()));
        if lines.is_empty() {
            return Err(Error::usage(
                format!("no kernel has `{filter}` in its name"),
                "leave out the filter to see all",
            ));
        }
    }
    let wanted = |name: &str| {
        args.filter
            .as_ref()
            .is_none_or(|f| name.contains(f.as_str()))
    };
    let (counted, instructions) = match args.no_sass {
        true => (sass::Counted::new(), "not asked for".to_owned()),
        false => sass::count(wanted)?,
    };
    for line in &mut lines {
        let key = (line.kernel.clone(), line.architecture.clone());
        line.instructions = counted.get(&key).copied();
    }
    let source = match TOOLKIT.filter(|_| RESOURCES.is_some()) {
        Some(version) => format!("this build, by nvcc {version}"),
        None => {
            let by = table.lines().next().and_then(|l| l.split(':').next());
            let by = by.unwrap_or_default().trim_start_matches(['#', ' ']);
            format!("kernels/resources.tsv as committed ({by}); this build has no nvcc")
        }
    };
    let listing = Listing {
        source,
        instructions,
        besides: args.shared,
        kernels: lines,
    };
    console::print(json, &listing, &listing.text())
}

/// Kernels that this build does not have are left out of a committed table.
fn lines(table: &str, besides: u32) -> Vec<Line> {
    let threads: BTreeMap<&str, u32> = ALL.iter().map(|k| (k.name, k.threads)).collect();
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let (kernel, architecture) = (fields.next()?, fields.next()?);
        let numbers: Vec<u32> = fields.map(|f| f.parse().ok()).collect::<Option<_>>()?;
        let &[registers, stack, spill_stores, spill_loads, shared] = &numbers[..] else {
            return None;
        };
        let threads = *threads.get(kernel)?;
        Some(Line {
            kernel: kernel.to_owned(),
            architecture: architecture.to_owned(),
            threads,
            registers,
            stack,
            spill_stores,
            spill_loads,
            shared,
            occupancy: occupancy(
                architecture,
                threads,
                registers,
                shared.saturating_add(besides),
            ),
            instructions: None,
        })
    };
    table.lines().filter_map(line).collect()
}

impl Listing {
    fn text(&self) -> String {
        let width = self.kernels.iter().map(|l| l.kernel.len()).max();
        let width = width.unwrap_or(0).max(6);
        let counted = self.kernels.iter().any(|l| l.instructions.is_some());
        let mut text = format!(
            "{:width$} {:7} threads  regs stack spills shared blocks/SM occupancy limited by    ",
            "kernel", "arch"
        );
        text += if counted {
            "  SASS  HMMA HGMMA   LDL   STL\n"
        } else {
            "\n"
        };
        for l in &self.kernels {
            let _ = write!(
                text,
                "{:width$} {:7} {:7} {:5} {:5} {:6} {:6}",
                l.kernel,
                l.architecture,
                l.threads,
                l.registers,
                l.stack,
                l.spill_stores + l.spill_loads,
                l.shared
            );
            let _ = match l.occupancy {
                Some(o) => write!(
                    text,
                    " {:9} {:8.1}% {:13}",
                    o.blocks,
                    o.share * 100.0,
                    o.limit
                ),
                None => write!(text, " {:>9} {:>9} {:13}", "-", "-", "not known"),
            };
            if let Some(i) = &l.instructions {
                let _ = write!(
                    text,
                    " {:6} {:5} {:5} {:5} {:5}",
                    i.all, i.hmma, i.hgmma, i.ldl, i.stl
                );
            }
            text = text.trim_end().to_owned() + "\n";
        }
        let _ = write!(
            text,
            "\n{} lines, from {}\ninstructions: {}\n\
             occupancy counts {} bytes of shared memory besides the kernel's own (--shared)",
            self.kernels.len(),
            self.source,
            self.instructions,
            self.besides
        );
        text
    }
}

/// `name` in the folders where a CUDA toolkit's programs may be.
fn tool(name: &str) -> Option<PathBuf> {
    let binary = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let homes = ["CUDA_HOME", "CUDA_PATH"].map(std::env::var_os);
    let mut folders: Vec<PathBuf> = (homes.into_iter().flatten())
        .filter(|home| !home.is_empty())
        .map(|home| PathBuf::from(home).join("bin"))
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.push("/usr/local/cuda/bin".into());
    // What scripts/cuda-toolkit.sh installs, for a program below target/.
    let program = std::env::current_exe().unwrap_or_default();
    let above = program.ancestors().skip(1);
    folders.extend(above.map(|folder| folder.join("cuda-toolkit/nvidia/cu13/bin")));
    let mut candidates = folders.into_iter().map(|folder| folder.join(&binary));
    candidates.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from the limits, and as NVIDIA's occupancy calculator has it.
    #[test]
    fn occupancy_follows_from_registers_threads_and_shared_memory() {
        let of = |a, t, r, s| {
            let o = occupancy(a, t, r, s).unwrap();
            (o.blocks, (o.share * 1e4).round() / 1e4, o.limit)
        };
        // 32 registers x 2,048 threads are exactly all registers.
        assert_eq!(of("sm_80", 256, 32, 0), (8, 1.0, "warps"));
        assert_eq!(of("sm_80", 256, 33, 0), (6, 0.75, "registers"));
        assert_eq!(of("sm_90a", 256, 128, 0), (2, 0.25, "registers"));
        // 255 are rounded up to 256: 8 warps.
        assert_eq!(of("sm_90", 128, 255, 0), (2, 0.125, "registers"));
        assert_eq!(of("sm_80", 32, 16, 0), (32, 0.5, "blocks"));
        // 164 KiB hold three of 49,152 + 1,024 bytes, 228 KiB four.
        assert_eq!(of("sm_80", 128, 32, 48 << 10), (3, 0.1875, "shared memory"));
        assert_eq!(of("sm_90a", 128, 32, 48 << 10), (4, 0.25, "shared memory"));
        assert_eq!(of("sm_86", 1024, 40, 0), (1, 0.6667, "warps"));
        assert!(occupancy("compute_80", 256, 32, 0).is_none());
        assert!(occupancy("sm_999", 256, 32, 0).is_none());
    }
}
