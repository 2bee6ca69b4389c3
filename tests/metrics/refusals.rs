//! Input that cannot be worked with is refused with a message, never a panic.

use eosin::Error;
use eosin::metrics::{
    classification::Confusion,
    correlation::{kendall, pearson, pearson_columns, spearman, spearman_columns},
    fid::{Gaussian, frechet_distance},
    fisher::{conditional_odds_ratio, fisher_exact},
    multiple_testing::{Correction, adjust},
    ranking::{
        MulticlassAuc, average_precision, mann_whitney, roc_auc, roc_auc_multiclass, roc_curve,
    },
    regression::{column_errors, mean_squared_error},
    summary::{
        average_ranks, mean, median, percentile, standard_deviation, t_test_one_sample,
        wilcoxon_signed_rank,
    },
};

#[track_caller]
fn refused<T: std::fmt::Debug>(result: eosin::Result<T>) {
    assert!(matches!(result, Err(Error::Usage { .. })), "{result:?}");
}

#[test]
fn empty_input() {
    for f in [pearson, spearman, kendall] {
        refused(f(&[], &[]));
    }
    for f in [pearson_columns, spearman_columns] {
        refused(f(&[], &[], 0, 0));
    }
    refused(adjust(&[], Correction::Holm));
    refused(column_errors(&[], &[], 0, 0, None));
    refused(mean_squared_error(&[], &[]));
    refused(Confusion::new(&[], &[], 2));
    refused(roc_auc(&[], &[]));
    refused(roc_auc_multiclass(&[], &[], 2, MulticlassAuc::OneVersusOne));
    refused(roc_curve(&[], &[]));
    refused(average_precision(&[], &[]));
    refused(mann_whitney(&[], &[1.0]));
    refused(mann_whitney(&[1.0], &[]));
    refused(fisher_exact([[0, 0], [0, 0]]));
    refused(conditional_odds_ratio([[0, 0], [0, 0]], 0.95));
    refused(Gaussian::fit::<f32>(&[], 0, 0));
    refused(mean(&[]));
    refused(median(&[]));
    refused(percentile(&[], 10.0));
    refused(standard_deviation(&[], 0));
    refused(average_ranks(&[]));
    refused(t_test_one_sample(&[], 0.0));
    refused(wilcoxon_signed_rank(&[]));
}

#[test]
fn lengths_that_differ() {
    for f in [pearson, spearman, kendall] {
        refused(f(&[1.0, 2.0], &[1.0]));
    }
    for f in [pearson_columns, spearman_columns] {
        refused(f(&[1.0, 2.0], &[1.0], 1, 2));
        refused(f(&[1.0, 2.0], &[1.0, 2.0], 2, 2));
        refused(f(&[1.0, 2.0], &[1.0, 2.0], usize::MAX, 2));
    }
    refused(column_errors(&[1.0], &[1.0], 1, 1, Some(&[])));
    refused(mean_squared_error(&[1.0], &[1.0, 2.0]));
    refused(Confusion::new(&[1], &[1, 0], 2));
    refused(roc_auc(&[true], &[1.0, 2.0]));
    refused(roc_auc_multiclass(
        &[0],
        &[1.0; 3],
        2,
        MulticlassAuc::OneVersusOne,
    ));
    refused(roc_curve(&[true], &[1.0, 2.0]));
    refused(average_precision(&[true], &[1.0, 2.0]));
    refused(Gaussian::fit(&[1.0f32, 2.0, 3.0], 2, 2));
    let one = Gaussian::fit(&[1.0f32, 2.0], 2, 1).unwrap();
    let two = Gaussian::fit(&[1.0f32, 2.0, 3.0, 5.0], 2, 2).unwrap();
    refused(frechet_distance(&one, &two));
}

#[test]
fn values_that_mean_nothing() {
    refused(adjust(&[0.5, 1.5], Correction::Holm));
    refused(adjust(&[-0.1], Correction::Holm));
    refused(Confusion::new(&[2], &[0], 2));
    refused(Confusion::new(&[0], &[0], 0));
    refused(Confusion::new(&[0], &[0], usize::MAX));
    refused(roc_auc(&[true, false], &[f64::NAN, 1.0]));
    refused(roc_auc_multiclass(
        &[5],
        &[0.5, 0.5],
        2,
        MulticlassAuc::OneVersusOne,
    ));
    refused(mann_whitney(&[f64::NAN], &[1.0]));
    refused(fisher_exact([[u64::MAX, 1], [1, 1]]));
    refused(fisher_exact([[1 << 40, 1 << 40], [1 << 40, 1 << 40]]));
    refused(conditional_odds_ratio([[1, 2], [3, 4]], 1.0));
    refused(conditional_odds_ratio([[1, 2], [3, 4]], f64::NAN));
    refused(Gaussian::fit(&[1.0f32, 2.0], 1, 2));
    refused(Gaussian::fit(&[1.0f32, f32::NAN], 2, 1));
    for size in [1e150, 1e160, 1e300] {
        let features = [size, -size, 0.5 * size, size, 3.0, -size, 0.1, 0.2];
        let extreme = Gaussian::fit(&features, 4, 2).unwrap();
        refused(frechet_distance(&extreme, &extreme));
    }
    refused(percentile(&[1.0], 101.0));
    refused(percentile(&[1.0], f64::NAN));
}
