//! Compiles every kernel for the host, together with the shim, and lists them.
//!
//! Each .cu file gets a wrapper that includes it and exports its kernels by name:
//! nothing registers itself, since what no symbol refers to is dropped from an
//! archive. A file is compiled again only when it or a header it reads changed.
//!
//! - `EOSIN_KERNELS_DIR`: where the kernels are, if not in the repository.
//! - `EOSIN_EMULATOR_SHARED`: not empty for a shared library in place of an archive.
//! - `EOSIN_EMULATOR_SANITIZER`: `thread` or `address`, see sanitize.sh.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let kernels_dir = match env::var_os("EOSIN_KERNELS_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => here.join("../../kernels"),
    };
    println!("cargo::rerun-if-env-changed=EOSIN_KERNELS_DIR");
    println!("cargo::rerun-if-env-changed=EOSIN_EMULATOR_SANITIZER");
    println!("cargo::rerun-if-env-changed=EOSIN_EMULATOR_SHARED");
    let shim = here.join("shim");
    for dir in [
        &shim,
        &here.join("planted"),
        &here.join("probes"),
        &kernels_dir,
    ] {
        // Cargo takes a folder that is not there for one that changed.
        if dir.is_dir() {
            println!("cargo::rerun-if-changed={}", dir.display());
        }
    }
    println!("cargo::rerun-if-changed=build.rs");

    let mut kernel_files = sources(&kernels_dir, Origin::Eosin)?;
    kernel_files.extend(sources(&here.join("planted"), Origin::Emulator)?);
    kernel_files.extend(sources(&here.join("probes"), Origin::Emulator)?);
    let kernels = sorted(&kernel_files)?;
    write_if_changed(&out.join("kernels.rs"), &rust_table(&kernels))?;
    if only_for_clippy() {
        return Ok(());
    }

    let sanitizer = Sanitizer::from_env()?;
    let flags = Flags::new(&shim, &kernels_dir, sanitizer)?;
    let objects = out.join("objects");
    fs::create_dir_all(&objects)?;
    let table = objects.join("table.cpp");
    write_if_changed(&table, &cpp_table(&kernels))?;
    let mut units = vec![Unit::scheduler(table, &objects)];
    for file in files(&shim, "cpp")? {
        units.push(Unit::scheduler(file, &objects));
    }
    for file in &kernel_files {
        let wrapper = objects.join(format!("{}_{}.cpp", file.folder(), file.stem()));
        write_if_changed(&wrapper, &file.wrapper())?;
        units.push(Unit::kernels(wrapper, &objects));
    }
    compile(&units, &flags)?;
    link(&units, &flags, sanitizer, &out)
}

/// Clippy links nothing, and gets a build of its own, which nothing else uses.
fn only_for_clippy() -> bool {
    println!("cargo::rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");
    env::var_os("RUSTC_WORKSPACE_WRAPPER")
        .is_some_and(|wrapper| Path::new(&wrapper).file_stem() == Some("clippy-driver".as_ref()))
}

// ---- what there is to compile

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// One of the crate's kernels.
    Eosin,
    /// One of the emulator's own, for its tests.
    Emulator,
}

/// A .cu file and its kernels: names with threads per block.
struct Source {
    path: PathBuf,
    origin: Origin,
    kernels: Vec<(String, u32)>,
}

impl Source {
    fn stem(&self) -> String {
        self.path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn folder(&self) -> String {
        let folder = self
            .path
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default();
        folder.to_string_lossy().into_owned()
    }

    /// nvcc makes a module of each file, so two of them may give one name to
    /// different things; the unnamed namespace keeps these apart here.
    fn wrapper(&self) -> String {
        let mut text = format!("namespace {{\n#include \"{}\"\n}}\n", self.path.display());
        for (name, _) in &self.kernels {
            let _ = writeln!(
                text,
                "extern const emulator::Kernel emulated_{name};\n\
                 const emulator::Kernel emulated_{name} = \
                 emulator::Export<{name}>::entry(\"{name}\");"
            );
        }
        text
    }
}

fn sources(dir: &Path, origin: Origin) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in files(dir, "cu")? {
        let kernels = kernels_of(&path)?;
        found.push(Source {
            path,
            origin,
            kernels,
        });
    }
    Ok(found)
}

/// The files of a folder with this extension, sorted; none if there is no folder.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if dir.is_dir() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path().canonicalize()?;
            if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A kernel is written as `extern "C" __global__ void __launch_bounds__(N) name(`,
