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
use tempfile::TempDir;

use crate::icc;
use crate::support::{
    Ended, cohort, eosin, fails, files, finished, json, program, run_file, scratch, succeeds, text,
    train,
};
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

/// A folder for slides in a test's folder.
fn slides_in(folder: &TempDir) -> PathBuf {
    let slides = folder.path().join("slides");
    fs::create_dir(&slides).expect("a folder");
    slides
}

pub fn put_slide(path: &Path, seed: u64, tissue: bool, description: &str) {
    let image = picture(seed, tissue);
    let mut page = Page::new(&image, (64, 64), Packing::Deflate);
    page.description = description;
    fs::write(path, tiff(CLASSIC, &[page])).expect("a slide");
}

pub const TWO: &str = "Aperio test|AppMag = 5|MPP = 2";

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
    let slides = slides_in(&folder);
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
/// Of each slide the places of its tiles and their features.
type Results = BTreeMap<String, (Vec<i64>, Vec<f32>)>;

fn results(job: &Path) -> Results {
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
    // What a killed process was just writing has another name until the next one
    // removes it.
    list.map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "h5"))
        .map(read)
        .collect()
}

/// Asserts that a job has the files of another, bit for bit.
fn same(how: &str, got: &Results, want: &Results) {
    let slides = |results: &Results| results.keys().cloned().collect::<Vec<_>>();
    assert_eq!(slides(got), slides(want), "{how}, the job has other slides");
    for (slide, (coords, features)) in got {
        let (places, values) = &want[slide];
        assert_eq!(coords, places, "{how}, {slide} has other tiles");
        let other = features.iter().zip(values).filter(|(a, b)| a != b).count();
        assert_eq!(
            (features.len(), other),
            (values.len(), 0),
            "{how}, {slide} has other features"
        );
    }
}

#[test]
fn processes_share_a_job_and_one_may_be_killed_at_any_moment() {
    let folder = scratch();
    let slides = slides_in(&folder);
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
    same("killed and shared", &results(&shared), &expected);

    // Two shards are the whole.
    let parts = folder.path().join("parts");
    for shard in ["0/2", "1/2"] {
        let mut args = job(&slides, &parts, &more);
        args.extend(["--shard", shard]);
        assert_eq!(json(args)["slides"], 3);
    }
    same("in shards", &results(&parts), &expected);
}

/// A program and its arguments, run by a shell script that gets them as `$@`.
fn under(script: &str, before: &[&str], args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).args(before);
    command.arg(env!("CARGO_BIN_EXE_eosin")).args(args);
    command.stdin(std::process::Stdio::null());
    command
}

/// What a job leaves in `folder` that nothing disturbs; it is then removed, so that another
/// can have its name, which is in some files.
fn undisturbed(args: &[&str], folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    json(args);
    let whole = files(folder);
    fs::remove_dir_all(folder).expect("a folder");
    whole
}

/// Asserts that a job that ran out of space said of which file, and left nothing that it
/// would not have left with space enough.
fn stopped_whole(how: &str, ended: &Ended, job: &Path, whole: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(ended.code, Some(1), "{how}: {ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("cannot write "), "{how}: {last}");
    for (path, bytes) in files(job) {
        let want = whole.get(&path);
        let same = want.is_some_and(|want| *want == bytes);
        assert!(same, "{how}: {} is left", path.display());
    }
}

/// No file may grow past a limit, which is raised from run to run in one job: each output
/// is the one that fails in some run.
#[cfg(unix)]
#[test]
fn a_job_whose_files_cannot_be_written_names_one_and_goes_on_later() {
    let folder = scratch();
    let slides = slides_in(&folder);
    put_slide(&slides.join("a.svs"), 1, true, TWO);
    put_slide(&slides.join("b.svs"), 2, true, TWO);
    let out = folder.path().join("job");
    let more = ["--mpp", "2.0", "--outputs", "trident,clam,lmdb"];
    let args = job(&slides, &out, &more);
    let whole = undisturbed(&args, &out);

    // The signal that would end the process is ignored, so that writing fails.
    let script = "trap '' XFSZ; ulimit -f $1; shift; exec \"$@\"";
    let mut named = Vec::new();
    // Blocks of 512 bytes.
    for blocks in ["0", "4", "10", "20", "40", "80"] {
        let ran = under(script, &[blocks], &args).output().expect("a shell");
        let ended = Ended::of(ran);
        if ended.code == Some(0) {
            continue;
        }
        stopped_whole(&format!("{blocks} blocks"), &ended, &out, &whole);
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("too large"), "{last}");
        let name = last.split("cannot write ").nth(1).unwrap_or_default();
        named.push(name.split(':').next().unwrap_or_default().to_owned());
    }
    named.dedup();
    assert!(named.len() >= 3, "{named:?} were all that failed");
    json(&args);
    assert!(
        files(&out) == whole,
        "the job that went on left other files"
    );
}

