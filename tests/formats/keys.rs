use eosin::formats::{Array, Weights, check_keys};

use crate::{assert_says, refusal};

fn expected(items: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    items
        .iter()
        .map(|(n, s)| ((*n).to_owned(), s.to_vec()))
        .collect()
}

fn got(items: &[(&str, &[usize])]) -> Weights {
    let mut weights = Weights::new();
    for (name, shape) in items {
        let values = vec![0.0; shape.iter().product()];
        weights
            .insert(*name, Array::from_f32(shape, &values).unwrap())
            .unwrap();
    }
    weights
}

#[test]
fn equal_keys_pass_and_batch_counters_may_lack() {
    let expected = expected(&[("a", &[2, 3]), ("bn.num_batches_tracked", &[])]);
    check_keys("w.pth", &expected, &got(&[("a", &[2, 3])])).unwrap();
    check_keys(
        "w.pth",
        &expected,
        &got(&[("bn.num_batches_tracked", &[]), ("a", &[2, 3])]),
    )
    .unwrap();
}

#[test]
fn everything_wrong_is_said_at_once() {
    let expected = expected(&[
        ("a", &[2, 3]),
        ("b", &[4]),
        ("c", &[1]),
        ("bn.num_batches_tracked", &[]),
    ]);
    let got = got(&[
        ("a", &[3, 2]),
        ("x", &[1]),
        ("y", &[1]),
        ("bn.num_batches_tracked", &[1]),
    ]);
    let text = refusal(check_keys("w.pth", &expected, &got));
    assert_says(
        &text,
        &[
            "w.pth: 2 keys missing (b, c), 2 keys unexpected (x, y), 2 keys of another shape (",
            "a: [3, 2], not [2, 3]",
            "bn.num_batches_tracked: [1], not []",
        ],
    );
}

#[test]
fn long_lists_are_cut() {
    let names: Vec<String> = (0..20).map(|i| format!("layer{i}")).collect();
    let expected: Vec<_> = names.iter().map(|n| (n.clone(), vec![1])).collect();
    let text = refusal(check_keys("w.pth", &expected, &Weights::new()));
    assert_says(&text, &["20 keys missing", "layer7 and 12 more"]);
    assert!(!text.contains("layer8"), "{text}");
}
