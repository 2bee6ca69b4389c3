//! Splits of samples by patient.
//!
//! Slides, tiles and spots of one patient resemble each other; a patient on
//! both sides of a split makes a model look better than it is. So groups of
//! samples (patients) are dealt out whole. A split depends on the seed and the
//! names and sizes of the groups, not on the order of the samples.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::random::Philox;

/// Indices of samples, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    pub train: Vec<usize>,
    pub validation: Vec<usize>,
    pub test: Vec<usize>,
}

/// One test set, and the rest cut into (train, validation) in every way that
/// makes one inner fold the validation set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterFold {
    pub test: Vec<usize>,
    pub inner: Vec<(Vec<usize>, Vec<usize>)>,
}

impl OuterFold {
    /// The same as three-way folds, one per inner fold.
    pub fn folds(&self) -> impl Iterator<Item = Fold> {
        self.inner.iter().map(|(train, validation)| Fold {
            train: train.clone(),
            validation: validation.clone(),
            test: self.test.clone(),
        })
    }
}

/// Training, validation and test in the given shares of the samples, patients whole, and each
/// class in about these shares. `groups` and `classes` name the patient and the class of each
/// sample; a patient counts as of its first sample's class. Of each class with at least three
/// patients every part gets one.
///
/// # Errors
/// Names of other numbers; a sample without a patient; shares that are no shares; a part that
/// would stay empty.
pub fn stratified(
    groups: &[String],
    classes: &[String],
    shares: [f64; 3],
    seed: u64,
) -> Result<Fold> {
    let total: f64 = shares.iter().sum();
    if groups.len() != classes.len() || shares.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
        return Err(Error::usage(
            format!(
                "{} samples of {} classes cannot be split by {shares:?}",
                groups.len(),
                classes.len()
            ),
            "give a class for each sample, and shares above 0",
        ));
    }
    let mut of_class: BTreeMap<&str, Vec<Group>> = BTreeMap::new();
    for group in by_patient(groups)? {
        let class = group.1.first().map_or("", |&s| classes[s].as_str());
        of_class.entry(class).or_default().push(group);
    }
    let mut parts: [Vec<usize>; 3] = Default::default();
    let mut random = Philox::fork(seed, "stratified split");
    for (_, mut patients) in of_class {
        // Those with the most samples first, so that the last ones even out the shares.
        random.shuffle(&mut patients);
        patients.sort_by_key(|(_, samples)| Reverse(samples.len()));
        let samples: usize = patients.iter().map(|(_, s)| s.len()).sum();
        let mut given = [0usize; 3];
        for (_, group) in patients {
            // To the part that lacks the largest part of its share, so to an empty one
            // if there is one; of equals, but for rounding, to the first.
            let lack = |p: usize| 1.0 - given[p] as f64 / (shares[p] / total * samples as f64);
            let more = |p: usize, q: usize| lack(p) > lack(q) + 1e-9;
            let place = (0..3).fold(0, |best, p| if more(p, best) { p } else { best });
            given[place] += group.len();
            parts[place].extend(group);
        }
    }
    if let Some(place) = parts.iter().position(Vec::is_empty) {
        return Err(Error::usage(
            format!(
                "the {} part of the split stays empty",
                ["training", "validation", "test"][place]
            ),
            "give at least 3 patients, or set split.by = \"section\" or \"sample\"",
        ));
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    let [train, validation, test] = parts;
    Ok(Fold {
        train,
        validation,
        test,
    })
}

/// (the rest, test) with each of `folds` folds in turn as the test set, patients whole, and the
/// patients of each class dealt out evenly. A patient counts as of its first sample's class.
///
/// # Errors
/// Names of other numbers; a sample without a patient; fewer than 2 folds; a class with fewer
/// patients than folds.
pub fn stratified_folds(
    groups: &[String],
    classes: &[String],
    folds: usize,
    seed: u64,
) -> Result<Vec<(Vec<usize>, Vec<usize>)>> {
    if groups.len() != classes.len() || folds < 2 {
        return Err(Error::usage(
            format!(
                "{} samples of {} classes cannot be dealt to {folds} folds",
                groups.len(),
                classes.len()
            ),
            "give a class for each sample, and at least 2 folds",
        ));
    }
    let mut of_class: BTreeMap<&str, Vec<Group>> = BTreeMap::new();
    for group in by_patient(groups)? {
        let class = group.1.first().map_or("", |&s| classes[s].as_str());
        of_class.entry(class).or_default().push(group);
    }
    let mut random = Philox::fork(seed, "stratified folds");
    let mut dealt: Vec<Vec<Group>> = vec![Vec::new(); folds];
    for (class, patients) in of_class {
        if patients.len() < folds {
            return Err(Error::usage(
                format!(
                    "class {class} has {} patients, which cannot be dealt to {folds} folds",
                    patients.len()
                ),
                "use fewer folds, or set split.by = \"section\" or \"sample\"",
            ));
        }
        let mut parts = deal(patients, folds, &mut random);
        // The largest part of a class to the fold that has the least so far.
        parts.sort_by_key(|part| Reverse(samples(part).len()));
        dealt.sort_by_key(|fold| samples(fold).len());
        for (fold, part) in dealt.iter_mut().zip(parts) {
            fold.extend(part);
        }
    }
    Ok(rotations(&dealt))
}

