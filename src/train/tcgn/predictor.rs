//! Predicts spots with the networks of a finished run, or with one file of weights.

use std::collections::BTreeSet;
use std::path::Path;

use super::FoldRecord;
use super::config::{TcgnConfig, per_ten_thousand};
use crate::cohort::{Cohort, Colours, TileSpec, for_each_input};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::genes::read_list;
use crate::expression::{FittedTransforms, Table};
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{Weights, read_weights};
use crate::models::tcgn::{Config, Tcgn};
use crate::nn::{self, Pass, State};
use crate::ops;
use crate::random::Philox;
use crate::slides::stain::Method;
use crate::tensor::Tensor;
use crate::train::config::{Precision, RunFile};
use crate::train::progress::Control;
use crate::train::run::{OfSlide, common_genes, fold_records, on_scale, places};
use crate::train::seen::Seen;

/// Networks whose mean is the prediction.
pub struct Predictor {
    networks: Vec<Network>,
    /// Whom they were trained on, as far as that is known.
    patients: BTreeSet<String>,
    /// Genes that every network predicts, in the order of the first.
    genes: Vec<String>,
    /// Of a run.
    pub config: Option<TcgnConfig>,
    /// Of which tiles they learned, if the run or the file says.
    pub seen: Option<Seen>,
    /// How colours are normalised: as in training.
    stain: Option<Method>,
    /// Of the files of weights.
    pub sha256: String,
    device: Device,
    dtype: Precision,
}

struct Network {
    model: Tcgn,
    transforms: FittedTransforms,
}

impl Network {
    fn model(weights: &Weights, path: &Path, quirks: bool) -> Result<Tcgn> {
        let config = Config {
            reference_quirks: quirks,
            ..Config::of(weights, path)?
        };
        let model = Tcgn::new(&config, &mut Philox::new(0))?;
        nn::load(&model, weights, path)?;
        Ok(model)
    }
}

impl Predictor {
    /// The folder of a finished run: all its folds' networks.
    ///
    /// # Errors
    /// A file that is missing (the run is not finished) or broken.
    pub fn of_run(run: &Path, device: &Device, dtype: Precision) -> Result<Self> {
        let config = TcgnConfig::read(&run.join("config.toml"))?;
        let (mut networks, mut patients) = (Vec::new(), BTreeSet::new());
        let mut hashes = String::new();
        for (folder, record) in fold_records::<FoldRecord>(run)? {
            let path = folder.join("model.safetensors");
            let weights = read_weights(&path)?;
            hashes += &sha256_file(&path)?;
            let model = Network::model(&weights, &path, config.model.reference_quirks)?;
            same_number(&path, model.config().genes, record.genes.len())?;
            networks.push(Network {
                model,
                transforms: record.transforms,
            });
            patients.extend(record.patients);
        }
        let seen = Seen::read(run)?;
        Self::new(networks, dtype, device).map(|made| Self {
            patients,
            stain: config.stain,
            config: Some(config),
            seen,
            sha256: sha256_bytes(hashes.as_bytes()),
            ..made
        })
    }

    /// One file of weights. Its genes are those of `list`, one a line, or those that
    /// the file of a run names; measured counts are taken to the published scale. Colours
    /// are normalised as the file says, or as `stain` where it does not.
    ///
    /// # Errors
    /// A file that is missing or broken; no names of genes, or another number of them
    /// than the network predicts; another `stain` than the file says.
    pub fn of_weights(
        path: &Path,
        list: Option<&Path>,
        stain: Option<Method>,
        device: &Device,
        dtype: Precision,
    ) -> Result<Self> {
        let weights = read_weights(path)?;
        let sha256 = sha256_file(path)?;
        let named = weights.metadata.get("genes");
        let genes: Vec<String> = match (list, named.map(|g| serde_json::from_str(g))) {
            (Some(list), _) => read_list(list)?,
            (None, Some(Ok(genes))) => genes,
            (None, _) => {
                return Err(Error::file(
                    path,
                    "",
                    "does not name the genes that it predicts",
                    "give their names, one a line, with --genes-file",
                ));
            }
        };
        let model = Network::model(&weights, path, false)?;
        same_number(list.unwrap_or(path), model.config().genes, genes.len())?;
        // Nothing is learnt from the row: the published scale is of each spot alone.
        let values = vec![0.0; genes.len()];
        let samples = vec![String::new()];
        let one = Table {
            samples,
            genes,
            values,
        };
        let transforms = FittedTransforms::fit(&per_ten_thousand().transforms, &one, &[0])?;
        let seen = Seen::of_weights(&weights);
        let stain = Seen::stain_of(seen.as_ref(), stain)?;
        let networks = vec![Network { model, transforms }];
        Self::new(networks, dtype, device).map(|made| Self {
            seen,
            stain,
            sha256,
            ..made
        })
    }

