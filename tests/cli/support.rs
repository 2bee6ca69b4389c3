//! Runs the program, and makes what the tests share.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// What the program left behind.
#[derive(Debug)]
pub struct Ended {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is text"),
            stderr: String::from_utf8(output.stderr).expect("standard error is text"),
        }
    }

    /// The error line, after checking that there is one, last, and alone.
    pub fn error_line(&self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "a failed command printed a result");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let errors = lines.iter().filter(|l| l.starts_with("error:")).count();
        assert_eq!(errors, 1, "{}", self.stderr);
        let last = lines.last().expect("a line");
        assert!(
            last.starts_with("error: "),
            "the error is not last:\n{}",
            self.stderr
        );
        (*last).to_owned()
    }
}

pub fn program<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eosin"));
    command.args(args).stdin(Stdio::null());
    command
}

pub fn eosin<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ended {
    Ended::of(program(args).output().expect("the program starts"))
}

/// Runs a command that must succeed; returns its standard output.
pub fn succeeds<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> String {
    let ended = eosin(args);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

/// As [`succeeds`], for `--json`: the whole output is one value.
pub fn json<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> serde_json::Value {
    let text = succeeds(args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

/// Runs a command that must fail with exit code 1 and one line that has all
/// of `parts` in it.
pub fn fails<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>, parts: &[&str]) {
    let line = eosin(args).error_line(1);
    for part in parts {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

pub fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")
}

/// A folder for what tests share; it stays until the next run.
fn shared() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder of an earlier run goes");
        }
        fs::create_dir_all(&folder).expect("a folder for the tests");
        folder
    })
}

/// 16 simulated slides of 16 patients, 2 tiles of 64 px each.
pub fn cohort() -> &'static Path {
    static COHORT: OnceLock<PathBuf> = OnceLock::new();
    COHORT.get_or_init(|| {
        let folder = shared().join("cohort");
        let size = ["--slides", "16", "--tiles", "2", "--tile-px", "64"];
        succeeds(
            ["simulate", "--seed", "5", "--out", text(&folder)]
                .iter()
                .chain(&size),
        );
        folder
    })
}

/// A finished run on [`cohort`], with the keys of [`run_file`].
pub fn finished() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = shared().join("run");
        let config = run_file(shared(), &[]);
        succeeds([
            "train",
            "deeppt",
            "--config",
            text(&config),
            "--out",
            text(&folder),
        ]);
        folder
    })
}

/// Writes a run file for [`cohort`] into `folder`: a training of a second or
/// two, with some keys changed or added. Values are TOML; an empty one takes
/// the key out.
pub fn run_file(folder: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let cohort = cohort();
    let quoted = |part: &str| format!("{:?}", text(&cohort.join(part)));
    let mut keys: BTreeMap<&str, String> = BTreeMap::from([
        ("seed", "3".to_owned()),
        ("data.layout", "\"tiles\"".to_owned()),
        ("data.path", quoted("tiles")),
        ("data.expression", quoted("expression.csv")),
        ("data.slides", quoted("slides.csv")),
        ("features.tile_px", "64".to_owned()),
        ("split.outer_folds", "2".to_owned()),
        ("split.inner_folds", "2".to_owned()),
        ("autoencoder.epochs", "2".to_owned()),
        ("mlp.hidden", "64".to_owned()),
        ("mlp.epochs", "4".to_owned()),
    ]);
    for (key, value) in changes {
        match value.is_empty() {
            true => keys.remove(key),
            false => keys.insert(key, (*value).to_owned()),
        };
    }
    let lines: Vec<String> = keys.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    let path = folder.join("run.toml");
    fs::write(&path, lines.concat()).expect("a run file");
    path
}

/// The arguments of a training.
pub fn train<'a>(config: &'a Path, out: &'a Path) -> Vec<&'a str> {
    vec![
        "train",
        "deeppt",
        "--config",
        text(config),
        "--out",
        text(out),
    ]
}

/// Every file under `folder` by its path there.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(folder).expect("it lies there");
                found.insert(inside.to_path_buf(), fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

/// Asserts that two runs left the same files with the same bytes. Where they
/// name their own folder, each counts as `RUN`.
pub fn assert_same_run(a: &Path, b: &Path) {
    let read = |folder: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let neutral = |(path, bytes): (PathBuf, Vec<u8>)| {
            let bytes = match path.extension().is_some_and(|e| e == "html") {
                true => String::from_utf8_lossy(&bytes)
                    .replace(text(folder), "RUN")
                    .into_bytes(),
                false => bytes,
            };
            (path, bytes)
        };
        files(folder).into_iter().map(neutral).collect()
    };
    let (a, b) = (read(a), read(b));
    let names = |m: &BTreeMap<PathBuf, Vec<u8>>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for name in [
        "predictions.csv",
        "genes.csv",
        "summary.json",
        "fold1/model1-genes0.safetensors",
    ] {
        assert!(a.contains_key(Path::new(name)), "a run without {name}");
    }
    let differing: Vec<&PathBuf> = a.keys().filter(|k| a[*k] != b[*k]).collect();
    assert!(differing.is_empty(), "these differ: {differing:?}");
}
