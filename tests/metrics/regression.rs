use eosin::metrics::regression::{ColumnErrors, column_errors, mean_squared_error};
use serde_json::Value;

use crate::golden::*;

fn errors() -> (Value, ColumnErrors) {
    let golden = section("regression");
    let (pred, truth) = (input(&golden["pred"]), input(&golden["true"]));
    let mean = widened(input(&golden["train_mean"]));
    let errors = column_errors(&pred, &truth, 30, 6, Some(&mean)).unwrap();
    (golden, errors)
}

macro_rules! columns {
    ($($name:ident $key:literal $get:expr;)*) => {
        $(#[test]
        fn $name() {
            let (golden, errors) = errors();
            let get: fn(&ColumnErrors) -> &[f64] = $get;
            assert_all_close($key, get(&errors), &numbers(&golden[$key]), STATISTIC);
        })*
    };
}

columns! {
    mae "mae" |e| &e.mae;
    rmse "rmse" |e| &e.rmse;
    rrse_with_training_mean "rrse" |e| e.rrse_train.as_deref().unwrap();
    rrse_with_own_mean "rrse_own_mean" |e| &e.rrse;
    r2 "r2" |e| &e.r2;
    pearson "pearson" |e| &e.pearson;
}

#[test]
fn mse() {
    let (golden, errors) = errors();
    let expected = number(&golden["mse"]);
    let by_gene = errors.mse.iter().sum::<f64>() / errors.mse.len() as f64;
    assert_close("mean over genes", by_gene, expected, STATISTIC);
    let whole = mean_squared_error(&input(&golden["pred"]), &input(&golden["true"])).unwrap();
    assert_close("whole", whole, expected, STATISTIC);
}

#[test]
fn without_training_means_there_is_no_error_relative_to_them() {
    let errors = column_errors(&[1.0, 2.0], &[1.5, 3.0], 2, 1, None).unwrap();
    assert_eq!(errors.rrse_train, None);
    assert_eq!(errors.mae, [0.75]);
}