/// on one line.
fn kernels_of(path: &Path) -> Result<Vec<(String, u32)>> {
    let mut kernels = Vec::new();
    for (number, line) in fs::read_to_string(path)?.lines().enumerate() {
        let Some(rest) = line.strip_prefix("extern \"C\" __global__ void ") else {
            continue;
        };
        let kernel = rest.strip_prefix("__launch_bounds__(").and_then(|rest| {
            let (threads, rest) = rest.split_once(") ")?;
            // The blocks that registers are to leave room for are nothing to a host.
            let threads = threads.split(", ").next()?;
            let (name, _) = rest.split_once('(')?;
            Some((name.to_owned(), threads.parse().ok()?))
        });
        kernels.push(kernel.ok_or_else(|| {
            format!(
                "{}:{}: a kernel is written as `extern \"C\" __global__ void \
                 __launch_bounds__(N) name(` with N a number",
                path.display(),
                number + 1
            )
        })?);
    }
    Ok(kernels)
}

struct Entry<'a> {
    source: &'a Source,
    threads: u32,
}

/// The kernels by name. The tables of both languages have this order.
fn sorted(files: &[Source]) -> Result<BTreeMap<&str, Entry<'_>>> {
    let mut kernels = BTreeMap::new();
    for source in files {
        for (name, threads) in &source.kernels {
            let entry = Entry {
                source,
                threads: *threads,
            };
            if let Some(other) = kernels.insert(name.as_str(), entry) {
                let (a, b) = (other.source.path.display(), source.path.display());
                return Err(format!("two kernels are called {name}: in {a} and {b}").into());
            }
        }
    }
    Ok(kernels)
}

fn rust_table(kernels: &BTreeMap<&str, Entry<'_>>) -> String {
    let mut text = String::from("const KERNELS: &[Kernel] = &[\n");
    for (name, Entry { source, threads }) in kernels {
        let eosin = source.origin == Origin::Eosin;
        let _ = writeln!(
            text,
            "    Kernel {{ name: \"{name}\", threads: {threads}, eosin: {eosin} }},"
        );
    }
    text.push_str("];\n");
    text
}

fn cpp_table(kernels: &BTreeMap<&str, Entry<'_>>) -> String {
    let mut text = String::from("#include \"emulator.h\"\n\n");
    for name in kernels.keys() {
        let _ = writeln!(text, "extern const emulator::Kernel emulated_{name};");
    }
    // A last entry that is none, since C++ has no empty arrays.
    text.push_str(
        "\nextern \"C\" {\n\
         extern const emulator::Kernel* const eosin_emulator_kernels[];\n\
         const emulator::Kernel* const eosin_emulator_kernels[] = {\n",
    );
    for name in kernels.keys() {
        let _ = writeln!(text, "    &emulated_{name},");
    }
    text.push_str("    nullptr,\n};\n}\n");
    text
}

/// Keeps the time of a file that stays the same.
fn write_if_changed(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)
}

// ---- how

#[derive(Clone, Copy)]
enum Sanitizer {
    Thread,
    Address,
}

impl Sanitizer {
    fn from_env() -> Result<Option<Self>> {
        match env::var("EOSIN_EMULATOR_SANITIZER").as_deref() {
            Err(_) | Ok("") => Ok(None),
            Ok("thread") => Ok(Some(Self::Thread)),
            Ok("address") => Ok(Some(Self::Address)),
            Ok(other) => Err(format!(
                "EOSIN_EMULATOR_SANITIZER is `{other}`; it can be `thread` or `address`"
            )
            .into()),
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Thread => "-fsanitize=thread",
            Self::Address => "-fsanitize=address",
        }
    }

    fn define(self) -> &'static str {
        match self {
            Self::Thread => "-DEOSIN_EMULATOR_TSAN",
            Self::Address => "-DEOSIN_EMULATOR_ASAN",
        }
    }
}

struct Flags {
    compiler: cc::Tool,
    all: Vec<OsString>,
    kernels: Vec<OsString>,
}

impl Flags {
    fn new(shim: &Path, kernels_dir: &Path, sanitizer: Option<Sanitizer>) -> Result<Self> {
        let mut build = cc::Build::new();
        // Optimised in every profile: the tests are slow enough.
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .debug(sanitizer.is_some())
            .pic(true);
        let compiler = build.try_get_compiler()?;
        if !compiler.is_like_gnu() && !compiler.is_like_clang() {
            return Err("the emulator needs g++ or clang++; set CXX to one of them".into());
        }

        let mut all: Vec<OsString> = ["-Wall", "-Wextra", "-fno-exceptions", "-I"]
            .map(Into::into)
            .into();
        all.push(shim.into());
        let mut kernels: Vec<OsString> = [
            // Kernels read memory in other types than it was written in, and
            // contract products and sums only where they say so.
            "-fno-strict-aliasing",
            "-ffp-contract=off",
            "-fno-math-errno",
            // What the host would do in silence, and a GPU otherwise or not at
            // all; shim/fault.cpp makes errors of the launch of it. Not `null`:
            // its check of a thread-local's address uses flags of an `add` that
            // the linker turns into a `lea`, and a null pointer faults anyway.
            "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero",
            "-Wno-unknown-pragmas",
            "-Wno-unused-function",
            // Of parameters aligned to 64, which GCC passes otherwise since 4.6.
            "-Wno-psabi",
            "-include",
            "eosin_emulator.h",
        ]
        .map(Into::into)
        .into();
        kernels.push("-I".into());
        kernels.push(
            kernels_dir
                .canonicalize()
                .unwrap_or_else(|_| kernels_dir.into())
                .into(),
        );
        // So that a large frame faults below its stack instead of skipping the page.
        let probes = "-fstack-clash-protection";
        if build.is_flag_supported(probes)? {
            kernels.push(probes.into());
        }
        if let Some(sanitizer) = sanitizer {
            all.push(sanitizer.define().into());
            kernels.push(sanitizer.flag().into());
            kernels.push("-fno-omit-frame-pointer".into());
        }
        Ok(Self {
            compiler,
            all,
            kernels,
        })
    }
}

