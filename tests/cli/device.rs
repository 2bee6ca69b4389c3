//! `--device`: what is said where CUDA cannot be had.
//!
//! The NVIDIA drivers here are libraries of the test's own under the driver's
//! name, which the program finds before any other.

use crate::support::*;

#[test]
fn the_cpu_needs_nothing() {
    let report = json(["doctor", "--device", "cpu", "--json"]);
    assert_eq!(found(&report), "the CPU");
}

/// What `doctor` says of the device.
fn found(report: &serde_json::Value) -> &str {
    let findings = report.as_array().expect("findings");
    let device = findings.iter().find(|f| f["what"] == "device");
    device.expect("a device")["found"].as_str().expect("text")
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_the_feature_is_said() {
    fails(
        ["doctor", "--device", "cuda"],
        &["has not the feature cuda", "--device cpu"],
    );
    let report = json(["doctor", "--json"]);
    assert_eq!(found(&report), "the CPU, when none is asked for");
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod with_the_feature {
    use std::path::Path;
    use std::process::Command;

    use eosin::device::cuda::kernels::TOOLKIT;
    use eosin::device::cuda::nvidia::{FUNCTIONS, has_driver};
    use eosin::formats::{Array, npy};
    use tempfile::TempDir;

    use super::found;
    use crate::support::*;

    /// A folder with a driver's library that shows no GPU.
    fn driver(version: u32, functions: &[&str]) -> TempDir {
        let folder = scratch();
        let mut source = format!(
            "extern \"C\" int cuDriverGetVersion(int* v) {{ *v = {version}; return 0; }}\n"
        );
        for name in functions {
            // CUDA_ERROR_NO_DEVICE
            source += &format!("extern \"C\" int {name}() {{ return 100; }}\n");
        }
        let path = folder.path().join("driver.cc");
        std::fs::write(&path, source).expect("a source file");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let done = Command::new(compiler)
            .args(["-shared", "-fPIC", "-o"])
            .arg(folder.path().join("libcuda.so"))
            .arg(&path)
            .status();
        assert!(done.expect("a C++ compiler").success());
        folder
    }

    /// Runs the program where that driver is installed.
    fn with(driver: &Path, args: &[&str]) -> Ended {
        let mut command = program(args);
        command.env("LD_LIBRARY_PATH", driver);
        Ended::of(command.output().expect("the program starts"))
    }

    /// CUDA is refused with `parts`, and the choice is then the CPU.
    fn refused(driver: &Path, parts: &[&str]) {
        let line = with(driver, &["doctor", "--device", "cuda"]).error_line(1);
        for part in parts {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        let ended = with(driver, &["doctor", "--json"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(found(&report), "the CPU, when none is asked for");
    }

    #[test]
    fn what_computes_refuses_before_it_writes() {
        let driver = driver(12_000, FUNCTIONS);
        let (run, data, folder) = (finished(), cohort().join("tiles"), scratch());
        let weights = run.join("encoder.safetensors");
        let (data, out) = (text(&data), folder.path().join("out.npy"));
        let (run, weights, path) = (text(run), text(&weights), text(&out));
        for args in [
            &[
                "features", "--data", data, "--layout", "tiles", "--out", path,
            ][..],
            &["evaluate", "--run", run, "--data", data, "--out", path],
            &[
                "predict",
                "resnet50",
                "--weights",
                weights,
                "--input",
                path,
                "--output",
                path,
            ],
        ] {
            let args = [args, &["--device", "cuda"]].concat();
            let line = with(driver.path(), &args).error_line(1);
            assert!(line.contains("is for CUDA 12.0"), "{args:?}: {line}");
            assert!(!out.exists(), "{args:?}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_used_is_noted() {
        let driver = driver(12_000, FUNCTIONS);
        let folder = scratch();
        let (x, y) = (folder.path().join("x.npy"), folder.path().join("y.npy"));
        let codes = Array::from_f32(&[2, 512], &[0.5; 1024]).expect("an array");
        npy::write(&x, &codes).expect("an input");
        let weights = finished().join("fold0/model0-genes0.safetensors");
        let args = [
            "predict",
            "deeppt",
            "--weights",
            text(&weights),
            "--input",
            text(&x),
            "--output",
            text(&y),
        ];
        let note = "computing on the CPU: the NVIDIA driver is for CUDA 12.0";
        for (more, noted) in [
            (&[][..], true),
            (&["--device", "auto"], true),
            (&["--quiet"], false),
            (&["--device", "cpu"], false),
        ] {
            let ended = with(driver.path(), &[&args, more].concat());
            assert_eq!(ended.code, Some(0), "{more:?}: {ended:?}");
            let found = ended.stderr.contains(note);
            assert_eq!(found, noted, "{more:?}: {}", ended.stderr);
        }
    }

    #[test]
    fn no_driver() {
        if has_driver() {
            eprintln!("skipped: this machine has an NVIDIA driver");
            return;
        }
        let nowhere = scratch();
        refused(
            nowhere.path(),
            &[
                "no NVIDIA driver",
                "install the GPU's driver",
                "--device cpu",
            ],
        );
    }

    #[test]
    fn an_old_driver() {
        let driver = driver(12_000, FUNCTIONS);
        refused(
            driver.path(),
            &["is for CUDA 12.0", "install a newer driver"],
        );
    }

    #[test]
    fn a_driver_that_is_not_nvidias() {
        let driver = driver(99_000, &["cuInit"]);
        refused(
            driver.path(),
            &["has no function cu", "install NVIDIA's own driver"],
        );
    }

    /// A build without kernels says so first: a GPU would not help it.
    #[test]
    fn no_kernels_or_no_gpu() {
        let driver = driver(99_000, FUNCTIONS);
        match TOOLKIT {
            None => {
                eprintln!("skipped: a missing GPU, since this build has no kernels");
                refused(
                    driver.path(),
                    &["built without nvcc", "scripts/cuda-toolkit.sh"],
                );
            }
            Some(_) => {
                eprintln!("skipped: missing kernels, since this build has them");
                refused(driver.path(), &["sees no GPU", "CUDA_VISIBLE_DEVICES"]);
            }
        }
    }
}
