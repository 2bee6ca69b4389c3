//! `eosin predict`: the tool for parity checks and scripts.

use std::collections::BTreeMap;
use std::path::Path;

use super::{PredictArgs, console, spots};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::formats::{Array, Weights, npy, read_weights, safetensors};
use crate::models::registry::{Model, Settings};
use crate::nn::{to_array, to_tensor};
use crate::ops;
use crate::session::Threads;
use crate::slides::scale;
use crate::tensor::Tensor;
use crate::train::config::Precision;
use crate::train::progress::Control;
use crate::train::seen::Seen;

pub fn predict(
    args: &PredictArgs,
    dtype: Precision,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let model = Model::named(&args.model)?;
    if args.section.image.is_some() {
        if model.name != "tcgn" {
            return Err(Error::usage(
                format!("{} does not predict a section", model.name),
                "use tcgn, or give --input and --output",
            ));
        }
        let weights = args.weights.as_deref();
        return spots::predict_section(&args.section, weights, dtype, device, json, control);
    }
    let files = (&args.weights, &args.input, &args.output);
    let (Some(weights_path), Some(input_path), Some(output_path)) = files else {
        return Err(Error::usage(
            "--run predicts sections",
            "give --image and --out, or --weights with --input and --output",
        ));
    };
    let output = Output::of(output_path)?;
    let settings = settings(args)?;
    let x = input(input_path, model)?;
    let weights = read_weights(weights_path)?;
    same_scale(args, &weights, input_path, control)?;
    let session = model.session_in(&weights, weights_path, &settings, device, dtype.dtype())?;
    let runner = session.runner(Threads::Caller)?;

    let rows = x.shape().first().copied().unwrap_or(0);
    let batch = model.batch.unwrap_or(rows).max(1);
    control.progress.begin(model.name, rows);
    let mut parts: BTreeMap<&'static str, Vec<Tensor>> = BTreeMap::new();
    for start in (0..rows).step_by(batch) {
        control.check("nothing was written")?;
        let part = ops::slice(&x, 0, start, batch.min(rows - start))?;
        for (name, y) in runner
            .run(&part)
            .map_err(|e| unfit(e, &x, input_path, model))?
        {
            parts.entry(name).or_default().push(y);
        }
        control.progress.at((start + batch).min(rows), "");
    }
    control.progress.end();
    let mut results: Vec<(&str, Array)> = Vec::new();
    for &name in model.outputs {
        let parts: Vec<&Tensor> = parts.get(name).into_iter().flatten().collect();
        let whole = match parts[..] {
            [] => {
                return Err(Error::file(
                    input_path,
                    "",
                    "holds no rows",
                    "give at least one",
                ));
            }
            [one] => one.clone(),
            _ => ops::cat(&parts, 0)?,
        };
        results.push((name, to_array(&whole)?));
    }
    let shapes: BTreeMap<&str, &[usize]> =
        results.iter().map(|(n, a)| (*n, &a.shape[..])).collect();
    let text = match output {
        Output::Npy => format!(
            "{}: {} {:?}",
            output_path.display(),
            results[0].0,
            results[0].1.shape
        ),
        Output::Safetensors => format!("{}: {shapes:?}", output_path.display()),
    };
    match output {
        Output::Npy => npy::write(output_path, &results[0].1)?,
        Output::Safetensors => {
            let mut file = Weights::new();
            for (name, array) in &results {
                file.insert(*name, array.clone())?;
            }
            safetensors::write(output_path, &file)?;
        }
    }
    console::print(json, &shapes, &text)
}

/// That tiles are of the scale that the network was trained at, as far as both are known:
/// an array does not say its own.
fn same_scale(args: &PredictArgs, weights: &Weights, input: &Path, control: Control) -> Result<()> {
    if let Some(mpp) = args.mpp {
        scale::check(mpp, "--mpp")?;
    }
    let what = input.display().to_string();
    let note = match (Seen::of_weights(weights), args.mpp) {
        (None, None) => None,
        (None, Some(_)) => Some(format!(
            "the weights do not say at which scale they were trained, so that of {what} is not checked"
        )),
        (Some(own), Some(mpp)) => own.admit(&what, Some(mpp), args.section.network.any_mpp)?,
        (Some(own), None) => own.mpp.map(|own| {
            format!(
                "the scale of {what} is not checked: the network was trained at {own:.3} µm per \
                 pixel; state that of the tiles with --mpp"
            )
        }),
    };
    if let Some(note) = note {
        control.progress.note(&note);
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Output {
    Npy,
    Safetensors,
}

impl Output {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => Err(Error::usage(
                format!("{} names no output format", path.display()),
                "end its name with .npy (the main output) or .safetensors (every output)",
            )),
        }
    }
}

fn settings(args: &PredictArgs) -> Result<Settings> {
    let mut settings = Settings::new();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let table: toml::Table = toml::from_str(&text)
            .map_err(|e| Error::file(path, "", e.message(), "give key = value lines"))?;
        for (key, value) in table {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            settings.insert(key, text);
        }
    }
    for setting in &args.settings {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(Error::usage(
                format!("--set {setting} has no `=`"),
                "write --set key=value",
            ));
        };
        settings.insert(key.to_owned(), value.to_owned());
    }
    Ok(settings)
}

/// Says of a shape that no operator took whose it is.
fn unfit(error: Error, x: &Tensor, path: &Path, model: &Model) -> Error {
    match error {
        Error::Shape { .. } => Error::file(
            path,
            "",
            format!("holds {:?}, which does not fit: {error}", x.shape()),
            format!("{} takes f32 {}", model.name, model.input),
        ),
        other => other,
    }
}

fn input(path: &Path, model: &Model) -> Result<Tensor> {
    let array = if path.extension().is_some_and(|e| e == "npy") {
        npy::read(path)?
    } else {
        let file = read_weights(path)?;
        let mut arrays = file.iter();
        match (arrays.next(), arrays.next()) {
            (Some((_, array)), None) => array.clone(),
            _ => {
                return Err(Error::file(
                    path,
                    "",
                    format!("holds {} arrays", file.len()),
                    "give a file with one array, the input",
                ));
            }
        }
    };
    if array.dtype != DType::F32 || array.shape.is_empty() {
        return Err(Error::file(
            path,
            "",
            format!("holds {} {:?}", array.dtype, array.shape),
            format!("{} takes f32 {}", model.name, model.input),
        ));
    }
    to_tensor(&array)
}
