//! Tables of expression, and what bad ones get.

use std::fs;
use std::time::Instant;

use eosin::expression::table::{Orientation, Table, read, read_for, write};
use tempfile::tempdir;

use crate::support::{gzip, put, refused};

const ROWS: Orientation = Orientation::SamplesByGenes;

/// Reads `content` from a file named counts.csv.
fn parse(content: impl AsRef<[u8]>, orientation: Orientation) -> eosin::Result<Table> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("counts.csv");
    put(&path, content);
    read(&path, orientation)
}

fn expected() -> Table {
    Table {
        samples: ["s1", "s2"].map(String::from).to_vec(),
        genes: ["TP53", "ERBB2", "MKI67"].map(String::from).to_vec(),
        values: vec![1.0, 0.0, 2.5, 12345678.0, 7.0, 1e-3],
    }
}

#[test]
fn the_same_table_in_every_dress() {
    let comma = "id,TP53,ERBB2,MKI67\ns1,1,0,2.5\ns2,12345678,7,1e-3\n";
    let dresses: [Vec<u8>; 8] = [
        comma.into(),
        comma.replace(',', "\t").into(),
        comma.replace(',', ";").into(),
        comma.replace('\n', "\r\n").into(),
        format!("\u{feff}{comma}").into(),
        gzip(comma.as_bytes()),
        "id,\"TP53\",\"ERBB2\",\"MKI67\"\n\"s1\",\"1\",0, 2.5 \ns2,12345678,7,0.001".into(),
        // As R writes it, without a name above the rows.
        "TP53,ERBB2,MKI67\ns1,1,0,2.5\ns2,12345678,7,1e-3\n".into(),
    ];
    for dress in dresses {
        assert_eq!(parse(&dress, ROWS).unwrap(), expected());
    }
    let turned = "gene,s1,s2\nTP53,1,12345678\nERBB2,0,7\nMKI67,2.5,0.001\n";
    assert_eq!(
        parse(turned, Orientation::GenesBySamples).unwrap(),
        expected()
    );
    let quoted = parse("id\t\"HLA-A, alpha\"\n\"s \"\"1\"\"\"\t3\n", ROWS).unwrap();
    assert_eq!(quoted.genes, ["HLA-A, alpha"]);
    assert_eq!(quoted.samples, ["s \"1\""]);
}

#[test]
fn two_gzip_members_are_one_table() {
    let mut joined = gzip(b"id,A\ns1,1\n");
    joined.extend(gzip(b"s2,2\n"));
    assert_eq!(parse(joined, ROWS).unwrap().values, [1.0, 2.0]);
}

#[test]
fn orientation_follows_the_known_samples() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("t.tsv");
    let known = ["s1", "s2", "s9"].map(String::from);
    put(&path, "\tA\tB\ns1\t1\t2\ns2\t3\t4\n");
    let table = read_for(&path, Orientation::Auto, &known).unwrap();
    assert_eq!(
        (table.samples.len(), &table.genes[..]),
        (2, &["A".to_string(), "B".to_string()][..])
    );
    put(&path, "\ts1\ts2\nA\t1\t3\nB\t2\t4\n");
    assert_eq!(read_for(&path, Orientation::Auto, &known).unwrap(), table);

    put(&path, "\tA\nx\t1\n");
    refused(
        read_for(&path, Orientation::Auto, &known),
        &["t.tsv", "none of the 3 samples", "`x`", "`A`", "`s1`"],
    );
    put(&path, "\ts1\ns2\t1\n");
    refused(
        read_for(&path, Orientation::Auto, &known),
        &["t.tsv", "set the orientation"],
    );
    refused(
        read(&path, Orientation::Auto),
        &["t.tsv", "set the orientation"],
    );
}

#[test]
fn a_gene_twice_is_an_error() {
    refused(
        parse("id,TP53,A,TP53\ns1,1,2,3\n", ROWS),
        &[
            "counts.csv",
            "line 1",
            "gene `TP53` stands twice",
            "keep one",
        ],
    );
    refused(
        parse("id,s1\nTP53,1\nA,2\nTP53,3\n", Orientation::GenesBySamples),
        &[
            "counts.csv",
            "line 4",
            "gene `TP53` stands already in line 2",
        ],
    );
}

#[test]
fn a_sample_twice_is_an_error() {
    refused(
        parse("id,A\ns1,1\ns1,2\n", ROWS),
        &[
            "counts.csv",
            "line 3",
            "sample `s1` stands already in line 2",
        ],
    );
    refused(
        parse("id,s1,s1\nA,1,2\n", Orientation::GenesBySamples),
        &["line 1", "sample `s1` stands twice"],
    );
}

