//! Statistics against scipy, scikit-learn and statsmodels (tests/golden/metrics.json).

#[path = "../common/formula.rs"]
mod formula;

mod golden;

mod classification;
mod correlation;
mod fid;
mod fisher;
mod known_answers;
mod multiple_testing;
mod ranking;
mod refusals;
mod regression;
mod response;
mod summary;
