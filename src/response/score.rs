//! A drug's fit with each tumour of a cohort, in [0, 1].
//!
//! A gene is *inactive* in a tumour where its expression is in the lowest third of the
//! cohort, and *active* in the highest third. Each partner of the drug's target speaks
//! for the drug (1), against it (0), or neither (1/2):
//!
//! | kind | for the drug | against it |
//! |---|---|---|
//! | `synthetic-lethal`: its loss makes the target essential | inactive | active |
//! | `synthetic-rescue`: its activity makes up for the target | inactive | active |
//! | `rescue-by-loss`: its loss makes up for the target | active | inactive |
//! | `target` | active | inactive |
//!
//! The score is the mean of the mean over partners and, where targets are given, the mean
//! over targets. Terciles belong to the cohort: a tumour's score depends on the others'.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::expression::{Table, table};
use crate::metrics::summary::average_ranks;

/// How a gene bears on a drug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    SyntheticLethal,
    SyntheticRescue,
    RescueByLoss,
    Target,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        let name = name.to_lowercase().replace(['_', ' '], "-");
        Some(match name.as_str() {
            "synthetic-lethal" | "sl" => Self::SyntheticLethal,
            "synthetic-rescue" | "sr" | "sr-du" => Self::SyntheticRescue,
            "rescue-by-loss" | "sr-dd" => Self::RescueByLoss,
            "target" => Self::Target,
            _ => return None,
        })
    }

    /// Whether activity speaks for the drug.
    fn wants_activity(self) -> bool {
        matches!(self, Self::RescueByLoss | Self::Target)
    }
}

/// What bears on each drug, by drug.
pub type Partners = BTreeMap<String, Vec<(String, Kind)>>;

/// Reads a table with the columns `drug`, `gene` and `kind`.
///
/// # Errors
/// Each names the line: no such columns, an empty field, a kind that is not known, a
/// gene that stands twice for a drug.
pub fn read_partners(path: impl AsRef<Path>) -> Result<Partners> {
    let path = path.as_ref();
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let remedy = "write the columns drug, gene and kind: synthetic-lethal, synthetic-rescue, \
                  rescue-by-loss or target";
    let fail = |e: csv::Error| Error::file(path, "", format!("cannot be read ({e})"), remedy);
    let header = csv.headers().map_err(fail)?.clone();
    let column = |name: &str| {
        let at = header.iter().position(|h| h.eq_ignore_ascii_case(name));
        at.ok_or_else(|| Error::file(path, "line 1", format!("has no column {name}"), remedy))
    };
    let columns = [column("drug")?, column("gene")?, column("kind")?];
    let mut partners = Partners::new();
    for record in csv.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |p| p.line());
        let refuse = |problem: String| Error::file(path, format!("line {line}"), problem, remedy);
        let [drug, gene, kind] = columns.map(|at| record.get(at).unwrap_or_default());
        if drug.is_empty() || gene.is_empty() {
            return Err(refuse("drug or gene is empty".to_owned()));
        }
        let kind = Kind::named(kind).ok_or_else(|| refuse(format!("`{kind}` is no kind")))?;
        let of = partners.entry(drug.to_owned()).or_default();
        if of.iter().any(|(g, _)| g == gene) {
            return Err(refuse(format!("{gene} stands twice for {drug}")));
        }
        of.push((gene.to_owned(), kind));
    }
    match partners.is_empty() {
        true => Err(Error::file(path, "", "names no partner", remedy)),
        false => Ok(partners),
    }
}

/// Scores of a cohort.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    pub samples: Vec<String>,
    pub drugs: Vec<Drug>,
}

/// One drug's scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drug {
    pub drug: String,
    /// In the order of the samples.
    pub scores: Vec<f64>,
    pub partners: usize,
    pub targets: usize,
    /// Genes that the table does not have: they take no part.
    pub missing: Vec<String>,
}

