//! Expression in the forms that people have it in.

use std::path::Path;

use eosin::expression::source::{GeneNames, Measure, Source, read};
use eosin::formats::h5ad::{AnnData, Column, write};
use tempfile::tempdir;

use crate::support::{gzip, put, refused};

const STAR: &str = "# gene-model: GENCODE v36
gene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded\tfpkm_uq_unstranded
N_unmapped\t\t\t5\t5\t5\t\t\t
N_ambiguous\t\t\t5\t5\t5\t\t\t
ENSG00000000003.15\tTSPAN6\tprotein_coding\t10\t5\t5\t1.5\t2.5\t3.5
ENSG00000002586.20\tCD99\tprotein_coding\t20\t5\t5\t4.5\t5.5\t6.5
ENSG00000002586.20_PAR_Y\tCD99\tprotein_coding\t0\t0\t0\t0.5\t0.0\t0.0
";

fn source() -> Source {
    Source::default()
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|t| (*t).to_owned()).collect()
}

#[test]
fn star_counts_give_each_measure_under_ids_or_symbols() {
    let folder = tempdir().unwrap();
    let path = folder
        .path()
        .join("s1.rna_seq.augmented_star_gene_counts.tsv");
    put(&path, STAR);
    let found = read(&path, &source(), &[]).unwrap();
    assert_eq!(found.table.samples, ["s1"]);
    let ids = [
        "ENSG00000000003",
        "ENSG00000002586",
        "ENSG00000002586_PAR_Y",
    ];
    assert_eq!(found.table.genes, ids);
    for (measure, values) in [
        (Measure::Tpm, [1.5, 4.5, 0.5]),
        (Measure::Fpkm, [2.5, 5.5, 0.0]),
        (Measure::FpkmUq, [3.5, 6.5, 0.0]),
        (Measure::Counts, [10.0, 20.0, 0.0]),
    ] {
        let source = Source {
            measure,
            ..source()
        };
        assert_eq!(read(&path, &source, &[]).unwrap().table.values, values);
    }
    let symbols = Source {
        genes: GeneNames::Symbol,
        ..source()
    };
    let found = read(&path, &symbols, &[]).unwrap();
    assert_eq!(found.table.genes, ["TSPAN6", "CD99"]);
    assert_eq!(found.table.values, [1.5, 5.0]);
    assert!(
        found.skipped[0].why.contains("added up"),
        "{:?}",
        found.skipped
    );
    let cut = STAR.replace("\t4.5\t5.5\t6.5", "");
    put(&path, cut);
    refused(
        read(&path, &source(), &[]),
        &["line 6", "ENSG00000002586.20", "missing"],
    );
    put(&path, STAR.replace("tpm_unstranded", "other"));
    refused(
        read(&path, &source(), &[]),
        &["line 2", "no column tpm_unstranded"],
    );
}

