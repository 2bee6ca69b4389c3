//! TCGN as a user meets it: train on sections, predict one, draw it, explain a tile.

use std::fs;
use std::path::Path;

use crate::sections;
use crate::support::*;

/// A run file for a network that trains in a second or two.
fn run_file(folder: &Path) -> std::path::PathBuf {
    let data = folder.join("data");
    sections::write(&data);
    let mask = folder.join("report.txt");
    fs::write(&mask, "planted\nsteady\n").expect("a list");
    let text = format!(
        "seed = 2\n\
         [data]\nlayout = \"her2st\"\npath = {:?}\nspot_um = {}\n\
         [expression]\nmin_detected = 0.0\n\
         [genes]\nreport = \"report.txt\"\n\
         [[split.folds]]\ntrain = [\"A1\", \"A2\"]\nvalidation = [\"B1\"]\ntest = [\"C1\"]\n\
         [model.sizes]\nimage = 64\nstem = 4\nwidths = [4, 8, 12, 16]\nhidden = [8, 16, 24, 32]\n\
         heads = [1, 2, 2, 4]\ndepths = [1, 1, 1, 1]\nfeatures = 24\n\
         [training]\nepochs = 3\nbatch = 6\nlearning_rate = 0.003\n",
        text(&data),
        // A spot is 200 micrometres from the next.
        (200 * sections::TILE) as f64 / sections::PITCH as f64
    );
    let path = folder.join("run.toml");
    fs::write(&path, text).expect("a run file");
    path
}

fn is_png(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG"))
}

