//! `eosin train betavae`, `train rnagan`, `generate` and `vae`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::run::run_file;
use super::{TrainArgs, console};
use crate::cohort::tiles::read_of_slides;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::{Orientation, Table, table};
use crate::formats::atomic::create_dir_all;
use crate::formats::npy;
use crate::metrics::pca::Pca;
use crate::metrics::umap::umap;
use crate::nn::{to_array, to_tensor};
use crate::ops;
use crate::random::Philox;
use crate::report::{Report, Scatter, ScatterGrid, number};
use crate::slides::image::write_png;
use crate::tensor::Tensor;
use crate::train::config::Precision;
use crate::train::progress::Control;
use crate::train::rnagan::config::{BetaVaeConfig, GanConfig, Start};
use crate::train::rnagan::gan::{self, Trained};
use crate::train::rnagan::picture::{grid, pictures};
use crate::train::rnagan::vae::{self, Vae};

pub fn train_betavae(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let config: BetaVaeConfig = run_file(args, dtype)?;
    let made = vae::train(&config, &args.out, args.resume, device, control)?;
    let mark = if made.same_patient {
        " (same patient)"
    } else {
        ""
    };
    let [train, validation, test] = made.samples;
    let text = format!(
        "profiles           {train} training, {validation} validation, {test} test\n\
         genes              {}\n\
         {}\n\
         test error         {:.4}{mark}; of the training mean {:.4}\n\
         Pearson, median    {}{mark}\n\
         run                {}",
        made.genes,
        console::epochs(made.history.train.len(), made.history.best),
        made.test_error,
        made.test_error_of_mean,
        number(made.median_pearson.unwrap_or(f64::NAN), 3),
        args.out.display()
    );
    console::print(json, &made, &text)
}

pub fn train_rnagan(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let config: GanConfig = run_file(args, dtype)?;
    let made = gan::train(&config, &args.out, args.resume, device, control)?;
    let mut text = format!(
        "tiles              {} of {} slides\n\
         held out           {}\n\
         {}\n",
        made.tiles,
        made.slides,
        match &made.held_out[..] {
            [] => "none".to_owned(),
            some => some.join(", "),
        },
        console::epochs(made.signs.len(), made.kept)
    );
    if let Some(last) = made.signs.last() {
        text += &format!(
            "diversity          {:.1} levels, real {:.1}\n",
            last.diversity, last.real_diversity
        );
    }
    if !made.collapsed.is_empty() {
        text += &format!(
            "collapsed          in {} of the epochs\n",
            made.collapsed.len()
        );
    }
    if made.collapsed.contains(&made.kept) {
        text += "no epoch was good: what is kept draws tiles that are too much alike\n";
    }
    text += &format!("samples            {}", args.out.join("samples").display());
    console::print_with_skipped(json, &made, text, &made.skipped)
}

