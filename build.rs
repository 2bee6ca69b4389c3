//! Compiles kernels/*.cu and writes the table of kernels that
//! src/device/cuda/kernels.rs includes.
//!
//! The table of names comes from the sources alone, so that everything above
//! the driver compiles and runs without a CUDA toolkit. Where an nvcc is found,
//! each file becomes one fat binary inside the crate, and what ptxas says of
//! its kernels (registers, stack, spills, shared memory) becomes a table too.
//! Nothing here looks at a GPU, runs nvidia-smi or downloads.
//!
//! Environment:
//! - `EOSIN_CUDA_ARCHS`: what to compile for, such as "sm_90a,compute_90";
//!   "none" for names alone. Without it [`ARCHITECTURES`].
//! - `NVCC`, or `CUDA_HOME` or `CUDA_PATH`: which toolkit; see [`find_nvcc`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, io, thread};

/// Machine code for Ampere and everything after it that runs its code, the
/// features of Hopper alone, and PTX for what comes later.
const ARCHITECTURES: &str = "sm_80,sm_90a,compute_80";

const FLAGS: [&str; 8] = [
    "-fatbin",
    // Every program that embeds the kernels would be four times as large.
    "-Xfatbin=-compress-all",
    "-std=c++17",
    "-O3",
    "-lineinfo",
    "-Ikernels",
    "-Xptxas",
    "-v",
];

/// How every kernel's line begins.
const FORM: &str = "extern \"C\" __global__ void __launch_bounds__(";

type Result<T> = std::result::Result<T, String>;

fn main() {
    if let Err(message) = build() {
        for line in message.lines().filter(|l| !l.trim().is_empty()) {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=kernels");

    let sources = read_sources(&root)?;
    let kernels = table(&sources)?;
    let architectures = architectures(&watched("EOSIN_CUDA_ARCHS").unwrap_or_default())?;
    // Without the feature nothing could load them.
    let wanted = env::var_os("CARGO_FEATURE_CUDA").is_some() && !architectures.is_empty();
    let nvcc = if wanted { find_nvcc(&root)? } else { None };
    let built = match &nvcc {
        Some(nvcc) => Some(compile(nvcc, &sources, &architectures, &root, &out)?),
        None => None,
    };
    if let Some(built) = &built {
        for warning in &built.warnings {
            println!("cargo::warning={warning}");
        }
        for line in built.resources.lines().filter(|l| spills(l)) {
            let mut fields = line.split('\t');
            let (kernel, architecture) = (fields.next(), fields.next());
            println!(
                "cargo::warning={} spills registers on {}",
                kernel.unwrap_or_default(),
                architecture.unwrap_or_default()
            );
        }
        write(&out.join("resources.tsv"), &built.resources)?;
    }
    let code = generate(&sources, &kernels, &architectures, built.as_ref())?;
    write(&out.join("kernels.rs"), &code)
}

// ---- Sources ---------------------------------------------------------------

/// One file below kernels/, comments blanked out in `code`.
struct Source {
    /// Below kernels/, with `/`.
    file: String,
    text: String,
    code: String,
}

/// Every .cu in kernels/ and every .cuh below it, by name.
fn read_sources(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    list(&root.join("kernels"), "", &mut files)?;
    files.sort();
    let read = |file: String| {
        let path = root.join("kernels").join(&file);
        let text = fs::read_to_string(&path).map_err(|e| refused("read", &path, &e))?;
        Ok(Source {
            code: without_comments(&text),
            file,
            text,
        })
    };
    files.into_iter().map(read).collect()
}

fn list(folder: &Path, below: &str, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|e| refused("read", folder, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| refused("read", folder, &e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if path.is_dir() {
            list(&path, &format!("{below}{name}/"), files)?;
        } else if name.ends_with(".cuh") || (name.ends_with(".cu") && below.is_empty()) {
            files.push(format!("{below}{name}"));
        }
    }
    Ok(())
}

/// The text with every comment replaced by blanks, lines kept.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, comment) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), true)
        } else if let Some(inner) = rest.strip_prefix("/*") {
            (inner.find("*/").map_or(rest.len(), |end| end + 4), true)
        } else if c == '"' {
            (quoted(rest), false)
        } else {
            (c.len_utf8(), false)
        };
        let (part, after) = rest.split_at(length);
        if comment {
            code.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push_str(part);
        }
        rest = after;
    }
    code
}

