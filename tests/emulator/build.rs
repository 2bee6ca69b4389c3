//! Compiles the kernels of kernels/*.cu and planted/*.cu and the emulator with
//! the host's C++ compiler.
//!
//! Each kernel file becomes a translation unit of its own that includes it and
//! exports its kernels; only those whose sources changed are compiled again.

use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How every kernel's line begins; the main crate's build.rs checks the form.
const FORM: &str = "extern \"C\" __global__ void __launch_bounds__(";

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error}");
    }
}

fn build() -> Result<()> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let kernels = package.join("../../kernels").canonicalize()?;
    let (planted, shim) = (package.join("planted"), package.join("shim"));
    for watched in [&kernels, &planted, &shim] {
        println!("cargo::rerun-if-changed={}", watched.display());
    }

    // Whatever any translation unit may include.
    let mut headers = DefaultHasher::new();
    for folder in [&kernels.join("common"), &shim] {
        for file in files(folder, &["cuh", "h"])? {
            fs::read(file)?.hash(&mut headers);
        }
    }
    fs::read(package.join("build.rs"))?.hash(&mut headers);

    let mut units = Vec::new();
    let mut names = Vec::new();
    for file in files(&kernels, &["cu"])?
        .into_iter()
        .chain(files(&planted, &["cu"])?)
    {
        let text = fs::read_to_string(&file)?;
        let mut unit = format!("#include \"{}\"\n", file.display());
        for name in kernels_of(&text) {
            writeln!(unit, "EOSIN_EXPORT({name})")?;
            names.push(name.to_owned());
        }
        let mut hasher = headers.clone();
        (&text, &unit).hash(&mut hasher);
        units.push(write_unit(&out, &file, &unit, hasher.finish())?);
    }
    let mut table = String::from(
        "#include \"eosin_emulator.h\"\nusing eosin_emulator::Kernel;\nextern \"C\" {\n",
    );
    for name in &names {
        writeln!(table, "extern const Kernel eosin_emulator_kernel_{name};")?;
    }
    table.push_str("extern const Kernel* const eosin_emulator_table[];\nconst Kernel* const eosin_emulator_table[] = {\n");
    for name in &names {
        writeln!(table, "    &eosin_emulator_kernel_{name},")?;
    }
    writeln!(table, "    nullptr}};")?;
    writeln!(table, "extern const unsigned eosin_emulator_kernels;")?;
    writeln!(
        table,
        "const unsigned eosin_emulator_kernels = {};\n}}",
        names.len()
    )?;
    let mut hasher = headers.clone();
    table.hash(&mut hasher);
    units.push(write_unit(
        &out,
        Path::new("table.cpp"),
        &table,
        hasher.finish(),
    )?);
    for file in files(&shim, &["cpp"])? {
        let text = fs::read_to_string(&file)?;
        let mut hasher = headers.clone();
        text.hash(&mut hasher);
        let unit = format!("#include \"{}\"\n", file.display());
        units.push(write_unit(&out, &file, &unit, hasher.finish())?);
    }

    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(true)
        .pic(true)
        .warnings(false)
        .include(&shim)
        .include(&kernels)
        // The standard's aliasing rules and fused products are not CUDA's.
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .flag("-include")
        .flag(shim.join("eosin_emulator.h").display().to_string());
    compile(&compiler, &units)?;
    let mut archive = cc::Build::new();
    archive.cpp(true);
    for (_, object) in &units {
        archive.object(object);
    }
    archive.try_compile("eosin_emulator_kernels")?;
    Ok(())
}

/// The files of `folder` with one of these extensions, by name.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if extension.is_some_and(|e| extensions.contains(&e)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn kernels_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix(FORM)?;
        let (_, rest) = rest.split_once(')')?;
        let (name, _) = rest.split_once('(')?;
        Some(name.trim())
    })
}

/// Writes a translation unit under a name that holds the hash of everything
/// that it is made of; gives it and its object's place.
fn write_unit(out: &Path, file: &Path, text: &str, hash: u64) -> Result<(PathBuf, PathBuf)> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or("unit");
    let unit = out.join(format!("{stem}-{hash:016x}.cpp"));
    let object = unit.with_extension("o");
    if !object.exists() {
        fs::write(&unit, text)?;
    }
    Ok((unit, object))
}

fn compile(compiler: &cc::Build, units: &[(PathBuf, PathBuf)]) -> Result<()> {
    let tool = compiler.try_get_compiler()?;
    let missing: Vec<_> = units
        .iter()
        .filter(|(_, object)| !object.exists())
        .collect();
    let next = Mutex::new(missing.into_iter());
    let failures = Mutex::new(Vec::new());
    let work = || loop {
        let Some((unit, object)) = next.lock().ok().and_then(|mut n| n.next()) else {
            return;
        };
        // Under another name until it is whole.
        let partial = object.with_extension("partial");
        let mut command = tool.to_command();
        command.arg("-c").arg(unit).arg("-o").arg(&partial);
        let problem = match command.output() {
            Ok(o) if o.status.success() => {
                fs::rename(&partial, object).err().map(|e| e.to_string())
            }
            Ok(o) => Some(String::from_utf8_lossy(&o.stderr).into_owned()),
            Err(e) => Some(format!("cannot run the C++ compiler: {e}")),
        };
        if let (Some(problem), Ok(mut failures)) = (problem, failures.lock()) {
            failures.push(problem);
        }
    };
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if failures.is_empty() {
        return Ok(());
    }
    let lines: Vec<&str> = failures.iter().flat_map(|f| f.lines()).take(60).collect();
    Err(lines.join("\ncargo::error=").into())
}