#[derive(Args)]
pub struct GenerateArgs {
    /// Folder of an `eosin train rnagan` run
    #[arg(long)]
    run: PathBuf,
    /// Folder to write to; it must be new or empty
    #[arg(long)]
    out: PathBuf,
    /// Tiles, of each profile on the path where there is one
    #[arg(long, default_value_t = 16)]
    count: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Which profile. None where the generator starts from noise alone.
#[derive(Args)]
struct ProfileArgs {
    /// Table of expression, on the scale of that which the beta-VAE was trained on
    #[arg(long)]
    expression: Option<PathBuf>,
    /// Rows of the table: one sample, or two and --steps for the path between them
    #[arg(long, value_delimiter = ',')]
    sample: Vec<String>,
    /// The centroid of a class, or two and --steps for the path between them
    #[arg(long, value_delimiter = ',')]
    class: Vec<String>,
    /// CSV with columns slide, class
    #[arg(long)]
    classes: Option<PathBuf>,
    /// Profiles on the path, its ends included
    #[arg(long, default_value_t = 5)]
    steps: usize,
}

impl ProfileArgs {
    /// The latents of the profiles (profiles, latent), with names.
    fn latents(&self, vae: &Vae, control: Control) -> Result<(Vec<String>, Tensor)> {
        let Some(path) = &self.expression else {
            return Err(Error::usage(
                "no profile is given",
                "give --expression with --sample, or with --class and --classes",
            ));
        };
        let ends = match (&self.sample[..], &self.class[..]) {
            (some @ ([_] | [_, _]), []) => some,
            ([], some @ ([_] | [_, _])) => some,
            _ => {
                return Err(Error::usage(
                    "a profile is one sample or class, and a path has two ends",
                    "give --sample A, --sample A,B, --class A or --class A,B",
                ));
            }
        };
        let encoded = encoded(vae, path, control)?;
        let latents = encoded.means;
        let rows = |name: &String| -> Result<Vec<usize>> {
            let found: Vec<usize> = match (&self.class[..], &self.classes) {
                ([], _) => (0..encoded.samples.len())
                    .filter(|&i| encoded.samples[i] == *name)
                    .collect(),
                (_, Some(classes)) => {
                    let of = read_of_slides(classes, "class")?;
                    (0..encoded.samples.len())
                        .filter(|&i| of.get(&encoded.samples[i]) == Some(name))
                        .collect()
                }
                (_, None) => {
                    return Err(Error::usage(
                        "nothing says which sample is of which class",
                        "give --classes, a CSV with columns slide and class",
                    ));
                }
            };
            if found.is_empty() {
                return Err(Error::file(
                    path,
                    "",
                    format!("has no sample or class `{name}`"),
                    "give a name that the table or the classes have",
                ));
            }
            Ok(found)
        };
        let mut centroids = Vec::new();
        for name in ends {
            centroids.push(centroid(&latents, &rows(name)?)?);
        }
        let [from, to] = match &centroids[..] {
            [from, to] => [from, to],
            _ => return Ok((vec![ends[0].clone()], centroids.remove(0))),
        };
        path_between((&ends[0], from), (&ends[1], to), self.steps)
    }
}

/// The mean of rows of latents (N, latent): (1, latent).
fn centroid(latents: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let rows: Vec<i64> = rows.iter().map(|&i| i as i64).collect();
    let rows = Tensor::from_slice(&rows, &[rows.len()])?;
    ops::mean(&ops::index_select(latents, 0, &rows)?, &[0], true)
}

/// Points on the straight line, ends included.
fn path_between(
    (from_name, from): (&str, &Tensor),
    (to_name, to): (&str, &Tensor),
    steps: usize,
) -> Result<(Vec<String>, Tensor)> {
    if !(2..=1000).contains(&steps) {
        return Err(Error::usage(
            format!("a path of {steps} profiles has no two ends"),
            "give --steps from 2 to 1000",
        ));
    }
    let (mut names, mut points) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let t = step as f64 / (steps - 1) as f64;
        names.push(format!("{from_name} to {to_name} at {t:.3}"));
        points.push(ops::add(
            &ops::affine(from, 1.0 - t, 0.0)?,
            &ops::affine(to, t, 0.0)?,
        )?);
    }
    Ok((names, ops::cat(&points.iter().collect::<Vec<_>>(), 0)?))
}

fn encoded(vae: &Vae, path: &Path, control: Control) -> Result<vae::Latents> {
    let latents = vae.encode(&table::read(path, Orientation::SamplesByGenes)?)?;
    if let Some(note) = latents.note(vae.genes().len()) {
        control.progress.note(&note);
    }
    Ok(latents)
}

#[derive(Serialize)]
struct Generated {
    folder: String,
    tiles: usize,
    profiles: Vec<String>,
    seed: u64,
}

