//! RNA-GAN from profiles to a quiz: every command on a small cohort.

use std::fs;

use eosin::formats::safetensors;
use eosin::models::resnet::{Depth, ResNet};
use eosin::nn::state_weights;
use eosin::random::Philox;

use crate::support::{cohort, fails, json, scratch, succeeds, text};

#[test]
fn a_run_that_never_began_leaves_its_folder_as_it_was() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let table = cohort().join("expression.csv");
    let vae = |table: &std::path::Path| {
        format!(
            "[profiles]\ntable = {table:?}\n[model]\nencoder = [8]\nlatent = 4\ndecoder = [8]\n\
             [training]\nepochs = 1\nbatch = 6\n"
        )
    };
    let (file, out) = (at("vae.toml"), at("vae"));
    let train = |what: &'static str, file: &std::path::Path| {
        let [config, run] = [text(file), text(&out)].map(str::to_owned);
        ["train", what, "--config", &config, "--out", &run].map(str::to_owned)
    };
    fs::write(&file, vae(&at("none.csv"))).expect("a run file");
    fails(train("betavae", &file), &["none.csv"]);
    assert!(!out.exists(), "a run that never began left its folder");
    // One that was there stays, without what the run put into it.
    fs::create_dir(&out).expect("a folder");
    fails(train("betavae", &file), &["none.csv"]);
    assert_eq!(fs::read_dir(&out).expect("a folder").count(), 0);
    let gan = at("gan.toml");
    fs::write(
        &gan,
        format!(
            "input.start = \"normal\"\n[data]\nlayout = \"tiles\"\npath = {:?}\n\
             [model]\nimage = 16\nstep = 4\n[training]\nhold_out = [\"nobody\"]\n",
            cohort().join("tiles")
        ),
    )
    .expect("a run file");
    fails(train("rnagan", &gan), &["nobody"]);
    assert_eq!(fs::read_dir(&out).expect("a folder").count(), 0);
    // Put right, the same command works.
    fs::write(&file, vae(&table)).expect("a run file");
    succeeds(train("betavae", &file));
    assert!(out.join("model.safetensors").exists());
    fails(train("betavae", &file), &["holds a run already"]);
}