    fn new(networks: Vec<Network>, dtype: Precision, device: &Device) -> Result<Self> {
        for network in &networks {
            network.model.to_device(device)?;
            dtype.narrow(&network.model)?;
        }
        Ok(Self {
            genes: common_genes(networks.iter().map(|n| &n.transforms)),
            networks,
            patients: BTreeSet::new(),
            config: None,
            seen: None,
            stain: None,
            sha256: String::new(),
            device: device.clone(),
            dtype,
        })
    }

    pub fn genes(&self) -> &[String] {
        &self.genes
    }

    /// How many networks there are.
    pub fn networks(&self) -> usize {
        self.networks.len()
    }

    /// Side in pixels of the tiles that the networks see.
    pub fn image_px(&self) -> usize {
        self.networks.first().map_or(0, |n| n.model.config().image)
    }

    /// The first network, and the places of the genes in its output.
    pub fn first(&self) -> Option<(&Tcgn, &[String])> {
        let first = self.networks.first()?;
        Some((&first.model, first.transforms.genes()))
    }

    /// Whether a patient of `cohort` is one that a network was trained on.
    pub fn trained_on(&self, cohort: &Cohort) -> bool {
        let mut samples = cohort.samples.iter();
        samples.any(|s| self.patients.contains(&s.patient))
    }

    /// The mean prediction of all networks for each spot: (spots, genes). Spots whose
    /// tile cannot be used are taken out of the cohort. Images are decoded as in
    /// [`crate::cohort::for_each_batch`], tiles are made `batch` at a time.
    ///
    /// # Errors
    /// No spot left; a stop request.
    pub fn predict(&self, cohort: &mut Cohort, batch: usize, control: Control) -> Result<Vec<f32>> {
        let (px, width) = (self.image_px(), self.genes.len());
        let mut of_tile = vec![0.0f64; cohort.tiles.len() * width];
        let colours = Colours::fit(cohort, self.stain, px)?;
        for slide in colours.unfitted() {
            let note = format!("{slide}: its stain cannot be fitted, so it is left as it is");
            control.progress.note(&note);
        }
        control.progress.begin("predicting", cohort.tiles.len());
        let mut done = 0;
        let spec = TileSpec::imagenet(px, batch);
        let unused = for_each_input(cohort, &spec, &colours, &self.device, |x, tiles| {
            control.check("nothing was written")?;
            let rows = self.tiles(&x)?;
            for (&tile, row) in tiles.iter().zip(rows.chunks(width.max(1))) {
                of_tile[tile * width..(tile + 1) * width].copy_from_slice(row);
            }
            done += tiles.len();
            control.progress.at(done, "");
            Ok(())
        })?;
        control.progress.end();
        cohort.drop_tiles(&unused)?;
        let own = cohort.samples.iter().filter_map(|s| s.tiles.first());
        let rows = own.flat_map(|&t| &of_tile[t * width..(t + 1) * width]);
        Ok(rows.map(|&v| v as f32).collect())
    }