#[test]
fn nan_text_or_a_negative_in_a_count_is_an_error() {
    for (cell, problem) in [
        ("NaN", "`NaN` is not a finite number"),
        ("inf", "`inf` is not a finite number"),
        ("1e99", "`1e99` is not a finite number"),
        ("NA", "`NA` is not a number"),
        ("many", "`many` is not a number"),
        ("1 2", "`1 2` is not a number"),
        ("\"3,5\"", "`3,5` is not a number"),
        ("", "the value is missing"),
        ("-1", "`-1` is negative"),
    ] {
        refused(
            parse(format!("id,A,TP53\ns1,1,2\ns2,3,{cell}\n"), ROWS),
            &[
                "counts.csv",
                "line 3, column `TP53`",
                problem,
                "not negative",
            ],
        );
    }
}

#[test]
fn a_ragged_row_is_an_error() {
    refused(
        parse("id,A,B\ns1,1,2\ns2,1\n", ROWS),
        &["line 3", "2 fields", "have 3"],
    );
    refused(
        parse("id,A,B\ns1,1,2\ns2,1,2,3\n", ROWS),
        &["line 3", "4 fields"],
    );
    refused(parse("id,A,B\ns1,1,2,3,4\n", ROWS), &["line 2", "5 fields"]);
}

#[test]
fn an_empty_table_is_an_error() {
    for content in ["", "\n\n", "id,A,B\n", "id\ns1\n", "   "] {
        refused(
            parse(content, ROWS),
            &["counts.csv", "the table is empty", "header line"],
        );
    }
    refused(parse(gzip(b""), ROWS), &["the table is empty"]);
}

#[test]
fn a_name_that_is_missing_or_not_text_is_an_error() {
    refused(
        parse("id,A,\ns1,1,2\n", ROWS),
        &["line 1, column 3", "no name"],
    );
    refused(parse("id,A\n,1\n", ROWS), &["line 2, column 1", "no name"]);
    refused(parse(b"id,A\xff\ns1,1\n", ROWS), &["line 1", "UTF-8"]);
    refused(parse(b"PK\x03\x04\x00\x00xlsx", ROWS), &["is not text"]);
}

#[test]
fn a_compressed_file_that_claims_gigabytes_is_an_error() {
    // 200 kB that expand to 200 MiB of zeros, as one endless line.
    let bomb = gzip(&vec![b'0'; 200 << 20]);
    let message = refused(parse(&bomb, ROWS), &["counts.csv", "more than"]);
    eprintln!("{} bytes: {message}", bomb.len());
}

#[test]
fn a_truncated_compressed_file_is_an_error() {
    let text: String = (0..2000)
        .map(|i| format!("s{i},{}\n", i * 7919 % 1000))
        .collect();
    let whole = gzip(format!("id,A\n{text}").as_bytes());
    for len in [whole.len() - 1, whole.len() - 8, whole.len() / 2, 12] {
        refused(parse(&whole[..len], ROWS), &["counts.csv", "truncated"]);
    }
}

#[test]
fn a_missing_file_or_a_folder_is_an_error() {
    let folder = tempdir().unwrap();
    refused(
        read(folder.path().join("none.csv"), ROWS),
        &["cannot read", "none.csv"],
    );
    refused(read(folder.path(), ROWS), &["is a folder"]);
}

#[test]
fn a_written_table_reads_back_the_same() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let table = Table {
        samples: vec!["s, 1".into(), "s\"2".into()],
        genes: vec!["A".into(), "B".into()],
        values: vec![0.1, f32::MIN_POSITIVE, f32::MAX, 3.0],
    };
    write(&path, &table).unwrap();
    assert_eq!(read(&path, ROWS).unwrap(), table);
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["out.csv"]);
    refused(
        write(folder.path().join("no/out.csv"), &table),
        &["cannot write", "no/out.csv"],
    );
    let misfit = Table {
        values: vec![1.0],
        ..table
    };
    refused(write(&path, &misfit), &["[2, 2]"]);
}

/// Permissions do not bind root, so the folder is one that takes no files.
#[test]
fn a_folder_that_takes_no_files_is_an_error() {
    if !std::path::Path::new("/proc/self").exists() {
        eprintln!("skipped: a_folder_that_takes_no_files_is_an_error: no /proc");
        return;
    }
    refused(
        write("/proc/out.csv", &expected()),
        &["cannot write", "/proc/out.csv"],
    );
}

#[test]
fn a_table_of_fifteen_thousand_genes_reads_in_well_under_a_second() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("big.tsv.gz");
    let (samples, genes) = (350, 15_000);
    let mut text = String::from("");
    (0..genes).for_each(|g| text += &format!("\tGENE{g}"));
    for s in 0..samples {
        text += &format!("\ns{s}");
        (0..genes).for_each(|g| text += ["\t0", "\t0", "\t0", "\t1", "\t13"][(s * 31 + g * 7) % 5]);
    }
    put(&path, gzip(text.as_bytes()));
    let start = Instant::now();
    let table = read(&path, ROWS).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{samples} x {genes} in {seconds:.3} s");
    assert_eq!(table.values.len(), samples * genes);
    // Other people's builds share the machine, and debug builds are slow; the
    // figure is printed, the bound only catches something quadratic.
    assert!(seconds < 10.0, "{seconds} s");
}
