//! AnnData against anndata's files (fixtures/make_hdf5.py) and its own.

use eosin::DType;
use eosin::formats::h5ad::{self, AnnData, Column, Frame, Matrix};
use eosin::formats::{Array, hdf5};

use crate::{assert_array, assert_says, fixture, refusal};

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|t| (*t).to_owned()).collect()
}

#[test]
fn files_of_anndata_are_read() {
    for name in ["dense.h5ad", "csr.h5ad", "csc.h5ad"] {
        let data = h5ad::read(fixture(name)).unwrap();
        assert_eq!(data.obs.names, ["s1", "s2", "s3"], "{name}");
        assert_eq!(data.var.names, ["TP53", "ERBB2"]);
        let x = data.x.as_ref().unwrap();
        assert_eq!(matches!(x, Matrix::Dense(_)), name == "dense.h5ad");
        assert_eq!(
            x.to_dense().unwrap(),
            [0.0, 1.5, 0.0, 0.0, 2.5, 3.0],
            "{name}"
        );
        let slide = data.obs.column("slide").unwrap();
        assert_eq!(
            *slide,
            Column::Categories {
                codes: vec![1, 0, 1],
                categories: strings(&["A", "B"]),
                ordered: false,
            }
        );
        assert_eq!(slide.to_texts(), ["B", "A", "B"]);
        assert_eq!(
            data.obs.column("note").unwrap().to_texts(),
            ["one", "two", "three"]
        );
        assert_eq!(
            data.obs.column("count").unwrap().to_texts(),
            ["1", "2", "3"]
        );
        assert_eq!(
            data.obs.column("share").unwrap().to_texts(),
            ["0.5", "", "0.25"]
        );
        assert_eq!(data.obs.column("kept").unwrap().to_texts(), ["1", "0", "1"]);
        assert_eq!(
            data.var.column("gene_ids").unwrap().to_texts(),
            ["ENSG01.2", "ENSG02.1"]
        );
        let spatial = &data.obsm["spatial"];
        assert_array(
            spatial,
            DType::F64,
            &[3, 2],
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        );
        let counts = h5ad::read_matrix(fixture(name), "layers/counts")
            .unwrap()
            .x
            .unwrap();
        assert_eq!(counts.to_dense().unwrap(), [1.0, 0.0, 2.0, 3.0, 0.0, 4.0]);
    }
    let text = refusal(h5ad::read_matrix(fixture("csr.h5ad"), "layers/none"));
    assert_says(&text, &["csr.h5ad", "layers/none"]);
    assert_says(
        &refusal(h5ad::read(fixture("h5py.h5"))),
        &["no AnnData object"],
    );
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.h5ad");
    for name in ["dense.h5ad", "csr.h5ad", "csc.h5ad"] {
        let data = h5ad::read(fixture(name)).unwrap();
        h5ad::write(&path, &data).unwrap();
        let again = h5ad::read(&path).unwrap();
        // NaN is not equal to itself.
        assert_eq!(format!("{again:?}"), format!("{data:?}"), "{name}");
    }
    let bare = AnnData::dense(strings(&["a"]), strings(&["g", "h"]), &[1.0, 2.0]).unwrap();
    h5ad::write(&path, &bare).unwrap();
    assert_eq!(h5ad::read(&path).unwrap(), bare);
    let none = AnnData {
        obs: Frame::new(Vec::new()),
        ..AnnData::default()
    };
    h5ad::write(&path, &none).unwrap();
    assert_eq!(h5ad::read(&path).unwrap(), none);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.h5ad");
    let whole = h5ad::read(fixture("csr.h5ad")).unwrap();
    let mut data = whole.clone();
    data.obs.names.pop();
    assert_says(&refusal(h5ad::write(&path, &data)), &["`X`", "[3, 2]"]);
    let mut data = whole.clone();
    data.obs
        .columns
        .push(("short".to_owned(), Column::Text(Vec::new())));
    assert_says(
        &refusal(h5ad::write(&path, &data)),
        &["`obs/short`", "0 rows for 3 names"],
    );
    let mut data = whole.clone();
    if let Some(Matrix::Sparse(sparse)) = &mut data.x {
        sparse.places[0] = 2;
    }
    assert_says(
        &refusal(h5ad::write(&path, &data)),
        &["index 2 is past the end of 2"],
    );
    assert!(!path.exists());

    // The same in a file, written part by part.
    let ints = |values: &[i64]| Array::from_i64(&[values.len()], values).unwrap();
    for (starts, places, problem) in [
        (vec![0, 1], vec![0], "indptr has 2 entries"),
        (vec![0, 1, 0, 1], vec![0], "does not deal out"),
        (vec![0, 1, 1, 1], vec![2], "index 2 is past"),
        (vec![0, 1, 1, 1], vec![-1], "negative"),
        (vec![0, 1, 1, 2], vec![0], "does not deal out"),
    ] {
        let frame = |names: &[&str]| {
            let mut group = hdf5::Group::new();
            group
                .attribute("_index", "names")
                .dataset("names", strings(names));
            group
        };
        let mut x = hdf5::Group::new();
        x.attribute("encoding-type", "csr_matrix")
            .attribute("shape", vec![3, 2]);
        x.dataset("indptr", ints(&starts))
            .dataset("indices", ints(&places));
        x.dataset("data", Array::from_f32(&[1], &[1.0]).unwrap());
        let mut root = hdf5::Group::new();
        root.group("X", x)
            .group("obs", frame(&["a", "b", "c"]))
            .group("var", frame(&["g", "h"]));
        hdf5::write(&path, &root).unwrap();
        assert_says(&refusal(h5ad::read(&path)), &["made.h5ad: `X", problem]);
    }
}

