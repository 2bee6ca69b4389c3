//! The `eosin` program.
//!
//! Results go to standard output, everything else to standard error. The exit
//! code is 0, or 1 with one line that says what is wrong and what to do, or 3 when
//! all is done but for some slides, or 130 when the user stopped it.

mod bench;
mod classifier;
mod console;
mod device;
mod doctor;
mod evaluate;
mod fid;
mod index;
mod inspect;
mod kernels;
mod predict;
mod predict_slides;
mod profile;
mod quickstart;
mod quiz;
mod report;
mod respond;
mod rnagan;
mod run;
mod slides;
mod spots;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::source::{GeneNames, Measure};
use crate::expression::{Orientation, Source, Transform};
use crate::models::backbone::Architecture;
use crate::session::Threads;
use crate::slides::stain::Method;
use crate::train::config::{Layout, Network, Precision};
use crate::train::progress::Control;
use device::DeviceChoice;

/// Histology slides and gene expression: train and run models that link them.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Threads to compute with; all cores when left out. Results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// Where to compute; `doctor --device cuda` fails where a GPU cannot be used
    #[arg(long, global = true, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Number format of the networks [default: f32, or what the run says]
    #[arg(long, global = true, value_enum)]
    dtype: Option<DTypeChoice>,
    /// No progress
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DTypeChoice {
    /// Single precision
    F32,
    /// Half the memory, and tensor cores on CUDA; sums, losses and optimisers stay f32
    Bf16,
}

impl From<DTypeChoice> for Precision {
    fn from(choice: DTypeChoice) -> Self {
        match choice {
            DTypeChoice::F32 => Self::F32,
            DTypeChoice::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Make a small cohort, train DeepPT on it and write a report: 3 minutes, no data needed
    Quickstart(QuickstartArgs),
    /// Make a cohort of H&E-like slides with known links from morphology to expression
    Simulate(SimulateArgs),
    /// Extract ResNet-50 or DenseNet-121 features: of a folder of slides, or of a cohort's tiles
    Features(Box<FeaturesArgs>),
    /// Expression of a folder of slides by a finished run: tables, maps and a report
    Run(Box<predict_slides::RunArgs>),
    /// Train a model
    #[command(subcommand)]
    Train(TrainCommand),
    /// Score predictions of a run or any tables, or predict other samples with a run
    Evaluate(EvaluateArgs),
    /// Find slides like a slide: vectors in one file, searched exactly
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Score patients for a drug, ENLIGHT-style, and hold scores against responses
    #[command(subcommand)]
    Respond(respond::RespondCommand),
    /// One forward pass of a model from a weights file; tcgn: also a whole section, with maps
    Predict(Box<PredictArgs>),
    /// Show what a network looks at in a tile: Grad-CAM, and the edges of its graphs
    Explain(spots::ExplainArgs),
    /// Tiles of tissue for an expression profile, from a run of `train rnagan`
    Generate(rnagan::GenerateArgs),
    /// Profiles in the latent of a beta-VAE: encode, decode, sample, shift, interpolate
    #[command(subcommand)]
    Vae(rnagan::VaeCommand),
    /// Frechet distance, precision and recall between folders of real and generated images
    Fid(fid::FidArgs),
    /// A page on which a person tells real tiles from generated ones
    Quiz(quiz::QuizArgs),
    /// Say what is in a slide, weights, array, table or image file
    Inspect(InspectArgs),
    /// Say what this machine and build can do, and what to do about what is missing
    Doctor,
    /// Compare what `cargo bench` saved
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Say where the time of a model's step goes; `--device null` says what a GPU would be asked
    Profile(profile::ProfileArgs),
    /// List the compiled CUDA kernels: registers, spills, shared memory, occupancy, instructions
    Kernels(kernels::KernelsArgs),
}

#[derive(Args)]
struct InspectArgs {
    /// A slide (SVS, TIFF, OME-TIFF; others through OpenSlide), or any .pth, .pt,
    /// .safetensors, .npy, HDF5, .h5ad, CSV, TSV, PNG or JPEG file
    file: PathBuf,
    /// Write the whole slide or image, small, as a PNG
    #[arg(long, value_name = "PNG")]
    thumbnail: Option<PathBuf>,
    /// The part that --thumbnail shows, in pixels of a level
    #[arg(long, value_name = "LEVEL,X,Y,WIDTH,HEIGHT", requires = "thumbnail", value_parser = inspect::region)]
    region: Option<inspect::Region>,
}

#[derive(Args)]
struct QuickstartArgs {
    /// Folder to write to
    #[arg(long, default_value = "eosin-quickstart")]
    out: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Continue an interrupted quickstart
    #[arg(long)]
    resume: bool,
}

#[derive(Args)]
struct SimulateArgs {
    /// Folder to write to; it must be new or empty
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long)]
    slides: Option<usize>,
    /// Tiles of each slide
    #[arg(long)]
    tiles: Option<usize>,
    /// Side of a tile in pixels
    #[arg(long)]
    tile_px: Option<usize>,
}

