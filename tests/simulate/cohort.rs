//! The simulated cohort: its files, its determinism, and that it is not trivial.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use eosin::simulate::{Factor, SimulateConfig, Truth, simulate};

use crate::statistics::{held_out_ridge, in_sample, pearson};

fn small() -> SimulateConfig {
    SimulateConfig {
        slides: 14,
        tiles_per_slide: 2,
        tile_px: 64,
        noise_genes: 5,
        genes_per_program: 3,
        seed: 7,
    }
}

/// Every file under a folder with its bytes.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_path_buf();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn with_threads(threads: usize, config: &SimulateConfig) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("cohort");
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(|| simulate(config, &out, &|_, _| {}))
        .unwrap();
    contents(&out)
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let one = with_threads(1, &small());
    for threads in [2, 3] {
        assert!(
            one == with_threads(threads, &small()),
            "{threads} threads differ from 1"
        );
    }
    let other = with_threads(2, &SimulateConfig { seed: 8, ..small() });
    let tile = Path::new("tiles/S01/t01.png");
    assert_ne!(one[tile], other[tile]);
    assert_ne!(
        one[Path::new("expression.csv")],
        other[Path::new("expression.csv")]
    );
}

#[test]
fn the_files_are_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let config = small();
    let calls = Mutex::new(Vec::new());
    let truth = simulate(&config, folder.path(), &|done, total| {
        calls.lock().unwrap().push((done, total));
    })
    .unwrap();

    let mut calls = calls.into_inner().unwrap();
    calls.sort_unstable();
    assert_eq!(calls, (1..=28).map(|done| (done, 28)).collect::<Vec<_>>());

    let files = contents(folder.path());
    assert_eq!(
        files.len(),
        28 + 3,
        "nothing temporary is left: {:?}",
        files.keys()
    );
    for slide in &truth.slides {
        for tile in ["t01.png", "t02.png"] {
            let name = Path::new("tiles").join(&slide.slide).join(tile);
            let decoder = png::Decoder::new(std::io::Cursor::new(&files[&name]));
            let info = decoder.read_info().unwrap();
            assert_eq!(info.info().size(), (64, 64));
            assert_eq!(info.info().color_type, png::ColorType::Rgb);
        }
    }

    let read: Truth = serde_json::from_slice(&files[Path::new("truth.json")]).unwrap();
    assert_eq!(read, truth);
    assert_eq!(truth.config, config);
    assert_eq!(truth.version, env!("CARGO_PKG_VERSION"));

    let expression = csv::Reader::from_reader(&*files[Path::new("expression.csv")]);
    let (header, rows) = table(expression);
    let planted = truth
        .programs
        .iter()
        .flat_map(|p| p.genes.iter().map(|g| &g.gene));
    let genes: Vec<&String> = planted.chain(&truth.noise_genes).collect();
    assert_eq!(header[0], "sample");
    assert_eq!(header[1..].iter().collect::<Vec<_>>(), genes);
    assert_eq!(genes.len(), 4 * 3 + 5);
    assert_eq!(rows.len(), 14);
    for (row, slide) in rows.iter().zip(&truth.slides) {
        assert_eq!(row[0], slide.slide);
        assert!(row[1..].iter().all(|count| count.parse::<u32>().is_ok()));
    }

    let (header, rows) = table(csv::Reader::from_reader(&*files[Path::new("slides.csv")]));
    assert_eq!(header, ["slide", "patient"]);
    let mut slides_of = BTreeMap::new();
    for row in &rows {
        *slides_of.entry(row[1].clone()).or_insert(0) += 1;
    }
    assert_eq!(slides_of.values().filter(|n| **n == 2).count(), 2);
    assert_eq!(slides_of.values().filter(|n| **n == 1).count(), 10);
}

fn table(mut reader: csv::Reader<&[u8]>) -> (Vec<String>, Vec<Vec<String>>) {
    let text = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect::<Vec<_>>();
    let header = text(reader.headers().unwrap());
    (
        header,
        reader.records().map(|r| text(&r.unwrap())).collect(),
    )
}

