//! What a network looks at: Grad-CAM (Selvaraju et al. 2017) of a gene at a module,
//! and the strongest edges of the graphs that it learnt to draw.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::Tcgn;
use crate::autograd::grad;
use crate::error::{Error, Result};
use crate::nn::Pass;
use crate::ops;
use crate::tensor::Tensor;

/// An edge between two nodes, which are numbered by rows of the grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    pub from: usize,
    pub to: usize,
    /// Mean over heads.
    pub attention: f32,
}

/// What was found for one tile and gene.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub prediction: f64,
    /// Grad-CAM, (rows, columns) over the tile, from 0 to 1 at the most important
    /// place; all 0 where nothing at the module speaks for the gene.
    pub heat: Vec<f32>,
    pub columns: usize,
    /// Nodes on a side of either graph.
    pub side: usize,
    /// Strongest first, of the graph on the first and on the second stage's image,
    /// without self loops.
    pub edges: [Vec<Edge>; 2],
}

impl Tcgn {
    /// The modules that [`Self::explain`] knows, with how many places on a side of a
    /// tile each has, in the order of the computation.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn layers(&self) -> Result<Vec<(String, usize)>> {
        let px = self.config().image;
        let device = self.fc.weight.value().device();
        let tile = Tensor::zeros(&[1, 3, px, px], crate::DType::F32)?.to(&device)?;
        let seen = RefCell::new(Vec::new());
        let watch = |name: &str, x: &Tensor| {
            if let Some((_, side)) = places(x)
                && is_layer(name)
            {
                seen.borrow_mut().push((name.to_owned(), side));
            }
        };
        self.forward_watched(&tile, &Pass::eval(), Some(&watch))?;
        Ok(seen.into_inner())
    }

    /// Grad-CAM of one output at the module `layer`, and the `edges` strongest edges
    /// of each graph, of one tile (1, 3, H, W): a module's channels are weighted by
    /// their mean gradient, summed, and what is below 0 is left out.
    ///
    /// # Errors
    /// A module that is not one of [`Self::layers`]; a gene that is none; several
    /// tiles.
    pub fn explain(
        &self,
        tile: &Tensor,
        gene: usize,
        layer: &str,
        edges: usize,
    ) -> Result<Explanation> {
        let known = self.layers()?;
        if !known.iter().any(|(name, _)| name == layer) {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::usage(
                format!("there is no layer `{layer}` with places on the tile"),
                format!("use one of {}", names.join(", ")),
            ));
        }
        if tile.shape().first() != Some(&1) || gene >= self.config().genes {
            let expected = format!("one tile and a gene below {}", self.config().genes);
            return Err(Error::shape("explain", &[tile.shape(), &[gene]], expected));
        }
        let seen: RefCell<BTreeMap<String, Tensor>> = RefCell::default();
        let wanted = [layer, GRAPHS[0], GRAPHS[1]];
        let watch = |name: &str, x: &Tensor| {
            if wanted.contains(&name) {
                seen.borrow_mut().insert(name.to_owned(), x.clone());
            }
        };
        let y = self.forward_watched(tile, &Pass::eval_recorded(), Some(&watch))?;
        let seen = seen.into_inner();
        let of = |name: &str| {
            let missing = || Error::op("explain", format!("internal: {name} was not shown"));
            seen.get(name).ok_or_else(missing)
        };
        let features = of(layer)?;
        let y = ops::slice(&y, 1, gene, 1)?;
        let found = grad(&[&y], None, &[features], false)?;
        let Some(Some(gradient)) = found.into_iter().next() else {
            return Err(Error::op(
                "explain",
                format!("no output depends on {layer}"),
            ));
        };
        let (heat, columns) = class_activation(features, &gradient)?;
        let side = self.config().grid();
        let strongest = |name: &str| -> Result<Vec<Edge>> {
            let attention = of(name)?.to_f32_vec()?;
            Ok(strongest(&attention, side * side, edges))
        };
        Ok(Explanation {
            prediction: y.item()?,
            heat,
            columns,
            side,
            edges: [strongest(GRAPHS[0])?, strongest(GRAPHS[1])?],
        })
    }
}

/// The mean attention that each graph is made from: (B, N, N).
const GRAPHS: [&str; 2] = ["gnn_block0.mean_graph", "gnn_block1.mean_graph"];

/// Modules of the trunk and of its ends.
fn is_layer(name: &str) -> bool {
    ["stem_norm", "blocks_", "_fc", "_bn", "_swish"]
        .iter()
        .any(|start| name.starts_with(start))
        && name.split('.').count() <= 2
}

/// Channels and the places on a side of a square image (1, C, H, H), or tokens
/// (1, H H, C) of one.
fn places(x: &Tensor) -> Option<(usize, usize)> {
    match x.shape()[..] {
        [_, channels, h, w] if h == w && h > 1 => Some((channels, h)),
        [_, tokens, channels] if tokens > 1 && tokens.isqrt().pow(2) == tokens => {
            Some((channels, tokens.isqrt()))
        }
        _ => None,
    }
}

fn class_activation(features: &Tensor, gradient: &Tensor) -> Result<(Vec<f32>, usize)> {
    // Tokens to the order of an image: (C, places).
    let channels_first = |x: &Tensor| match x.rank() {
        3 => ops::transpose(x, 1, 2),
        _ => Ok(x.clone()),
    };
    let (Some((channels, side)), x) = (places(features), channels_first(&features.detach())?)
    else {
        return Err(Error::shape("explain", &[features.shape()], "an image"));
    };
    let flat = |x: &Tensor| ops::reshape(x, &[channels, side * side])?.to_f64_vec();
    let (x, slope) = (flat(&x)?, flat(&channels_first(&gradient.detach())?)?);
    let mut heat = vec![0.0f64; side * side];
    for (x, slope) in x.chunks(side * side).zip(slope.chunks(side * side)) {
        let weight = slope.iter().sum::<f64>() / slope.len() as f64;
        heat.iter_mut().zip(x).for_each(|(h, x)| *h += weight * x);
    }
    let highest = heat.iter().copied().fold(0.0, f64::max);
    let share = |h: f64| {
        if highest > 0.0 {
            h.max(0.0) / highest
        } else {
            0.0
        }
    };
    Ok((heat.into_iter().map(|h| share(h) as f32).collect(), side))
}

/// The largest entries off the diagonal of (nodes, nodes), of equal ones the first.
fn strongest(attention: &[f32], nodes: usize, count: usize) -> Vec<Edge> {
    let all = attention.iter().enumerate().map(|(i, &attention)| Edge {
        from: i / nodes,
        to: i % nodes,
        attention,
    });
    let mut edges: Vec<Edge> = all.filter(|e| e.from != e.to).collect();
    edges.sort_by(|a, b| b.attention.total_cmp(&a.attention));
    edges.truncate(count);
    edges
}
