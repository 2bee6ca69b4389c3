//! `eosin fid`: how far generated images are from real ones.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde::Serialize;

use super::console;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::formats::atomic::create_dir_all;
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{Array, npy, read_weights};
use crate::metrics::fid::{Gaussian, frechet_distance};
use crate::metrics::precision_recall::precision_recall;
use crate::models::inception;
use crate::models::registry::{Model, Settings};
use crate::ops;
use crate::session::{Runner, Threads};
use crate::slides::{Rgb8, image, tile};
use crate::tensor::Tensor;
use crate::train::features::images;
use crate::train::progress::Control;

#[derive(Args)]
pub struct FidArgs {
    /// Folder of real images, in it or in folders of it
    real: PathBuf,
    /// Folder of generated images
    fake: PathBuf,
    /// The network's weights: .pth, .pt or .safetensors
    #[arg(long)]
    weights: PathBuf,
    /// Whose features are compared; distances are only comparable within a network
    #[arg(long, value_enum, default_value = "inception-v3")]
    network: NetworkChoice,
    /// What Inception-V3 is given, and how it averages at borders
    #[arg(long, value_enum, default_value = "pytorch-fid")]
    convention: ConventionChoice,
    /// Side to which images are resized; 299 for Inception-V3, else 224
    #[arg(long)]
    px: Option<usize>,
    /// Neighbours for precision and recall
    #[arg(long, default_value_t = 3)]
    neighbours: usize,
    /// Folder to keep features in, for the next time
    #[arg(long)]
    cache: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkChoice {
    InceptionV3,
    #[value(name = "resnet18")]
    ResNet18,
    #[value(name = "resnet50")]
    ResNet50,
    #[value(name = "densenet121")]
    DenseNet121,
}

impl NetworkChoice {
    fn name(self) -> &'static str {
        match self {
            Self::InceptionV3 => "inception-v3",
            Self::ResNet18 => "resnet18",
            Self::ResNet50 => "resnet50",
            Self::DenseNet121 => "densenet121",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ConventionChoice {
    /// Values in (-1, 1) and TensorFlow's borders: the network of pytorch-fid
    PytorchFid,
    /// torchvision's network with its input transform after 2 x - 1, as RNA-GAN's code
    Rnagan,
}

impl ConventionChoice {
    fn name(self) -> &'static str {
        match self {
            Self::PytorchFid => "pytorch-fid",
            Self::Rnagan => "rnagan",
        }
    }
}

#[derive(Serialize)]
struct Distance {
    frechet_distance: f64,
    mean_distance: f64,
    precision: f64,
    recall: f64,
    neighbours: usize,
    real: usize,
    fake: usize,
    dimensions: usize,
    network: String,
    resize: String,
}

pub fn fid(args: &FidArgs, device: &Device, json: bool, control: Control) -> Result<()> {
    let inception = args.network == NetworkChoice::InceptionV3;
    let px = args
        .px
        .unwrap_or(if inception { inception::IMAGE } else { 224 });
    if !(32..=4096).contains(&px) {
        return Err(Error::usage(
            format!("images of {px} px cannot be compared"),
            "give a side from 32 to 4096, at least 75 for Inception-V3",
        ));
    }
    let mut settings = Settings::new();
    let mut network = args.network.name().to_owned();
    if inception {
        settings.insert("convention".into(), args.convention.name().into());
        network += &format!(", convention {}", args.convention.name());
    }
    let weights = read_weights(&args.weights)?;
    let model = Model::named(args.network.name())?;
    let session = model.session_in(&weights, &args.weights, &settings, device, DType::F32)?;
    let seen = Seen {
        runner: session.runner(Threads::Caller)?,
        unit: inception,
        px,
        recipe: format!("{} {network} {px}", sha256_file(&args.weights)?),
        cache: args.cache.as_deref(),
        control,
    };
    let (real, dims) = seen.features(&args.real)?;
    let (fake, _) = seen.features(&args.fake)?;
    let count = |features: &[f32]| features.len() / dims.max(1);
    let fit = |features: &[f32]| Gaussian::fit(features, count(features), dims);
    let distance = frechet_distance(&fit(&real)?, &fit(&fake)?)?;
    let shares = precision_recall(&real, &fake, dims, args.neighbours)?;
    let result = Distance {
        frechet_distance: distance.value(),
        mean_distance: distance.mean_distance,
        precision: shares.precision,
        recall: shares.recall,
        neighbours: args.neighbours,
        real: count(&real),
        fake: count(&fake),
        dimensions: dims,
        network,
        resize: format!("bilinear to {px} px, without antialiasing"),
    };
    let mut text = format!(
        "Frechet distance   {:.4}\nprecision          {:.3}\nrecall             {:.3}\n\
         images             {} real, {} generated\nnetwork            {}, {} features\n\
         resize             {}",
        result.frechet_distance,
        result.precision,
        result.recall,
        result.real,
        result.fake,
        result.network,
        dims,
        result.resize
    );
    if result.real.min(result.fake) <= dims {
        text += "\nfewer images than features: compare only with distances of as many images";
    }
    console::print(json, &result, &text)
}

/// Every PNG and JPEG of a folder and the folders in it, by path.
///
/// # Errors
/// A folder that cannot be read or has none.
pub fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let fail = |e| Error::io("list the folder", &folder, e);
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(fail)?;
            let named = |ext: &str| {
                path.extension()
                    .is_some_and(|e| e.eq_ignore_ascii_case(ext))
            };
            if kind.is_dir() {
                folders.push(path);
            } else if ["png", "jpg", "jpeg"].into_iter().any(named) {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::file(
            folder,
            "",
            "holds no PNG or JPEG",
            "give a folder of images",
        ));
    }
    Ok(found)
}