/// A folder of images.
#[derive(Args, Clone)]
struct DataArgs {
    /// Folder of images
    #[arg(long, required_unless_present = "wsi_dir")]
    data: Option<PathBuf>,
    /// How the folder is laid out: `her2st`, `visium` (Space Ranger's `outs`), `tiles` with a
    /// folder of tile images per slide, `lmdb` with RNA-GAN's LMDB files in their place, or
    /// `classes` with a folder of tiles per class
    #[arg(long, value_enum, required_unless_present = "wsi_dir")]
    layout: Option<LayoutChoice>,
    /// her2st: sections to use, e.g. B4,C2; all when left out
    #[arg(long, value_delimiter = ',')]
    sections: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutChoice {
    Her2st,
    Tiles,
    Lmdb,
    Visium,
    Classes,
}

impl From<LayoutChoice> for Layout {
    fn from(choice: LayoutChoice) -> Self {
        match choice {
            LayoutChoice::Her2st => Self::Her2st,
            LayoutChoice::Tiles => Self::Tiles,
            LayoutChoice::Lmdb => Self::Lmdb,
            LayoutChoice::Visium => Self::Visium,
            LayoutChoice::Classes => Self::Classes,
        }
    }
}

#[derive(Args)]
struct FeaturesArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Folder to write one file per slide to
    #[arg(long, required_unless_present = "wsi_dir")]
    out: Option<PathBuf>,
    #[command(flatten)]
    slides: slides::SlidesArgs,
    /// The network
    #[arg(long, value_enum, default_value = "resnet50")]
    encoder: EncoderChoice,
    /// Its weights with torchvision's keys; seeded random weights when left out
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Seed of random weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Side of the tiles in pixels, as the network sees them
    #[arg(long, visible_alias = "patch-size", default_value_t = 224)]
    tile_px: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum EncoderChoice {
    /// ResNet-50, 2,048 features
    #[value(name = "resnet50")]
    ResNet50,
    /// DenseNet-121, 1,024 features
    #[value(name = "densenet121")]
    DenseNet121,
}

impl From<EncoderChoice> for Architecture {
    fn from(choice: EncoderChoice) -> Self {
        match choice {
            EncoderChoice::ResNet50 => Self::ResNet50,
            EncoderChoice::DenseNet121 => Self::DenseNet121,
        }
    }
}

#[derive(Subcommand)]
enum TrainCommand {
    /// DeepPT: tile features -> autoencoder -> expression (Hoang et al. 2024)
    Deeppt(TrainArgs),
    /// tRNAsformer: bags of tile features -> expression and class (Alsaafin, Safarpoor et al. 2023)
    Trnasformer(TrainArgs),
    /// HE2RNA on the same bags (Schmauch et al. 2020)
    He2rna(TrainArgs),
    /// TCGN: the tile of a spot -> its expression (Xiao et al. 2024)
    Tcgn(TrainArgs),
    /// RNA-GAN's beta-VAE: expression profiles -> latents and back
    Betavae(TrainArgs),
    /// RNA-GAN: latents of profiles -> tiles (Carrillo-Perez et al. 2023)
    Rnagan(TrainArgs),
    /// A ResNet that tells tissues apart by their tiles; with folds, against training from scratch
    Classifier(TrainArgs),
    /// SimCLR: a ResNet learns from tiles without labels, for `train classifier` to start from
    Simclr(TrainArgs),
}

#[derive(Args)]
struct TrainArgs {
    /// The run file (TOML); the README.md in the model's folder under src/models lists its keys
    #[arg(long)]
    config: PathBuf,
    /// Folder of the run
    #[arg(long)]
    out: PathBuf,
    /// Continue an interrupted run
    #[arg(long)]
    resume: bool,
    /// In place of the run file's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Normalise colours slide by slide, in place of what the run file says
    #[arg(long, value_enum)]
    stain: Option<StainChoice>,
    /// Read images in the colours of sRGB, by the ICC profiles that they carry
    #[arg(long)]
    icc: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StainChoice {
    Macenko,
    Reinhard,
    Vahadane,
}

impl From<StainChoice> for Method {
    fn from(choice: StainChoice) -> Self {
        match choice {
            StainChoice::Macenko => Self::Macenko,
            StainChoice::Reinhard => Self::Reinhard,
            StainChoice::Vahadane => Self::Vahadane,
        }
    }
}

/// Expression, and what to take of it.
#[derive(Args)]
struct SourceArgs {
    /// A folder of the GDC's files: their sample sheet, or a table with columns file, sample
    #[arg(long, value_name = "FILE")]
    sample_map: Option<PathBuf>,
    /// The map's column with the names that predictions go by
    #[arg(long, value_name = "NAME")]
    sample_column: Option<String>,
    /// STAR counts of the GDC: which column
    #[arg(long, value_enum, default_value = "tpm")]
    measure: Measure,
    /// .h5ad: which matrix, such as layers/tpm; X when left out
    #[arg(long, value_name = "NAME")]
    matrix: Option<String>,
    /// What genes are called
    #[arg(long, value_enum, default_value = "as-given")]
    genes: GeneNames,
    /// Table of two columns: the file's name of a gene, and the one to use
    #[arg(long, value_name = "FILE")]
    gene_table: Option<PathBuf>,
}

impl SourceArgs {
    fn source(&self) -> Source {
        Source {
            orientation: Orientation::Auto,
            map: self.sample_map.clone(),
            sample_column: self.sample_column.clone(),
            measure: self.measure,
            matrix: self.matrix.clone(),
            genes: self.genes,
            gene_table: self.gene_table.clone(),
        }
    }
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["run", "predicted", "classes"]))]
struct EvaluateArgs {
    /// Folder of a finished run: what it predicted while it was held out, or with --data other samples
    #[arg(long)]
    run: Option<PathBuf>,
    /// Folder of images, to be predicted by the run
    #[arg(long, requires = "run", conflicts_with_all = ["predicted", "measured", "against", "training", "bags"])]
    data: Option<PathBuf>,
    /// her2st: sections to use; all when left out
    #[arg(long, value_delimiter = ',', requires = "data")]
    sections: Vec<String>,
    /// tiles: the expression to score against
    #[arg(long, requires = "data")]
    expression: Option<PathBuf>,
    /// tiles: CSV with columns slide, patient; DIR/slides.csv when left out and there
    #[arg(long, requires = "data")]
    slides: Option<PathBuf>,
    /// Predict only, although the folder has expression
    #[arg(long, requires = "data")]
    no_expression: bool,
    /// Micrometres per pixel of the images; her2st and visium measure theirs
    #[arg(long, requires = "data")]
    mpp: Option<f64>,
    /// Predict although the tiles are of another scale than the run was trained at
    #[arg(long, requires = "data")]
    any_mpp: bool,
    /// Table of predictions: samples x genes
    #[arg(long, value_name = "TABLE")]
    predicted: Option<PathBuf>,
    /// What was measured: CSV, TSV, GCT, .h5ad or a folder of the GDC's files
    #[arg(long, value_name = "TABLE")]
    measured: Option<PathBuf>,
    /// Brings what was measured to the scale of the predictions, such as log10p1; may be repeated
    #[arg(long, value_name = "TRANSFORM")]
    transform: Vec<Transform>,
    /// Other predictions (table or run) to compare with, gene by gene
    #[arg(long, value_name = "TABLE")]
    against: Option<PathBuf>,
    /// Expression that the model learned from, on the scale of the predictions, for relative errors
    #[arg(long, value_name = "TABLE")]
    training: Option<PathBuf>,
    /// Table with columns bag, slide: predictions are of bags, and averaged for each slide
    #[arg(long, value_name = "TABLE")]
    bags: Option<PathBuf>,
    /// Table with columns sample, class, and each class's probability; a line a bag or a slide. With
    /// --data: CSV with columns slide, class, to score the run's classes against
    #[arg(long, value_name = "TABLE")]
    classes: Option<PathBuf>,
    /// Which way round tables of predictions are
    #[arg(long, value_enum)]
    orientation: Option<OrientationChoice>,
    #[command(flatten)]
    source: SourceArgs,
    /// Runs of tcgn: how the folder is laid out, if not as in training; of classifiers: if not
    /// `classes`
    #[arg(long, value_enum)]
    layout: Option<LayoutChoice>,
    #[command(flatten, next_help_heading = "Runs of tcgn")]
    maps: spots::MapArgs,
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum OrientationChoice {
    SamplesByGenes,
    GenesBySamples,
}

impl From<OrientationChoice> for Orientation {
    fn from(choice: OrientationChoice) -> Self {
        match choice {
            OrientationChoice::SamplesByGenes => Self::SamplesByGenes,
            OrientationChoice::GenesBySamples => Self::GenesBySamples,
        }
    }
}

#[derive(Args)]
struct PredictArgs {
    /// resnet18, resnet50, densenet121, inception-v3, deeppt-autoencoder, deeppt, tcgn, trnasformer,
    /// he2rna, betavae, dcgan-generator or dcgan-critic
    model: String,
    /// .pth, .pt or .safetensors
    #[arg(long, required_unless_present = "run")]
    weights: Option<PathBuf>,
    /// .npy or .safetensors, f32, batch first
    #[arg(long, required_unless_present = "image")]
    input: Option<PathBuf>,
    /// .npy for the main output, .safetensors for every output by name
    #[arg(long, required_unless_present = "image")]
    output: Option<PathBuf>,
    /// Micrometres per pixel of the tiles in --input, or that its features were made of
    #[arg(long, requires = "input", value_name = "MPP")]
    mpp: Option<f64>,
    /// Settings as TOML
    #[arg(long)]
    config: Option<PathBuf>,
    /// One setting, in place of the file's
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    section: spots::SectionArgs,
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let stop = console::stop_on_signal();
    let outcome = cli.global.check().and_then(|()| {
        let threads = match cli.global.threads {
            Some(n) => Threads::Own(n),
            None => Threads::Caller,
        };
        match threads.pool()? {
            Some(pool) => pool.install(|| dispatch(&cli, stop)),
            None => dispatch(&cli, stop),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            match e {
                Error::Interrupted(_) => ExitCode::from(130),
                Error::Incomplete(_) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

impl Global {
    fn check(&self) -> Result<()> {
        if self.threads == Some(0) {
            return Err(Error::usage(
                "0 threads compute nothing",
                "use --threads 1 or more",
            ));
        }
        Ok(())
    }
}

/// The device that was chosen, after a line on what an automatic choice came to.
fn device(cli: &Cli, control: Control) -> Result<Device> {
    let chosen = cli.global.device.open()?;
    if let Some(note) = chosen.note {
        control.progress.note(&note);
    }
    Ok(chosen.device)
}

fn dispatch(cli: &Cli, stop: &'static std::sync::atomic::AtomicBool) -> Result<()> {
    let console = console::Console::new(cli.global.quiet);
    let control = Control {
        progress: &console,
        stop,
    };
    let json = cli.global.json;
    let given: Option<Precision> = cli.global.dtype.map(Precision::from);
    let dtype = given.unwrap_or_default();
    match &cli.command {
        Command::Quickstart(args) => {
            quickstart::quickstart(args, dtype, &device(cli, control)?, json, control)
        }
        Command::Simulate(args) => run::simulate(args, json, control),
        Command::Features(args) if args.slides.wsi_dir.is_some() => {
            slides::features(args, dtype, &device(cli, control)?, json, control)
        }
        Command::Features(args) => {
            run::features(args, dtype, &device(cli, control)?, json, control)
        }
        Command::Run(args) => {
            predict_slides::run(args, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Deeppt(args)) => {
            run::train_deeppt(args, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Trnasformer(args)) => {
            let network = Network::Trnasformer;
            run::train_trnasformer(args, network, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::He2rna(args)) => {
            let network = Network::He2rna;
            run::train_trnasformer(args, network, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Tcgn(args)) => {
            spots::train_tcgn(args, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Betavae(args)) => {
            rnagan::train_betavae(args, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Rnagan(args)) => {
            rnagan::train_rnagan(args, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Classifier(args)) => {
            classifier::train_classifier(args, given, &device(cli, control)?, json, control)
        }
        Command::Train(TrainCommand::Simclr(args)) => {
            classifier::train_simclr(args, given, &device(cli, control)?, json, control)
        }
        Command::Generate(args) => rnagan::generate(args, &device(cli, control)?, json, control),
        Command::Vae(command) => rnagan::vae(command, &device(cli, control)?, json, control),
        Command::Fid(args) => fid::fid(args, &device(cli, control)?, json, control),
        Command::Quiz(args) => quiz::quiz(args, json),

        Command::Explain(args) => spots::explain(args, &device(cli, control)?, json, control),
        Command::Evaluate(args) => {
            evaluate::evaluate(args, given, &device(cli, control)?, json, control)
        }
        Command::Index(command) => index::index(command, json),
        Command::Respond(command) => respond::respond(command, json, control),
        Command::Predict(args) => {
            predict::predict(args, dtype, &device(cli, control)?, json, control)
        }
        Command::Inspect(args) => inspect::inspect(args, json),
        Command::Doctor => doctor::doctor(cli.global.device, json),
        Command::Bench(command) => bench::bench(command, json),
        Command::Profile(args) => profile::profile(args, dtype, cli.global.device, json, control),
        Command::Kernels(args) => kernels::kernels(args, json),
    }
}