pub fn generate(args: &GenerateArgs, device: &Device, json: bool, control: Control) -> Result<()> {
    if !(1..=100_000).contains(&args.count) {
        return Err(Error::usage(
            format!("{} tiles cannot be generated at once", args.count),
            "give --count from 1 to 100000",
        ));
    }
    if args.out.read_dir().is_ok_and(|mut d| d.next().is_some()) {
        return Err(Error::file(
            &args.out,
            "",
            "is not empty",
            "choose another --out: the folder is to hold these tiles alone",
        ));
    }
    let trained = Trained::read(&args.run, device)?;
    let (names, latents) = match &trained.vae {
        Some(vae) => {
            let (names, latents) = args.profile.latents(vae, control)?;
            (names, Some(latents))
        }
        None if args.profile.expression.is_some() => {
            return Err(Error::usage(
                "this generator starts from noise alone",
                "leave out --expression, or train one with input.start = \"profile\"",
            ));
        }
        None => (
            vec![start_name(trained.config.input.start).to_owned()],
            None,
        ),
    };
    create_dir_all(&args.out)?;
    control
        .progress
        .begin("generating", names.len() * args.count);
    let mut shown = Vec::new();
    let columns = args.count.min(8);
    for (number, name) in names.iter().enumerate() {
        // The same noise for each profile of a path, so that only the profile changes.
        let random = Philox::fork(args.seed, "generate");
        let rows = vec![number as i64; args.count];
        let rows = Tensor::from_slice(&rows, &[args.count])?;
        let latents = latents.as_ref().map(|l| ops::index_select(l, 0, &rows));
        let mut tile = 0;
        trained.generate_parts(
            latents.transpose()?.as_ref(),
            args.count,
            random,
            &mut |images| {
                control.check("the tiles so far are written")?;
                for picture in pictures(&images)? {
                    let file = match names.len() {
                        1 => format!("tile-{tile:05}.png"),
                        _ => format!("profile-{number:03}-tile-{tile:05}.png"),
                    };
                    write_png(
                        args.out.join(file),
                        &picture,
                        &[
                            ("eosin seed", &args.seed.to_string()),
                            ("eosin tile", &tile.to_string()),
                            ("eosin profile", name),
                        ],
                    )?;
                    if shown.len() < columns * 64 && (names.len() == 1 || tile < columns) {
                        shown.push(picture);
                    }
                    tile += 1;
                }
                control.progress.at(number * args.count + tile, "");
                Ok(())
            },
        )?;
    }
    control.progress.end();
    // Beside the folder of tiles, which then holds nothing else.
    let path = beside(&args.out, ".grid.png");
    write_png(
        &path,
        &grid(&shown, columns)?,
        &[
            ("eosin seed", &args.seed.to_string()),
            ("eosin profile", &names.join("; ")),
        ],
    )?;
    let made = Generated {
        folder: args.out.display().to_string(),
        tiles: names.len() * args.count,
        profiles: names,
        seed: args.seed,
    };
    let text = format!(
        "{}: {} tiles of {}\ngrid               {}",
        made.folder,
        made.tiles,
        made.profiles.join("; "),
        path.display()
    );
    console::print(json, &made, &text)
}

/// The folder's path with an ending: its name may hold a dot.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    folder.with_file_name(name)
}

fn start_name(start: Start) -> &'static str {
    match start {
        Start::Profile => "profile",
        Start::Normal => "normal noise",
        Start::Narrow => "narrow noise",
    }
}

#[derive(Subcommand)]
pub enum VaeCommand {
    /// Profiles to latent means, as .npy (samples, latent)
    Encode(VaeArgs),
    /// Latents of an .npy (samples, latent) to profiles, as CSV
    Decode(DecodeArgs),
    /// New profiles: each from the latent distribution of a sample drawn from the table
    Sample(SampleArgs),
    /// Profiles moved from the centroid of one class to that of another
    Shift(ShiftArgs),
    /// Profiles on the path between two samples
    Interpolate(InterpolateArgs),
}

