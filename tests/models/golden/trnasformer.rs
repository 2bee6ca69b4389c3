//! tRNAsformer and HE2RNA. On CUDA, through the emulator, are the evaluation of two
//! blocks, HE2RNA and the bag's image in full size; of twelve blocks and of training
//! a network of their structure, a sixteenth as wide, against the CPU.

use eosin::models::trnasformer::{Config, He2Rna, KS, Targets, Trnasformer, bag};

use super::cuda::{close, emulated, left_out};
use super::*;

/// A single f32 that is off by its last bit is far beyond this; norms of the same
/// numbers added up in another order are within it.
const EXACT: f64 = 1e-12;

type Run = fn(&str, &Device) -> Result<()>;

const CASES: [(&str, Run); 8] = [
    ("trnasformer_eval_d2", eval),
    ("trnasformer_eval_d12", eval),
    ("trnasformer_train_d2_k10", train),
    ("trnasformer_train_d2_k49", train),
    ("trnasformer_bag_image", bag_image),
    ("he2rna_eval", he2rna_eval),
    ("he2rna_masked_eval", he2rna_eval),
    ("he2rna_train_k10", he2rna_train),
];

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, run) in CASES {
        let cpu = move || run(name, &Device::Cpu);
        all.push(trial(format!("golden::{name}::cpu"), cpu));
        let cuda = move || match name {
            "trnasformer_eval_d12" => deep_on_cuda(name),
            "trnasformer_train_d2_k10" | "trnasformer_train_d2_k49" => train_on_cuda(name),
            _ => run(name, &emulated()?),
        };
        all.push(trial(format!("golden::{name}::cuda"), cuda));
    }
    all.push(trial("trnasformer::parts", parts_are_the_whole));
    all
}

fn config(case: &Case) -> Config {
    let number = |key: &str| case.manifest["config"][key].as_u64().expect("a number") as usize;
    Config {
        width: number("embed_dim"),
        depth: number("depth"),
        heads: number("n_heads"),
        hidden: number("mlp_ratio") * number("embed_dim"),
        genes: Some(number("n_genes")),
        classes: number("n_classes"),
        positions: true,
    }
}

fn eval(name: &str, device: &Device) -> Result<()> {
    let mut case = Case::read(name);
    let model = Trnasformer::new(config(&case), &mut Philox::new(0))?;
    case.fill(&[&model])?;
    model.to_device(device)?;
    let x = case.input(0)?.to(device)?;
    let features = bag::features(&x)?;
    let pass = Pass::eval();
    case.tensor("patch_embed", &model.embed(&features, &pass)?, 1e-5)?;
    let tokens = model.tokens(&features, &pass)?;
    case.tensor("features", &tokens, 1e-5)?;

    // The scores, which no forward pass keeps, are those of bags of one tile: its
    // highest.
    let genes = case.manifest["config"]["n_genes"]
        .as_u64()
        .expect("a count") as usize;
    let state = model.state();
    let value = |key: &str| {
        let entry = state.iter().find(|(k, _)| k == key);
        entry.unwrap_or_else(|| panic!("no {key}")).1.value()
    };
    let weight = ops::reshape(&value("conv.weight"), &[genes, config(&case).width])?;
    let tiles = ops::slice(&tokens, 1, 1, bag::TILES)?;
    let bias = value("conv.bias");
    let scores = ops::linear(&tiles, &weight, Some(&bias), ops::Activation::None)?;
    case.tensor("tile_gene_scores", &ops::transpose(&scores, 1, 2)?, 1e-5)?;

    let each = model.genes_at_each(&tokens, &KS)?;
    for (i, k) in KS.iter().enumerate() {
        let name = format!("gene_preds_k{k}");
        let of_all = ops::reshape(&ops::slice(&each, 1, i, 1)?, &[4, genes])?;
        case.tensor(&name, &of_all, 1e-5)?;
        case.tensor(&name, &model.genes_at(&tokens, *k, &pass)?, 1e-5)?;
    }
    let outputs = model.predict(&x)?;
    let names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["genes", "logits", "cls"]);
    case.tensor("gene_preds", &outputs[0].1, 1e-5)?;
    case.tensor("class_logits", &outputs[1].1, 1e-5)?;
    close("cls", &outputs[2].1, &model.class_token(&tokens)?, 0.0)?;
    case.finish();
    Ok(())
}

/// The k of a case in training.
fn k(case: &Case) -> usize {
    let ks: Vec<usize> = serde_json::from_value(case.manifest["config"]["ks"].clone()).expect("ks");
    assert_eq!(ks.len(), 1);
    ks[0]
}