/// The job's folder on a file system of a few pages, where the system lets a user mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_job_on_a_full_disk_names_a_file_and_goes_on_with_more_space() {
    let folder = scratch();
    let slides = slides_in(&folder);
    put_slide(&slides.join("a.svs"), 1, true, TWO);
    put_slide(&slides.join("b.svs"), 2, true, TWO);
    let full = folder.path().join("full");
    let args = job(&slides, &full, &["--mpp", "2.0"]);
    let whole = undisturbed(&args, &full);

    let left = folder.path().join("left");
    // What is left is copied out, since the file system ends with its namespace.
    let script = "unshare -rm sh -c 'mount -t tmpfs -o size=$1 none \"$2\" || exit 77; \
                  full=$2; left=$3; shift 3; \"$@\"; code=$?; \
                  cp -R \"$full\" \"$left\"; exit $code' sh \"$@\" || exit $?";
    for size in ["4k", "20k", "60k", "100k"] {
        fs::create_dir(&full).expect("a folder");
        let before = [size, text(&full), text(&left)];
        let ran = under(script, &before, &args).output().expect("a shell");
        let ended = Ended::of(ran);
        if !left.exists() {
            eprintln!(
                "skipped: no file system can be mounted here: {}",
                ended.stderr
            );
            return;
        }
        stopped_whole(size, &ended, &left, &whole);
        let last = ended.stderr.lines().last().unwrap_or_default();
        for part in ["No space left", "free some space", text(&full)] {
            assert!(last.contains(part), "{size}: {last}");
        }
        // Where it was, with more space.
        fs::remove_dir(&full).expect("nothing is there");
        fs::rename(&left, &full).expect("a folder");
        json(&args);
        assert!(
            files(&full) == whole,
            "{size}: the job that went on left other files"
        );
        fs::remove_dir_all(&full).expect("a folder");
    }
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

/// Arguments of `eosin run`.
fn run<'a>(slides: &'a Path, model: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "--wsi-dir", text(slides), "--model", text(model)];
    args.extend(["--output", text(out), "--json"]);
    args.extend(more);
    args
}

