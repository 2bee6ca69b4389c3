//! Every command, once as a person calls it and once with `--json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::*;

const COMMANDS: [&str; 15] = [
    "quickstart",
    "simulate",
    "features",
    "train",
    "evaluate",
    "index",
    "respond",
    "predict",
    "explain",
    "generate",
    "vae",
    "fid",
    "quiz",
    "inspect",
    "doctor",
];

#[test]
fn help_names_every_command() {
    let help = succeeds(["--help"]);
    for command in COMMANDS {
        let line = format!("\n  {command} ");
        assert!(help.contains(&line), "{command} is not in:\n{help}");
        assert!(
            succeeds([command, "--help"]).contains("Usage: eosin"),
            "{command}"
        );
    }
    assert!(succeeds(["train", "deeppt", "--help"]).contains("--resume"));
    assert!(succeeds(["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_no_command_or_option_ends_with_2() {
    for args in [
        &["paint"][..],
        &["doctor", "--loud"],
        &["train"],
        &["train", "deepspt"],
        &["train", "deeppt", "--out", "x"],
        &["inspect"],
        &["doctor", "--threads", "many"],
        &["doctor", "--device", "tpu"],
        &[],
    ] {
        let ended = eosin(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        let helps = ended.stderr.contains("Usage") || ended.stderr.contains("--help");
        assert!(helps, "{args:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn what_this_build_cannot_do_is_said() {
    let ended = eosin(["doctor", "--dtype", "f16"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("bf16"), "{}", ended.stderr);
    fails(["doctor", "--threads", "0"], &["--threads 1"]);
    succeeds([
        "doctor",
        "--device",
        "cpu",
        "--dtype",
        "f32",
        "--threads",
        "2",
    ]);
}

#[test]
fn doctor_tells_of_this_machine() {
    let report = succeeds(["doctor"]);
    let findings = json(["doctor", "--json"]);
    let findings_of = [
        "eosin", "cpu", "cuda", "kernels", "device", "models", "slides", "weights",
    ];
    for (at, what) in findings_of.iter().enumerate() {
        assert_eq!(findings[at]["what"], *what);
        let found = findings[at]["found"].as_str().expect("text");
        assert!(report.contains(found), "{found} is not in:\n{report}");
    }
    assert!(
        findings[1]["found"]
            .as_str()
            .expect("text")
            .contains("cores")
    );
    assert!(report.contains("resnet50") && report.contains("deeppt"));
}

#[test]
fn simulate_draws_what_was_asked_for() {
    let folder = scratch();
    let out = folder.path().join("made");
    let size = ["--slides", "14", "--tiles", "1", "--tile-px", "64"];
    let args = [
        &["simulate", "--json", "--seed", "9", "--out", text(&out)][..],
        &size,
    ]
    .concat();
    let made = json(&args);
    assert_eq!((&made["slides"], &made["tiles"]), (&14.into(), &14.into()));
    assert!(out.join("truth.json").is_file() && out.join("slides.csv").is_file());
    let table = fs::read_to_string(out.join("expression.csv")).expect("a table");
    assert_eq!(table.lines().count(), 15);
    assert_eq!(
        table.lines().next().expect("a header").split(',').count() - 1,
        made["genes"]
    );

    let again = folder.path().join("again");
    let args = [
        &["simulate", "--seed", "9", "--out", text(&again)][..],
        &size,
    ]
    .concat();
    succeeds(&args);
    assert_eq!(files(&out), files(&again));
    fails(&args, &[text(&again), "empty"]);
}

#[test]
fn features_are_one_file_a_slide() {
    features_of("resnet50", "ResNet-50", 2048);
    features_of("densenet121", "DenseNet-121", 1024);
}

/// Of [`cohort`], by one of the encoders.
fn features_of(choice: &str, title: &str, width: usize) {
    let folder = scratch();
    let out = folder.path().join("features");
    let tiles = cohort().join("tiles");
    let args = [
        "features",
        "--encoder",
        choice,
        "--json",
        "--data",
        text(&tiles),
        "--layout",
        "tiles",
        "--tile-px",
        "64",
        "--out",
        text(&out),
        "--seed",
        "1",
    ];
    let made = json(args);
    assert_eq!((&made["slides"], &made["tiles"]), (&16.into(), &32.into()));
    assert_eq!(made["skipped"], serde_json::json!([]));
    let encoder = made["encoder"].as_str().expect("text");
    let says = format!("{title} with random weights (seed 1");
    assert!(encoder.contains(&says), "{encoder}");
    let slide = eosin::formats::read_weights(out.join("features/S16.safetensors"));
    let slide = slide.expect("features");
    assert_eq!(slide.get("features").expect("a key").shape, [2, width]);
    assert_eq!(slide.metadata["encoder"], encoder);

    // The file of random weights is a weights file like any other: with it the
    // features are the same numbers.
    let given = folder.path().join("given");
    let weights = out.join("encoder.safetensors");
    let text_out = succeeds([
        "features",
        "--encoder",
        choice,
        "--data",
        text(&tiles),
        "--layout",
        "tiles",
        "--tile-px",
        "64",
        "--out",
        text(&given),
        "--weights",
        text(&weights),
    ]);
    assert!(
        text_out.contains(&format!("{title} with the weights of")),
        "{text_out}"
    );
    let same = eosin::formats::read_weights(given.join("features/S16.safetensors"));
    assert_eq!(
        same.expect("features").get("features"),
        slide.get("features")
    );
}

#[test]
fn train_and_evaluate_write_what_they_say() {
    let folder = scratch();
    let run = folder.path().join("run");
    let config = run_file(folder.path(), &[]);
    let mut args = train(&config, &run);
    args.push("--json");
    let summary = json(args);
    assert_eq!(summary["samples"], 15, "one of 14 patients only calibrates");
    assert_eq!(summary["genes"], 148);
    assert_eq!(summary["same_patient"], false);
    assert!(
        summary["features"]
            .as_str()
            .expect("text")
            .contains("random weights (seed 3")
    );
    let stored = fs::read(run.join("summary.json")).expect("a summary");
    let stored: serde_json::Value = serde_json::from_slice(&stored).expect("JSON");
    assert_eq!(stored, summary);
    let page = fs::read_to_string(run.join("report.html")).expect("a report");
    assert!(page.contains("random weights") && page.contains("<svg"));

    let out = folder.path().join("scored");
    let tiles = cohort().join("tiles");
    let expression = cohort().join("expression.csv");
    let slides = cohort().join("slides.csv");
    let args = [
        "evaluate",
        "--json",
        "--run",
        text(&run),
        "--data",
        text(&tiles),
        "--slides",
        text(&slides),
    ];
    let scored = [
        &args[..],
        &["--expression", text(&expression), "--out", text(&out)],
    ]
    .concat();
    let scored = json(scored);
    assert_eq!(
        (&scored["samples"], &scored["genes"]),
        (&16.into(), &148.into())
    );
    assert_eq!(scored["scores"]["samples"], 16);
    assert_eq!(
        scored["scores"]["same_patient"], true,
        "it was trained on them"
    );
    for file in [
        "predictions.csv",
        "measured.csv",
        "genes.csv",
        "summary.json",
        "report.html",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }

    let blind = folder.path().join("blind");
    let made = json([&args[..], &["--out", text(&blind)]].concat());
    assert_eq!(made["scores"], serde_json::Value::Null);
    let read = |folder: &Path| fs::read(folder.join("predictions.csv")).expect("predictions");
    assert_eq!(
        read(&blind),
        read(&out),
        "predictions do not depend on expression"
    );
    assert!(!blind.join("genes.csv").exists());

    let closed = folder.path().join("closed");
    let more = [
        "--expression",
        text(&expression),
        "--no-expression",
        "--out",
        text(&closed),
    ];
    json([&args[..], &more].concat());
    assert_eq!(read(&closed), read(&out));
    assert!(!closed.join("genes.csv").exists());

    fails(
        [
            "evaluate",
            "--run",
            text(folder.path()),
            "--data",
            text(&tiles),
            "--out",
            text(&out),
        ],
        &[text(folder.path())],
    );
}

#[test]
fn a_quiet_run_says_nothing_beside_its_result() {
    let folder = scratch();
    let config = run_file(folder.path(), &[]);
    let out = folder.path().join("run");
    let mut args = train(&config, &out);
    args.push("--quiet");
    let ended = eosin(args);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.contains("Pearson, median"));
    assert!(
        ended.stdout.contains("random weights"),
        "figures say what they are from"
    );
}

#[test]
fn inspect_tells_every_kind_of_file() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let run = finished();
    let tiles = cohort().join("tiles/S01");
    let tile = fs::read_dir(&tiles)
        .expect("a slide")
        .next()
        .expect("a tile");
    for (file, kind, words) in [
        (
            run.join("fold0/autoencoder.safetensors"),
            "safetensors",
            "encoder.0.weight",
        ),
        (
            tests.join("formats/fixtures/zip_p2.pth"),
            "torch_zip",
            "transposed",
        ),
        (
            tests.join("formats/fixtures/legacy.pth"),
            "torch_legacy",
            "bf16",
        ),
        (tests.join("formats/fixtures/f4.npy"), "npy", "f32"),
        (cohort().join("expression.csv"), "csv", "SIMDEN1"),
        (tile.expect("an entry").path(), "png", "64"),
        (tests.join("cohort/fixtures/grey.jpg"), "jpeg", "53 high"),
        (cohort().join("truth.json"), "json", ""),
        (run.join("config.toml"), "toml", ""),
    ] {
        let found = json(["inspect", "--json", text(&file)]);
        assert_eq!(found["kind"], kind, "{}", file.display());
        assert_eq!(found["bytes"], fs::metadata(&file).expect("a file").len());
        let said = succeeds(["inspect", text(&file)]);
        assert!(said.contains(words), "{words} is not in:\n{said}");
    }
    fails(["inspect", "no-such-file.pth"], &["no-such-file.pth"]);
    fails(["inspect", text(&tiles)], &[text(&tiles)]);
}

/// What `evaluate --data` left in `other` is the mean over the bags of a slide, which are
/// those that the run `out` wrote, and over all networks.
fn of_bags_and_networks(network: &str, out: &Path, other: &Path) {
    let lines = fs::read_to_string(out.join("bags.csv")).expect("bags");
    let slide = |line: &str| line.split(',').nth(1).map(str::to_owned);
    let slides: Vec<String> = lines.lines().skip(1).filter_map(slide).collect();
    let mut sums: BTreeMap<(String, String), f64> = BTreeMap::new();
    let y = other.join("genes.npy");
    for (fold, number) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let weights = out.join(format!("fold{fold}/model{number}.safetensors"));
        let bags = out.join("bags.npy");
        let mut predict = vec!["predict", network, "--weights", text(&weights)];
        predict.extend(["--input", text(&bags), "--output", text(&y)]);
        if network == "trnasformer" {
            predict.extend(["--set", "n_heads=2"]);
        }
        succeeds(predict);
        let genes = eosin::formats::read_weights(&weights).expect("weights");
        let genes: Vec<String> = serde_json::from_str(&genes.metadata["genes"]).expect("names");
        let values = eosin::formats::npy::read(&y).expect("predictions").to_f64();
        for (slide, row) in slides.iter().zip(values.chunks(genes.len())) {
            for (gene, v) in genes.iter().zip(row) {
                *sums.entry((slide.clone(), gene.clone())).or_default() += v / 8.0;
            }
        }
    }
    let rows = eosin::expression::table::Orientation::SamplesByGenes;
    let path = other.join("predictions.csv");
    let found = eosin::expression::table::read_signed(&path, rows, &[]).expect("a table");
    assert_eq!(found.samples.len(), 16);
    for (slide, row) in found.samples.iter().zip(found.rows()) {
        for (gene, &v) in found.genes.iter().zip(row) {
            let expected = sums[&(slide.clone(), gene.clone())];
            let close = (f64::from(v) - expected).abs() <= 1e-5 * expected.abs().max(1.0);
            assert!(close, "{network}, {gene} of {slide}: {v}, not {expected}");
        }
    }
}

/// Both networks from a folder of tiles to held-out predictions, and their weights by
/// `predict`.
#[test]
fn trnasformer_and_he2rna_train() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let part = |name: &str| format!("{:?}", text(&cohort().join(name)));
    let slides: Vec<String> = (1..=16).map(|s| format!("S{s:02}")).collect();
    let lines = slides.iter().enumerate();
    let lines: String = lines.map(|(i, s)| format!("{s},c{}\n", i % 2)).collect();
    std::fs::write(at("classes.csv"), format!("slide,class\n{lines}")).expect("classes");
    let common = format!(
        "seed = 3\n\
         [data]\nlayout = \"tiles\"\npath = {}\nexpression = {}\nslides = {}\n\
         [features]\nencoder = \"densenet121\"\ntile_px = 64\n\
         [split]\nouter_folds = 2\ninner_folds = 2\n\
         [bags]\nper_slide = 2\nwrite = true\n\
         [training]\nepochs = 2\nbatch = 8\n\
         [model]\nwidth = 12\nheads = 2\nhidden = [8]\n",
        part("tiles"),
        part("expression.csv"),
        part("slides.csv")
    );
    let config = at("run.toml");
    for (network, classes) in [
        ("trnasformer", "classes = \"classes.csv\"\n"),
        ("he2rna", ""),
    ] {
        std::fs::write(&config, format!("{common}{classes}")).expect("a run file");
        let out = at(network);
        let train = [
            "train",
            network,
            "--config",
            text(&config),
            "--out",
            text(&out),
        ];
        let said = succeeds(train);
        assert!(said.contains("held-out samples   15"), "{said}");
        assert_eq!(said.contains("classes of slides"), network == "trnasformer");
        for file in [
            "predictions.csv",
            "measured.csv",
            "genes.csv",
            "summary.json",
        ] {
            assert!(out.join(file).exists(), "{file}");
        }
        assert_eq!(out.join("classes.csv").exists(), network == "trnasformer");
        // A run that is there is not written over, and one that is finished stays.
        fails(train, &["holds a run already", "--resume"]);
        let before = files(&out);
        succeeds(train.iter().chain(&["--resume"]));
        assert_eq!(files(&out), before);

        // All slides as if they were another cohort's.
        let (tiles, other) = (cohort().join("tiles"), at(&format!("{network}-other")));
        let (expression, patients) = (cohort().join("expression.csv"), cohort().join("slides.csv"));
        let (known, out_of) = (at("classes.csv"), text(&out));
        let mut evaluate = vec!["evaluate", "--run", out_of, "--data", text(&tiles)];
        evaluate.extend([
            "--expression",
            text(&expression),
            "--slides",
            text(&patients),
        ]);
        evaluate.extend(["--out", text(&other)]);
        if network == "trnasformer" {
            let said = succeeds(&evaluate);
            assert!(said.contains(text(&other.join("classes.csv"))), "{said}");
            let guessed = std::fs::read_to_string(other.join("classes.csv")).expect("classes");
            assert!(
                guessed.starts_with("sample,predicted,c0,c1\nS01,c"),
                "{guessed}"
            );
            evaluate.extend(["--classes", text(&known)]);
        } else {
            let more = [&evaluate[..], &["--classes", text(&known)]].concat();
            fails(more, &["tells no classes apart", "model.classes"]);
        }
        let scored = json([&evaluate[..], &["--json"]].concat());
        assert_eq!(scored["samples"], 16, "{scored}");
        assert_eq!(
            scored["classes"]["slides"]["count"] == 16,
            network == "trnasformer"
        );
        assert_eq!(
            scored["scores"]["same_patient"], true,
            "it was trained on them"
        );
        assert!(
            scored["scores"]["median_relative_rmse"].is_number(),
            "{scored}"
        );
        of_bags_and_networks(network, &out, &other);

        // Whole slides, of which the run does not say at which scale it was trained.
        let (slides, predicted) = (at("slides"), at(&format!("{network}-slides")));
        std::fs::create_dir_all(&slides).expect("a folder");
        crate::slides::put_slide(&slides.join("a.svs"), 1, true, crate::slides::TWO);
        let arguments = [
            "run",
            "--wsi-dir",
            text(&slides),
            "--model",
            text(&out),
            "--output",
            text(&predicted),
            "--mpp",
            "2.0",
            "--json",
        ];
        let made = json(arguments);
        let slide = &made["predicted"][0];
        assert_eq!(slide["maps"].as_array().map(Vec::len), Some(4), "{made}");
        for range in slide["ranges"].as_array().expect("ranges") {
            let ends = [range[0].as_f64(), range[1].as_f64()].map(|v| v.expect("finite"));
            assert!(ends[0] < ends[1], "all tiles are alike: {ends:?}");
        }
        let page = std::fs::read_to_string(predicted.join("report.html")).expect("a page");
        let classes = predicted.join("classes.csv");
        assert_eq!(classes.exists(), network == "trnasformer");
        if network == "trnasformer" {
            let shares: Vec<f64> = (slide["classes"].as_array().expect("shares").iter())
                .map(|v| v.as_f64().expect("a number"))
                .collect();
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-5 && shares.len() == 2);
            let likeliest = if shares[0] > shares[1] { "c0" } else { "c1" };
            let table = std::fs::read_to_string(classes).expect("a table");
            let start = format!("sample,predicted,c0,c1\na,{likeliest},");
            assert!(table.starts_with(&start), "{table}");
            assert!(
                page.contains(&format!("{likeliest} (0.")),
                "not in the report"
            );
            let data = eosin::formats::h5ad::read(predicted.join("predictions.h5ad"));
            let columns = data.expect("AnnData").obs.columns;
            assert!(columns.iter().any(|(name, _)| name == "class_c1"));
            // Known the second time.
            let again = json(arguments);
            assert_eq!(again["predicted"][0]["classes"], slide["classes"]);
        }

        let x = eosin::formats::Array::from_f32(&[2, 1, 224, 224], &vec![0.5; 2 * 224 * 224]);
        eosin::formats::npy::write(at("x.npy"), &x.expect("an array")).expect("an input");
        let (weights, x, y) = (
            out.join("fold0/model0.safetensors"),
            at("x.npy"),
            at("y.npy"),
        );
        let mut predict = vec!["predict", network, "--weights", text(&weights)];
        predict.extend(["--input", text(&x), "--output", text(&y), "--json"]);
        if network == "trnasformer" {
            predict.extend(["--set", "n_heads=2"]);
        }
        let genes = eosin::formats::read_weights(&weights).expect("weights");
        let genes: Vec<String> = serde_json::from_str(&genes.metadata["genes"]).expect("names");
        assert_eq!(json(predict)["genes"], serde_json::json!([2, genes.len()]));
    }
    std::fs::write(&config, common.replace("densenet121", "resnet50")).expect("a run file");
    let out = at("wide");
    let train = [
        "train",
        "he2rna",
        "--config",
        text(&config),
        "--out",
        text(&out),
    ];
    fails(train, &["2048 features", "densenet121"]);
    assert!(!out.exists());
}
