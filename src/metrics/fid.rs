//! Fréchet inception distance (Heusel et al. 2017): how far two sets of
//! feature vectors are apart when each is described by a Gaussian,
//! |μa - μb|² + tr(A) + tr(B) - 2 tr((AB)^½).
//!
//! tr((AB)^½) is the sum of the square roots of the eigenvalues of
//! A^½ B A^½, which is symmetric: two symmetric decompositions, and no general
//! matrix root that fails where covariances are singular.

use nalgebra::{DMatrix, SymmetricEigen};

use super::ensure_matrix;
use crate::error::{Error, Result};

/// The parts of the distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrechetDistance {
    /// |μa - μb|²
    pub mean_distance: f64,
    pub trace_a: f64,
    pub trace_b: f64,
    /// tr((AB)^½)
    pub trace_sqrt: f64,
}

impl FrechetDistance {
    /// The distance itself. Rounding can leave it below zero by a hair for two
    /// equal sets.
    pub fn value(&self) -> f64 {
        self.mean_distance + self.trace_a + self.trace_b - 2.0 * self.trace_sqrt
    }
}

/// Feature vectors that are centred and multiplied together.
const BLOCK: usize = 1024;

/// Mean and covariance of feature vectors.
#[derive(Clone, Debug)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: DMatrix<f64>,
}

impl Gaussian {
    /// Fits row-major `(samples, dims)` features, with `samples - 1` in the
    /// denominator of the covariance. At least two samples, all finite. With fewer
    /// samples than dimensions the covariance is singular: the distance is
    /// still defined, but depends on the number of samples.
    pub fn fit<T: Copy + Into<f64>>(features: &[T], samples: usize, dims: usize) -> Result<Self> {
        ensure_matrix("FID", features, samples, dims)?;
        if samples < 2 {
            return Err(Error::usage(
                "FID: one sample has no covariance",
                "pass at least two samples, better thousands",
            ));
        }
        let mut mean = vec![0.0; dims];
        for row in features.chunks(dims) {
            for (m, &v) in mean.iter_mut().zip(row) {
                *m += v.into();
            }
        }
        mean.iter_mut().for_each(|m| *m /= samples as f64);
        if let Some(dim) = mean.iter().position(|m| !m.is_finite()) {
            return Err(Error::usage(
                format!("FID: feature {dim} holds values that are not finite"),
                "look for the cause in the network that made the features",
            ));
        }
        // Block by block, so that a second copy of all features is never made.
        let mut covariance = DMatrix::zeros(dims, dims);
        for block in features.chunks(BLOCK * dims) {
            // Column-major (dims, rows) is the row-major block as it is.
            let centred = DMatrix::from_iterator(
                dims,
                block.len() / dims,
                (block.chunks(dims))
                    .flat_map(|row| row.iter().zip(&mean).map(|(&v, m)| v.into() - m)),
            );
            covariance.gemm(1.0, &centred, &centred.transpose(), 1.0);
        }
        covariance /= (samples - 1) as f64;
        Ok(Self { mean, covariance })
    }

    /// The mean of each dimension.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance matrix `(dims, dims)`; symmetric, so row- and column-major alike.
    pub fn covariance(&self) -> &[f64] {
        self.covariance.as_slice()
    }
}

/// The distance between two sets of features of the same dimension.
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> Result<FrechetDistance> {
    if a.mean.len() != b.mean.len() {
        return Err(Error::usage(
            format!(
                "FID: {} dimensions on one side and {} on the other",
                a.mean.len(),
                b.mean.len()
            ),
            "take both from the same layer of the same network",
        ));
    }
    let mut root = decompose(a.covariance.clone())?;
    root.eigenvalues.apply(|v| *v = v.max(0.0).sqrt());
    let root = root.recompose();
    let mut product = &root * &b.covariance * &root;
    product = (&product + product.transpose()) * 0.5;
    Ok(FrechetDistance {
        mean_distance: (a.mean.iter().zip(&b.mean))
            .map(|(a, b)| (a - b) * (a - b))
            .sum(),
        trace_a: a.covariance.trace(),
        trace_b: b.covariance.trace(),
        trace_sqrt: trace_of_root(product)?,
    })
}

fn decompose(matrix: DMatrix<f64>) -> Result<SymmetricEigen<f64, nalgebra::Dyn>> {
    // A few iterations per eigenvalue are usual; the bound only stops a matrix
    // whose entries overflow.
    let most = 100 * matrix.nrows();
    SymmetricEigen::try_new(matrix, f64::EPSILON, most).ok_or_else(extreme_values)
}

/// The sum of the square roots of a symmetric matrix's eigenvalues. Those that
/// rounding put below zero count as zero.
fn trace_of_root(matrix: DMatrix<f64>) -> Result<f64> {
    let largest = matrix.amax();
    if largest == 0.0 {
        return Ok(0.0);
    }
    if !matrix.iter().all(|v| v.is_finite()) {
        return Err(extreme_values());
    }
    // Entries of at most 1 cannot overflow, on which the iteration would never end.
    let eigenvalues = (matrix / largest).symmetric_eigenvalues();
    let sum: f64 = eigenvalues.iter().map(|v| v.max(0.0).sqrt()).sum();
    Ok(sum * largest.sqrt())
}

fn extreme_values() -> Error {
    Error::usage(
        "FID: the eigenvalues of a covariance matrix cannot be computed",
        "look for values of extreme size in the features",
    )
}