fn train(name: &str, device: &Device) -> Result<()> {
    let mut case = Case::read(name);
    let k = k(&case);
    let mut model = Trnasformer::new(config(&case), &mut Philox::new(0))?;
    model.dropout = 0.0;
    case.fill(&[&model])?;
    model.to_device(device)?;
    let features = bag::features(&case.input(0)?)?.to(device)?;
    let (genes, labels) = (case.input(1)?.to(device)?, labels(&case)?.to(device)?);
    let pass = Pass::train(Philox::new(0));
    let tokens = model.tokens(&features, &pass)?;
    let predicted = model.genes_at(&tokens, k, &pass)?;
    case.tensor("gene_preds", &predicted, 1e-5)?;
    let logits = model.classify(&tokens, &pass)?;
    case.tensor("class_logits", &logits, 1e-5)?;
    case.tensor("loss_mse", &ops::mse_loss(&predicted, &genes)?, 1e-5)?;
    case.tensor("loss_ce", &ops::cross_entropy(&logits, &labels)?, 1e-5)?;
    drop((tokens, predicted, logits));
    let inputs = [features, genes, labels];
    adam(&mut case, &model, &inputs, &|inputs, pass| {
        let targets = Targets {
            genes: Some(&inputs[1]),
            labels: Some(&inputs[2]),
        };
        model.loss(&inputs[0], &targets, Some(k), pass)
    })?;
    case.finish();
    Ok(())
}

fn bag_image(name: &str, device: &Device) -> Result<()> {
    let mut case = Case::read(name);
    let features = case.input(0)?.to(device)?;
    let image = bag::image(&features)?;
    assert_eq!(image.shape(), [2, 1, bag::PIXELS, bag::PIXELS]);
    let flat = ops::reshape(&image, &[2, bag::PIXELS, bag::PIXELS])?;
    case.tensor("bag_image", &flat, EXACT)?;
    let back = bag::features(&image)?;
    assert_eq!(back.to_f32_vec()?, features.to_f32_vec()?);
    case.tensor("he2rna_unpacked", &ops::transpose(&back, 1, 2)?, EXACT)?;
    // Numbers below 2^24 are exact in f32.
    let n = bag::TILES * bag::FEATURES;
    let numbers: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let numbers = Tensor::from_slice(&numbers, &[1, bag::TILES, bag::FEATURES])?;
    let image = bag::image(&numbers.to(device)?)?;
    let flat = ops::reshape(&image, &[bag::PIXELS, bag::PIXELS])?;
    assert!(flat.to_f64_vec()? == array(&case.arrays(), "index_image"));
    case.compared.insert("index_image".to_owned());
    case.finish();
    for wrong in [&[2, 48, 1024][..], &[49, 1024], &[1, 49, 1023]] {
        assert!(bag::image(&Tensor::zeros(wrong, DType::F32)?).is_err());
    }
    for wrong in [&[2, 3, 224, 224][..], &[1, 224, 224], &[1, 1, 224, 223]] {
        assert!(bag::features(&Tensor::zeros(wrong, DType::F32)?).is_err());
    }
    Ok(())
}

/// The features of HE2RNA's input, after the manifest's edit: blocks of masked tiles
/// become -|x|.
fn he2rna_input(case: &Case) -> Result<Tensor> {
    let features = bag::features(&case.input(0)?)?;
    let mut values = features.to_f32_vec()?;
    if let Some(masked) = case.manifest["masked_tiles"].as_object() {
        for (sample, tiles) in masked {
            let sample: usize = sample.parse().expect("a sample");
            for tile in tiles.as_array().expect("tiles") {
                let row = sample * bag::TILES + tile.as_u64().expect("a tile") as usize;
                let row = row * bag::FEATURES;
                (values[row..row + bag::FEATURES].iter_mut()).for_each(|v| *v = -v.abs());
            }
        }
    }
    Tensor::from_slice(&values, features.shape())
}

fn he2rna(case: &Case) -> Result<He2Rna> {
    let config = &case.manifest["config"];
    let number = |v: &Value| v.as_u64().expect("a width") as usize;
    let hidden = config["layers"].as_array().expect("layers");
    let mut widths = vec![number(&config["input_dim"])];
    widths.extend(hidden.iter().map(number));
    widths.push(number(&config["output_dim"]));
    let mut model = He2Rna::new(&widths, &mut Philox::new(0))?;
    model.dropout = 0.0;
    case.fill(&[&model])?;
    Ok(model)
}

fn he2rna_eval(name: &str, device: &Device) -> Result<()> {
    let mut case = Case::read(name);
    let model = he2rna(&case)?;
    model.to_device(device)?;
    let features = he2rna_input(&case)?.to(device)?;
    let each = model.genes_at_each(&features, &KS)?;
    for (i, k) in KS.iter().enumerate() {
        let name = format!("gene_preds_k{k}");
        let of_all = ops::reshape(&ops::slice(&each, 1, i, 1)?, &[4, 256])?;
        case.tensor(&name, &of_all, 1e-5)?;
        let alone = model.genes_at(&features, *k, &Pass::eval())?;
        case.tensor(&name, &alone, 1e-5)?;
    }
    let outputs = model.predict(&bag::image(&features)?)?;
    assert_eq!((outputs.len(), outputs[0].0), (1, "genes"));
    case.tensor("gene_preds", &outputs[0].1, 1e-5)?;
    case.finish();
    Ok(())
}

