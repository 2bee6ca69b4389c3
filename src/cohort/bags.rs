//! Bags of tiles: a slide's tiles are cut into 49 clusters, and a bag has one tile of
//! each (Alsaafin, Safarpoor et al. 2023, Methods).
//!
//! A slide with fewer tiles than places, or with so many equal ones that clusters
//! stay empty, is not left out: each of its different tiles is in every bag, and the
//! places that are left are filled with tiles drawn from all of them. [`Bags::short`]
//! counts such places.

use super::kmeans::{ITERATIONS, Start, kmeans};
use crate::error::{Error, Result};
use crate::random::Philox;

/// The bags of one slide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bags {
    /// Tiles of each bag, by their index among the slide's tiles.
    pub bags: Vec<Vec<usize>>,
    /// Places of a bag that have no cluster of their own.
    pub short: usize,
    /// Empty clusters that were moved while clustering.
    pub reseeded: usize,
}

/// Draws `count` bags of `places` tiles each from a slide's tiles, which `points`
/// (tiles, columns) tells apart: their positions or their features. They depend on
/// the points and `random` alone.
///
/// # Errors
/// A slide without tiles, a point that is not finite.
pub fn draw(
    points: &[f32],
    columns: usize,
    places: usize,
    count: usize,
    mut random: Philox,
) -> Result<Bags> {
    let tiles = points.len().checked_div(columns).unwrap_or(0);
    if tiles == 0 {
        return Err(Error::usage(
            "a slide without tiles makes no bag",
            "leave the slide out, or look at its tiles",
        ));
    }
    let k = places.min(tiles);
    let found = kmeans(points, columns, k, Start::PlusPlus(random), ITERATIONS)?;
    random.position += 1 << 32; // Beyond what the starts used.
    let mut clusters = vec![Vec::new(); k];
    for (tile, &label) in found.labels.iter().enumerate() {
        clusters[label].push(tile);
    }
    clusters.retain(|c| !c.is_empty());
    let short = places - clusters.len();
    let one = |random: &mut Philox| -> Vec<usize> {
        let mut bag: Vec<usize> = (clusters.iter())
            .map(|c| c[random.below(c.len())])
            .collect();
        bag.extend((0..short).map(|_| random.below(tiles)));
        bag
    };
    Ok(Bags {
        bags: (0..count).map(|_| one(&mut random)).collect(),
        short,
        reseeded: found.reseeded,
    })
}