/// Length of the string literal that `text` begins with, at most its line.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return at,
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

// ---- The table of kernels --------------------------------------------------

struct Kernel {
    /// Its file's place among the .cu files.
    module: usize,
    name: String,
    threads: u32,
    file: String,
    line: usize,
}

fn is_module(source: &&Source) -> bool {
    source.file.ends_with(".cu")
}

/// All kernels in the order of files and lines.
fn table(sources: &[Source]) -> Result<Vec<Kernel>> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for header in sources.iter().filter(|s| !is_module(s)) {
        if let Some(at) = header.code.find("__global__") {
            let line = line_of(&header.code, at);
            return Err(format!(
                "kernels/{}:{line}: a kernel in a header; write it out in a .cu file",
                header.file
            ));
        }
    }
    for (module, source) in sources.iter().filter(is_module).enumerate() {
        for (at, _) in source.code.match_indices("__global__") {
            let line = line_of(&source.code, at);
            let place = format!("kernels/{}:{line}", source.file);
            let (name, threads) =
                declaration(&source.code, at).map_err(|problem| format!("{place}: {problem}"))?;
            if let Some(other) = kernels.iter().find(|k| k.name == name) {
                return Err(format!(
                    "{place}: {name} is the name of a kernel in kernels/{}:{} already",
                    other.file, other.line
                ));
            }
            kernels.push(Kernel {
                module,
                name,
                threads,
                file: source.file.clone(),
                line,
            });
        }
    }
    Ok(kernels)
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Name and threads of the kernel whose `__global__` is at `at`.
fn declaration(code: &str, at: usize) -> Result<(String, u32)> {
    let form = || format!("a kernel begins with `{FORM}N) eosin_...(`, on one line");
    let start = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let rest = code[start..].strip_prefix(FORM).ok_or_else(form)?;
    let (threads, rest) = rest.split_once(')').ok_or_else(form)?;
    let (threads, blocks) = threads.split_once(", ").unwrap_or((threads, "1"));
    if !matches!(blocks.parse(), Ok(1..=32)) {
        return Err(format!("`{blocks}` blocks: a number from 1 to 32"));
    }
    let count = match threads.parse() {
        Ok(count @ 1..=1024) => count,
        _ => return Err(format!("`{threads}` threads: a number from 1 to 1024")),
    };
    let (name, rest) = rest.split_once('(').ok_or_else(form)?;
    let name = name.strip_prefix(' ').ok_or_else(form)?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with("eosin_") || !name.chars().all(allowed) {
        return Err(format!(
            "`{name}`: the name of a kernel is eosin_<op>_<direction>_<dtype>, \
             of small letters, digits and _"
        ));
    }
    let parameters = enclosed(rest).ok_or("a parameter list without end")?;
    if parameters.trim().is_empty() || parameters.contains(',') {
        return Err(format!(
            "{name} has the parameters `{}`: a kernel takes exactly one, a struct by value",
            parameters.split_whitespace().collect::<Vec<_>>().join(" ")
        ));
    }
    Ok((name.to_string(), count))
}

/// What stands before the parenthesis that closes an open one.
fn enclosed(text: &str) -> Option<&str> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..at]);
        }
    }
    None
}

// ---- The compiler ----------------------------------------------------------

/// `EOSIN_CUDA_ARCHS` as a list; nothing for "none".
fn architectures(wanted: &str) -> Result<Vec<String>> {
    let wanted = match wanted.trim() {
        "" => ARCHITECTURES,
        "none" => return Ok(Vec::new()),
        other => other,
    };
    let mut list: Vec<String> = Vec::new();
    for name in wanted.split(',').map(str::trim) {
        let number = (name.strip_prefix("sm_")).or_else(|| name.strip_prefix("compute_"));
        let digits = number.map(|n| n.strip_suffix(['a', 'f']).unwrap_or(n));
        let known = digits
            .is_some_and(|d| (2..=3).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()));
        if !known {
            return Err(format!(
                "EOSIN_CUDA_ARCHS: `{name}` is no architecture; \
                 it is a list such as {ARCHITECTURES}, or none"
            ));
        }
        if !list.iter().any(|n| n == name) {
            list.push(name.to_string());
        }
    }
    Ok(list)
}

