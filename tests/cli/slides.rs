//! `eosin features --wsi-dir` and `eosin inspect` of slides: what a job leaves, and
//! that it may be killed and shared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use eosin::formats::hdf5;
use eosin::random::Philox;
use eosin::slides::Rgb8;

use crate::support::{cohort, eosin, fails, json, program, scratch, succeeds, text};
use crate::tiff::{CLASSIC, Packing, Page, tiff};

/// Glass with a block of grainy tissue.
fn picture(seed: u64, tissue: bool) -> Rgb8 {
    let (width, height) = (320, 256);
    let mut noise = vec![0f32; width * height];
    Philox::new(seed).fill_uniform(&mut noise, 0.0, 60.0);
    let data = (0..width * height).flat_map(|i| {
        let (x, y) = (i % width, i / width);
        let grain = noise[i] as u8;
        let inside = tissue && (60..260).contains(&x) && (40..220).contains(&y);
        if inside {
            [190 - grain, 100 - grain, 160 - grain]
        } else {
            [243, 243, 244]
        }
    });
    Rgb8 {
        width,
        height,
        data: data.collect(),
    }
}

fn put_slide(path: &Path, seed: u64, tissue: bool, description: &str) {
    let image = picture(seed, tissue);
    let mut page = Page::new(&image, (64, 64), Packing::Deflate);
    page.description = description;
    fs::write(path, tiff(CLASSIC, &[page])).expect("a slide");
}

const TWO: &str = "Aperio test|AppMag = 5|MPP = 2";

/// Weights of a small encoder.
fn weights() -> &'static Path {
    static WEIGHTS: OnceLock<PathBuf> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-slides-weights");
        let data = cohort().join("tiles");
        succeeds([
            "features",
            "--encoder",
            "densenet121",
            "--data",
            text(&data),
            "--layout",
            "tiles",
            "--tile-px",
            "64",
            "--out",
            text(&out),
        ]);
        out.join("encoder.safetensors")
    })
}

fn job<'a>(slides: &'a Path, folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "features",
        "--wsi-dir",
        text(slides),
        "--job-dir",
        text(folder),
        "--encoder",
        "densenet121",
        "--weights",
        text(weights()),
        "--patch-size",
        "64",
        "--batch",
        "4",
        "--json",
    ];
    args.extend(more);
    args
}

#[test]
fn a_job_writes_what_clam_and_trident_read_and_names_bad_slides() {
    let folder = scratch();
    let slides = folder.path().join("slides");
    fs::create_dir(&slides).expect("a folder");
    put_slide(&slides.join("a.svs"), 1, true, TWO);
    put_slide(&slides.join("empty.svs"), 2, false, TWO);
    put_slide(&slides.join("unscaled.tif"), 3, true, "");
    fs::write(slides.join("broken.svs"), b"II*\0\xff\xff\xff\xff").expect("a file");
    fs::write(slides.join("notes.txt"), "no slide").expect("a file");
    let out = folder.path().join("job");
    let args = job(&slides, &out, &["--mpp", "4.0", "--min-tissue", "0.5"]);

    let ended = eosin(&args);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let made: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(
        (&made["slides"], &made["done_here"]),
        (&4.into(), &2.into()),
        "{made}"
    );
    assert_eq!(made["empty"], serde_json::json!(["empty"]));
    let failed = made["failed"].to_string();
    for part in [
        "broken.svs",
        "past the end",
        "unscaled.tif",
        "does not state its scale",
    ] {
        assert!(failed.contains(part), "{failed}");
    }
    assert!(ended.stderr.contains("2 of 4 slides"), "{}", ended.stderr);

    // 128 px of level 0 a tile, at whole multiples, at least half on (60..260, 40..220).
    let run = out.join("2.5x_64px_0px_overlap");
    let file = hdf5::File::open(run.join("features_densenet121/a.h5")).expect("HDF5");
    let coords = file.array("coords").expect("coords");
    assert_eq!(coords.to_i64().expect("i64"), [128, 0, 128, 128]);
    assert_eq!(
        file.array("features").expect("features").shape,
        [coords.shape[0], 1024]
    );
    let facts = file.facts("features").expect("facts");
    assert_eq!(facts.chunks, Some(vec![256, 1024]));
    let attributes = file.attributes("coords").expect("attributes");
    let int = |key: &str| attributes[key].as_int();
    assert_eq!(int("patch_size"), Some(64));
    assert_eq!(int("patch_size_level0"), Some(128));
    assert_eq!(int("level0_magnification"), Some(5));
    assert_eq!(attributes["target_magnification"].as_float(), Some(2.5));
    assert_eq!(
        (int("level0_width"), int("level0_height")),
        (Some(320), Some(256))
    );
    assert_eq!(attributes["mpp_level0"].as_float(), Some(2.0));
    // No level has 4 µm, so CLAM's meaning of patch_size gets a file of its own.
    assert!(!attributes.contains_key("patch_level"));
    let clam = run.join("clam_densenet121");
    let own = hdf5::File::open(clam.join("h5_files/a.h5")).expect("HDF5");
    let attributes = own.attributes("coords").expect("attributes");
    assert_eq!(attributes["patch_size"].as_int(), Some(128));
    assert_eq!(attributes["patch_level"].as_int(), Some(0));
    assert_eq!(own.array("coords").expect("coords"), coords);
    let pt = eosin::formats::read_weights(clam.join("pt_files/a.pt")).expect("a .pt");
    let (_, tensor) = pt.iter().next().expect("one tensor");
    assert_eq!(tensor, &file.array("features").expect("features"));

    let empty = hdf5::File::open(run.join("features_densenet121/empty.h5")).expect("HDF5");
    assert_eq!(empty.array("features").expect("features").shape, [0, 1024]);
    assert_eq!(empty.array("coords").expect("coords").shape, [0, 2]);
    let outlines = fs::read_to_string(out.join("contours_geojson/a.geojson")).expect("GeoJSON");
    let outlines: serde_json::Value = serde_json::from_str(&outlines).expect("JSON");
    assert_eq!(outlines["features"].as_array().map(Vec::len), Some(1));
    assert!(out.join("contours/a.png").is_file());

    // Once more: nothing is left to do. A scale for the third makes it a slide.
    let again = eosin(&args);
    let seen: serde_json::Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!((again.code, &seen["done_here"]), (Some(3), &0.into()));
    let list = folder.path().join("list.csv");
    fs::write(&list, "wsi,mpp\na.svs,\nunscaled.tif,2.0\n").expect("a list");
    let mut listed = args.clone();
    listed.extend(["--list", text(&list)]);
    let made = json(&listed);
    assert_eq!(
        (&made["slides"], &made["done_here"]),
        (&2.into(), &1.into())
    );
    // Other settings in the same folder would mix two jobs.
    let other = job(&slides, &out, &["--mpp", "2.0"]);
    fails(&other, &["job.json", "other settings", "2.0"]);
    fails(
        job(&slides, &out, &["--mpp", "0"]),
        &["0 micrometres per pixel"],
    );
    fails(
        job(&slides, &out, &["--mpp", "4.0", "--memory", "512M"]),
        &["--memory"],
    );
    let bad = eosin(job(&slides, &out, &["--mpp", "4.0", "--shard", "4/4"]));
    assert_eq!(bad.code, Some(2), "{bad:?}");
}

