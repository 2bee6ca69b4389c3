use eosin::metrics::fisher::{conditional_odds_ratio, fisher_exact};
use serde_json::Value;

use crate::golden::*;

fn check(table: [[u64; 2]; 2]) {
    let cases = cases("fisher_exact");
    let text = serde_json::to_value(table).unwrap();
    let case = cases.iter().find(|c| c["table"] == text).unwrap();
    let got = fisher_exact(table).unwrap();
    assert_close(
        "two-sided",
        got.two_sided,
        number(&case["two-sided"]),
        P_VALUE,
    );
    assert_close("greater", got.greater, number(&case["greater"]), P_VALUE);
    assert_close("less", got.less, number(&case["less"]), P_VALUE);
    let odds = text_number(&case["odds_ratio_text"]);
    assert_close("odds ratio", got.odds_ratio, odds, STATISTIC);

    let got = conditional_odds_ratio(table, 0.95).unwrap();
    let estimate = text_number(&case["odds_ratio_conditional_text"]);
    assert_close("conditional odds ratio", got.estimate, estimate, STATISTIC);
    let Value::Array(limits) = &case["conditional_ci95_text"] else {
        panic!("no confidence interval");
    };
    assert_close("lower", got.lower, text_number(&limits[0]), STATISTIC);
    assert_close("upper", got.upper, text_number(&limits[1]), STATISTIC);
}

macro_rules! tables {
    ($($name:ident $table:expr;)*) => {
        $(#[test]
        fn $name() {
            check($table);
        })*

        #[test]
        fn no_case_is_left_out() {
            let expected: Vec<[[u64; 2]; 2]> = vec![$($table),*];
            let tables: Vec<Value> = cases("fisher_exact").iter().map(|c| c["table"].clone()).collect();
            assert_eq!(tables, *serde_json::to_value(expected).unwrap().as_array().unwrap());
        }
    };
}

tables! {
    small [[8, 2], [1, 5]];
    symmetric [[3, 1], [1, 3]];
    zero_observed [[0, 5], [5, 5]];
    infinite_odds [[12, 0], [3, 9]];
    hundreds [[100, 80], [60, 120]];
    negative_association [[1, 9], [11, 3]];
    empty_row [[0, 0], [4, 6]];
}

/// Swapping rows turns the test around, in a table whose sides differ much.
#[test]
fn swapped_rows_turn_the_sides_around() {
    let a = fisher_exact([[300, 20_000], [40, 9_000]]).unwrap();
    let b = fisher_exact([[40, 9_000], [300, 20_000]]).unwrap();
    assert_close("sides", a.greater, b.less, 1e-9);
    assert_close("both", a.two_sided, b.two_sided, 1e-9);
}

/// At the conditional limits, the tails hold what the confidence leaves.
#[test]
fn wider_confidence_gives_a_wider_interval() {
    let table = [[8, 2], [1, 5]];
    let narrow = conditional_odds_ratio(table, 0.5).unwrap();
    let wide = conditional_odds_ratio(table, 0.99).unwrap();
    assert!(wide.lower < narrow.lower && narrow.lower < narrow.estimate);
    assert!(narrow.estimate < narrow.upper && narrow.upper < wide.upper);
}