/// One C++ file.
struct Unit {
    source: PathBuf,
    object: PathBuf,
    /// The scheduler is never instrumented, see shim/sanitizer.h.
    is_kernel: bool,
}

impl Unit {
    fn scheduler(source: PathBuf, objects: &Path) -> Self {
        Self::new(source, objects, false)
    }

    fn kernels(source: PathBuf, objects: &Path) -> Self {
        Self::new(source, objects, true)
    }

    fn new(source: PathBuf, objects: &Path, is_kernel: bool) -> Self {
        let object = objects
            .join(source.file_name().unwrap_or_default())
            .with_extension("o");
        Self {
            source,
            object,
            is_kernel,
        }
    }

    fn command(&self, flags: &Flags) -> Command {
        let mut command = flags.compiler.to_command();
        command.args(&flags.all);
        if self.is_kernel {
            command.args(&flags.kernels);
        }
        command
            .arg("-MMD")
            .arg("-MF")
            .arg(self.object.with_extension("d"));
        command
            .arg("-c")
            .arg(&self.source)
            .arg("-o")
            .arg(&self.object);
        command
    }

    /// The command and the text of every file that went into the object, or none
    /// when that is not known.
    fn fingerprint(&self, flags: &Flags) -> Option<String> {
        let listed = fs::read_to_string(self.object.with_extension("d")).ok()?;
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.command(flags)).hash(&mut hasher);
        for path in dependencies(&listed) {
            fs::read(path).ok()?.hash(&mut hasher);
        }
        Some(format!("{:016x}", hasher.finish()))
    }

    fn is_current(&self, flags: &Flags) -> bool {
        let stamp = fs::read_to_string(self.object.with_extension("stamp")).ok();
        self.object.is_file() && stamp.is_some() && stamp == self.fingerprint(flags)
    }

    fn compile(&self, flags: &Flags) -> Result<()> {
        let output = self.command(flags).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(format!("{:?} failed:\n{said}", self.command(flags)).into());
        }
        for line in said.lines() {
            println!("cargo::warning={line}");
        }
        // Warnings are told once more each time, until they are gone.
        if said.is_empty()
            && let Some(fingerprint) = self.fingerprint(flags)
        {
            fs::write(self.object.with_extension("stamp"), fingerprint)?;
        }
        Ok(())
    }
}

/// The files of a rule in make's syntax: blanks in names are escaped, and so are
/// the ends of lines that go on.
fn dependencies(rule: &str) -> Vec<String> {
    let Some((_, files)) = rule.split_once(": ") else {
        return Vec::new();
    };
    let escaped = files.replace("\\\n", " ").replace("\\ ", "\0");
    escaped
        .split_whitespace()
        .map(|file| file.replace('\0', " "))
        .collect()
}

fn compile(units: &[Unit], flags: &Flags) -> Result<()> {
    let stale: Vec<_> = units
        .iter()
        .filter(|unit| !unit.is_current(flags))
        .collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let jobs = env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(unit) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = unit.compile(flags) {
                        failures
                            .lock()
                            .expect("no thread panics")
                            .push(error.to_string());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner()?;
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n\n").into())
    }
}

fn link(units: &[Unit], flags: &Flags, sanitizer: Option<Sanitizer>, out: &Path) -> Result<()> {
    let objects = units.iter().map(|unit| &unit.object);
    let shared = env::var_os("EOSIN_EMULATOR_SHARED").is_some_and(|value| !value.is_empty());
    if !shared && sanitizer.is_none() {
        let mut archive = cc::Build::new();
        archive
            .cpp(true)
            .objects(objects)
            .try_compile("eosin_emulator")?;
        return Ok(());
    }
    // By its name a program that needs the plain library takes one with instrumented
    // kernels that is loaded before it.
    let library = out.join("libeosin_emulator.so");
    let mut command = flags.compiler.to_command();
    command.args(["-shared", "-Wl,-soname,libeosin_emulator.so", "-o"]);
    command.arg(&library).args(objects);
    command.args(sanitizer.map(Sanitizer::flag));
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed:\n{said}").into());
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=dylib=eosin_emulator");
    Ok(())
}