fn he2rna_train(name: &str, device: &Device) -> Result<()> {
    let mut case = Case::read(name);
    let (model, k) = (he2rna(&case)?, k(&case));
    model.to_device(device)?;
    let (x, genes) = (he2rna_input(&case)?.to(device)?, case.input(1)?.to(device)?);
    let pass = Pass::train(Philox::new(0));
    case.tensor("gene_preds", &model.genes_at(&x, k, &pass)?, 1e-5)?;
    adam(&mut case, &model, &[x, genes], &|inputs, pass| {
        model.loss(&inputs[0], &inputs[1], Some(k), pass)
    })?;
    case.finish();
    Ok(())
}

/// The case's structure in what the emulator can afford.
fn thin(case: &Case) -> Result<Trnasformer> {
    let config = Config {
        width: 24,
        hidden: 96,
        genes: Some(40),
        ..config(case)
    };
    let mut model = Trnasformer::new(config, &mut Philox::new(0))?;
    model.dropout = 0.0;
    fill(&model)?;
    Ok(model)
}

const THIN: &str = "a network of width 24 against the CPU";

fn deep_on_cuda(name: &str) -> Result<()> {
    let case = Case::read(name);
    left_out(&case, name, THIN);
    let x = ops::slice(&case.input(0)?, 0, 0, 2)?;
    let model = thin(&case)?;
    let want = model.predict(&x)?;
    let device = emulated()?;
    model.to_device(&device)?;
    for ((name, got), (_, want)) in model.predict(&x.to(&device)?)?.iter().zip(&want) {
        close(name, got, want, 1e-5)?;
    }
    Ok(())
}

/// Gradients, and the losses of four steps, of which CUDA replays the last three.
fn train_on_cuda(name: &str) -> Result<()> {
    let case = Case::read(name);
    left_out(&case, name, THIN);
    let run = |device: &Device| -> Result<(Vec<Tensor>, Vec<f64>)> {
        let model = thin(&case)?;
        model.to_device(device)?;
        let genes = ops::slice(&case.input(1)?, 1, 0, 40)?;
        let genes = genes.to_format(eosin::shape::Format::Contiguous)?;
        let inputs = [bag::features(&case.input(0)?)?, genes, labels(&case)?];
        let inputs = inputs.map(|x| x.to(device).expect("room on the device"));
        let loss = |inputs: &[Tensor], pass: &Pass| {
            let targets = Targets {
                genes: Some(&inputs[1]),
                labels: Some(&inputs[2]),
            };
            model.loss(&inputs[0], &targets, Some(k(&case)), pass)
        };
        let params = model.parameters();
        let gradients = {
            let loss = loss(&inputs, &Pass::train(Philox::new(0)))?;
            let of = recorded(&params);
            grad(&[&loss], None, &of.iter().collect::<Vec<_>>(), false)?
        };
        let gradients = gradients.into_iter().map(|g| g.expect("a gradient"));
        let gradients = gradients.collect();
        let optimizer = Optimizer::new(AdamW::default(), params)?;
        let mut step = TrainingStep::new(&model, optimizer, &loss)?;
        let losses = (0..4).map(|_| step.take(&inputs, Philox::new(0))?.item());
        Ok((gradients, losses.collect::<Result<_>>()?))
    };
    let (want, got) = (run(&Device::Cpu)?, run(&emulated()?)?);
    assert_eq!(got.0.len(), want.0.len());
    for (i, (got, want)) in got.0.iter().zip(&want.0).enumerate() {
        close(&format!("gradient {i}"), got, want, 1e-4)?;
    }
    for (got, want) in got.1.iter().zip(&want.1) {
        assert!((got - want).abs() <= 1e-4 * want, "{got}, not {want}");
    }
    Ok(())
}

/// A head of so many genes that their scores are computed in parts.
fn parts_are_the_whole() -> Result<()> {
    let bags = 16;
    let genes = 6000; // of 16 * 49 scores each: more than 2^22
    let config = Config {
        width: 6,
        depth: 0,
        heads: 1,
        hidden: 6,
        genes: Some(genes),
        classes: 2,
        positions: false,
    };
    let model = Trnasformer::new(config, &mut Philox::new(0))?;
    fill(&model)?;
    let x = crate::formula_weights::input("parts", &[bags, 1, 224, 224])?;
    let tokens = model.tokens(&bag::features(&x)?, &Pass::eval())?;
    let all = model.genes_at_each(&tokens, &KS)?;
    assert_eq!(all.shape(), [bags, KS.len(), genes]);
    for (i, &k) in KS.iter().enumerate() {
        let got = ops::reshape(&ops::slice(&all, 1, i, 1)?, &[bags, genes])?;
        close(
            "genes",
            &got,
            &model.genes_at(&tokens, k, &Pass::eval())?,
            1e-5,
        )?;
    }
    for k in [0, 50] {
        assert!(model.genes_at(&tokens, k, &Pass::eval()).is_err());
        assert!(model.genes_at_each(&tokens, &[1, k]).is_err());
    }
    Ok(())
}