/// nvcc's options for the architectures, one per virtual architecture: what
/// shares one shares a run of the compiler's front end.
fn gencode(architectures: &[String]) -> Vec<String> {
    let mut codes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in architectures {
        let number = name.split_once('_').map_or("", |(_, number)| number);
        codes.entry(number).or_default().push(name);
    }
    let option = |(number, codes): (&str, Vec<&str>)| {
        format!("-gencode=arch=compute_{number},code=[{}]", codes.join(","))
    };
    codes.into_iter().map(option).collect()
}

struct Nvcc {
    path: PathBuf,
    version: String,
}

/// The compiler: `NVCC`; bin/nvcc of `CUDA_HOME` and `CUDA_PATH`; nvcc in
/// `PATH`; /usr/local/cuda; what scripts/cuda-toolkit.sh installed; NVIDIA's
/// packages in the Python environment that is active.
fn find_nvcc(root: &Path) -> Result<Option<Nvcc>> {
    // nvcc itself reads these.
    for name in NVCC_ENVIRONMENT {
        watched(name);
    }
    if let Some(named) = watched("NVCC").filter(|n| !n.is_empty()) {
        let path = PathBuf::from(&named);
        return match version(&path) {
            Ok(version) => {
                if path.is_file() {
                    println!("cargo::rerun-if-changed={named}");
                }
                Ok(Some(Nvcc { path, version }))
            }
            Err(problem) => Err(format!(
                "NVCC names {named}, which {problem}; correct it, or unset it"
            )),
        };
    }
    // Not there yet, it cannot be watched: the script that installs it gives
    // itself a new time instead.
    let script = "scripts/cuda-toolkit.sh";
    if root.join(script).exists() {
        println!("cargo::rerun-if-changed={script}");
    }

    let binary = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let wheel = Path::new("nvidia/cu13/bin").join(&binary);
    let homes = ["CUDA_HOME", "CUDA_PATH"].map(watched);
    let first = homes.iter().flatten().filter(|home| !home.is_empty());
    let mut candidates: Vec<PathBuf> = first
        .map(|home| Path::new(home).join("bin").join(&binary))
        .collect();
    let in_path = candidates.len();
    // Watched below, and only where it matters: it changes often.
    let path = env::var_os("PATH").unwrap_or_default();
    candidates.extend(env::split_paths(&path).map(|folder| folder.join(&binary)));
    let after_path = candidates.len();
    candidates.push(Path::new("/usr/local/cuda/bin").join(&binary));
    candidates.push(root.join("target/cuda-toolkit").join(&wheel));
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .map(watched)
        .iter()
        .flatten()
    {
        let library = Path::new(environment).join("lib");
        let versions = fs::read_dir(&library).into_iter().flatten().flatten();
        let mut sites: Vec<PathBuf> = versions
            .map(|entry| entry.path().join("site-packages").join(&wheel))
            .collect();
        sites.sort();
        candidates.extend(sites);
    }

    let found = candidates.iter().position(|path| path.is_file());
    if found.is_none_or(|at| (in_path..after_path).contains(&at)) {
        println!("cargo::rerun-if-env-changed=PATH");
    }
    let Some(path) = found.and_then(|at| candidates.into_iter().nth(at)) else {
        return Ok(None);
    };
    println!("cargo::rerun-if-changed={}", path.display());
    match version(&path) {
        Ok(version) => Ok(Some(Nvcc { path, version })),
        Err(problem) => Err(format!(
            "{} {problem}; repair it, name another in NVCC, or set EOSIN_CUDA_ARCHS=none to build without kernels",
            path.display()
        )),
    }
}