#[test]
fn a_section_is_trained_predicted_drawn_and_explained() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let read = |path: &Path| fs::read_to_string(path).expect("a table");
    let numbers = |path: &Path| -> Vec<f64> {
        let text = read(path);
        let cells = text.lines().skip(1).flat_map(|l| l.split(',').skip(1));
        cells.map(|c| c.parse().expect("a number")).collect()
    };
    let (config, run) = (run_file(folder.path()), at("run"));
    let train = [
        "train",
        "tcgn",
        "--config",
        text(&config),
        "--out",
        text(&run),
    ];
    let said = succeeds(train);
    for part in ["held-out samples   12", "section C1", "of 2 reported genes"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    for file in [
        "predictions.csv",
        "measured.csv",
        "genes.csv",
        "summary.json",
        "sections.csv",
    ] {
        assert!(run.join(file).is_file(), "no {file}");
    }
    // The published scale, although the section names something else: log10 of counts per
    // 10,000 is 4 at most.
    let highest = numbers(&run.join("measured.csv"))
        .into_iter()
        .fold(0.0, f64::max);
    assert!((3.5..4.0).contains(&highest), "{highest}");
    fails(train, &["holds a run already", "--resume"]);

    // The held-out section again, as a folder: the same numbers, and maps.
    let (data, out) = (at("data"), at("evaluated"));
    let again = json([
        "evaluate",
        "--run",
        text(&run),
        "--data",
        text(&data),
        "--sections",
        "C1",
        "--maps",
        "planted,noise1",
        "--pseudo-bulk",
        "--out",
        text(&out),
        "--json",
    ]);
    assert_eq!((&again["spots"], &again["genes"]), (&12.into(), &4.into()));
    assert_eq!(again["scores"]["same_patient"], false);
    let (a, b) = (
        numbers(&run.join("predictions.csv")),
        numbers(&out.join("predictions.csv")),
    );
    assert_eq!(a.len(), 48);
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4));
    for gene in ["planted", "noise1"] {
        assert!(is_png(&out.join(format!("maps/C1_{gene}.png"))));
        let svg = read(&out.join(format!("maps/C1_{gene}.svg")));
        assert!(svg.contains("measured") && svg.contains("predicted"));
        assert_eq!(svg.matches("<circle").count(), 24);
    }
    let annotated = eosin::formats::h5ad::read(out.join("predictions.h5ad")).expect("AnnData");
    assert_eq!(annotated.var.names, sections::GENES);
    assert_eq!(annotated.obs.names.len(), 12);
    let sections = annotated.obs.column("section").expect("sections");
    assert_eq!(sections.to_texts(), vec!["C1"; 12]);
    assert_eq!(annotated.obsm["spatial"].shape, [12, 2]);
    let x = annotated.x.expect("values").to_dense().expect("values");
    assert!(
        x.iter()
            .zip(&b)
            .all(|(x, b)| (f64::from(*x) - b).abs() < 1e-6)
    );
    // Every spot sums to 10,000 where counts are as measured; predictions are near.
    let bulk: f64 = numbers(&out.join("pseudo_bulk.csv")).iter().sum();
    assert!(bulk > 0.0 && bulk.is_finite());

    // From an image and its spots, without a folder: nothing to compare with.
    let image = data.join("ST-imgs/C/C1/section.png");
    let (spots, out) = (data.join("ST-spotfiles/C1_selection.tsv"), at("spots"));
    succeeds([
        "predict",
        "tcgn",
        "--run",
        text(&run),
        "--image",
        text(&image),
        "--spots",
        text(&spots),
        "--out",
        text(&out),
    ]);
    assert_eq!(numbers(&out.join("predictions.csv")), b);
    assert!(!out.join("genes.csv").exists());
    // And with one file of weights, which names its genes.
    let weights = run.join("fold0/model.safetensors");
    let (counts, out) = (data.join("ST-cnts/C1.tsv"), at("counts"));
    succeeds([
        "predict",
        "tcgn",
        "--weights",
        text(&weights),
        "--image",
        text(&image),
        "--spots",
        text(&spots),
        "--counts",
        text(&counts),
        "--spot-px",
        "32",
        "--out",
        text(&out),
    ]);
    assert_eq!(numbers(&out.join("predictions.csv")), b);
    assert!(out.join("genes.csv").is_file());

    // A grid over what is not glass.
    let out = at("grid");
    let grid = json([
        "predict",
        "tcgn",
        "--run",
        text(&run),
        "--image",
        text(&image),
        "--grid-px",
        "20",
        "--spot-px",
        "32",
        "--um-per-px",
        "5",
        "--out",
        text(&out),
        "--json",
    ]);
    let spots = grid["spots"].as_u64().expect("a count");
    assert!((1..=35).contains(&spots), "{spots}");

    let out = at("explained");
    let explained = json([
        "explain",
        "tcgn",
        "--run",
        text(&run),
        "--image",
        text(&image),
        "--at",
        "20,20",
        "--spot-px",
        "32",
        "--gene",
        "planted,noise1",
        "--layer",
        "blocks_c.0",
        "--edges",
        "5",
        "--out",
        text(&out),
        "--json",
    ]);
    let first = numbers(&at("counts").join("predictions.csv"))[0];
    let prediction = explained["genes"][0]["prediction"]
        .as_f64()
        .expect("a number");
    assert!(
        (prediction - first).abs() < 1e-4,
        "{prediction} and {first}"
    );
    assert_eq!(
        explained["genes"][0]["heat"].as_array().map(Vec::len),
        Some(16)
    );
    assert_eq!(explained["edges"][1].as_array().map(Vec::len), Some(5));
    for picture in [
        "cam_planted_blocks_c.0.png",
        "cam_noise1_blocks_c.0.png",
        "graph0.png",
    ] {
        assert!(is_png(&out.join(picture)), "no {picture}");
    }

    refusals(folder.path(), &run, &image, &weights);

    // A whole slide: tiles of 32 px at 5 µm, seen as 64 px, as in training.
    let (slides, out) = (at("slides"), at("slides-out"));
    fs::create_dir(&slides).expect("a folder");
    crate::slides::put_slide(&slides.join("a.svs"), 1, true, crate::slides::TWO);
    let predicted = json([
        "run",
        "--wsi-dir",
        text(&slides),
        "--model",
        text(&run),
        "--output",
        text(&out),
        "--maps",
        "planted",
        "--json",
    ]);
    assert_eq!(predicted["predicted"][0]["maps"][0], "maps/a_planted.png");
    assert!(is_png(&out.join("maps/a_planted.png")));
    let job = read(&out.join("job/job.json"));
    assert!(
        job.contains("\"patch_px\": 32") && job.contains("\"network_px\": 64"),
        "{job}"
    );
    let tiles =
        eosin::formats::hdf5::File::open(out.join("job/2x_32px_0px_overlap/features_tcgn/a.h5"));
    let tiles = tiles.expect("HDF5").array("features").expect("predictions");
    let of_tiles = tiles.to_f32().expect("f32");
    let mean = |gene: usize| {
        let column = of_tiles.iter().skip(gene).step_by(4);
        f64::from(column.sum::<f32>()) / tiles.shape[0] as f64
    };
    for (gene, value) in numbers(&out.join("predictions.csv"))
        .into_iter()
        .enumerate()
    {
        assert!(
            (value - mean(gene)).abs() < 1e-5,
            "{value} and {}",
            mean(gene)
        );
    }
}

