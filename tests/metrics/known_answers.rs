//! The generator of the golden inputs itself.

use crate::formula;
use crate::golden::{indices, json, number, numbers};

fn hexadecimal(value: &serde_json::Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn fnv1a() {
    let known = json("formula.json");
    let known = known["fnv1a64"].as_array().unwrap();
    assert_eq!(known.len(), 5);
    for pair in known {
        let name = pair[0].as_str().unwrap();
        assert_eq!(formula::fnv1a(name), hexadecimal(&pair[1]), "{name:?}");
    }
}

#[test]
fn split_mix() {
    let known = json("formula.json");
    let known = known["splitmix64"].as_array().unwrap();
    assert_eq!(known.len(), 3);
    for pair in known {
        let mut state = hexadecimal(&pair[0]);
        for expected in pair[1].as_array().unwrap() {
            assert_eq!(eosin::random::splitmix64(&mut state), hexadecimal(expected));
        }
    }
}

#[test]
fn rules() {
    let known = json("formula.json");
    let rules = known["rules"].as_array().unwrap();
    assert!(rules.len() > 10);
    for rule in rules {
        let key = rule["key"].as_str().unwrap();
        if rule["rule"] == "zero_i64" {
            // A counter, not drawn from the formula.
            assert_eq!(numbers(&rule["values"]), [0.0]);
            continue;
        }
        let count = indices(&rule["shape"]).iter().product();
        let values = formula::values(key, count, number(&rule["lo"]), number(&rule["hi"]));
        for ((index, value), bits) in indices(&rule["index"])
            .into_iter()
            .zip(numbers(&rule["values"]))
            .zip(rule["bits"].as_array().unwrap())
        {
            assert_eq!(
                u64::from(values[index].to_bits()),
                hexadecimal(bits),
                "{key}"
            );
            assert_eq!(values[index], value as f32, "{key}");
        }
    }
}

#[test]
fn input() {
    let known = json("formula.json");
    let values = crate::golden::input(&known["input"]);
    let bits = known["input"]["bits"].as_array().unwrap();
    assert_eq!(values.len(), bits.len());
    for (value, bits) in values.iter().zip(bits) {
        assert_eq!(u64::from(value.to_bits()), hexadecimal(bits));
    }
}

#[test]
fn long() {
    let known = json("formula.json");
    let values = crate::golden::input(&known["long"]);
    for (index, value) in indices(&known["long"]["index"])
        .into_iter()
        .zip(numbers(&known["long"]["values"]))
    {
        assert_eq!(values[index], value as f32);
    }
}

/// Every section is tested by the module of its name, or listed here with where.
#[test]
fn no_section_is_left_out() {
    let all = json("metrics.json");
    let mut names: Vec<&str> = all
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "classification",
            "correlation",
            "correlation_constant", // in the module correlation
            "family",
            "fid",
            "fisher_exact",
            "multiple_testing",
            "ranking",
            "regression",
            "summary",
            "tolerance",
            "versions",
        ]
    );
}