/// The samples of one patient.
type Group<'a> = (&'a str, Vec<usize>);

fn by_patient(groups: &[String]) -> Result<Vec<Group<'_>>> {
    let mut patients: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (sample, patient) in groups.iter().enumerate() {
        if patient.is_empty() {
            return Err(Error::usage(
                format!("sample {sample} has no patient"),
                "name a patient for every sample, so that none ends on two sides of a split",
            ));
        }
        patients.entry(patient).or_default().push(sample);
    }
    Ok(patients.into_iter().collect())
}

/// Nested cross-validation: each patient is tested in one of `outer` folds,
/// and within the other patients validates in one of `inner` folds.
///
/// `groups` names the patient of each sample. Folds are balanced by samples:
/// patients are shuffled by `seed`, and the largest go first, each to the fold
/// that has the fewest samples.
pub fn nested_folds(
    groups: &[String],
    outer: usize,
    inner: usize,
    seed: u64,
) -> Result<Vec<OuterFold>> {
    for (name, folds) in [("outer", outer), ("inner", inner)] {
        if folds < 2 {
            return Err(Error::usage(
                format!("{folds} {name} folds leave nothing to compare"),
                format!("set the number of {name} folds to at least 2"),
            ));
        }
    }
    let patients = by_patient(groups)?;
    if patients.len() < outer {
        return Err(Error::usage(
            format!(
                "{} patients cannot be dealt to {outer} outer folds",
                patients.len()
            ),
            if patients.len() < 2 {
                "at least 2 patients are needed for any split".to_string()
            } else {
                format!(
                    "set the number of outer folds to {} or fewer",
                    patients.len()
                )
            },
        ));
    }
    let mut random = Philox::fork(seed, "split");
    let tests = deal(patients, outer, &mut random);
    (0..outer)
        .map(|fold| {
            let others: Vec<Group> = (tests.iter().enumerate())
                .filter(|(other, _)| *other != fold)
                .flat_map(|(_, groups)| groups.iter().cloned())
                .collect();
            if others.len() < inner {
                return Err(Error::usage(
                    format!(
                        "outer fold {fold} leaves {} patients, which cannot be dealt to {inner} \
                         inner folds",
                        others.len()
                    ),
                    format!(
                        "set the number of inner folds to {} or fewer, or that of outer folds \
                         higher",
                        others.len()
                    ),
                ));
            }
            Ok(OuterFold {
                test: samples(&tests[fold]),
                inner: rotations(&deal(others, inner, &mut random)),
            })
        })
        .collect()
}

/// Every group validates in one of `folds` folds, with the rest for training:
/// the inner half of [`nested_folds`], for when the test set is given.
pub fn folds(groups: &[String], folds: usize, seed: u64) -> Result<Vec<(Vec<usize>, Vec<usize>)>> {
    let patients = by_patient(groups)?;
    if folds < 2 || patients.len() < folds {
        return Err(Error::usage(
            format!("{} groups cannot be dealt to {folds} folds", patients.len()),
            "set the number of inner folds between 2 and the number of groups in training",
        ));
    }
    let mut random = Philox::fork(seed, "split");
    Ok(rotations(&deal(patients, folds, &mut random)))
}

/// (train, validation) with each fold in turn as the validation set.
fn rotations(dealt: &[Vec<Group>]) -> Vec<(Vec<usize>, Vec<usize>)> {
    (0..dealt.len())
        .map(|v| {
            let train = (dealt.iter().enumerate())
                .filter(|(other, _)| *other != v)
                .flat_map(|(_, groups)| groups);
            (samples(train), samples(&dealt[v]))
        })
        .collect()
}

/// Each patient is tested once, with all others for training and none for
/// validation. Folds are in the order of the patients' names.
pub fn leave_one_out(groups: &[String]) -> Result<Vec<Fold>> {
    let patients = by_patient(groups)?;
    if patients.len() < 2 {
        return Err(Error::usage(
            format!("{} patients cannot be left out one by one", patients.len()),
            "at least 2 patients are needed for any split",
        ));
    }
    Ok((0..patients.len())
        .map(|test| Fold {
            train: samples(
                (patients.iter().enumerate())
                    .filter(|(other, _)| *other != test)
                    .map(|(_, patient)| patient),
            ),
            validation: Vec::new(),
            test: patients[test].1.clone(),
        })
        .collect())
}