#[test]
fn a_folder_of_the_gdc_is_read_by_its_sample_sheet() {
    let root = tempdir().unwrap();
    let put_at = |name: &str, content: &[u8]| put(&root.path().join(name), content);
    put_at("gdc/u1/a.star_gene_counts.tsv", STAR.as_bytes());
    put_at(
        "gdc/u2/b.star_gene_counts.tsv",
        STAR.replace("1.5", "7").as_bytes(),
    );
    put_at("gdc/u3/c.star_gene_counts.tsv", STAR.as_bytes());
    put_at("gdc/u4/d.star_gene_counts.tsv", STAR.as_bytes());
    put_at("gdc/MANIFEST.txt", b"id\tfilename\n");
    put_at(
        "sheet.tsv",
        b"File ID\tFile Name\tCase ID\tSample ID\n\
          u1\ta.star_gene_counts.tsv\tTCGA-1\tTCGA-1-01A\n\
          u2\tb.star_gene_counts.tsv\tTCGA-2\tTCGA-2-01A\n\
          u3\tc.star_gene_counts.tsv\tTCGA-2\tTCGA-2-01A\n\
          u9\tz.star_gene_counts.tsv\tTCGA-9\tTCGA-9-01A\n",
    );
    let folder = root.path().join("gdc");
    let sheet = Source {
        map: Some(root.path().join("sheet.tsv")),
        ..source()
    };
    let found = read(&folder, &sheet, &[]).unwrap();
    assert_eq!(found.table.samples, ["TCGA-1-01A", "TCGA-2-01A"]);
    assert_eq!(found.table.values, [1.5, 4.5, 0.5, 7.0, 4.5, 0.5]);
    let skipped: Vec<String> = found
        .skipped
        .iter()
        .map(|s| format!("{}: {}", s.what, s.why))
        .collect();
    for part in [
        "z.star_gene_counts.tsv is not in",
        "d.star_gene_counts.tsv: ",
        "c.star_gene_counts.tsv: sample TCGA-2-01A has",
    ] {
        assert!(
            skipped.iter().any(|s| s.contains(part)),
            "{part}: {skipped:?}"
        );
    }
    let cases = Source {
        sample_column: Some("Case ID".to_owned()),
        ..sheet.clone()
    };
    assert_eq!(
        read(&folder, &cases, &[]).unwrap().table.samples,
        ["TCGA-1", "TCGA-2"]
    );
    let none = Source {
        sample_column: Some("slide".to_owned()),
        ..sheet
    };
    refused(read(&folder, &none, &[]), &["sheet.tsv", "no column slide"]);
    assert_eq!(
        read(&folder, &source(), &[]).unwrap().table.samples,
        ["a", "b", "c", "d"]
    );
    put_at(
        "gdc/u2/b.star_gene_counts.tsv",
        STAR.replace("ENSG00000000003", "ENSG00000000005")
            .as_bytes(),
    );
    refused(
        read(&folder, &source(), &[]),
        &[
            "b.star_gene_counts.tsv",
            "ENSG00000000005.15",
            "one gene model",
        ],
    );
    refused(
        read(
            root.path().join("gdc/u4").join(".."),
            &Source {
                map: Some(root.path().join("gdc/MANIFEST.txt")),
                ..source()
            },
            &[],
        ),
        &["MANIFEST.txt", "no column file"],
    );
}

#[test]
fn the_gdc_s_older_text_is_read() {
    let root = tempdir().unwrap();
    for (name, value) in [("p1", "12.5"), ("p2", "0")] {
        let text =
            format!("ENSG00000242268.2\t{value}\nENSG00000270112.3\t3e2\n__no_feature\t99\n");
        put(
            &root.path().join(format!("{name}.FPKM-UQ.txt.gz")),
            gzip(text.as_bytes()),
        );
    }
    let found = read(root.path(), &source(), &[]).unwrap();
    assert_eq!(found.table.samples, ["p1", "p2"]);
    assert_eq!(found.table.genes, ["ENSG00000242268", "ENSG00000270112"]);
    assert_eq!(found.table.values, [12.5, 300.0, 0.0, 300.0]);
    let symbols = Source {
        genes: GeneNames::Symbol,
        ..source()
    };
    refused(
        read(root.path(), &symbols, &[]),
        &["has no symbols", "gene_table"],
    );
    let map = root.path().join("names.csv");
    put(&map, "id,name\nENSG00000242268,LINC02082\n");
    let mapped = Source {
        gene_table: Some(map.clone()),
        ..symbols
    };
    let found = read(root.path(), &mapped, &[]).unwrap();
    assert_eq!(found.table.genes, ["LINC02082", "ENSG00000270112"]);
    assert!(
        found.skipped[0].what.contains("1 genes"),
        "{:?}",
        found.skipped
    );
    put(&map, "ENSG00000242268,A\nENSG00000242268.7,B\n");
    refused(
        read(root.path(), &mapped, &[]),
        &[
            "names.csv",
            "line 2",
            "`ENSG00000242268` is `B`, and `A` in line 1",
        ],
    );
    put(&map, "id,name\nnothing,else\n");
    refused(
        read(root.path(), &mapped, &[]),
        &["names none of the genes", "ENSG00000242268"],
    );
}