const NVCC_ENVIRONMENT: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// Such as "13.0.88", or why not.
fn version(nvcc: &Path) -> Result<String> {
    let output = Command::new(nvcc)
        .arg("--version")
        .output()
        .map_err(|e| format!("cannot be run: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    (said.split(|c: char| c.is_whitespace() || c == ','))
        .filter_map(|word| word.strip_prefix('V'))
        .find(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        .map(String::from)
        .ok_or_else(|| "does not say its version as nvcc does".into())
}

struct Built {
    toolkit: String,
    /// Bytes of each module's image, which lies in `OUT_DIR/cuda`.
    sizes: Vec<u64>,
    resources: String,
    /// What nvcc warned of, each once.
    warnings: BTreeSet<String>,
}

/// Compiles what changed, several files at a time.
fn compile(
    nvcc: &Nvcc,
    sources: &[Source],
    architectures: &[String],
    root: &Path,
    out: &Path,
) -> Result<Built> {
    let folder = out.join("cuda");
    fs::create_dir_all(&folder).map_err(|e| refused("create", &folder, &e))?;
    let mut options: Vec<String> = FLAGS.map(String::from).into();
    options.extend(gencode(architectures));
    // CUDA's own C++ headers, where a toolkit keeps them apart.
    if let Some(home) = nvcc.path.parent().and_then(Path::parent) {
        let headers = home.join("include/cccl");
        if headers.is_dir() {
            options.push(format!("-I{}", headers.display()));
        }
    }

    let modules: Vec<&Source> = sources.iter().filter(is_module).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some(source) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = compile_file(nvcc, source, sources, &options, root, &folder);
            if let Ok(mut results) = results.lock() {
                results.push((source.file.clone(), result));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers().min(modules.len()) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by(|a, b| a.0.cmp(&b.0));

    let mut failures = String::new();
    let mut reports = Vec::new();
    for (_, result) in results {
        match result {
            Ok(report) => reports.push(report),
            Err(message) => failures += &message,
        }
    }
    if !failures.is_empty() {
        return Err(failures
            + "set EOSIN_CUDA_ARCHS=none to build without kernels, or NVCC to another compiler\n");
    }
    // What ptxas cannot overlap, wgmma above all, it tells as a piece of information.
    let warns = |line: &&str| line.contains(": warning") || line.contains("Performance Loss");
    let warnings = reports.iter().flat_map(|r| r.lines().filter(warns));
    let mut lines: Vec<String> = reports.iter().flat_map(|r| resources(r)).collect();
    lines.sort();
    let head = format!(
        "# nvcc {}: kernel, architecture, registers, stack, spill stores, spill loads, static shared memory (bytes)\n",
        nvcc.version
    );
    let size = |source: &&Source| {
        let path = folder.join(image_name(&source.file));
        let length = fs::metadata(&path).map(|m| m.len());
        length.map_err(|e| refused("read", &path, &e))
    };
    Ok(Built {
        warnings: warnings.map(String::from).collect(),
        toolkit: nvcc.version.clone(),
        sizes: modules.iter().map(size).collect::<Result<_>>()?,
        resources: lines.iter().fold(head, |all, line| all + line + "\n"),
    })
}

/// As many as cargo allows and the machine has.
fn workers() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    jobs.map_or(cores, |jobs: usize| jobs.clamp(1, cores))
}

fn image_name(file: &str) -> String {
    format!("{}.fatbin", file.trim_end_matches(".cu"))
}

/// Leaves one fat binary in `folder` and gives what nvcc and ptxas said; does
/// nothing if everything that it depends on is as it was.
fn compile_file(
    nvcc: &Nvcc,
    source: &Source,
    sources: &[Source],
    options: &[String],
    root: &Path,
    folder: &Path,
) -> Result<String> {
    let image = folder.join(image_name(&source.file));
    let report = image.with_extension("report");
    let inputs = image.with_extension("inputs");

    let mut now = format!("{} {}\n", nvcc.path.display(), nvcc.version);
    for name in NVCC_ENVIRONMENT {
        let value = env::var(name).unwrap_or_default();
        now += &format!("{name}={value}\n");
    }
    now += &options.join("\n");
    for input in included(source, sources) {
        let _ = write!(now, "\n--- {}\n{}", input.file, input.text);
    }
    let same = fs::read_to_string(&inputs).is_ok_and(|then| then == now);
    if same
        && image.is_file()
        && let Ok(said) = fs::read_to_string(&report)
    {
        return Ok(said);
    }

    // What the image was made of is written last: without it, it is none.
    match fs::remove_file(&inputs) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(refused("remove", &inputs, &e));
        }
        _ => {}
    }
    let name = format!("kernels/{}", source.file);
    let output = Command::new(&nvcc.path)
        .args(options)
        .arg("-o")
        .args([image.as_os_str(), name.as_ref()])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cannot run {}: {e}\n", nvcc.path.display()))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let of_ptxas = |line: &&str| line.starts_with("ptxas info") || line.starts_with("    ");
        let message: Vec<&str> = said.lines().filter(|line| !of_ptxas(line)).collect();
        return Err(format!(
            "nvcc {} does not compile {name}:\n{}\n",
            nvcc.version,
            message.join("\n")
        ));
    }
    write(&report, &said)?;
    write(&inputs, &now)?;
    Ok(said.into_owned())
}