#[derive(Args)]
pub struct VaeArgs {
    /// Folder of an `eosin train betavae` run
    #[arg(long)]
    run: PathBuf,
    /// Table of expression, samples in rows, on the scale of that which it was trained on
    #[arg(long)]
    expression: PathBuf,
    /// File to write
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub struct DecodeArgs {
    /// Folder of an `eosin train betavae` run
    #[arg(long)]
    run: PathBuf,
    /// .npy (samples, latent)
    #[arg(long)]
    latents: PathBuf,
    /// CSV to write
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub struct SampleArgs {
    #[command(flatten)]
    common: VaeArgs,
    #[arg(long, default_value_t = 100)]
    count: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// HTML page: profiles in the plane by principal components and by UMAP
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[derive(Args)]
pub struct ShiftArgs {
    #[command(flatten)]
    common: VaeArgs,
    /// CSV with columns slide, class
    #[arg(long)]
    classes: PathBuf,
    #[arg(long)]
    from: String,
    #[arg(long)]
    to: String,
    /// HTML page: profiles in the plane by principal components and by UMAP
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[derive(Args)]
pub struct InterpolateArgs {
    #[command(flatten)]
    common: VaeArgs,
    #[arg(long)]
    from: String,
    #[arg(long)]
    to: String,
    /// Profiles on the path, its ends included
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// HTML page: profiles in the plane by principal components and by UMAP
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[derive(Serialize)]
struct Made {
    file: String,
    samples: usize,
    width: usize,
}

pub fn vae(command: &VaeCommand, device: &Device, json: bool, control: Control) -> Result<()> {
    match command {
        VaeCommand::Encode(args) => {
            let vae = Vae::read(&args.run, device)?;
            let latents = encoded(&vae, &args.expression, control)?;
            npy::write(&args.out, &to_array(&latents.means)?)?;
            say(
                &args.out,
                latents.samples.len(),
                vae.model.config().latent,
                json,
            )
        }
        VaeCommand::Decode(args) => {
            let vae = Vae::read(&args.run, device)?;
            let latents = to_tensor(&npy::read(&args.latents)?)?;
            let width = vae.model.config().latent;
            let n = match *latents.shape() {
                [n, w] if w == width && n > 0 => n,
                _ => {
                    return Err(Error::file(
                        &args.latents,
                        "",
                        format!("is {:?}, not (samples, {width})", latents.shape()),
                        "give latents of this beta-VAE",
                    ));
                }
            };
            let names = (0..n).map(|i| format!("latent{i}")).collect();
            write_profiles(&vae, &args.out, names, &latents).map(drop)?;
            say(&args.out, n, vae.genes().len(), json)
        }
        VaeCommand::Sample(args) => {
            let made = Making::new(&args.common, device)?;
            let (mean, logvar) = made.encode(control)?;
            let (n, latent) = (made.table.samples.len(), made.vae.model.config().latent);
            if !(1..=1_000_000).contains(&args.count) {
                return Err(Error::usage(
                    format!("{} profiles cannot be drawn", args.count),
                    "give --count from 1 to 1000000",
                ));
            }
            let mut random = Philox::fork(args.seed, "sample profiles");
            let rows: Vec<i64> = (0..args.count).map(|_| random.below(n) as i64).collect();
            let rows = Tensor::from_slice(&rows, &[args.count])?;
            let mut noise = vec![0.0; args.count * latent];
            random.fill_normal(&mut noise, 0.0, 1.0);
            let noise = Tensor::from_slice(&noise, &[args.count, latent])?;
            let of = |t: &Tensor| ops::index_select(t, 0, &rows);
            let deviation = ops::exp(&ops::affine(&of(&logvar)?, 0.5, 0.0)?)?;
            let z = ops::add(&of(&mean)?, &ops::mul(&noise, &deviation)?)?;
            let names = (0..args.count).map(|i| format!("sample{i}")).collect();
            made.finish((names, &z), &mean, args.plot.as_deref(), json)
        }
        VaeCommand::Shift(args) => {
            let made = Making::new(&args.common, device)?;
            let (mean, _) = made.encode(control)?;
            let of = read_of_slides(&args.classes, "class")?;
            let from = made.of_class(&of, &args.from, &args.classes)?;
            let to = made.of_class(&of, &args.to, &args.classes)?;
            let step = ops::sub(&centroid(&mean, &to)?, &centroid(&mean, &from)?)?;
            let rows: Vec<i64> = from.iter().map(|&i| i as i64).collect();
            let rows = Tensor::from_slice(&rows, &[rows.len()])?;
            let z = ops::add(&ops::index_select(&mean, 0, &rows)?, &step)?;
            let names = from.iter().map(|&i| made.table.samples[i].clone());
            made.finish((names.collect(), &z), &mean, args.plot.as_deref(), json)
        }
        VaeCommand::Interpolate(args) => {
            let made = Making::new(&args.common, device)?;
            let (mean, _) = made.encode(control)?;
            let row = |name: &str| {
                let found = made.table.samples.iter().position(|s| s == name);
                let found = found.ok_or_else(|| {
                    Error::file(
                        &args.common.expression,
                        "",
                        format!("has no sample `{name}`"),
                        "give a name that the table has",
                    )
                })?;
                centroid(&mean, &[found])
            };
            let (from, to) = (row(&args.from)?, row(&args.to)?);
            let (names, z) = path_between((&args.from, &from), (&args.to, &to), args.steps)?;
            made.finish((names, &z), &mean, args.plot.as_deref(), json)
        }
    }
}

fn say(path: &Path, samples: usize, width: usize, json: bool) -> Result<()> {
    let made = Made {
        file: path.display().to_string(),
        samples,
        width,
    };
    let text = format!("{}: {samples} x {width}", made.file);
    console::print(json, &made, &text)
}

/// Decodes and writes profiles on the table's scale; returns them standardised.
fn write_profiles(
    vae: &Vae,
    path: &Path,
    samples: Vec<String>,
    latents: &Tensor,
) -> Result<Vec<f32>> {
    let values = vae.decode(latents)?;
    let mut on_scale = values.clone();
    vae.unstandardised(&mut on_scale)?;
    let made = Table {
        samples,
        genes: vae.genes().to_vec(),
        values: on_scale,
    };
    table::write(path, &made)?;
    Ok(values)
}

/// What commands that make profiles from a table share.
struct Making<'a> {
    args: &'a VaeArgs,
    vae: Vae,
    table: Table,
    device: Device,
}

impl<'a> Making<'a> {
    fn new(args: &'a VaeArgs, device: &Device) -> Result<Self> {
        Ok(Self {
            args,
            vae: Vae::read(&args.run, device)?,
            table: table::read(&args.expression, Orientation::SamplesByGenes)?,
            device: device.clone(),
        })
    }

    /// Means and logarithms of variances (samples, latent), on the CPU.
    fn encode(&self, control: Control) -> Result<(Tensor, Tensor)> {
        let latents = self.vae.encode(&self.table)?;
        if let Some(note) = latents.note(self.vae.genes().len()) {
            control.progress.note(&note);
        }
        let (values, _, _) = self.vae.standardised(&self.table)?;
        let shape = [self.table.samples.len(), self.vae.genes().len()];
        let x = Tensor::from_slice(&values, &shape)?.to(&self.device)?;
        let logvar = self.vae.model.encode(&x, &crate::nn::Pass::eval())?.logvar;
        Ok((latents.means, logvar.to(&Device::Cpu)?))
    }

    fn of_class(
        &self,
        of: &HashMap<String, String>,
        class: &str,
        path: &Path,
    ) -> Result<Vec<usize>> {
        let is = |&i: &usize| of.get(&self.table.samples[i]).is_some_and(|c| c == class);
        let found: Vec<usize> = (0..self.table.samples.len()).filter(is).collect();
        match found.is_empty() {
            false => Ok(found),
            true => Err(Error::file(
                path,
                "",
                format!("gives no sample of the table the class `{class}`"),
                "give a class that samples of the table have",
            )),
        }
    }

    /// Writes the profiles of latents z, and a plot of them beside real and reconstructed ones.
    fn finish(
        &self,
        (names, z): (Vec<String>, &Tensor),
        mean: &Tensor,
        plot: Option<&Path>,
        json: bool,
    ) -> Result<()> {
        let n = names.len();
        let width = self.vae.genes().len();
        let made = write_profiles(&self.vae, &self.args.out, names, z)?;
        if let Some(plot) = plot {
            let (real, _, _) = self.vae.standardised(&self.table)?;
            let reconstructed = self.vae.decode(mean)?;
            self.plot(&[
                ("real", &real),
                ("reconstructed", &reconstructed),
                ("made", &made),
            ])?
            .write(plot)?;
        }
        say(&self.args.out, n, width, json)
    }

    /// Profiles in the plane, by the real ones' principal components and by UMAP of all.
    fn plot(&self, parts: &[(&str, &[f32]); 3]) -> Result<Report> {
        let width = self.vae.genes().len();
        let pca = Pca::fit(parts[0].1, width, 2)?;
        let mut page = Report::new("Profiles of a beta-VAE");
        page.subtitle(format!(
            "{} real profiles of {width} genes, standardised",
            self.table.samples.len()
        ));
        // Three panels of places (x, y), of so many profiles each.
        let chart = |title: &str, [x, y]: [&str; 2], places: [Vec<f64>; 3]| ScatterGrid {
            title: title.into(),
            columns: 3,
            same_axes: true,
            panels: (parts.iter().zip(places).enumerate())
                .map(|(colour, ((title, values), places))| Scatter {
                    title: (*title).to_owned(),
                    note: match (places.len() / 2, values.len() / width) {
                        (shown, all) if shown == all => format!("{all} profiles"),
                        (shown, all) => format!("{shown} of {all} profiles"),
                    },
                    x_label: x.into(),
                    y_label: y.into(),
                    points: places.chunks(2).map(|p| (p[0], p[1])).collect(),
                    colour,
                    ..Scatter::default()
                })
                .collect(),
        };
        let of = |i: usize| pca.project(parts[i].1);
        let places = [of(0)?, of(1)?, of(2)?];
        let labels = ["first component", "second component"];
        let components = chart("Principal components of the real profiles", labels, places);
        page.section("Where profiles lie")
            .figure(&components.draw(), "All panels have the same axes.");

        let thinned = parts.map(|(_, values)| thinned(values, width));
        let all = umap(&thinned.concat(), width, UMAP_SEED)?;
        let mut rest = &all[..];
        let places = thinned.map(|values| {
            let (own, others) = rest.split_at(2 * (values.len() / width));
            rest = others;
            own.to_vec()
        });
        let neighbours = chart("UMAP of all three together", ["first", "second"], places);
        let note = format!(
            "All panels have the same axes. Who is near whom counts, not how far groups are \
             apart (15 neighbours, min-dist 0.1, seed {UMAP_SEED})."
        );
        page.section("Neighbourhoods")
            .figure(&neighbours.draw(), &note);
        Ok(page)
    }
}

/// Profiles of a panel at most for UMAP, whose neighbours are searched among all.
const UMAP_PROFILES: usize = 1000;
const UMAP_SEED: u64 = 0;

/// At most so many rows, evenly spread.
fn thinned(values: &[f32], width: usize) -> Vec<f32> {
    let n = values.len() / width.max(1);
    let take = n.min(UMAP_PROFILES);
    let rows = (0..take).map(|i| &values[i * n / take * width..][..width]);
    rows.flatten().copied().collect()
}