/// Reads images that must be of one size.
///
/// # Errors
/// An image that cannot be read or is of another size.
pub fn read_of_one_size(files: &[PathBuf]) -> Result<Vec<Rgb8>> {
    let read = files.par_iter().map(image::read);
    let images = read.collect::<Result<Vec<_>>>()?;
    let size = |i: &Rgb8| (i.width, i.height);
    for (file, image) in files.iter().zip(&images) {
        if size(image) != size(&images[0]) {
            return Err(Error::file(
                file,
                "",
                format!(
                    "is {} x {} px, and {} is {} x {} px",
                    image.width,
                    image.height,
                    files[0].display(),
                    images[0].width,
                    images[0].height
                ),
                "compare images of one size: resizing them differently would show as a distance",
            ));
        }
    }
    Ok(images)
}

/// Images that are read and computed together.
const BATCH: usize = 16;

struct Seen<'a> {
    runner: Runner,
    /// Values in (0, 1) instead of ImageNet's scale.
    unit: bool,
    px: usize,
    recipe: String,
    cache: Option<&'a Path>,
    control: Control<'a>,
}

impl Seen<'_> {
    /// (images, features) row-major, and the number of features.
    fn features(&self, folder: &Path) -> Result<(Vec<f32>, usize)> {
        let files = image_files(folder)?;
        let kept = match self.cache {
            None => None,
            Some(cache) => {
                create_dir_all(cache)?;
                Some(cache.join(format!("{}.npy", self.name(&files)?)))
            }
        };
        if let Some(path) = kept.as_ref().filter(|p| p.exists()) {
            let array = npy::read(path)?;
            if let [n, dims] = array.shape[..]
                && n == files.len()
                && dims > 0
            {
                return Ok((crate::nn::to_tensor(&array)?.to_f32_vec()?, dims));
            }
        }
        let stage = format!("features of {}", folder.display());
        self.control.progress.begin(&stage, files.len());
        let mut all: Vec<f32> = Vec::new();
        let first = read_of_one_size(&files[..1])?;
        for (number, part) in files.chunks(BATCH).enumerate() {
            self.control.check("nothing was written")?;
            // The first image stands for the size of all.
            let with_first: Vec<PathBuf> =
                std::iter::once(&files[0]).chain(part).cloned().collect();
            let images = match number {
                0 => read_of_one_size(part)?,
                _ => read_of_one_size(&with_first)?.split_off(1),
            };
            all.extend(self.of(&images, (first[0].width, first[0].height))?);
            self.control.progress.at(number * BATCH + part.len(), "");
        }
        self.control.progress.end();
        let dims = all.len() / files.len();
        if let Some(path) = kept {
            npy::write(&path, &Array::from_f32(&[files.len(), dims], &all)?)?;
        }
        Ok((all, dims))
    }

    /// What features depend on.
    fn name(&self, files: &[PathBuf]) -> Result<String> {
        let mut text = self.recipe.clone();
        for file in files {
            let about = std::fs::metadata(file).map_err(|e| Error::io("read", file, e))?;
            let changed = about.modified().ok();
            let changed = changed.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            text += &format!("\n{} {} {changed:?}", file.display(), about.len());
        }
        Ok(sha256_bytes(text.as_bytes()))
    }

    fn of(&self, tiles: &[Rgb8], (width, height): (usize, usize)) -> Result<Vec<f32>> {
        let len = 3 * width * height;
        let mut values = vec![0.0; len * tiles.len()];
        let (mean, std) = match self.unit {
            true => ([0.0; 3], [1.0; 3]),
            false => (tile::IMAGENET_MEAN, tile::IMAGENET_STD),
        };
        for (slot, tile) in values.chunks_mut(len).zip(tiles) {
            tile::normalise(tile, mean, std, slot)?;
        }
        let x = match width == height {
            true => images(&values, tiles.len(), width)?,
            false => {
                let nhwc = Tensor::from_slice(&values, &[tiles.len(), height, width, 3])?;
                ops::permute(&nhwc, &[0, 3, 1, 2])?
            }
        };
        let x = ops::resize_bilinear(&x, [self.px; 2], false)?;
        let outputs = self.runner.run(&x)?;
        let found = outputs.into_iter().find(|(name, _)| *name == "features");
        let missing = || Error::op("fid", "internal: a network without features");
        found.ok_or_else(missing)?.1.to_f32_vec()
    }
}
