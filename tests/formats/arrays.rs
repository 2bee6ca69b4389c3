use eosin::DType;
use eosin::formats::{Array, Weights};
use half::{bf16, f16};

use crate::{assert_array, assert_says, refusal};

#[test]
fn the_constructor_checks_shape_and_length() {
    assert!(Array::new(DType::F32, [2, 3], vec![0; 24]).is_ok());
    assert!(Array::new(DType::F32, [], vec![0; 4]).is_ok());
    assert!(Array::new(DType::F32, [0, 7], vec![]).is_ok());
    let text = refusal(Array::new(DType::F32, [2, 3], vec![0; 23]));
    assert_says(&text, &["[2, 3]", "24 bytes", "23"]);
    for shape in [
        vec![1 << 40, 1 << 40],
        vec![usize::MAX],
        vec![0, usize::MAX, 2],
    ] {
        assert_says(
            &refusal(Array::new(DType::F32, shape, vec![])),
            &["overflows"],
        );
    }
    let text = refusal(Array::new(DType::Bool, [2], vec![1, 2]));
    assert_says(&text, &["bool", "2"]);
}

#[test]
fn conversions_keep_values_and_refuse_what_does_not_fit() {
    let values = [-1.5f32, 0.0, 3.25];
    let f32s = Array::from_f32(&[3], &values).unwrap();
    assert_eq!(f32s.to_f32().unwrap(), values);
    assert_array(&f32s, DType::F32, &[3], &[-1.5, 0.0, 3.25]);
    let f64s = Array::from_f64(&[1], &[0.1]).unwrap();
    assert_eq!(f64s.to_f32().unwrap(), [0.1f32]);
    let halves = Array::from_slice(&[3], &values.map(f16::from_f32)).unwrap();
    assert_eq!(halves.to_f32().unwrap(), values);
    let brains = Array::from_slice(&[3], &values.map(bf16::from_f32)).unwrap();
    assert_eq!(brains.to_f32().unwrap(), values);

    let longs = Array::from_i64(&[2], &[i64::MIN, 5]).unwrap();
    assert_eq!(longs.to_i64().unwrap(), [i64::MIN, 5]);
    assert_says(&refusal(longs.to_f32()), &["Array::to_f32", "I64"]);
    assert_says(&refusal(f32s.to_i64()), &["Array::to_i64", "F32"]);
    assert_says(
        &refusal(f32s.to_vec::<f64>()),
        &["Array::to_vec", "F32", "F64"],
    );
    let bools = Array::from_bool(&[2], &[true, false]).unwrap();
    assert_eq!(bools.to_i64().unwrap(), [1, 0]);
    assert_eq!(bools.to_vec::<u8>().unwrap(), [1, 0]);
    assert!(Array::from_f32(&[2], &values).is_err());
}

#[test]
fn weights_keep_their_order_and_refuse_a_second_array_of_a_name() {
    let mut weights = Weights::new();
    for name in ["z", "a", "m"] {
        weights
            .insert(name, Array::from_f32(&[2], &[0.0, 1.0]).unwrap())
            .unwrap();
    }
    assert_eq!(weights.names().collect::<Vec<_>>(), ["z", "a", "m"]);
    assert_eq!((weights.len(), weights.elements()), (3, 6));
    assert!(weights.get("m").is_some() && weights.get("q").is_none());
    let again = weights.insert("a", Array::from_f32(&[], &[0.0]).unwrap());
    assert_says(&refusal(again), &["`a`", "twice"]);
}