fn refusals(folder: &Path, run: &Path, image: &Path, weights: &Path) {
    let out = folder.join("refused");
    let section = [
        "predict",
        "tcgn",
        "--run",
        text(run),
        "--image",
        text(image),
    ];
    let section = [&section[..], &["--out", text(&out)]].concat();
    let with = |more: &[&'static str]| [&section[..], more].concat();
    fails(with(&[]), &["--spots", "--grid-px"]);
    let grid = ["--grid-px", "20", "--spot-px", "32", "--um-per-px", "5"];
    fails(
        with(&[&grid[..], &["--maps", "nothing"]].concat()),
        &["nothing", "4 predicted"],
    );
    // Spots are 200 µm apart, so the network saw 2.5 µm per pixel.
    fails(
        with(&grid[..4]),
        &["scale not known", "2.500", "--um-per-px"],
    );
    fails(
        with(&["--grid-px", "20", "--spot-px", "16", "--um-per-px", "5"]),
        &["1.250", "2.500", "--any-mpp"],
    );
    fails(
        with(&[&grid[..], &["--stain", "macenko"]].concat()),
        &["--stain macenko", "trained with none"],
    );
    fails(
        with(&["--grid-px", "0", "--spot-px", "32"]),
        &["0 x 0 tiles"],
    );
    fails(
        with(&["--grid-px", "20", "--spot-um", "50"]),
        &["--um-per-px"],
    );
    let explain = [
        "explain",
        "tcgn",
        "--weights",
        text(weights),
        "--image",
        text(image),
    ];
    let explain = [&explain[..], &["--out", text(&out)]].concat();
    let layer = [&explain[..], &["--gene", "planted", "--layer", "head"]].concat();
    fails(layer, &["no layer `head`", "_fc", "blocks_c.0"]);
    let gene = [&explain[..], &["--gene", "nothing"]].concat();
    fails(gene, &["nothing", "4 genes"]);
    // Neither weights nor a run; an input for what predicts a section.
    for args in [
        &[
            "predict",
            "tcgn",
            "--image",
            text(image),
            "--grid-px",
            "9",
            "--out",
            text(&out),
        ][..],
        &["predict", "tcgn", "--run", text(run)],
    ] {
        let ended = eosin(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
    }
    assert!(!out.exists());

    // Another network's table has other names: every spot is there, and no count fits.
    let strange = folder.join("strange.tsv");
    fs::write(&strange, "\tplanted\n900x900\t3\n901x900\t3\n").expect("counts");
    let spots = folder.join("data/ST-spotfiles/C1_selection.tsv");
    let counts = ["--spots", text(&spots), "--counts", text(&strange)];
    fails([&section[..], &counts].concat(), &["strange.tsv"]);
}
