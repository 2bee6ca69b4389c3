//! k-means against scikit-learn, and what it does with what cannot be clustered.

use eosin::cohort::kmeans::{Clusters, ITERATIONS, Start, kmeans};
use eosin::random::Philox;
use safetensors::SafeTensors;

use crate::formula;
use crate::support::{golden, refused};

fn integers(arrays: &SafeTensors, name: &str) -> Vec<usize> {
    let view = arrays.tensor(name).expect("a golden array");
    let words = view.data().chunks_exact(4);
    let number = |b: &[u8]| i32::from_le_bytes(b.try_into().expect("four bytes"));
    words.map(|b| number(b) as usize).collect()
}

fn doubles(arrays: &SafeTensors, name: &str) -> Vec<f64> {
    let view = arrays.tensor(name).expect("a golden array");
    let words = view.data().chunks_exact(8);
    let number = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("eight bytes"));
    words.map(number).collect()
}

#[test]
fn labels_and_centres_are_scikit_learns() {
    let manifest = std::fs::read(golden("imaging_kmeans.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let bytes = std::fs::read(golden("imaging_kmeans.safetensors")).expect("arrays");
    let arrays = SafeTensors::deserialize(&bytes).expect("arrays");
    let cases = manifest["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 2);
    for case in cases {
        let name = case["case"].as_str().expect("a name");
        let number = |key: &str| case[key].as_u64().expect("a number") as usize;
        let (n, columns, k) = (number("n"), number("dims"), number("k"));
        let input = case["input"]["name"].as_str().expect("a name");
        let points = formula::values(input, n * columns, 0.0, 1.0);
        let starts: Vec<usize> = (0..k).map(|i| i * (n / k)).collect();
        let run = |iterations| {
            let found = kmeans(&points, columns, k, Start::Points(&starts), iterations);
            found.expect("clusters")
        };
        let check = |found: &Clusters, labels: &str, inertia: &str| {
            let labels = integers(&arrays, &format!("{name}.{labels}"));
            assert_eq!(found.labels, labels, "{name}");
            let want = case[inertia].as_f64().expect("a number");
            assert!((found.inertia - want).abs() <= 1e-9 * want, "{name}");
        };
        check(&run(1), "labels_after_1", "inertia_after_1");
        let found = run(ITERATIONS);
        check(&found, "labels", "inertia");
        assert_eq!(found.iterations, number("iterations"), "{name}");
        assert_eq!(found.reseeded, 0, "{name}");
        let centres = doubles(&arrays, &format!("{name}.centers"));
        assert_eq!(found.centres.len(), centres.len());
        for (got, want) in found.centres.iter().zip(centres) {
            assert!((got - want).abs() <= 1e-9, "{name}: {got}, not {want}");
        }
    }
}

#[test]
fn a_seed_decides_for_any_number_of_threads() {
    let points = formula::values("kmeans/threads", 3000, 0.0, 1.0);
    let run = |seed| {
        let start = Start::PlusPlus(Philox::new(seed));
        kmeans(&points, 3, 20, start, ITERATIONS).expect("clusters")
    };
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build();
    let alone = pool(1).expect("a thread").install(|| run(7));
    let together = pool(3).expect("threads").install(|| run(7));
    assert_eq!(alone, together);
    assert!(run(8).labels != alone.labels);
    // Better than starts that are equal but for their place in the file.
    let plain: Vec<usize> = (0..20).collect();
    let plain = kmeans(&points, 3, 20, Start::Points(&plain), 1).expect("clusters");
    assert!(alone.inertia < plain.inertia);
}

#[test]
fn empty_clusters_are_moved_and_counted() {
    // The second and third start are one point, so the third cluster is empty and goes
    // to 100; the mean of 10, 10 and 100 then loses its points to the first cluster.
    let points = [0.0, 10.0, 10.0, 100.0];
    let found = kmeans(&points, 1, 3, Start::Points(&[0, 1, 2]), ITERATIONS).expect("clusters");
    assert_eq!(found.labels, [0, 1, 1, 2]);
    assert_eq!((found.inertia, found.reseeded), (0.0, 2));
    // Two different points make no three clusters.
    let found = kmeans(
        &[1.0, 1.0, 2.0],
        1,
        3,
        Start::Points(&[0, 1, 2]),
        ITERATIONS,
    );
    let found = found.expect("clusters");
    assert_eq!(found.labels, [0, 0, 2]);
    let start = Start::PlusPlus(Philox::new(0));
    let found = kmeans(&[5.0; 8], 2, 4, start, ITERATIONS).expect("clusters");
    assert_eq!(found.labels, [0; 4]);
}

#[test]
fn impossible_input_is_refused() {
    let of = |points: &[f32], columns, k| {
        kmeans(
            points,
            columns,
            k,
            Start::PlusPlus(Philox::new(0)),
            ITERATIONS,
        )
    };
    refused(of(&[], 2, 1), &["0 points"]);
    refused(of(&[1.0, 2.0], 0, 1), &["0 points"]);
    refused(of(&[1.0, 2.0, 3.0], 2, 1), &["1 points of 2"]);
    refused(of(&[1.0, 2.0], 1, 3), &["3 clusters"]);
    refused(of(&[1.0, 2.0], 1, 0), &["0 clusters"]);
    refused(of(&[1.0, f32::NAN], 1, 1), &["point 1", "NaN"]);
    let starts = kmeans(&[1.0, 2.0], 1, 2, Start::Points(&[0, 2]), ITERATIONS);
    refused(starts, &["do not start 2 clusters"]);
}