#[test]
fn gct_is_read_in_both_versions() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("gtex.gct");
    let old = "#1.2\n2\t3\nName\tDescription\ta\tb\tc\nENSG00000223972.5\tDDX11L1\t0\t1\t2\nENSG00000227232.5\tWASH7P\t3\t4.5\t6\n";
    let new = "#1.3\n2\t3\t2\t1\nid\tDescription\tchr\ta\tb\tc\nsex\tna\tna\tM\tF\tM\nENSG00000223972.5\tDDX11L1\t1\t0\t1\t2\nENSG00000227232.5\tWASH7P\t1\t3\t4.5\t6\n";
    for text in [old, new] {
        put(&path, text);
        let found = read(&path, &source(), &[]).unwrap();
        assert_eq!(found.table.samples, ["a", "b", "c"]);
        assert_eq!(found.table.genes, ["ENSG00000223972", "ENSG00000227232"]);
        assert_eq!(found.table.values, [0.0, 3.0, 1.0, 4.5, 2.0, 6.0]);
        let symbols = Source {
            genes: GeneNames::Symbol,
            ..source()
        };
        assert_eq!(
            read(&path, &symbols, &[]).unwrap().table.genes,
            ["DDX11L1", "WASH7P"]
        );
    }
    for (from, to, parts) in [
        ("2\t3\n", "3\t3\n", ["holds 2 genes", "says 3"]),
        ("2\t3\n", "2\t4\n", ["line 3", "names 3 samples, not 4"]),
        (
            "2\t3\n",
            "99999999999999999999\t3\n",
            ["line 2", "how many"],
        ),
        ("\tb\tc", "\ta\tc", ["line 3", "sample `a` stands twice"]),
        ("4.5\t6", "4.5", ["line 5", "4 fields, not 5"]),
        ("4.5", "-4.5", ["line 5", "negative"]),
    ] {
        put(&path, old.replace(from, to));
        refused(read(&path, &source(), &[]), &parts);
    }
}

#[test]
fn h5ad_is_read_with_its_own_names() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("spots.h5ad");
    let mut data = AnnData::dense(
        strings(&["s1", "s2"]),
        strings(&["TP53", "ERBB2"]),
        &[1.0, 0.0, 2.0, 3.5],
    )
    .unwrap();
    let ids = Column::Text(strings(&["ENSG00000141510.18", "ENSG00000141736.14"]));
    data.var.columns.push(("gene_ids".to_owned(), ids));
    write(&path, &data).unwrap();
    let found = read(&path, &source(), &[]).unwrap();
    assert_eq!(found.table.samples, ["s1", "s2"]);
    assert_eq!(found.table.genes, ["TP53", "ERBB2"]);
    assert_eq!(found.table.values, [1.0, 0.0, 2.0, 3.5]);
    let ensembl = Source {
        genes: GeneNames::Ensembl,
        ..source()
    };
    let found = read(&path, &ensembl, &[]).unwrap();
    assert_eq!(found.table.genes, ["ENSG00000141510", "ENSG00000141736"]);
    let layer = Source {
        matrix: Some("layers/counts".to_owned()),
        ..source()
    };
    refused(read(&path, &layer, &[]), &["spots.h5ad", "layers/counts"]);
    let negative = AnnData::dense(strings(&["s1"]), strings(&["TP53"]), &[-1.0]).unwrap();
    write(&path, &negative).unwrap();
    refused(
        read(&path, &source(), &[]),
        &["observation `s1`, variable `TP53`", "-1 is no expression"],
    );
}

#[test]
fn tables_stay_as_they_were_but_for_versions() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("t.csv");
    put(&path, "id,ENSG00000141510.18,other.1\ns1,1,2\n");
    let found = read(&path, &source(), &strings(&["s1"])).unwrap();
    assert_eq!(found.table.genes, ["ENSG00000141510", "other.1"]);
    assert!(found.skipped.is_empty());
    put(&path, "id,ENSG00000141510.18,ENSG00000141510.17\ns1,1,2\n");
    refused(
        read(&path, &source(), &strings(&["s1"])),
        &["`ENSG00000141510` stands twice"],
    );
    refused(read(Path::new("no/such"), &source(), &[]), &["no/such"]);
}