fn samples<'a>(groups: impl IntoIterator<Item = &'a Group<'a>>) -> Vec<usize> {
    let mut samples: Vec<usize> = groups.into_iter().flat_map(|g| g.1.clone()).collect();
    samples.sort_unstable();
    samples
}

/// Deals groups to `folds` folds, none of which stays empty if there are as
/// many groups.
fn deal<'a>(mut groups: Vec<Group<'a>>, folds: usize, random: &mut Philox) -> Vec<Vec<Group<'a>>> {
    groups.sort_unstable();
    random.shuffle(&mut groups);
    groups.sort_by_key(|(_, samples)| std::cmp::Reverse(samples.len()));
    let mut dealt = vec![(0, Vec::new()); folds];
    for group in groups {
        if let Some((count, fold)) = dealt.iter_mut().min_by_key(|(count, _)| *count) {
            *count += group.1.len();
            fold.push(group);
        }
    }
    dealt.into_iter().map(|(_, fold)| fold).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Patients with 1 to 9 samples, interleaved.
    fn cohort(patients: usize) -> Vec<String> {
        let mut groups = Vec::new();
        for round in 0..9 {
            for patient in 0..patients {
                if patient * 5 % 9 >= round {
                    groups.push(format!("P{patient}"));
                }
            }
        }
        groups
    }

    fn names<'a>(groups: &'a [String], samples: &[usize]) -> BTreeSet<&'a str> {
        samples.iter().map(|&s| groups[s].as_str()).collect()
    }

    #[test]
    fn every_sample_is_tested_once_and_no_patient_is_on_two_sides() -> Result<()> {
        for (patients, outer, inner) in [(5, 5, 4), (12, 3, 2), (40, 5, 5), (101, 10, 3)] {
            for seed in 0..20 {
                let groups = cohort(patients);
                let folds = nested_folds(&groups, outer, inner, seed)?;
                assert_eq!(folds.len(), outer);
                let mut tested: Vec<usize> = folds.iter().flat_map(|f| f.test.clone()).collect();
                tested.sort();
                assert_eq!(tested, (0..groups.len()).collect::<Vec<_>>());
                for fold in &folds {
                    assert_eq!(fold.inner.len(), inner);
                    let mut validated: Vec<usize> = Vec::new();
                    for part in fold.folds() {
                        let mut all = [&part.train[..], &part.validation, &part.test].concat();
                        all.sort();
                        assert_eq!(all, (0..groups.len()).collect::<Vec<_>>());
                        let sides = [&part.train, &part.validation, &part.test];
                        let sides = sides.map(|s| names(&groups, s));
                        assert!(sides.iter().all(|s| !s.is_empty()));
                        assert!(sides[0].is_disjoint(&sides[1]));
                        assert!(sides[0].is_disjoint(&sides[2]));
                        assert!(sides[1].is_disjoint(&sides[2]));
                        assert!(part.train.is_sorted() && part.validation.is_sorted());
                        validated.extend(part.validation);
                    }
                    validated.extend(&fold.test);
                    validated.sort();
                    assert_eq!(validated, (0..groups.len()).collect::<Vec<_>>());
                }
            }
        }
        Ok(())
    }

    #[test]
    fn strata_have_their_shares_and_patients_stay_whole() -> Result<()> {
        let groups = cohort(60);
        let class = |g: &String| match g.len() {
            2 => "few".to_owned(), // P0 to P9
            _ => "many".to_owned(),
        };
        let classes: Vec<String> = groups.iter().map(class).collect();
        for seed in 0..20 {
            let fold = stratified(&groups, &classes, [0.6, 0.2, 0.2], seed)?;
            let parts = [&fold.train[..], &fold.validation, &fold.test];
            let mut all = parts.concat();
            all.sort_unstable();
            assert_eq!(all, (0..groups.len()).collect::<Vec<_>>());
            let sides = parts.map(|s| names(&groups, s));
            assert!(sides[0].is_disjoint(&sides[1]) && sides[0].is_disjoint(&sides[2]));
            assert!(sides[1].is_disjoint(&sides[2]));
            for class in ["few", "many"] {
                let of = |part: &[usize]| part.iter().filter(|&&s| classes[s] == class).count();
                let share = of(parts[0]) as f64 / of(&all) as f64;
                assert!((share - 0.6).abs() < 0.1, "{class}: {share}");
            }
            assert_eq!(fold, stratified(&groups, &classes, [0.6, 0.2, 0.2], seed)?);
        }
        let each: Vec<String> = (0..12).map(|i| format!("P{i}")).collect();
        let halves: Vec<String> = (0..12).map(|i| format!("class {}", i % 2)).collect();
        let fold = stratified(&each, &halves, [0.6, 0.2, 0.2], 1)?;
        let sizes = [fold.train.len(), fold.validation.len(), fold.test.len()];
        assert_eq!(sizes, [8, 2, 2]);

        let two = ["A".to_owned(), "B".to_owned()];
        let error = stratified(&two, &two, [0.6, 0.2, 0.2], 1).unwrap_err();
        assert!(error.to_string().contains("stays empty"), "{error}");
        assert!(stratified(&two, &two[..1], [0.6, 0.2, 0.2], 1).is_err());
        Ok(())
    }

    #[test]
    fn every_fold_tests_a_share_of_each_class() -> Result<()> {
        let groups = cohort(60);
        let class = |g: &String| if g.len() == 2 { "few" } else { "many" };
        let classes: Vec<String> = groups.iter().map(|g| class(g).to_owned()).collect();
        for seed in 0..20 {
            let folds = stratified_folds(&groups, &classes, 5, seed)?;
            let mut tested: Vec<usize> = folds.iter().flat_map(|f| f.1.clone()).collect();
            tested.sort_unstable();
            assert_eq!(tested, (0..groups.len()).collect::<Vec<_>>());
            for (train, test) in &folds {
                assert!(names(&groups, train).is_disjoint(&names(&groups, test)));
                assert_eq!(train.len() + test.len(), groups.len());
                for class in ["few", "many"] {
                    let of = |part: &[usize]| part.iter().filter(|&&s| classes[s] == class).count();
                    let share = of(test) as f64 / (of(test) + of(train)) as f64;
                    assert!((share - 0.2).abs() < 0.08, "{class}: {share}");
                }
            }
            assert_eq!(folds, stratified_folds(&groups, &classes, 5, seed)?);
        }
        let error = stratified_folds(&groups, &classes, 11, 1).unwrap_err();
        assert!(error.to_string().contains("class few has 10"), "{error}");
        assert!(stratified_folds(&groups, &classes, 1, 1).is_err());
        Ok(())
    }

    #[test]
    fn folds_are_balanced_by_samples() -> Result<()> {
        let groups = cohort(100);
        let folds = nested_folds(&groups, 5, 4, 3)?;
        let sizes: Vec<usize> = folds.iter().map(|f| f.test.len()).collect();
        let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
        assert!(spread <= 1, "{sizes:?}");
        Ok(())
    }

    #[test]
    fn the_seed_alone_decides() -> Result<()> {
        let groups = cohort(30);
        let of = |seed| nested_folds(&groups, 5, 4, seed);
        assert_eq!(of(7)?, of(7)?);
        let different: BTreeSet<String> = (0..20)
            .map(|seed| of(seed).map(|f| format!("{f:?}")))
            .collect::<Result<_>>()?;
        assert_eq!(different.len(), 20);
        Ok(())
    }

    #[test]
    fn the_order_of_samples_does_not_move_patients() -> Result<()> {
        let groups = cohort(30);
        let mut reversed = groups.clone();
        reversed.reverse();
        let a = nested_folds(&groups, 5, 4, 7)?;
        let b = nested_folds(&reversed, 5, 4, 7)?;
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(names(&groups, &a.test), names(&reversed, &b.test));
        }
        Ok(())
    }

    #[test]
    fn leaving_one_out_tests_each_patient_once() -> Result<()> {
        let groups = cohort(6);
        let folds = leave_one_out(&groups)?;
        assert_eq!(folds.len(), 6);
        let mut tested = Vec::new();
        for fold in folds {
            assert!(fold.validation.is_empty());
            assert_eq!(names(&groups, &fold.test).len(), 1);
            assert!(names(&groups, &fold.train).is_disjoint(&names(&groups, &fold.test)));
            assert_eq!(fold.train.len() + fold.test.len(), groups.len());
            tested.extend(fold.test);
        }
        tested.sort();
        assert_eq!(tested, (0..groups.len()).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn too_few_patients_are_refused_with_their_number() {
        let message = |groups: &[String], outer, inner| {
            nested_folds(groups, outer, inner, 1)
                .unwrap_err()
                .to_string()
        };
        let groups = cohort(4);
        assert_eq!(
            message(&groups, 5, 2),
            "4 patients cannot be dealt to 5 outer folds; set the number of outer folds to 4 or fewer"
        );
        let text = message(&groups, 4, 4);
        assert!(
            text.contains("leaves 3 patients") && text.contains("inner folds to 3"),
            "{text}"
        );
        assert!(message(&groups, 1, 2).contains("at least 2"));
        assert!(message(&groups, 2, 0).contains("inner folds to at least 2"));
        assert!(message(&[], 2, 2).contains("0 patients"));
        assert!(message(&["".to_string()], 2, 2).contains("sample 0 has no patient"));
        assert!(leave_one_out(&[]).is_err());
        assert!(leave_one_out(&["A".to_string(), "A".to_string()]).is_err());
    }
}