/// A source and every header below kernels/ that it includes, each once.
fn included<'a>(source: &'a Source, sources: &'a [Source]) -> Vec<&'a Source> {
    let mut found = vec![source];
    let mut next = 0;
    while let Some(&current) = found.get(next) {
        next += 1;
        for line in current.code.lines() {
            let include = line.trim_start().strip_prefix('#').map(str::trim_start);
            let Some(quoted) = include.and_then(|i| i.strip_prefix("include")) else {
                continue;
            };
            let Some(name) = quoted
                .trim()
                .strip_prefix('"')
                .and_then(|n| n.split('"').next())
            else {
                continue;
            };
            let beside = Path::new(&current.file).with_file_name(name);
            for header in sources {
                let meant = header.file == name || Path::new(&header.file) == beside;
                if meant && !found.iter().any(|f| f.file == header.file) {
                    found.push(header);
                }
            }
        }
    }
    found
}

/// The kernels' lines of the table of resources, from what `ptxas -v` says.
fn resources(report: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut entry = None;
    let mut frame = "";
    let mut own = false;
    for line in report.lines() {
        if let Some((_, named)) = line.split_once("Compiling entry function '") {
            let mut parts = named.split('\'');
            entry = parts.next().zip(parts.nth(1));
            frame = "";
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            // A function that was not inlined has properties of its own.
            own = entry.is_some_and(|(kernel, _)| kernel == name.trim());
        } else if line.contains("bytes stack frame") && own {
            frame = line;
        } else if let Some((_, used)) = line.split_once(": Used ")
            && let Some((kernel, architecture)) = entry.take()
        {
            lines.push(format!(
                "{kernel}\t{architecture}\t{}\t{}\t{}\t{}\t{}",
                before(used, " registers"),
                before(frame, " bytes stack frame"),
                before(frame, " bytes spill stores"),
                before(frame, " bytes spill loads"),
                before(used, " bytes smem"),
            ));
        }
    }
    lines
}