#[test]
fn from_profiles_to_a_quiz() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let table = cohort().join("expression.csv");
    fs::write(
        at("vae.toml"),
        format!(
            "[profiles]\ntable = {table:?}\n[model]\nencoder = [16]\nlatent = 8\ndecoder = [16]\n\
             [training]\nepochs = 3\nbatch = 6\n"
        ),
    )
    .expect("a run file");
    let [vae_file, vae, gan_file, gan] = ["vae.toml", "vae", "gan.toml", "gan"].map(at);
    let train = |what: &str, file: &std::path::Path, out: &std::path::Path| {
        json([
            "--json",
            "train",
            what,
            "--config",
            text(file),
            "--out",
            text(out),
        ])
    };
    let made = train("betavae", &vae_file, &vae);
    assert_eq!(made["history"]["train"].as_array().map(Vec::len), Some(3));
    fs::write(
        at("gan.toml"),
        format!(
            "vae = {vae:?}\n[data]\nlayout = \"tiles\"\npath = {:?}\nslides = {:?}\n\
             expression = {table:?}\n[model]\nimage = 16\nstep = 4\n\
             [training]\nepochs = 2\nbatch = 8\n",
            cohort().join("tiles"),
            cohort().join("slides.csv")
        ),
    )
    .expect("a run file");
    let made = train("rnagan", &gan_file, &gan);
    assert_eq!(made["signs"].as_array().map(Vec::len), Some(2));
    assert!(gan.join("samples/epoch-0002.png").exists());

    let lines = fs::read_to_string(&table).expect("a table");
    let name = |row: usize| {
        let line = lines.lines().nth(row).expect("a row");
        line.split(',').next().expect("a name").to_owned()
    };
    let (a, b) = (name(1), name(2));
    let tiles = at("tiles");
    let generate = |out: &std::path::Path, more: &[&str]| {
        let base = [
            "--json",
            "generate",
            "--run",
            text(&gan),
            "--out",
            text(out),
        ];
        let base = base.iter().copied().chain(["--expression", text(&table)]);
        json(base.chain(more.iter().copied()))
    };
    let made = generate(&tiles, &["--sample", &a, "--count", "10", "--seed", "7"]);
    assert_eq!(made["tiles"], 10);
    assert_eq!(fs::read_dir(&tiles).expect("tiles").count(), 10);
    assert!(at("tiles.grid.png").exists());
    let found = fs::read(tiles.join("tile-00003.png")).expect("a tile");
    let holds = |what: &str| found.windows(what.len()).any(|w| w == what.as_bytes());
    assert!(holds("eosin seed") && holds(&a), "no metadata");
    // The same seed gives the same tiles; a path has as many as its steps.
    let path = at("path");
    let ends = format!("{a},{b}");
    let made = generate(
        &path,
        &[
            "--sample", &ends, "--steps", "3", "--count", "4", "--seed", "7",
        ],
    );
    assert_eq!(made["tiles"], 12);
    assert_eq!(made["profiles"].as_array().map(Vec::len), Some(3));
    let common = ["generate", "--run", text(&gan), "--out"];
    let with = |more: &[&str]| -> Vec<String> {
        let all = common.iter().chain(more);
        all.map(|s| (*s).to_owned()).collect()
    };
    fails(with(&[text(&tiles)]), &["not empty"]);
    fails(with(&[text(&at("new"))]), &["no profile"]);
    let unknown = ["--expression", text(&table), "--sample", "nobody"];
    let new = at("new");
    let more: Vec<&str> = std::iter::once(text(&new)).chain(unknown).collect();
    fails(with(&more), &["nobody"]);

    // Profiles.
    let (latents, profiles) = (at("latents.npy"), at("profiles.csv"));
    let run = ["--run", text(&vae), "--expression", text(&table), "--out"];
    let vae_command = |what: &str, out: &std::path::Path, more: &[&str]| {
        let base = ["vae", what].into_iter().chain(run).chain([text(out)]);
        succeeds(base.chain(more.iter().copied()))
    };
    vae_command("encode", &latents, &[]);
    succeeds([
        "vae",
        "decode",
        "--run",
        text(&vae),
        "--latents",
        text(&latents),
        "--out",
        text(&profiles),
    ]);
    assert_eq!(lines_of(&profiles), 17);
    let page = at("plot.html");
    vae_command(
        "sample",
        &profiles,
        &["--count", "9", "--plot", text(&page)],
    );
    assert_eq!(lines_of(&profiles), 10);
    let plot = fs::read_to_string(&page).expect("a page");
    assert!(plot.contains("reconstructed") && plot.contains("<svg"));
    assert!(plot.contains("Principal components") && plot.contains("UMAP"));
    assert!(plot.contains("All panels have the same axes"));
    vae_command(
        "interpolate",
        &profiles,
        &["--from", &a, "--to", &b, "--steps", "4"],
    );
    assert_eq!(lines_of(&profiles), 5);
    let classes = at("classes.csv");
    fs::write(&classes, format!("slide,class\n{a},one\n{b},two\n")).expect("classes");
    vae_command(
        "shift",
        &profiles,
        &["--classes", text(&classes), "--from", "one", "--to", "two"],
    );
    assert_eq!(lines_of(&profiles), 2);

    // Distances. Those of a folder to itself are none.
    let weights = at("resnet18.safetensors");
    let network = ResNet::new(Depth::ResNet18, 2, &mut Philox::new(1)).expect("a network");
    safetensors::write(&weights, &state_weights(&network).expect("weights")).expect("a file");
    let fid = |fake: &std::path::Path| {
        json([
            "--json",
            "fid",
            text(&tiles),
            text(fake),
            "--weights",
            text(&weights),
            "--network",
            "resnet18",
            "--px",
            "32",
            "--cache",
            text(&at("cache")),
        ])
    };
    let own = fid(&tiles);
    let value = |found: &serde_json::Value| found["frechet_distance"].as_f64().expect("a number");
    assert!(value(&own).abs() < 1e-6, "{own}");
    assert_eq!(
        (&own["precision"], &own["recall"]),
        (&1.0.into(), &1.0.into())
    );
    assert_eq!(own["real"], 10);
    let other = fid(&path);
    assert!(value(&other) > value(&own), "{other}");
    assert_eq!(fid(&path), other, "from the cache");
    assert_eq!(fs::read_dir(at("cache")).expect("a cache").count(), 2);
    fails(
        ["fid", text(&vae), text(&tiles), "--weights", text(&weights)],
        &["eosin inspect"],
    );
    fs::create_dir(at("mixed")).expect("a folder");
    fs::copy(tiles.join("tile-00000.png"), at("mixed/a.png")).expect("a copy");
    fs::copy(at("tiles.grid.png"), at("mixed/b.png")).expect("a copy");
    let mixed = at("mixed");
    fails(
        [
            "fid",
            text(&tiles),
            text(&mixed),
            "--weights",
            text(&weights),
            "--network",
            "resnet18",
        ],
        &["b.png", "one size"],
    );

    // What can be learned from tiles: whether they are of one profile or of a path.
    let classes = at("classes");
    fs::create_dir(&classes).expect("a folder");
    fs::rename(&tiles, classes.join("one")).expect("tiles");
    fs::rename(&path, classes.join("path")).expect("tiles");
    let [file, simclr, run] = ["tiles.toml", "simclr", "run"].map(at);
    let model = "[model]\nnetwork = \"resnet18\"\nwidth = 4\npx = 32\n";
    let data = format!("[data]\nlayout = \"classes\"\npath = {classes:?}\n{model}");
    let brief = "[training]\nepochs = 1\nbatch = 8\n";
    fs::write(&file, format!("{data}{brief}")).expect("a run file");
    let made = train("simclr", &file, &simclr);
    assert_eq!(made["tiles"], serde_json::json!([20, 2]));
    let start = format!("weights = {:?}\n", simclr.join("model.safetensors"));
    fs::write(&file, format!("{data}{start}{brief}[split]\nfolds = 2\n")).expect("a run file");
    let made = train("classifier", &file, &run);
    assert_eq!(made["classes"], serde_json::json!(["one", "path"]));
    assert_eq!(made["starts"].as_array().map(Vec::len), Some(2));
    let again = [
        "train",
        "classifier",
        "--resume",
        "--config",
        text(&file),
        "--out",
        text(&run),
    ];
    let shown = succeeds(again);
    assert!(
        shown.contains("from random weights") && shown.contains("+-"),
        "{shown}"
    );
    let out = at("scores");
    let given = [
        "--run",
        text(&run),
        "--data",
        text(&classes),
        "--out",
        text(&out),
    ];
    let scores = json(["--json", "evaluate"].into_iter().chain(given));
    assert_eq!(
        (&scores["networks"], &scores["scores"]["bags"]["count"]),
        (&2.into(), &22.into())
    );
    assert_eq!(lines_of(&out.join("bag_classes.csv")), 23);
    let [tiles, path] = ["one", "path"].map(|class| classes.join(class));

    let quiz = at("quiz.html");
    let made = json([
        "--json",
        "quiz",
        text(&tiles),
        text(&path),
        "--each",
        "5",
        "--out",
        text(&quiz),
    ]);
    assert_eq!((&made["real"], &made["generated"]), (&5.into(), &5.into()));
    let page = fs::read_to_string(&quiz).expect("a page");
    assert_eq!(page.matches("\"generated\":0").count(), 5);
    assert_eq!(page.matches("\"generated\":1").count(), 5);
    assert!(!page.contains("http") && !page.contains("eosin profile"));
    fails(
        ["quiz", text(&tiles), text(&path), "--each", "11"],
        &["10 images"],
    );
    // Real tiles as they were cut, beside generated ones of another size.
    let cut = cohort().join("tiles");
    let base = ["quiz", text(&cut), text(&tiles), "--each", "3"];
    let out = ["--out", text(&quiz)];
    let with = |more: &[&'static str]| base.into_iter().chain(out).chain(more.to_vec());
    fails(with(&[]), &["one size"]);
    succeeds(with(&["--px", "16"]));
    fails(with(&["--px", "0"]), &["--px from 1"]);
    let small = fs::read_to_string(&quiz).expect("a page");
    // Width and height stand 16 bytes behind the start of a PNG: in base64 from the 22nd digit.
    let pngs = small.split("\"png\":\"").skip(1);
    let heads: std::collections::BTreeSet<&str> = pngs.map(|p| &p[..32]).collect();
    assert_eq!(heads.len(), 1, "{heads:?}");
}

fn lines_of(path: &std::path::Path) -> usize {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().count()
}
