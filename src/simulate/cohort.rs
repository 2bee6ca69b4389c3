//! The cohort on paper: each slide's factors, and the expression they drive.

use serde::{Deserialize, Serialize};

use super::rng::Rng;
use super::tissue::{STAINS, Tissue};

/// What drives a gene program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// Share of the tissue that nuclei cover.
    NuclearDensity,
    /// Radius of the nuclei, at the same share covered.
    NuclearSize,
    /// Haematoxylin against eosin.
    StainRatio,
    /// Share of the nuclei that stand in rings around lumina.
    GlandStructure,
}

impl Factor {
    pub const ALL: [Self; 4] = [
        Self::NuclearDensity,
        Self::NuclearSize,
        Self::StainRatio,
        Self::GlandStructure,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::NuclearDensity => "nuclear_density",
            Self::NuclearSize => "nuclear_size",
            Self::StainRatio => "stain_ratio",
            Self::GlandStructure => "gland_structure",
        }
    }

    /// What the names of its genes begin with.
    const fn gene_prefix(self) -> &'static str {
        match self {
            Self::NuclearDensity => "SIMDEN",
            Self::NuclearSize => "SIMSIZ",
            Self::StainRatio => "SIMSTN",
            Self::GlandStructure => "SIMGLD",
        }
    }
}

/// Slide-level variation that belongs to the staining batch and drives no gene:
/// section thickness, and the hue of either stain.
const NUISANCES: usize = 3;
const COLUMNS: usize = Factor::ALL.len() + NUISANCES;
/// Fewer slides cannot have uncorrelated columns and be more than their design.
pub(super) const LEAST_SLIDES: usize = 2 * COLUMNS;

/// The standardised values of each factor and nuisance, one row per slide.
///
/// Drawn uniform and independent, then made exactly uncorrelated over the
/// cohort, as in a designed experiment. With some fifty slides two independent
/// draws can correlate at 0.3 by chance, and then one factor could be
/// predicted through another: here whoever predicts a program has seen it.
pub(super) struct Design(Vec<[f64; COLUMNS]>);

impl Design {
    pub fn new(slides: usize, seed: u64) -> Self {
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for index in 0..COLUMNS {
            let mut rng = Rng::keyed(seed, &[u64::MAX, index as u64]);
            let mut column: Vec<f64> = (0..slides).map(|_| rng.range(-1.0, 1.0)).collect();
            let mean = column.iter().sum::<f64>() / slides as f64;
            column.iter_mut().for_each(|v| *v -= mean);
            for earlier in &columns {
                // `earlier` has mean 0 and mean square 1.
                let shared = dot(&column, earlier) / slides as f64;
                column
                    .iter_mut()
                    .zip(earlier)
                    .for_each(|(v, e)| *v -= shared * e);
            }
            let scale = (dot(&column, &column) / slides as f64).sqrt();
            column.iter_mut().for_each(|v| *v /= scale);
            columns.push(column);
        }
        Self(
            (0..slides)
                .map(|slide| std::array::from_fn(|index| columns[index][slide]))
                .collect(),
        )
    }

    pub fn latents(&self, slide: usize) -> [f64; 4] {
        std::array::from_fn(|factor| self.0[slide][factor])
    }

    /// What the slide looks like.
    pub fn tissue(&self, slide: usize) -> Tissue {
        let [density, size, ratio, glands, thickness, blue, pink] = self.0[slide];
        let thickness = libm::exp(0.012 * thickness);
        Tissue {
            coverage: 0.17 * libm::exp(0.36 * density),
            radius: 6.2 * libm::exp(0.34 * size),
            glands: (0.36 + 0.19 * glands).clamp(0.02, 0.68),
            haematoxylin: thickness * libm::exp(0.12 * ratio),
            eosin: thickness * libm::exp(-0.12 * ratio),
            stains: [
                tint(STAINS[0], [0.008, -0.004, -0.005], blue),
                tint(STAINS[1], [-0.005, 0.0, 0.009], pink),
            ],
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn tint(stain: [f32; 3], direction: [f32; 3], amount: f64) -> [f32; 3] {
    std::array::from_fn(|c| stain[c] + direction[c] * amount as f32)
}

/// A gene that follows a factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlantedGene {
    pub gene: String,
    /// Change of the log expression per standard deviation of the factor;
    /// negative for a gene that the program represses.
    pub loading: f64,
}

/// The genes that follow one factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub factor: Factor,
    pub genes: Vec<PlantedGene>,
}

/// The genes of the cohort and their counts.
pub(super) struct Expression {
    pub programs: Vec<Program>,
    pub noise_genes: Vec<String>,
    /// slides x genes: the programs' genes in order, then the noise genes.
    pub counts: Vec<Vec<u64>>,
}

/// How a gene's count arises: log-normal around its program, then Poisson.
struct Law {
    median: f64,
    factor: Option<usize>,
    loading: f64,
    /// Spread of the log expression that no picture can tell.
    spread: f64,
}

impl Expression {
    pub fn new(
        design: &Design,
        slides: usize,
        per_program: usize,
        noise: usize,
        seed: u64,
    ) -> Self {
        let mut laws = Vec::new();
        let mut programs = Vec::new();
        for (index, factor) in Factor::ALL.into_iter().enumerate() {
            let mut genes = Vec::new();
            for number in 0..per_program {
                let mut rng = Rng::keyed(seed, &[u64::MAX - 1, index as u64, number as u64]);
                // As many repressed as induced: a program leaves the library's
                // size alone, so that scaling by it does not spread its signal
                // to every other gene.
                let sign = if number % 2 == 0 { 1.0 } else { -1.0 };
                let loading = sign * rng.range(0.6, 0.9);
                laws.push(Law {
                    median: 70.0 * rng.factor(0.7),
                    factor: Some(index),
                    loading,
                    spread: rng.range(0.15, 0.35),
                });
                genes.push(PlantedGene {
                    gene: format!("{}{}", factor.gene_prefix(), number + 1),
                    loading,
                });
            }
            programs.push(Program { factor, genes });
        }
        for number in 0..noise {
            let mut rng = Rng::keyed(seed, &[u64::MAX - 2, number as u64]);
            laws.push(Law {
                median: 120.0 * rng.factor(0.9),
                factor: None,
                loading: 0.0,
                spread: rng.range(0.25, 0.75),
            });
        }
        let counts = (0..slides)
            .map(|slide| {
                let latents = design.latents(slide);
                let mut rng = Rng::keyed(seed, &[u64::MAX - 3, slide as u64]);
                let depth = rng.factor(0.12);
                laws.iter()
                    .map(|law| {
                        let signal = law.factor.map_or(0.0, |f| law.loading * latents[f]);
                        let mean = law.median * depth * libm::exp(signal) * rng.factor(law.spread);
                        rng.poisson(mean)
                    })
                    .collect()
            })
            .collect();
        Self {
            programs,
            noise_genes: (1..=noise).map(|n| format!("SIMNUL{n}")).collect(),
            counts,
        }
    }

    pub fn genes(&self) -> impl Iterator<Item = &str> {
        self.programs
            .iter()
            .flat_map(|p| p.genes.iter().map(|g| g.gene.as_str()))
            .chain(self.noise_genes.iter().map(String::as_str))
    }
}