/// With a Python that has anndata, named by EOSIN_TEST_PYTHON.
#[test]
fn anndata_opens_what_is_written() {
    let Some(python) = std::env::var_os("EOSIN_TEST_PYTHON") else {
        eprintln!("skipped: anndata_opens_what_is_written: EOSIN_TEST_PYTHON names no Python");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = "
import sys, anndata, numpy as np
for original, made in zip(sys.argv[1::2], sys.argv[2::2]):
    a, b = anndata.read_h5ad(original), anndata.read_h5ad(made)
    dense = lambda x: np.asarray(x.todense() if hasattr(x, 'todense') else x)
    assert (dense(a.X) == dense(b.X)).all() and type(a.X) is type(b.X), (a.X, b.X)
    assert list(a.obs_names) == list(b.obs_names) and list(a.var_names) == list(b.var_names)
    assert list(a.obs.columns) == list(b.obs.columns), (a.obs, b.obs)
    for name in a.obs.columns:
        assert a.obs[name].equals(b.obs[name]) or list(a.obs[name].astype(str)) == list(b.obs[name].astype(str)), name
    assert a.obs['slide'].dtype == b.obs['slide'].dtype == 'category'
    assert b.obs['kept'].dtype == bool
    assert (a.obsm['spatial'] == b.obsm['spatial']).all()
    assert not b.uns and not b.layers
    b.write_h5ad(made + '.again')
";
    let mut args = vec!["-c".into(), script.to_owned()];
    for name in ["dense.h5ad", "csr.h5ad", "csc.h5ad"] {
        let path = folder.path().join(name);
        h5ad::write(&path, &h5ad::read(fixture(name)).unwrap()).unwrap();
        args.push(fixture(name).display().to_string());
        args.push(path.display().to_string());
    }
    let ended = std::process::Command::new(python)
        .args(&args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    // anndata's own file of it is read again.
    let again = h5ad::read(folder.path().join("csr.h5ad.again")).unwrap();
    assert_eq!(
        format!("{:?}", again.x),
        format!("{:?}", h5ad::read(fixture("csr.h5ad")).unwrap().x)
    );
}