    /// The mean prediction of all networks for each tile of a batch (N, 3, px, px) on the
    /// device: (N, genes).
    ///
    /// # Errors
    /// Tiles of another size.
    pub fn tiles(&self, x: &Tensor) -> Result<Vec<f64>> {
        let (width, place) = (self.genes.len(), places(&self.genes));
        let share = 1.0 / self.networks.len().max(1) as f64;
        let x = ops::cast(x, self.dtype.dtype())?;
        let mut rows = vec![0.0f64; x.shape().first().map_or(0, |n| n * width)];
        for network in &self.networks {
            let y = network.model.forward(&x, &Pass::eval())?.to_f64_vec()?;
            let genes = network.transforms.genes();
            for (row, y) in rows
                .chunks_mut(width.max(1))
                .zip(y.chunks(genes.len().max(1)))
            {
                for (gene, v) in genes.iter().zip(y) {
                    if let Some(&at) = place.get(gene.as_str()) {
                        row[at] += share * v;
                    }
                }
            }
        }
        Ok(rows)
    }

    /// A slide from the predictions (tiles, genes) of its tiles: their mean, and of each
    /// tile the genes `chosen`.
    pub fn slide(&self, predicted: &[f32], chosen: &[usize]) -> OfSlide {
        let width = self.genes.len();
        let rows = || predicted.chunks_exact(width.max(1));
        let mut sums = vec![0.0f64; width];
        for row in rows() {
            (sums.iter_mut().zip(row)).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        let tiles = rows().len().max(1) as f64;
        OfSlide {
            genes: sums.into_iter().map(|sum| (sum / tiles) as f32).collect(),
            tiles: rows()
                .flat_map(|row| chosen.iter().map(|&gene| row[gene]))
                .collect(),
            classes: Vec::new(),
        }
    }

    /// Where they compute.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Predictions (spots, genes) without their logarithm: counts per 10,000 of the
    /// genes, as the first network's transforms have it.
    ///
    /// # Errors
    /// Values that are not of these genes.
    pub fn linear(&self, predicted: &[f32]) -> Result<Vec<f32>> {
        let Some(first) = self.networks.first() else {
            return Ok(Vec::new());
        };
        let at = places(first.transforms.genes());
        let columns: Vec<usize> = self.genes.iter().map(|g| at[g.as_str()]).collect();
        let mut out = Vec::with_capacity(predicted.len());
        let mut whole = vec![0.0f32; at.len()];
        for row in predicted.chunks(self.genes.len().max(1)) {
            whole.fill(0.0);
            columns.iter().zip(row).for_each(|(&c, &v)| whole[c] = v);
            first.transforms.invert(&mut whole)?;
            out.extend(columns.iter().map(|&c| whole[c].max(0.0)));
        }
        Ok(out)
    }

    /// Measured counts on the scale of the predictions, (spots, genes), and the genes
    /// that the table lacks: they count as 0 there.
    ///
    /// # Errors
    /// None of the genes is in the table.
    pub fn on_scale(&self, table: &Table) -> Result<(Vec<f32>, Vec<String>)> {
        let there = places(&table.genes);
        let mut absent: BTreeSet<String> = BTreeSet::new();
        for network in &self.networks {
            let genes = network.transforms.genes().iter();
            absent.extend(genes.filter(|g| !there.contains_key(g.as_str())).cloned());
        }
        let absent: Vec<String> = absent.into_iter().collect();
        if self.genes.iter().all(|g| absent.contains(g)) {
            return Err(Error::usage(
                format!(
                    "the counts have none of the {} genes that are predicted, such as {}",
                    self.genes.len(),
                    self.genes.first().map_or("", String::as_str)
                ),
                "name genes in both by symbol, or both by Ensembl id",
            ));
        }
        let table = super::with_zeros(table.clone(), &absent);
        let transforms = self.networks.iter().map(|n| &n.transforms);
        Ok((on_scale(transforms, &table)?, absent))
    }
}

fn same_number(path: &Path, predicted: usize, named: usize) -> Result<()> {
    if predicted == named {
        return Ok(());
    }
    Err(Error::file(
        path,
        "",
        format!("{named} genes are named, and the network predicts {predicted}"),
        "give the genes that the weights were trained on, in their order",
    ))
}