#[test]
fn a_run_predicts_slides_draws_them_and_names_bad_ones() {
    let folder = scratch();
    let slides = slides_in(&folder);
    put_slide(&slides.join("a.svs"), 1, true, TWO);
    put_slide(&slides.join("b.svs"), 2, true, TWO);
    put_slide(&slides.join("empty.svs"), 3, false, TWO);
    fs::write(slides.join("broken.svs"), b"II*\0\xff\xff\xff\xff").expect("a file");
    let out = folder.path().join("out");
    let more = ["--mpp", "2.0", "--tile-tables", "--batch", "4"];
    let args = run(&slides, finished(), &out, &more);
    // The run does not say at which scale it was trained, so the user must.
    fails(
        run(&slides, finished(), &out, &[]),
        &["at which scale it was trained", "--mpp"],
    );
    assert!(!out.exists());

    let ended = eosin(&args);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("not checked"), "{}", ended.stderr);
    let made: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(made["empty"], serde_json::json!(["empty"]));
    assert!(
        made["failed"][0]
            .as_str()
            .is_some_and(|f| f.starts_with("broken"))
    );
    assert_eq!(made["predicted"].as_array().map(Vec::len), Some(2));

    // A slide is the mean of its tiles; the CSV and the .h5ad hold the same.
    let table = fs::read_to_string(out.join("predictions.csv")).expect("a table");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let data = eosin::formats::h5ad::read(out.join("predictions.h5ad")).expect("AnnData");
    assert_eq!(data.obs.names, ["a", "b"]);
    let genes = data.var.names.len();
    let slide = data.x.expect("values").to_dense().expect("values");
    let tiles = eosin::formats::h5ad::read(out.join("tiles/b.h5ad")).expect("AnnData");
    assert_eq!(tiles.var.names, data.var.names);
    let count = tiles.obs.names.len();
    assert_eq!(made["predicted"][1]["tiles"], count);
    assert!(count >= 4, "{count} tiles");
    // Tiles of 64 px on a grid of 64 px.
    assert_eq!(tiles.obsm["spatial"].to_f32().expect("f32")[0] % 64.0, 32.0);
    let of_tiles = tiles.x.expect("values").to_dense().expect("values");
    for gene in 0..genes {
        let sum: f32 = of_tiles.iter().skip(gene).step_by(genes).sum();
        let (mean, whole) = (sum / count as f32, slide[genes + gene]);
        assert!(
            (mean - whole).abs() < 1e-3 * (1.0 + whole.abs()),
            "{mean} and {whole}"
        );
        let cell: f32 = lines[2]
            .split(',')
            .nth(gene + 1)
            .expect("a cell")
            .parse()
            .expect("f32");
        assert!((cell - whole).abs() < 1e-5 * (1.0 + whole.abs()));
    }
    let spread = |row: &[f32]| row.iter().any(|v| (v - row[0]).abs() > 1e-6);
    assert!(spread(
        &of_tiles.iter().step_by(genes).copied().collect::<Vec<_>>()
    ));

    let page = fs::read_to_string(out.join("report.html")).expect("a report");
    for part in [
        "DeepPT: expression of slides",
        "broken",
        "past the end",
        "no tissue",
        "data:image/png",
    ] {
        assert!(page.contains(part), "`{part}` is not in the report");
    }
    let maps: Vec<&str> = made["predicted"][0]["maps"]
        .as_array()
        .expect("maps")
        .iter()
        .filter_map(|m| m.as_str())
        .collect();
    assert_eq!(maps.len(), 4);

    // Two processes that share a folder leave what one does.
    let shared = folder.path().join("shared");
    let together: Vec<_> = (0..2)
        .map(|_| {
            program(run(&slides, finished(), &shared, &more))
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("it starts")
        })
        .collect();
    for mut process in together {
        assert_eq!(process.wait().expect("it ends").code(), Some(3));
    }
    // The page names its folder, and statuses when a file was changed.
    let tables = |out: &Path| {
        let mut all = files(out);
        all.retain(|path, _| {
            let name = path.to_string_lossy().into_owned();
            ["predictions.csv", "predictions.h5ad", ".png"]
                .iter()
                .any(|end| name.ends_with(end))
                || name.contains("tiles/")
        });
        all
    };
    let (one, two) = (tables(&out), tables(&shared));
    assert!(one.len() >= 12, "{:?}", one.keys());
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        two.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in &one {
        assert!(two.get(path) == Some(bytes), "{}", path.display());
    }

    // Once more: nothing is computed, and a map that is gone is drawn again.
    let before = files(&out);
    fs::remove_file(out.join(maps[1])).expect("it is there");
    let again = eosin(&args);
    let seen: serde_json::Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!((again.code, &seen["done_here"]), (Some(3), &0.into()));
    let changed: Vec<_> = files(&out)
        .into_iter()
        .filter(|(path, bytes)| before.get(path) != Some(bytes))
        .collect();
    assert!(
        changed.is_empty(),
        "{:?}",
        changed.iter().map(|c| &c.0).collect::<Vec<_>>()
    );

    fails(
        run(
            &slides,
            finished(),
            &out,
            &["--mpp", "2.0", "--maps", "nothing"],
        ),
        &["nothing", "genes.csv"],
    );
}