/// Coordinates and features of every slide of a job.
fn results(job: &Path) -> BTreeMap<String, (Vec<i64>, Vec<f32>)> {
    let folder = job.join("5x_64px_0px_overlap/features_densenet121");
    let read = |path: PathBuf| {
        let file = hdf5::File::open(&path).expect("HDF5");
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let coords = file.array("coords").expect("coords").to_i64().expect("i64");
        (
            name,
            (
                coords,
                file.array("features")
                    .expect("features")
                    .to_f32()
                    .expect("f32"),
            ),
        )
    };
    let list = fs::read_dir(folder).expect("features");
    list.map(|entry| read(entry.expect("an entry").path()))
        .collect()
}

#[test]
fn processes_share_a_job_and_one_may_be_killed_at_any_moment() {
    let folder = scratch();
    let slides = folder.path().join("slides");
    fs::create_dir(&slides).expect("a folder");
    for i in 0..6 {
        put_slide(&slides.join(format!("s{i}.svs")), i, true, TWO);
    }
    let more = ["--mpp", "2.0", "--stain", "macenko", "--outputs", "trident"];
    let alone = folder.path().join("alone");
    json(job(&slides, &alone, &more));
    let expected = results(&alone);
    assert_eq!(expected.len(), 6);

    let shared = folder.path().join("shared");
    let args = job(&slides, &shared, &more);
    for milliseconds in [120, 350, 600] {
        let mut doomed = program(&args)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_millis(milliseconds));
        doomed.kill().ok();
        doomed.wait().expect("it ends");
    }
    let mut workers: Vec<_> = (0..3)
        .map(|_| {
            let quiet = std::process::Stdio::null;
            program(&args)
                .stdout(quiet())
                .stderr(quiet())
                .spawn()
                .expect("it starts")
        })
        .collect();
    std::thread::sleep(Duration::from_millis(400));
    let mut doomed = workers.remove(0);
    doomed.kill().ok();
    doomed.wait().expect("it ends");
    for mut worker in workers {
        assert!(worker.wait().expect("it ends").success());
    }
    assert!(
        results(&shared) == expected,
        "killed and shared, the job has other results"
    );

    // Two shards are the whole.
    let parts = folder.path().join("parts");
    for shard in ["0/2", "1/2"] {
        let mut args = job(&slides, &parts, &more);
        args.extend(["--shard", shard]);
        assert_eq!(json(args)["slides"], 3);
    }
    assert!(
        results(&parts) == expected,
        "in shards, the job has other results"
    );
}

#[test]
fn inspect_shows_a_slide() {
    let folder = scratch();
    let slide = folder.path().join("a.svs");
    put_slide(&slide, 1, true, TWO);
    let out = folder.path().join("small.png");
    let said = succeeds(["inspect", text(&slide), "--thumbnail", text(&out)]);
    for part in [
        "Aperio",
        "2.0000",
        "Aperio's MPP",
        "5x",
        "320 x 256",
        "deflate",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let small = eosin::slides::image::read(&out).expect("a PNG");
    assert_eq!(small, picture(1, true));
    let region = ["--thumbnail", text(&out), "--region", "0,100,50,20,10"];
    let found = json(["inspect", text(&slide), "--json"].iter().chain(&region));
    assert_eq!(found["scale"]["mpp"], 2.0);
    let part = eosin::slides::image::read(&out).expect("a PNG");
    assert_eq!((part.width, part.height), (20, 10));
    assert_eq!(
        part.data[..3],
        picture(1, true).data[(50 * 320 + 100) * 3..][..3]
    );
}
