//! ENLIGHT-style matching of patients and drugs from expression.
//!
//! [`score`] says how well a drug fits a tumour, from the expression of the genes that
//! interact with the drug's target; [`evaluate`] says how well such scores, or any,
//! agree with who responded.
//!
//! ENLIGHT (Dinstag et al. 2023, Med 4:15) and its use on expression that was predicted
//! from slides (Hoang et al. 2024, Nature Cancer 5:1305) published what goes into their
//! score, not the scorer. This one follows the description; its scores are not theirs.

pub mod evaluate;
pub mod score;
