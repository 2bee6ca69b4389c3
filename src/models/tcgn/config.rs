//! The sizes of a network, given or read off its weights.

use super::encoder::CHANNEL_HEADS;
use super::graph_block::EDGES_PER_NODE;
use crate::error::{Error, Result};

/// The four stages of the trunk, as their keys name them.
pub(super) const STAGES: [char; 4] = ['a', 'b', 'c', 'd'];

/// How many times smaller, on a side, keys and values of each stage are.
pub(super) const REDUCTIONS: [usize; 4] = [8, 4, 2, 1];

/// Sizes and semantics of a network. One value per stage where there are four.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub genes: usize,
    /// Pixels on a side of a tile.
    pub image: usize,
    /// Channels of the stem.
    pub stem: usize,
    pub widths: [usize; 4],
    /// Channels inside the feed-forward networks.
    pub hidden: [usize; 4],
    pub heads: [usize; 4],
    pub depths: [usize; 4],
    /// Features that the head reads.
    pub features: usize,
    /// In graph layers, encoder blocks and before the head.
    pub dropout: f64,
    /// What the published code does to a batch: sample i of B takes the messages
    /// of sample B - 1 - i, ties make every sample's graph grow, and a node
    /// without edges makes its sample NaN. By default no output depends on batch
    /// mates and every output is a number.
    pub reference_quirks: bool,
}

impl Config {
    /// The published network for this many genes.
    pub fn new(genes: usize) -> Self {
        Self {
            genes,
            image: 224,
            stem: 16,
            widths: [46, 92, 184, 368],
            hidden: [165, 331, 662, 1324],
            heads: [1, 2, 4, 8],
            depths: [2, 2, 10, 2],
            features: 1280,
            dropout: 0.1,
            reference_quirks: false,
        }
    }

    /// Nodes on a side of either graph.
    pub(super) fn grid(&self) -> usize {
        self.image / 16
    }

    /// # Errors
    /// Sizes that make no network.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |problem: String| Err(Error::op("tcgn", problem));
        if self.image == 0 || !self.image.is_multiple_of(32) || self.image > 1024 {
            let px = self.image;
            return wrong(format!(
                "tiles of {px} px are not a multiple of 32 up to 1024"
            ));
        }
        let nodes = self.grid() * self.grid();
        if nodes < EDGES_PER_NODE || !nodes.is_multiple_of(CHANNEL_HEADS) {
            return wrong(format!("a graph cannot have {nodes} nodes"));
        }
        let sizes = [self.genes, self.stem, self.features];
        let stages = [self.widths, self.hidden, self.heads, self.depths];
        if sizes.iter().chain(stages.iter().flatten()).any(|&n| n == 0) {
            return wrong(format!("{self:?} has a size of 0"));
        }
        for (width, heads) in self.widths.iter().zip(self.heads) {
            if !width.is_multiple_of(heads) {
                return wrong(format!(
                    "a width of {width} does not divide into {heads} heads"
                ));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("a dropout of {} is not in 0..1", self.dropout));
        }
        Ok(())
    }
}

#[cfg(feature = "formats")]
impl Config {
    /// The sizes of the network that has these weights.
    ///
    /// A size is believed where the matrices that grow with it are as large, so a
    /// file never asks for a network that is much larger than the file.
    ///
    /// # Errors
    /// A tensor that tells a size is absent or does not fit the others; the
    /// message names it.
    pub fn of(weights: &crate::formats::Weights, path: &std::path::Path) -> Result<Self> {
        let not_tcgn = |key: &str| {
            let found = match weights.get(key) {
                Some(array) => format!("is of shape {:?}", array.shape),
                None => "is missing".to_owned(),
            };
            Error::file(
                path,
                format!("key `{key}`"),
                format!("it {found}: these are no weights of TCGN"),
                "use the state_dict of a TCGN: `eosin inspect` lists keys and shapes",
            )
        };
        // The size along an axis of a tensor that has elements.
        let size = |key: &str, axis: usize| {
            let shape = weights.get(key).map(|array| &array.shape[..]);
            match shape.and_then(|s| s.get(axis)) {
                Some(&n) if shape.is_some_and(|s| s.iter().all(|&d| d > 0)) => Ok(n),
                _ => Err(not_tcgn(key)),
            }
        };
        let is = |key: String, shape: &[usize]| match weights.get(&key) {
            Some(array) if array.shape == shape => Ok(()),
            _ => Err(not_tcgn(&key)),
        };
        let of_stage = |key: &str, axis: usize| -> Result<[usize; 4]> {
            let mut sizes = [0; 4];
            for (size_of, stage) in sizes.iter_mut().zip(STAGES) {
                *size_of = size(&key.replace('?', &stage.to_string()), axis)?;
            }
            Ok(sizes)
        };
        let mut config = Self {
            image: 4 * size("relative_pos_a", 1)?.isqrt(),
            stem: size("stem_conv2.weight", 0)?,
            widths: of_stage("blocks_?.0.attn.q.weight", 0)?,
            hidden: of_stage("blocks_?.0.mlp.conv1.0.weight", 0)?,
            heads: of_stage("relative_pos_?", 0)?,
            features: size("_fc.weight", 0)?,
            ..Self::new(size("head.2.weight", 0)?)
        };
        for (stage, depth) in STAGES.iter().zip(&mut config.depths) {
            let block = |i: usize| format!("blocks_{stage}.{i}.attn.q.weight");
            *depth = (0..)
                .take_while(|&i| weights.get(&block(i)).is_some())
                .count();
        }
        let (stem, widths, features) = (config.stem, config.widths, config.features);
        is("stem_conv2.weight".into(), &[stem, stem, 3, 3])?;
        for (i, stage) in STAGES.iter().enumerate() {
            let (width, hidden) = (widths[i], config.hidden[i]);
            for block in 0..config.depths[i] {
                let prefix = format!("blocks_{stage}.{block}");
                is(format!("{prefix}.attn.q.weight"), &[width, width])?;
                let conv1 = [hidden, width, 1, 1];
                is(format!("{prefix}.mlp.conv1.0.weight"), &conv1)?;
            }
        }
        is("_fc.weight".into(), &[features, widths[3], 1, 1])?;
        is("head.0.weight".into(), &[4 * features, features])?;
        is("head.2.weight".into(), &[config.genes, 4 * features])?;
        let nodes = config.grid() * config.grid();
        let positions = [super::graph_block::HEADS, nodes, nodes];
        is("gnn_block0.relative_pos".into(), &positions)?;
        Ok(config)
    }
}