/// Scores every drug for every sample.
///
/// # Errors
/// Fewer than three samples, which have no thirds; a drug of which the table has no
/// gene.
pub fn score(table: &Table, partners: &Partners) -> Result<Scored> {
    let samples = table.samples.len();
    if samples < 3 {
        return Err(Error::usage(
            format!("{samples} samples have no thirds"),
            "score a cohort of at least 3 samples, better of 30",
        ));
    }
    let place: HashMap<&str, usize> = (table.genes.iter().enumerate())
        .map(|(i, g)| (g.as_str(), i))
        .collect();
    let mut drugs = Vec::with_capacity(partners.len());
    for (drug, genes) in partners {
        let (mut network, mut target) = (vec![0.0; samples], vec![0.0; samples]);
        let (mut of_network, mut of_target) = (0usize, 0usize);
        let mut missing = Vec::new();
        for (gene, kind) in genes {
            let Some(&column) = place.get(gene.as_str()) else {
                missing.push(gene.clone());
                continue;
            };
            let activity = activity(table, column)?;
            let (sum, count) = match kind {
                Kind::Target => (&mut target, &mut of_target),
                _ => (&mut network, &mut of_network),
            };
            *count += 1;
            for (sum, activity) in sum.iter_mut().zip(activity) {
                *sum += if kind.wants_activity() {
                    activity
                } else {
                    1.0 - activity
                };
            }
        }
        let parts = [(network, of_network), (target, of_target)];
        let there: Vec<_> = parts.iter().filter(|(_, count)| *count > 0).collect();
        if there.is_empty() {
            return Err(Error::usage(
                format!(
                    "the expression has none of the {} genes of {drug}, such as {}",
                    genes.len(),
                    missing[0]
                ),
                "give the genes the names that the list uses: see --genes and --gene-table",
            ));
        }
        let of = |i: usize| {
            let means = there.iter().map(|(sum, count)| sum[i] / *count as f64);
            means.sum::<f64>() / there.len() as f64
        };
        drugs.push(Drug {
            drug: drug.clone(),
            scores: (0..samples).map(of).collect(),
            partners: of_network,
            targets: of_target,
            missing,
        });
    }
    Ok(Scored {
        samples: table.samples.clone(),
        drugs,
    })
}

/// 1 in the highest third of a gene's values, 0 in the lowest, 1/2 between. Equal values
/// share their rank, so that a gene that does not vary is neither.
fn activity(table: &Table, column: usize) -> Result<Vec<f64>> {
    let values: Vec<f64> = table.rows().map(|row| f64::from(row[column])).collect();
    let n = values.len() as f64;
    let third = |rank: f64| match (rank - 0.5) / n {
        share if share < 1.0 / 3.0 => 0.0,
        share if share > 2.0 / 3.0 => 1.0,
        _ => 0.5,
    };
    Ok(average_ranks(&values)?.into_iter().map(third).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(values: &[[f32; 4]]) -> Table {
        Table {
            samples: (0..values.len()).map(|i| format!("s{i}")).collect(),
            genes: ["LETHAL", "RESCUE", "TARGET", "FLAT"]
                .map(String::from)
                .to_vec(),
            values: values.concat(),
        }
    }

    fn list(genes: &[(&str, Kind)]) -> Partners {
        let genes = genes.iter().map(|(g, k)| ((*g).to_owned(), *k)).collect();
        Partners::from([("drug".to_owned(), genes)])
    }

    #[test]
    fn each_kind_speaks_as_it_should() -> Result<()> {
        let t = table(&[
            [1.0, 9.0, 3.0, 5.0],
            [2.0, 5.0, 2.0, 5.0],
            [3.0, 1.0, 1.0, 5.0],
        ]);
        let of = |genes: &[(&str, Kind)]| -> Result<Vec<f64>> {
            Ok(score(&t, &list(genes))?.drugs.remove(0).scores)
        };
        assert_eq!(of(&[("LETHAL", Kind::SyntheticLethal)])?, [1.0, 0.5, 0.0]);
        assert_eq!(of(&[("RESCUE", Kind::SyntheticRescue)])?, [0.0, 0.5, 1.0]);
        assert_eq!(of(&[("RESCUE", Kind::RescueByLoss)])?, [1.0, 0.5, 0.0]);
        assert_eq!(of(&[("TARGET", Kind::Target)])?, [1.0, 0.5, 0.0]);
        assert_eq!(of(&[("FLAT", Kind::Target)])?, [0.5, 0.5, 0.5]);
        // Two partners at 1 and 0 are 1/2 together; the target is the other half.
        let all = [
            ("LETHAL", Kind::SyntheticLethal),
            ("RESCUE", Kind::SyntheticRescue),
            ("TARGET", Kind::Target),
            ("ABSENT", Kind::Target),
        ];
        let drug = score(&t, &list(&all))?.drugs.remove(0);
        assert_eq!(drug.scores, [0.75, 0.5, 0.25]);
        assert_eq!((drug.partners, drug.targets), (2, 1));
        assert_eq!(drug.missing, ["ABSENT"]);
        let none = score(&t, &list(&[("ABSENT", Kind::Target)])).unwrap_err();
        assert!(
            none.to_string()
                .contains("none of the 1 genes of drug, such as ABSENT"),
            "{none}"
        );
        Ok(())
    }

    #[test]
    fn thirds_are_of_the_cohort() -> Result<()> {
        let rows: Vec<[f32; 4]> = (0..9).map(|i| [i as f32; 4]).collect();
        let found = activity(&table(&rows), 0)?;
        assert_eq!(found, [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]);
        Ok(())
    }
}
