//! The simulated cohort and the report.

mod cohort;
mod report;
mod statistics;