/// The number in front of `unit`, 0 where ptxas does not name it.
fn before(text: &str, unit: &str) -> u32 {
    let number = text.split_once(unit).map_or("", |(before, _)| before);
    let digits = number.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

fn spills(line: &str) -> bool {
    line.split('\t').skip(4).take(2).any(|bytes| bytes != "0")
}

// ---- The generated file ----------------------------------------------------

fn generate(
    sources: &[Source],
    kernels: &[Kernel],
    architectures: &[String],
    built: Option<&Built>,
) -> Result<String> {
    let mut code = String::from("// Written by build.rs.\n");
    let done = (|| {
        for (index, k) in kernels.iter().enumerate() {
            let constant = k.name.to_uppercase();
            writeln!(code, "\n/// kernels/{}, line {}.", k.file, k.line)?;
            writeln!(
                code,
                "pub const {constant}: Kernel = Kernel {{ index: {index}, module: {}, name: {:?}, threads: {} }};",
                k.module, k.name, k.threads
            )?;
        }
        writeln!(code, "\n/// Every kernel, by file and line.")?;
        writeln!(code, "pub const ALL: &[Kernel] = &[")?;
        for k in kernels {
            writeln!(code, "    {},", k.name.to_uppercase())?;
        }
        writeln!(code, "];")?;

        let modules: Vec<&Source> = sources.iter().filter(is_module).collect();
        if built.is_some() && !modules.is_empty() {
            // The driver reads the image's header as 8-byte words.
            writeln!(code, "\n#[repr(C, align(16))]")?;
            writeln!(code, "struct Image<const N: usize>([u8; N]);")?;
        }
        let sizes = built.iter().flat_map(|b| &b.sizes);
        for (index, (size, source)) in sizes.zip(&modules).enumerate() {
            writeln!(
                code,
                "static IMAGE_{index}: Image<{size}> = Image(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/cuda/{}\")));",
                image_name(&source.file)
            )?;
        }
        writeln!(code, "\n/// Every file of kernels, by name.")?;
        writeln!(code, "pub const MODULES: &[Module] = &[")?;
        for (index, source) in modules.iter().enumerate() {
            let image = match built {
                Some(_) => format!("Some(&IMAGE_{index}.0)"),
                None => "None".into(),
            };
            let file = &source.file;
            writeln!(code, "    Module {{ file: {file:?}, image: {image} }},")?;
        }
        writeln!(code, "];")?;

        let toolkit = built.map(|b| &b.toolkit);
        writeln!(code, "\n/// nvcc's version; `None` when built without.")?;
        writeln!(code, "pub const TOOLKIT: Option<&str> = {toolkit:?};")?;
        writeln!(
            code,
            "\n/// What the kernels are, or would be, compiled for."
        )?;
        writeln!(
            code,
            "pub const ARCHITECTURES: &[&str] = &{architectures:?};"
        )?;
        let warnings: Vec<_> = built.iter().flat_map(|b| &b.warnings).collect();
        writeln!(code, "\n/// What nvcc warned of in this build.")?;
        writeln!(code, "pub const WARNINGS: &[&str] = &{warnings:?};")?;
        let resources = match built {
            Some(_) => "Some(include_str!(concat!(env!(\"OUT_DIR\"), \"/resources.tsv\")))",
            None => "None",
        };
        writeln!(
            code,
            "\n/// What ptxas said of every kernel and architecture in this build: a heading,\n\
             /// then tab-separated lines in the order of their bytes. `None` without nvcc."
        )?;
        writeln!(code, "pub const RESOURCES: Option<&str> = {resources};")
    })();
    done.map_err(|e: std::fmt::Error| e.to_string())?;
    Ok(code)
}

// ---- The system ------------------------------------------------------------

/// An environment variable that cargo sets.
fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("{name} is not set; build with cargo"))
}

/// An environment variable of the user's; a change of it builds again.
fn watched(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok()
}

/// Leaves a file alone that holds `text` already.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|e| refused("write", path, &e))
}

fn refused(action: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {action} {}: {error}", path.display())
}

