//! Groups of genes of similar expression, each predicted by a model of its own.
//!
//! DeepPT (Hoang et al. 2024, Methods) sorts the genes by their median
//! expression over the training samples and cuts them into groups of about
//! 4,096, so that highly expressed genes do not drown the others in the loss.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Columns read together, so that each row is read in whole cache lines.
const BLOCK: usize = 64;

/// Indices of genes (columns of row-major `values`, `(samples, genes)`) in
/// groups of at most `per_group`, sizes differing by one at most. Groups and
/// the genes in them ascend by median; genes of equal median keep their order.
///
/// Pass the training samples alone, or the groups know the test samples.
/// Values that are not finite are an error.
pub fn groups_by_median(
    values: &[f32],
    samples: usize,
    genes: usize,
    per_group: usize,
) -> Result<Vec<Vec<usize>>> {
    if values.is_empty() || samples.checked_mul(genes) != Some(values.len()) {
        return Err(Error::usage(
            format!(
                "gene groups: {} values are not an expression matrix of {samples} samples by \
                 {genes} genes",
                values.len()
            ),
            "pass at least one sample and one gene, row by row",
        ));
    }
    if per_group == 0 {
        return Err(Error::usage(
            "gene groups: a group of 0 genes",
            "set at least 1 gene per group (DeepPT: 4096)",
        ));
    }
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::usage(
            format!(
                "gene groups: the expression of gene {} in sample {} is {}",
                index % genes,
                index / genes,
                values[index]
            ),
            "fill or leave out missing values first",
        ));
    }
    let mut order: Vec<(f64, usize)> = (0..genes.div_ceil(BLOCK))
        .into_par_iter()
        .flat_map_iter(|block| {
            let columns = block * BLOCK..genes.min((block + 1) * BLOCK);
            medians(values, genes, columns.clone())
                .into_iter()
                .zip(columns)
        })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));

    let groups = genes.div_ceil(per_group);
    let (size, larger) = (genes / groups, genes % groups);
    let mut rest = order.as_slice();
    Ok((0..groups)
        .map(|group| {
            let (head, tail) = rest.split_at(size + usize::from(group < larger));
            rest = tail;
            head.iter().map(|&(_, gene)| gene).collect()
        })
        .collect())
}

fn medians(values: &[f32], width: usize, columns: std::ops::Range<usize>) -> Vec<f64> {
    let samples = values.len() / width;
    let mut block = vec![0f32; columns.len() * samples];
    for (row, values) in values.chunks(width).enumerate() {
        for (column, &value) in values[columns.clone()].iter().enumerate() {
            block[column * samples + row] = value;
        }
    }
    block
        .chunks_mut(samples)
        .map(|column| {
            let (below, &mut upper, _) = column.select_nth_unstable_by(samples / 2, f32::total_cmp);
            let lower = match samples % 2 {
                0 => below
                    .iter()
                    .copied()
                    .max_by(f32::total_cmp)
                    .unwrap_or(upper),
                _ => upper,
            };
            // The sum of two zeros of either sign is compared as one value.
            (f64::from(lower) + f64::from(upper)) / 2.0 + 0.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genes_ascend_by_median_in_groups_of_equal_size() -> Result<()> {
        // Medians of the five genes over four samples: 2.5, 0, 9, 0, 1.5.
        #[rustfmt::skip]
        let values = [
            1.0, 0.0, 9.0, -0.0, 1.0,
            2.0, 0.0, 9.0,  0.0, 1.0,
            3.0, 0.0, 9.0, -0.0, 2.0,
            4.0, 7.0, 9.0,  0.0, 2.0,
        ];
        assert_eq!(
            groups_by_median(&values, 4, 5, 2)?,
            [vec![1, 3], vec![4, 0], vec![2]]
        );
        assert_eq!(groups_by_median(&values, 4, 5, 99)?, [[1, 3, 4, 0, 2]]);
        assert_eq!(
            groups_by_median(&values[..5], 1, 5, 3)?,
            [vec![1, 3, 0], vec![4, 2]]
        );
        Ok(())
    }

    #[test]
    fn every_gene_is_in_one_group_and_groups_do_not_overlap_in_median() -> Result<()> {
        let (samples, genes) = (7, 1000);
        let values: Vec<f32> = (0..samples * genes)
            .map(|i| ((i * 7919) % 1013) as f32)
            .collect();
        let median = |gene: usize| {
            let mut column: Vec<f32> = (0..samples).map(|s| values[s * genes + gene]).collect();
            column.sort_by(f32::total_cmp);
            column[samples / 2]
        };
        let groups = groups_by_median(&values, samples, genes, 96)?;
        assert_eq!(groups.len(), 11);
        assert!(groups.iter().all(|g| g.len() == 90 || g.len() == 91));
        let flat: Vec<usize> = groups.concat();
        assert!(
            flat.windows(2)
                .all(|w| { (median(w[0]), w[0]) < (median(w[1]), w[1]) })
        );
        let mut sorted = flat;
        sorted.sort();
        assert_eq!(sorted, (0..genes).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn impossible_input_is_refused() {
        assert!(groups_by_median(&[], 0, 0, 1).is_err());
        assert!(groups_by_median(&[1.0, 2.0], 1, 3, 1).is_err());
        assert!(groups_by_median(&[1.0, 2.0], 1, 2, 0).is_err());
        assert!(groups_by_median(&[1.0], usize::MAX, 2, 1).is_err());
        let error = groups_by_median(&[1.0, 2.0, 3.0, f32::NAN], 2, 2, 1).unwrap_err();
        assert!(error.to_string().contains("gene 1 in sample 1"), "{error}");
    }
}