#[test]
fn a_folder_in_use_and_an_impossible_size_are_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let error = simulate(&small(), folder.path(), &|_, _| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not empty; give a new folder"), "{error}");
    assert_eq!(contents(folder.path()).len(), 1);

    let empty = tempfile::tempdir().unwrap();
    for (config, name) in [
        (
            SimulateConfig {
                slides: 3,
                ..small()
            },
            "slides = 3",
        ),
        (
            SimulateConfig {
                tiles_per_slide: 0,
                ..small()
            },
            "tiles_per_slide = 0",
        ),
        (
            SimulateConfig {
                noise_genes: 100_000,
                slides: 100_000,
                ..small()
            },
            "100000 slides of 100012 genes",
        ),
        (
            SimulateConfig {
                tile_px: 1 << 20,
                ..small()
            },
            "tile_px = 1048576",
        ),
    ] {
        let error = simulate(&config, empty.path(), &|_, _| {})
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

#[test]
fn factors_are_standardised_and_uncorrelated() {
    for seed in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let config = SimulateConfig {
            slides: 48,
            tiles_per_slide: 1,
            tile_px: 64,
            seed,
            ..Default::default()
        };
        let truth = simulate(&config, folder.path(), &|_, _| {}).unwrap();
        let factor = |f: usize| {
            truth
                .slides
                .iter()
                .map(|s| s.factors[f])
                .collect::<Vec<_>>()
        };
        for a in 0..4 {
            let values = factor(a);
            let mean = values.iter().sum::<f64>() / 48.0;
            let variance = values.iter().map(|v| v * v).sum::<f64>() / 48.0;
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
            for b in 0..a {
                assert!(pearson(&values, &factor(b)).abs() < 1e-12, "{a} and {b}");
            }
        }
    }
}

/// What a slide's tiles look like to two simple observers.
struct Seen {
    /// Mean R, G, B.
    colour: [f64; 3],
    /// Mean difference of pixels 1, 4 and 12 apart in a row, red channel.
    texture: [f64; 3],
}

fn look(folder: &Path) -> Seen {
    let mut colour = [0.0; 3];
    let mut texture = [0.0; 3];
    let mut pixels = 0.0;
    for bytes in contents(folder).values() {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let side = reader.info().width as usize;
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut buffer).unwrap();
        for row in buffer.chunks_exact(3 * side) {
            for (x, rgb) in row.chunks_exact(3).enumerate() {
                colour
                    .iter_mut()
                    .zip(rgb)
                    .for_each(|(s, &v)| *s += f64::from(v));
                for (sum, apart) in texture.iter_mut().zip([1, 4, 12]) {
                    let other = row[3 * ((x + apart) % side)];
                    *sum += f64::from(rgb[0].abs_diff(other));
                }
            }
            pixels += side as f64;
        }
    }
    Seen {
        colour: colour.map(|s| s / pixels),
        texture: texture.map(|s| s / pixels),
    }
}

/// The standardised log counts of a program's genes, averaged with their signs.
fn program_score(out: &Path, truth: &Truth, factor: Factor) -> Vec<f64> {
    let bytes = fs::read(out.join("expression.csv")).unwrap();
    let (header, rows) = table(csv::Reader::from_reader(&*bytes));
    let program = truth.programs.iter().find(|p| p.factor == factor).unwrap();
    let mut score = vec![0.0; rows.len()];
    for gene in &program.genes {
        let column = header.iter().position(|name| *name == gene.gene).unwrap();
        let logs: Vec<f64> = rows
            .iter()
            .map(|r| r[column].parse::<f64>().unwrap().ln_1p())
            .collect();
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        let deviation = (logs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        for (s, v) in score.iter_mut().zip(logs) {
            *s += gene.loading.signum() * (v - mean) / deviation;
        }
    }
    score
}

/// The cohort would be trivial if colour alone told everything: leave-one-out
/// ridge regression on the slides' mean colour must see the stain and must be
/// blind to nuclear size, which the coarseness of the texture shows.
#[test]
fn mean_colour_sees_the_stain_but_not_the_nuclear_size() {
    let folder = tempfile::tempdir().unwrap();
    let config = SimulateConfig::default();
    let truth = simulate(&config, folder.path(), &|_, _| {}).unwrap();
    let slides: Vec<Seen> = truth
        .slides
        .iter()
        .map(|s| look(&folder.path().join("tiles").join(&s.slide)))
        .collect();
    let colours: Vec<_> = slides.iter().map(|s| s.colour).collect();
    let textures: Vec<_> = slides.iter().map(|s| s.texture).collect();
    let correlation = |seen: &[[f64; 3]], factor| {
        let score = program_score(folder.path(), &truth, factor);
        // The best that any strength of regularisation can do.
        [1e-6, 1e-3, 1e-2, 0.1, 1.0]
            .map(|ridge| pearson(&held_out_ridge(seen, &score, ridge), &score))
            .into_iter()
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let size = correlation(&colours, Factor::NuclearSize);
    let stain = correlation(&colours, Factor::StainRatio);
    let size_by_texture = correlation(&textures, Factor::NuclearSize);
    let score = program_score(folder.path(), &truth, Factor::NuclearSize);
    let explained = pearson(&in_sample(&colours, &score), &score).powi(2);
    println!(
        "held-out r: size {size:.3}, stain {stain:.3} by colour; size {size_by_texture:.3} by texture; \
         R2 of size on colour {explained:.3}"
    );
    // 64 slides. One-sided 5 % point of r for no correlation: t = 1.67 at 62
    // degrees of freedom; of R2 for three useless variables: F = 2.76 at 3 and 60.
    assert_eq!(truth.slides.len(), 64);
    let significant = 1.67 / (62.0f64 + 1.67 * 1.67).sqrt();
    let chance = 3.0 * 2.76 / (3.0 * 2.76 + 60.0);
    assert!(
        size < significant,
        "mean colour predicts nuclear size: r = {size}"
    );
    assert!(
        explained < chance,
        "mean colour explains nuclear size: R2 = {explained}"
    );
    assert!(
        stain > 0.7,
        "mean colour does not see the stain ratio: r = {stain}"
    );
    assert!(
        size_by_texture > 0.7,
        "texture does not see nuclear size: r = {size_by_texture}"
    );
}