/// Run by the test binary `cuda`, which has this file as a module.
#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, text: &str) -> Source {
        Source {
            file: file.into(),
            text: text.into(),
            code: without_comments(text),
        }
    }

    fn refusal(files: &[(&str, &str)]) -> String {
        let sources: Vec<Source> = files
            .iter()
            .map(|(file, text)| source(file, text))
            .collect();
        let refused = table(&sources).err();
        refused.expect("a table was made of it")
    }

    const ADD: &str = "extern \"C\" __global__ void __launch_bounds__(256) eosin_add_forward_f32(const Add p) { add(p); }\n";

    #[test]
    fn kernels_are_found_in_order_outside_comments() {
        let text = format!(
            "// a __global__ here\n/* and one\n__global__ */ const char* s = \"// no comment\";\n{ADD}\
             extern \"C\" __global__ void __launch_bounds__(64, 2) eosin_add_forward_bf16(\n    const Add p) {{\n}}\n"
        );
        let kernels = table(&[
            source("add.cu", &text),
            source("common/base.cuh", "struct Add {};"),
            source("sub.cu", &ADD.replace("add", "sub")),
        ]);
        let found: Vec<_> = kernels
            .expect("a table")
            .into_iter()
            .map(|k| (k.name, k.module, k.threads, k.line))
            .collect();
        assert_eq!(
            found,
            [
                ("eosin_add_forward_f32".to_string(), 0, 256, 4),
                ("eosin_add_forward_bf16".to_string(), 0, 64, 5),
                ("eosin_sub_forward_f32".to_string(), 1, 256, 1),
            ]
        );
    }

    #[test]
    fn a_malformed_kernel_is_refused_with_its_place() {
        for (from, to, says) in [
            ("const Add p", "const Add p, int n", "exactly one"),
            ("const Add p", "", "exactly one"),
            ("eosin_add", "add", "eosin_<op>"),
            ("eosin_add", "eosin_Add", "eosin_<op>"),
            ("(256)", "(THREADS)", "a number from 1 to 1024"),
            ("(256)", "(2048)", "a number from 1 to 1024"),
            ("(256)", "(256, two)", "a number from 1 to 32"),
            ("(256)", "(256, 0)", "a number from 1 to 32"),
            ("void __launch", "void\n__launch", "on one line"),
            ("extern", "  extern", "on one line"),
            (") {", " {", "without end"),
        ] {
            let text = format!("\n\n{}", ADD.replacen(from, to, 1).replace("add(p);", ""));
            let message = refusal(&[("add.cu", &text)]);
            let placed = message.starts_with("kernels/add.cu:3: ");
            assert!(placed && message.contains(says), "{to}: {message}");
        }
    }

    #[test]
    fn a_name_is_used_once_and_headers_have_no_kernels() {
        let twice = refusal(&[("add.cu", ADD), ("other.cu", &format!("\n{ADD}"))]);
        assert_eq!(
            twice,
            "kernels/other.cu:2: eosin_add_forward_f32 is the name of a kernel in kernels/add.cu:1 already"
        );
        let header = refusal(&[("common/add.cuh", ADD)]);
        assert!(header.starts_with("kernels/common/add.cuh:1: "), "{header}");
    }

    #[test]
    fn architectures_share_front_ends() {
        let default = architectures("").expect("the default");
        assert_eq!(default, ["sm_80", "sm_90a", "compute_80"]);
        assert_eq!(
            gencode(&default),
            [
                "-gencode=arch=compute_80,code=[sm_80,compute_80]",
                "-gencode=arch=compute_90a,code=[sm_90a]",
            ]
        );
        assert_eq!(architectures(" none "), Ok(Vec::new()));
        for wrong in ["sm_8x", "80", "sm_80,", "sm_80;sm_90", "sm_"] {
            assert!(architectures(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_followed_through_headers() {
        let sources = [
            source("add.cu", "#include \"common/walk.cuh\"\n#include <cmath>\n"),
            source("common/base.cuh", ""),
            source("common/other.cuh", ""),
            source(
                "common/walk.cuh",
                "#pragma once\n # include \"base.cuh\"\n// #include \"other.cuh\"\n",
            ),
        ];
        let found: Vec<&str> = included(&sources[0], &sources)
            .iter()
            .map(|s| s.file.as_str())
            .collect();
        assert_eq!(found, ["add.cu", "common/walk.cuh", "common/base.cuh"]);
    }

    #[test]
    fn ptxas_is_understood() {
        let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'eosin_a' for 'sm_80'
ptxas info    : Function properties for eosin_a
    416 bytes stack frame, 828 bytes spill stores, 860 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 416 bytes cumulative stack size, 4096 bytes smem, 376 bytes cmem[0]
ptxas info    : Compiling entry function 'eosin_b' for 'sm_90a'
ptxas info    : Function properties for helper
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Function properties for eosin_b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 376 bytes cmem[0]
";
        let lines = resources(report);
        assert_eq!(
            lines,
            [
                "eosin_a\tsm_80\t32\t416\t828\t860\t4096",
                "eosin_b\tsm_90a\t10\t0\t0\t0\t0",
            ]
        );
        assert!(spills(&lines[0]) && !spills(&lines[1]));
    }
}
