//! The table of kernels against the operators, and what the compiler made of
//! the kernels against the committed kernels/resources.tsv.
//!
//! `EOSIN_BLESS=1 cargo test --test cuda` rewrites the committed table from a
//! build with nvcc.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use eosin::device::cuda::kernels::{
    ALL, ARCHITECTURES, Kernel, MODULES, RESOURCES, TOOLKIT, WARNINGS,
};
use eosin::ops::REGISTRY;

/// What kernels do besides operators, files of kernels included that belong to
/// no folder of src/ops.
const COMMON: &[&str] = &["clip_grad_norm", "copy", "count", "fill", "optim", "step"];

/// How a kernel's name ends: the dtype, or the bytes of an element where
/// elements are only moved.
const TYPES: &[&str] = &[
    "f32", "f16", "bf16", "i64", "i32", "u8", "b1", "b2", "b4", "b8",
];

/// What the committed table has, as build.rs compiles without being told.
const COMMITTED: [&str; 2] = ["sm_80", "sm_90a"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn committed_path() -> PathBuf {
    root().join("kernels/resources.tsv")
}

fn committed() -> String {
    std::fs::read_to_string(committed_path()).expect("kernels/resources.tsv")
}

fn stem(file: &str) -> &str {
    file.strip_suffix(".cu").expect("a .cu file")
}

#[test]
fn every_kernel_belongs_to_an_operator() {
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for module in MODULES {
        let stem = stem(module.file);
        // An operator may have those of 16-bit floats in a file of their own.
        let op = stem.strip_suffix("_half").unwrap_or(stem);
        // Operators that only make sense together share a folder, named as they begin.
        let family = op.split_once('_').map_or(op, |(family, _)| family);
        let has_folder = |name: &str| root().join("src/ops").join(name).is_dir();
        if !has_folder(op) && !has_folder(family) && !COMMON.contains(&op) {
            wrong.push(format!("kernels/{stem}.cu: there is no src/ops/{op}"));
        }
    }
    for (index, kernel) in ALL.iter().enumerate() {
        let Kernel { name, threads, .. } = *kernel;
        assert_eq!(kernel.index, index, "{name}");
        if !names.insert(name) {
            wrong.push(format!("{name}: occurs twice"));
        }
        let op = kernel.op();
        let operator = REGISTRY.iter().any(|o| o.name == op);
        let file = stem(MODULES[kernel.module].file);
        if !operator && op != file && !COMMON.contains(&op) {
            wrong.push(format!("{name}: {op} is no operator"));
        }
        let direction = name.strip_prefix("eosin_").map(|n| &n[op.len()..]);
        let variant = direction
            .and_then(|d| (d.strip_prefix("_forward_")).or_else(|| d.strip_prefix("_backward_")));
        let end = variant.and_then(|v| v.rsplit('_').next());
        if !end.is_some_and(|end| TYPES.contains(&end)) {
            wrong.push(format!(
                "{name}: is not eosin_<op>_<forward or backward>[_<variant>]_<dtype>"
            ));
        }
        if threads == 0 || threads % 32 != 0 {
            wrong.push(format!("{name}: {threads} threads are not whole warps"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// One line of a table: kernel and architecture, then registers, stack, spill
/// stores, spill loads, shared memory.
type Line<'a> = ((&'a str, &'a str), Vec<u32>);

fn lines(table: &str) -> Vec<Line<'_>> {
    let line = |line| -> Option<Line> {
        let mut fields = str::split(line, '\t');
        let key = (fields.next()?, fields.next()?);
        let numbers: Vec<u32> = fields.map(|f| f.parse().ok()).collect::<Option<_>>()?;
        (numbers.len() == 5).then_some((key, numbers))
    };
    let table = table.lines().filter(|l| !l.starts_with('#'));
    table
        .map(|l| line(l).unwrap_or_else(|| panic!("no line of a table of resources: {l}")))
        .collect()
}

fn heading(table: &str) -> &str {
    table.lines().next().unwrap_or_default()
}

/// What differs, a line each.
fn differences(committed: &[Line], built: &[Line]) -> Vec<String> {
    let old: BTreeMap<_, _> = committed.iter().map(|(key, n)| (key, n)).collect();
    let new: BTreeMap<_, _> = built.iter().map(|(key, n)| (key, n)).collect();
    let mut found = Vec::new();
    for ((kernel, architecture), numbers) in &old {
        let key = &(*kernel, *architecture);
        match new.get(key) {
            None => found.push(format!("removed {kernel} {architecture}")),
            Some(now) if now != numbers => found.push(format!(
                "changed {kernel} {architecture}: {numbers:?} is now {now:?}"
            )),
            Some(_) => {}
        }
    }
    for (key, numbers) in &new {
        if !old.contains_key(key) {
            found.push(format!("added {} {}: {numbers:?}", key.0, key.1));
        }
    }
    found
}

/// Lines with a stack or spilled registers.
fn leaking(table: &[Line]) -> Vec<String> {
    let leaks = |(_, numbers): &&Line| numbers[1..4].iter().any(|&bytes| bytes != 0);
    let shown = |((kernel, architecture), n): &Line| {
        format!(
            "{kernel} {architecture}: stack {}, spill stores {}, spill loads {}",
            n[1], n[2], n[3]
        )
    };
    table.iter().filter(leaks).map(shown).collect()
}

#[test]
fn resources_are_the_committed_ones() {
    let Some(built) = RESOURCES else {
        eprintln!("built without nvcc: the committed table is compared with the sources alone");
        return names_only();
    };
    if std::env::var_os("EOSIN_BLESS").is_some() {
        let complete = COMMITTED.iter().all(|a| ARCHITECTURES.contains(a));
        assert!(complete, "unset EOSIN_CUDA_ARCHS to rewrite the table");
        let fresh = committed_path().with_extension("new");
        std::fs::write(&fresh, built).expect("kernels/resources.new");
        std::fs::rename(&fresh, committed_path()).expect("kernels/resources.tsv");
    }
    let old = committed();
    let now = lines(built);
    let leaks = leaking(&now);
    assert!(leaks.is_empty(), "\n{}", leaks.join("\n"));
    if heading(&old) != heading(built) {
        eprintln!(
            "built by nvcc {}, and registers differ between compilers: \
             the committed table is compared with the sources alone",
            TOOLKIT.unwrap_or("unknown")
        );
        return names_only();
    }
    let mut old = lines(&old);
    for architecture in COMMITTED {
        if !ARCHITECTURES.contains(&architecture) {
            eprintln!("skipped: this build has no code for {architecture}");
            old.retain(|((_, a), _)| *a != architecture);
        }
    }
    let other = |((_, a), _): &&Line| !COMMITTED.contains(a);
    if let Some(((_, architecture), _)) = now.iter().find(other) {
        eprintln!("skipped: nothing is committed for {architecture}");
    }
    let now: Vec<Line> = now.into_iter().filter(|l| !other(&l)).collect();
    let found = differences(&old, &now);
    assert!(
        found.is_empty(),
        "kernels/resources.tsv is not what nvcc made (registers, stack, spill stores, spill loads, shared bytes):\n{}\n\
         if it is meant so: EOSIN_BLESS=1 cargo test --test cuda",
        found.join("\n")
    );
}

/// Nor does it find products of a warpgroup that it must run one by one.
#[test]
fn the_compiler_warns_of_nothing() {
    if TOOLKIT.is_none() {
        eprintln!("built without nvcc: nothing was compiled");
    }
    assert_eq!(WARNINGS, [""; 0]);
}

/// What can be said of the committed table without nvcc, or with another one.
fn names_only() {
    let table = committed();
    let table = lines(&table);
    let have: BTreeSet<_> = table.iter().map(|(key, _)| *key).collect();
    assert_eq!(have.len(), table.len(), "a line occurs twice");
    let want: BTreeSet<_> = (ALL.iter())
        .flat_map(|kernel| COMMITTED.map(|a| (kernel.name, a)))
        .collect();
    let missing: Vec<_> = want.difference(&have).collect();
    let left: Vec<_> = have.difference(&want).collect();
    assert!(
        missing.is_empty() && left.is_empty(),
        "kernels/resources.tsv lacks {missing:?} and has {left:?}, which is no kernel; \
         with nvcc: EOSIN_BLESS=1 cargo test --test cuda"
    );
    let leaks = leaking(&table);
    assert!(leaks.is_empty(), "\n{}", leaks.join("\n"));
}

#[test]
fn every_image_is_a_fat_binary_where_the_driver_can_read_it() {
    for module in MODULES {
        assert_eq!(module.image.is_some(), TOOLKIT.is_some(), "{}", module.file);
        if let Some(image) = module.image {
            assert_eq!(image.as_ptr().align_offset(16), 0, "{}", module.file);
            // fatbinary.h: the magic number of its header.
            assert_eq!(image[..4], 0xba55_ed50_u32.to_le_bytes(), "{}", module.file);
        }
    }
}

#[test]
fn differences_are_told_one_by_one() {
    let old = "# heading\na\tsm_80\t10\t0\t0\t0\t0\nb\tsm_80\t20\t0\t0\t0\t64\n";
    let new = "a\tsm_80\t12\t8\t0\t0\t0\nc\tsm_80\t20\t0\t4\t4\t0\n";
    let (old, new) = (lines(old), lines(new));
    assert_eq!(
        differences(&old, &new),
        [
            "changed a sm_80: [10, 0, 0, 0, 0] is now [12, 8, 0, 0, 0]",
            "removed b sm_80",
            "added c sm_80: [20, 0, 4, 4, 0]",
        ]
    );
    assert!(differences(&old, &old).is_empty());
    assert!(leaking(&old).is_empty());
    assert_eq!(
        leaking(&new),
        [
            "a sm_80: stack 8, spill stores 0, spill loads 0",
            "c sm_80: stack 0, spill stores 4, spill loads 4",
        ]
    );
}
