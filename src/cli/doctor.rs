//! `eosin doctor`: what this machine and build can do.

use serde::Serialize;

use super::console;
use super::device::{self, DeviceChoice};
use crate::device::cuda::kernels::{self, ALL, ARCHITECTURES, MODULES, TOOLKIT};
use crate::error::Result;
use crate::models::registry::MODELS;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    found: String,
    /// What to do about what is missing, if anything can be done.
    remedy: Option<String>,
}

/// # Errors
/// CUDA was asked for and cannot be used, which is how a script asks.
pub fn doctor(choice: DeviceChoice, json: bool) -> Result<()> {
    let chosen = device::name(&choice.open()?.device);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let features: Vec<&str> = [
        ("cuda", cfg!(feature = "cuda")),
        ("formats", cfg!(feature = "formats")),
        ("slides", cfg!(feature = "slides")),
        ("cli", cfg!(feature = "cli")),
    ]
    .iter()
    .filter(|(_, on)| *on)
    .map(|(name, _)| *name)
    .collect();
    let vectors = vectors();
    let findings = [
        Finding {
            what: "eosin",
            found: format!("{} ({})", env!("CARGO_PKG_VERSION"), features.join(", ")),
            remedy: None,
        },
        Finding {
            what: "cpu",
            found: format!("{cores} cores, {vectors}"),
            remedy: (vectors == "no AVX2")
                .then(|| "eosin runs, several times slower than on a CPU with AVX2".into()),
        },
        gpus(),
        compiled_kernels(),
        Finding {
            what: "device",
            found: match choice {
                DeviceChoice::Auto => format!("{chosen}, when none is asked for"),
                _ => chosen,
            },
            remedy: None,
        },
        Finding {
            what: "models",
            found: (MODELS.iter().map(|m| m.name))
                .collect::<Vec<_>>()
                .join(", "),
            remedy: None,
        },
        slides(),
        Finding {
            what: "weights",
            found: "none are shipped".into(),
            remedy: Some(
                "give features.weights = \"resnet50.pth\" (torchvision's keys) in the run file; \
                 without it features come from seeded random weights"
                    .into(),
            ),
        },
    ];
    let mut text = String::new();
    for f in &findings {
        text += &format!("{:8} {}\n", f.what, f.found);
        if let Some(remedy) = &f.remedy {
            text += &format!("{:8} -> {remedy}\n", "");
        }
    }
    console::print(json, &findings, &text)
}

/// The kinds of slide that can be read here.
fn slides() -> Finding {
    let own = "SVS, TIFF, BigTIFF, OME-TIFF, JPEG, PNG";
    match crate::slides::openslide::version() {
        Ok(version) => Finding {
            what: "slides",
            found: format!("{own}; NDPI, MRXS, SCN, BIF and others through OpenSlide {version}"),
            remedy: None,
        },
        Err(_) => Finding {
            what: "slides",
            found: format!("{own}; OpenSlide is not installed"),
            remedy: Some(
                "for NDPI, MRXS, SCN, BIF and others install OpenSlide 4 (`apt install libopenslide1`, \
                 `brew install openslide`), or name its library in EOSIN_OPENSLIDE"
                    .into(),
            ),
        },
    }
}

#[cfg(feature = "cuda")]
fn gpus() -> Finding {
    use crate::device::cuda::nvidia;
    use crate::error::Error;
    let (found, remedy) = match nvidia::devices() {
        Ok(gpus) => (gpus.join("; "), None),
        Err(Error::Usage { problem, remedy }) => (problem, Some(remedy)),
        Err(error) => (error.to_string(), None),
    };
    Finding {
        what: "cuda",
        found,
        remedy,
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Finding {
    Finding {
        what: "cuda",
        found: "not in this build: eosin computes on the CPU".into(),
        remedy: Some("build it with the feature cuda".into()),
    }
}

fn compiled_kernels() -> Finding {
    let table = format!("{} in {} files", ALL.len(), MODULES.len());
    let (found, remedy) = match TOOLKIT {
        Some(version) => {
            let architectures = ARCHITECTURES.join(", ");
            (
                format!("{table} for {architectures}, by nvcc {version}; eosin kernels lists them"),
                None,
            )
        }
        None => (
            format!("{table} by name alone: built without nvcc; eosin kernels lists them"),
            cfg!(feature = "cuda").then(|| kernels::REMEDY.into()),
        ),
    };
    Finding {
        what: "kernels",
        found,
        remedy,
    }
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "no AVX2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    std::env::consts::ARCH
}