#[test]
fn a_run_keeps_its_scale_and_its_stain() {
    let folder = scratch();
    let (config, model) = (
        run_file(
            folder.path(),
            &[("data.mpp", "2.0"), ("features.stain", "\"reinhard\"")],
        ),
        folder.path().join("run"),
    );
    // What the command says goes before the file.
    let mut args = train(&config, &model);
    args.extend(["--stain", "macenko"]);
    succeeds(args);
    let weights = eosin::formats::read_weights(model.join("fold0/model0-genes0.safetensors"));
    let tiles: serde_json::Value =
        serde_json::from_str(&weights.expect("weights").metadata["tiles"]).expect("JSON");
    assert_eq!(
        (&tiles["mpp"], &tiles["stain"]),
        (&2.0.into(), &"macenko".into())
    );
    assert_eq!(
        (&tiles["tile_px"], &tiles["cut_px"]),
        (&64.into(), &64.into())
    );
    let first = fs::read_dir(model.join("features"))
        .expect("features")
        .next();
    let features = eosin::formats::read_weights(first.expect("a slide").expect("a file").path());
    assert!(features.expect("features").metadata["stains"].contains("macenko"));

    let (data, out) = (cohort().join("tiles"), folder.path().join("out"));
    let evaluate = [
        "evaluate",
        "--run",
        text(&model),
        "--data",
        text(&data),
        "--out",
        text(&out),
    ];
    let with = |more: &[&'static str]| [&evaluate[..], more].concat();
    fails(with(&[]), &["scale not known", "2.000", "--mpp"]);
    fails(with(&["--mpp", "0.5"]), &["0.500", "2.000", "--any-mpp"]);
    assert!(!out.exists());
    succeeds(with(&["--mpp", "2.05"]));

    // An array's scale is the user's word.
    let codes = eosin::formats::Array::from_f32(&[3, 512], &vec![0.1; 3 * 512]).expect("codes");
    let (x, y) = (folder.path().join("x.npy"), folder.path().join("y.npy"));
    eosin::formats::npy::write(&x, &codes).expect("an input");
    let network = model.join("fold0/model0-genes0.safetensors");
    let mut predict = vec!["predict", "deeppt", "--weights", text(&network)];
    predict.extend(["--input", text(&x), "--output", text(&y)]);
    let with = |more: &[&'static str]| [&predict[..], more].concat();
    fails(with(&["--mpp", "0.5"]), &["0.500", "2.000", "--any-mpp"]);
    fails(with(&["--mpp", "0"]), &["--mpp", "micrometres"]);
    assert!(!y.exists());
    succeeds(with(&["--mpp", "0.5", "--any-mpp"]));
    succeeds(with(&["--mpp", "2.05"]));
    assert!(eosin(with(&[])).stderr.contains("not checked"));

    let slides = slides_in(&folder);
    put_slide(&slides.join("a.svs"), 1, true, TWO);
    let predicted = folder.path().join("predicted");
    fails(
        run(&slides, &model, &predicted, &["--mpp", "4.0"]),
        &["4.000", "2.000", "--any-mpp"],
    );
    json(run(&slides, &model, &predicted, &[]));
    let status = fs::read_to_string(predicted.join("job/status/a.json")).expect("a status");
    assert!(
        status.contains("macenko") && status.contains("\"mpp\": 2.0"),
        "{status}"
    );
}

#[test]
fn spots_and_random_places_are_tiles_too() {
    let folder = scratch();
    let (slides, lists) = (folder.path().join("slides"), folder.path().join("spots"));
    fs::create_dir(&slides).expect("a folder");
    fs::create_dir(&lists).expect("a folder");
    put_slide(&slides.join("a.svs"), 1, true, TWO);
    let list = "x\ty\tpixel_x\tpixel_y\tselected\n\
                1\t1\t100.5\t90\t1\n2\t1\t150\t90\t0\n3\t1\t150.2\t120\t1\n4\t1\t5\t5\t1\n";
    fs::write(lists.join("a_selection.tsv"), list).expect("spots");
    let out = folder.path().join("spotted");
    let made = json(job(
        &slides,
        &out,
        &["--mpp", "2.0", "--spots-dir", text(&lists)],
    ));
    assert_eq!(
        (&made["tiles"], &made["unused_tiles"]),
        (&2.into(), &1.into())
    );
    let file = out.join("5x_64px_0px_overlap/features_densenet121/a.h5");
    let file = hdf5::File::open(file).expect("HDF5");
    let coords = file.array("coords").expect("coords").to_i64().expect("i64");
    // The centre less half of 64 px, to the nearest pixel.
    assert_eq!(coords, [69, 58, 118, 88]);
    assert_eq!(file.texts("barcode").expect("names"), ["1x1", "3x1"]);
    let status = fs::read_to_string(out.join("status/a.json")).expect("a status");
    assert!(status.contains("spot 4x1: leaves the slide"), "{status}");
    fs::write(
        lists.join("a_selection.tsv"),
        list.replace("100.5", "north"),
    )
    .expect("spots");
    let bad = eosin(job(
        &slides,
        &out,
        &["--mpp", "2.0", "--spots-dir", text(&lists)],
    ));
    assert_eq!(bad.code, Some(3), "{bad:?}");
    assert!(bad.stdout.contains("north"), "{bad:?}");

    let (out, again) = (folder.path().join("random"), folder.path().join("again"));
    let more = ["--mpp", "2.0", "--random-tiles", "5", "--seed", "7"];
    assert_eq!(json(job(&slides, &out, &more))["tiles"], 5);
    json(job(&slides, &again, &more));
    assert!(
        results(&out) == results(&again),
        "the same seed gives other tiles"
    );
    let (coords, _) = &results(&out)["a"];
    assert!(coords.iter().any(|c| c % 64 != 0), "{coords:?} are a grid");
}

/// Tiles in LMDB need no network; a slide with a colour profile comes in sRGB, one without
/// as it is, and is named.
#[test]
fn tiles_go_to_lmdb_in_srgb() {
    let folder = scratch();
    let slides = slides_in(&folder);
    put_slide(&slides.join("plain.svs"), 1, true, TWO);
    let image = picture(1, true);
    let mut page = Page::new(&image, (64, 64), Packing::Deflate);
    page.description = TWO;
    page.tags = vec![icc::tag(&icc::profile(icc::P3, [2.2; 3], b"RGB "))];
    fs::write(slides.join("wide.svs"), tiff(CLASSIC, &[page])).expect("a slide");
    let out = folder.path().join("job");
    let mut args = vec![
        "features",
        "--wsi-dir",
        text(&slides),
        "--job-dir",
        text(&out),
    ];
    args.extend([
        "--mpp",
        "2",
        "--patch-size",
        "64",
        "--outputs",
        "lmdb",
        "--icc",
        "--json",
    ]);
    let made = json(&args);
    assert_eq!(made["unprofiled"], serde_json::json!(["plain"]));
    let tiles = made["tiles"].as_u64().expect("a number");
    let options = eosin::cohort::tiles::Options {
        lmdb: true,
        ..Default::default()
    };
    let read = eosin::cohort::tiles::read(out.join("5x_64px_0px_overlap/lmdb"), &options);
    let cohort = read.expect("tiles");
    assert_eq!(cohort.tiles.len() as u64, tiles);
    assert_eq!(cohort.samples.len(), 2);
    assert!(cohort.images.iter().all(|image| image.mpp == Some(2.0)));
    let first = |sample: usize| {
        let image = cohort.tiles[cohort.samples[sample].tiles[0]].image;
        cohort.images[image].read().expect("a tile")
    };
    let (mut plain, wide) = (first(0), first(1));
    assert_ne!(plain, wide);
    let profile = icc::profile(icc::P3, [2.2; 3], b"RGB ");
    let transform = eosin::slides::icc::Transform::new(&slides, &profile).expect("a profile");
    transform.apply(&mut plain).expect("levels");
    assert_eq!(plain, wide);

    // It goes on with the same settings, and not with others.
    assert_eq!(json(&args)["done_here"], 0);
    args.retain(|&arg| arg != "--icc");
    fails(&args, &["other settings"]);
}
