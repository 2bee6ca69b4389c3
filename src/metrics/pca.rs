//! Principal components, for plots.

use nalgebra::DMatrix;

use super::ensure_matrix;
use crate::error::{Error, Result};

/// The directions in which samples differ most.
#[derive(Clone, Debug)]
pub struct Pca {
    mean: Vec<f64>,
    /// (components, dims), orthonormal, of falling variance.
    components: Vec<f64>,
    dims: usize,
}

/// More samples than this are thinned evenly to it before the fit: its cost is their cube.
const MOST: usize = 1024;

impl Pca {
    /// Of row-major (samples, dims) values: through the samples' products, since there are more
    /// genes than samples. The sign of a component makes its largest entry positive.
    ///
    /// # Errors
    /// Fewer samples than `components` + 1; values that are not finite; samples that do not
    /// differ in as many directions.
    pub fn fit(values: &[f32], dims: usize, components: usize) -> Result<Self> {
        let n = values.len() / dims.max(1);
        ensure_matrix("principal components", values, n, dims)?;
        if n <= components {
            return Err(Error::usage(
                format!("{n} samples have no {components} principal components"),
                "give more samples",
            ));
        }
        let take = n.min(MOST);
        let rows: Vec<&[f32]> = (0..take)
            .map(|i| &values[i * n / take * dims..][..dims])
            .collect();
        let mut mean = vec![0.0; dims];
        for row in &rows {
            let parts = mean.iter_mut().zip(*row);
            parts.for_each(|(m, &v)| *m += f64::from(v) / take as f64);
        }
        let centred = DMatrix::from_fn(take, dims, |i, j| f64::from(rows[i][j]) - mean[j]);
        let eigen = (&centred * centred.transpose()).symmetric_eigen();
        let mut order: Vec<usize> = (0..take).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let mut all = Vec::with_capacity(components * dims);
        for &place in &order[..components] {
            let direction = centred.transpose() * eigen.eigenvectors.column(place);
            let norm = direction.norm();
            if norm.is_nan() || norm <= 0.0 {
                return Err(Error::usage(
                    format!("the samples do not differ in {components} directions"),
                    "give samples that differ",
                ));
            }
            let largest = direction
                .iter()
                .fold(0.0f64, |a, &v| if v.abs() > a.abs() { v } else { a });
            all.extend(direction.iter().map(|v| v / norm * largest.signum()));
        }
        Ok(Self {
            mean,
            components: all,
            dims,
        })
    }

    /// (samples, components) of (samples, dims).
    ///
    /// # Errors
    /// Values of another number of dimensions.
    pub fn project(&self, values: &[f32]) -> Result<Vec<f64>> {
        let n = values.len() / self.dims.max(1);
        ensure_matrix("principal components", values, n, self.dims)?;
        let along = |row: &[f32], component: &[f64]| -> f64 {
            let parts = row.iter().zip(&self.mean).zip(component);
            parts.map(|((&v, m), c)| (f64::from(v) - m) * c).sum()
        };
        let rows = values.chunks(self.dims);
        let each = |row| {
            self.components
                .chunks(self.dims)
                .map(move |c| along(row, c))
        };
        Ok(rows.flat_map(each).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Philox;

    #[test]
    fn directions_of_known_variances_are_found() -> Result<()> {
        // Deviations 5, 2 and 0.1 along rotated axes of three dimensions.
        let mut noise = vec![0.0f32; 3 * 2000];
        Philox::new(1).fill_normal(&mut noise, 0.0, 1.0);
        let (c, s) = (0.6f32, 0.8f32);
        let values: Vec<f32> = (noise.chunks(3))
            .flat_map(|v| {
                let [a, b, d] = [5.0 * v[0], 2.0 * v[1], 0.1 * v[2]];
                [c * a - s * b + 7.0, s * a + c * b, d]
            })
            .collect();
        let pca = Pca::fit(&values, 3, 2)?;
        assert!(
            (pca.components[0] - 0.6).abs() < 0.02,
            "{:?}",
            pca.components
        );
        assert!(
            (pca.components[1] - 0.8).abs() < 0.02,
            "{:?}",
            pca.components
        );
        let projected = pca.project(&values)?;
        let variance = |i: usize| {
            projected
                .iter()
                .skip(i)
                .step_by(2)
                .map(|v| v * v)
                .sum::<f64>()
                / 2000.0
        };
        assert!((variance(0).sqrt() - 5.0).abs() < 0.3);
        assert!((variance(1).sqrt() - 2.0).abs() < 0.15);
        assert!(Pca::fit(&values[..6], 3, 2).is_err());
        assert!(Pca::fit(&[1.0; 12], 3, 2).is_err());
        Ok(())
    }
}
