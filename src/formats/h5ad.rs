//! AnnData's .h5ad: a matrix of observations by variables, with what is known of
//! both, as anndata and scanpy read and write it.
//!
//! Written is encoding version 0.1.0 of anndata 0.8 and later. Read is that, and of
//! older files sparse matrices and categories; a frame stored as one compound
//! dataset (anndata before 0.7) is refused. Layers, pairwise arrays and `uns` are
//! left out.
//!
//! Source: anndata's documentation, "On-disk format".

use std::collections::BTreeMap;
use std::path::Path;

use super::array::Array;
use super::hdf5::{self, Dataset, File, Group, Kind, Value};
use crate::error::{Error, Result};

/// Observations (samples, spots, cells) and variables (genes).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnnData {
    pub obs: Frame,
    pub var: Frame,
    /// (obs, var)
    pub x: Option<Matrix>,
    /// Arrays with a row per observation, such as `spatial`: (obs, 2), in pixels.
    pub obsm: BTreeMap<String, Array>,
}

/// Names of the rows, and columns beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    pub names: Vec<String>,
    pub columns: Vec<(String, Column)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// A missing text is empty.
    Text(Vec<String>),
    Categories {
        /// Index into `categories`; -1 where it is missing.
        codes: Vec<i64>,
        categories: Vec<String>,
        ordered: bool,
    },
    /// One value a row; a missing one is NaN.
    Number(Array),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// Two axes, of any dtype of numbers.
    Dense(Array),
    Sparse(Sparse),
}

/// Compressed rows (CSR) or columns (CSC): line `i` has the elements
/// `starts[i]..starts[i + 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    pub rows: usize,
    pub columns: usize,
    /// Whether a line is a row.
    pub by_row: bool,
    pub starts: Vec<usize>,
    /// Place of each element in its line.
    pub places: Vec<usize>,
    pub values: Vec<f32>,
}

impl Frame {
    pub fn new(names: Vec<String>) -> Self {
        Self {
            names,
            columns: Vec::new(),
        }
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        let mut columns = self.columns.iter();
        columns.find(|(n, _)| n == name).map(|(_, column)| column)
    }
}

impl Column {
    pub fn len(&self) -> usize {
        match self {
            Self::Text(texts) => texts.len(),
            Self::Categories { codes, .. } => codes.len(),
            Self::Number(array) => array.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every row as text; a missing one is empty.
    pub fn to_texts(&self) -> Vec<String> {
        match self {
            Self::Text(texts) => texts.clone(),
            Self::Categories {
                codes, categories, ..
            } => {
                let category = |&code: &i64| categories.get(usize::try_from(code).ok()?).cloned();
                codes
                    .iter()
                    .map(|c| category(c).unwrap_or_default())
                    .collect()
            }
            Self::Number(array) => array
                .iter_f64()
                .map(|v| {
                    if v.is_nan() {
                        String::new()
                    } else {
                        v.to_string()
                    }
                })
                .collect(),
        }
    }
}

impl Matrix {
    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(array) => match array.shape[..] {
                [rows, columns] => [rows, columns],
                _ => [0, 0],
            },
            Self::Sparse(sparse) => [sparse.rows, sparse.columns],
        }
    }

    /// Row-major values.
    ///
    /// # Errors
    /// More than 16 GiB of them.
    pub fn to_dense(&self) -> Result<Vec<f32>> {
        const MOST: usize = 4 << 30;
        let [rows, columns] = self.shape();
        match rows.checked_mul(columns) {
            Some(count) if count <= MOST => {}
            _ => {
                return Err(Error::usage(
                    format!("a matrix of {rows} x {columns} has no room in memory as a whole"),
                    "choose fewer observations or genes with anndata first",
                ));
            }
        }
        Ok(match self {
            Self::Dense(array) => array.iter_f64().map(|v| v as f32).collect(),
            Self::Sparse(sparse) => {
                let mut values = vec![0.0; rows * columns];
                for (line, ends) in sparse.starts.windows(2).enumerate() {
                    for at in ends[0]..ends[1] {
                        let (row, column) = match sparse.by_row {
                            true => (line, sparse.places[at]),
                            false => (sparse.places[at], line),
                        };
                        // An element that stands twice is the sum, as for SciPy.
                        values[row * columns + column] += sparse.values[at];
                    }
                }
                values
            }
        })
    }
}

impl Sparse {
    /// What is wrong with the parts, if anything.
    fn check(&self) -> Result<(), String> {
        let (lines, width) = match self.by_row {
            true => (self.rows, self.columns),
            false => (self.columns, self.rows),
        };
        if self.starts.len() != lines.saturating_add(1) || self.starts[0] != 0 {
            return Err(format!(
                "indptr has {} entries for {lines} lines",
                self.starts.len()
            ));
        }
        if self.starts.windows(2).any(|ends| ends[1] < ends[0])
            || self.starts[lines] != self.values.len()
            || self.places.len() != self.values.len()
        {
            return Err(format!(
                "indptr does not deal out {} values and {} indices",
                self.values.len(),
                self.places.len()
            ));
        }
        match self.places.iter().find(|&&place| place >= width) {
            Some(place) => Err(format!("index {place} is past the end of {width}")),
            None => Ok(()),
        }
    }
}

/// Whether an HDF5 file is an AnnData object.
pub fn is_anndata(file: &File) -> bool {
    let named = file.attributes("").ok();
    let named = named.and_then(|a| Some(a.get("encoding-type")?.as_text()? == "anndata"));
    named.unwrap_or(false) || (file.has_group("obs") && file.has_group("var"))
}

/// Reads the whole object.
///
/// # Errors
/// No HDF5 file, or no AnnData object; parts that do not fit each other; a damaged
/// file; kinds of columns or matrices that are not named above.
pub fn read(path: impl AsRef<Path>) -> Result<AnnData> {
    read_matrix(path, "X")
}

/// As [`read`] with another matrix as `x`, such as `layers/counts`.
///
/// # Errors
/// As [`read`]; no such matrix.
pub fn read_matrix(path: impl AsRef<Path>, matrix: &str) -> Result<AnnData> {
    let path = path.as_ref();
    hdf5::contained(path, || of(&File::open(path)?, matrix))
}

/// [`read_matrix`] of a file that is open.
///
/// # Errors
/// As [`read_matrix`].
pub fn of(file: &File, matrix: &str) -> Result<AnnData> {
    let path = file.path();
    hdf5::contained(path, || {
        if !is_anndata(file) {
            return Err(Error::file(
                path,
                "",
                "is an HDF5 file, but no AnnData object",
                "give a .h5ad file, which has the groups obs and var",
            ));
        }
        let obs = frame(file, "obs")?;
        let var = frame(file, "var")?;
        let names = file.names("")?;
        let there = names.datasets.iter().chain(&names.groups);
        let x = match matrix {
            "X" if !there.into_iter().any(|n| n == "X") => None,
            _ => Some(self::matrix(file, matrix)?),
        };
        if let Some(x) = &x {
            let [rows, columns] = x.shape();
            if [rows, columns] != [obs.names.len(), var.names.len()] {
                let (obs, var) = (obs.names.len(), var.names.len());
                let problem =
                    format!("is {rows} x {columns} for {obs} observations, {var} variables");
                return Err(unfit(file, matrix, problem));
            }
        }
        let mut obsm = BTreeMap::new();
        if file.has_group("obsm") {
            for name in file.names("obsm")?.datasets {
                let at = format!("obsm/{name}");
                let Kind::Number(_) = file.facts(&at)?.kind else {
                    continue;
                };
                let array = file.array(&at)?;
                if array.shape.first() != Some(&obs.names.len()) {
                    let problem =
                        format!("is {:?} for {} observations", array.shape, obs.names.len());
                    return Err(unfit(file, &at, problem));
                }
                obsm.insert(name, array);
            }
        }
        Ok(AnnData { obs, var, x, obsm })
    })
}

fn unfit(file: &File, object: &str, problem: impl Into<String>) -> Error {
    Error::file(
        file.path(),
        format!("`{object}`"),
        problem,
        "the file is damaged or of another kind: write it again with anndata",
    )
}

fn encoding(file: &File, object: &str) -> Result<(BTreeMap<String, Value>, String)> {
    let attributes = file.attributes(object)?;
    let named = attributes.get("encoding-type").and_then(Value::as_text);
    let named = named.unwrap_or_default().to_owned();
    Ok((attributes, named))
}

fn frame(file: &File, at: &str) -> Result<Frame> {
    if !file.has_group(at) {
        return Err(unfit(
            file,
            at,
            "is no group, as anndata before 0.7 wrote it",
        ));
    }
    let (attributes, _) = encoding(file, at)?;
    let named = attributes.get("_index").and_then(Value::as_text);
    let index = named.unwrap_or("_index").to_owned();
    let names = column(file, at, &index)?.to_texts();
    let members = file.names(at)?;
    let order = match attributes.get("column-order").and_then(Value::as_texts) {
        Some(order) => order.to_vec(),
        None => {
            let all = members.datasets.iter().chain(&members.groups);
            all.filter(|n| **n != index && *n != "__categories")
                .cloned()
                .collect()
        }
    };
    let mut columns = Vec::with_capacity(order.len());
    for name in order {
        let column = column(file, at, &name)?;
        if column.len() != names.len() {
            let problem = format!("has {} rows for {} names", column.len(), names.len());
            return Err(unfit(file, &format!("{at}/{name}"), problem));
        }
        columns.push((name, column));
    }
    Ok(Frame { names, columns })
}

fn column(file: &File, frame: &str, name: &str) -> Result<Column> {
    let at = format!("{frame}/{name}");
    if file.has_dataset(&at) {
        let facts = file.facts(&at)?;
        if facts.shape.len() != 1 {
            return Err(unfit(file, &at, format!("is {:?}, no column", facts.shape)));
        }
        if facts.kind == Kind::Text {
            return Ok(Column::Text(file.texts(&at)?));
        }
        let array = file.array(&at)?;
        // As anndata 0.7 stored them.
        let categories = format!("{frame}/__categories/{name}");
        if file.has_dataset(&categories) {
            return categorical(file, &at, array.to_i64()?, &categories, false);
        }
        return Ok(Column::Number(array));
    }
    let (attributes, kind) = encoding(file, &at)?;
    let part = |name: &str| format!("{at}/{name}");
    if kind == "categorical" {
        let ordered = attributes.get("ordered").and_then(Value::as_int) == Some(1);
        let codes = file.array(&part("codes"))?.to_i64()?;
        return categorical(file, &at, codes, &part("categories"), ordered);
    }
    if !kind.starts_with("nullable-") {
        return Err(unfit(file, &at, format!("is a column of kind `{kind}`")));
    }
    let missing = file.array(&part("mask"))?.to_i64()?;
    if kind == "nullable-string-array" {
        let texts = file.texts(&part("values"))?;
        same_length(file, &at, texts.len(), missing.len())?;
        let text = |(text, &gone): (String, &i64)| if gone == 0 { text } else { String::new() };
        let texts = texts.into_iter().zip(&missing).map(text).collect();
        return Ok(Column::Text(texts));
    }
    let values = file.array(&part("values"))?;
    same_length(file, &at, values.len(), missing.len())?;
    if missing.iter().all(|&gone| gone == 0) {
        return Ok(Column::Number(values));
    }
    let value = |(v, &gone): (f64, &i64)| if gone == 0 { v } else { f64::NAN };
    let values: Vec<f64> = values.iter_f64().zip(&missing).map(value).collect();
    Ok(Column::Number(Array::from_f64(&[values.len()], &values)?))
}

fn same_length(file: &File, at: &str, values: usize, mask: usize) -> Result<()> {
    match values == mask {
        true => Ok(()),
        false => Err(unfit(
            file,
            at,
            format!("has {values} values and {mask} marks"),
        )),
    }
}

fn categorical(
    file: &File,
    at: &str,
    codes: Vec<i64>,
    categories: &str,
    ordered: bool,
) -> Result<Column> {
    let categories = match file.facts(categories)?.kind {
        Kind::Text => file.texts(categories)?,
        _ => Column::Number(file.array(categories)?).to_texts(),
    };
    let all = -1..categories.len() as i64;
    match codes.iter().find(|code| !all.contains(code)) {
        Some(code) => Err(unfit(
            file,
            at,
            format!("has the code {code} for {} categories", categories.len()),
        )),
        None => Ok(Column::Categories {
            codes,
            categories,
            ordered,
        }),
    }
}

fn matrix(file: &File, at: &str) -> Result<Matrix> {
    if file.has_dataset(at) {
        let array = file.array(at)?;
        return match array.shape.len() {
            2 => Ok(Matrix::Dense(array)),
            _ => Err(unfit(file, at, format!("is {:?}, no matrix", array.shape))),
        };
    }
    let (attributes, kind) = encoding(file, at)?;
    let older = attributes.get("h5sparse_format").and_then(Value::as_text);
    let by_row = match (kind.as_str(), older) {
        ("csr_matrix", _) | ("", Some("csr")) => true,
        ("csc_matrix", _) | ("", Some("csc")) => false,
        _ => return Err(unfit(file, at, format!("is a matrix of kind `{kind}`"))),
    };
    let shape = attributes.get("shape").or(attributes.get("h5sparse_shape"));
    let shape: Option<Vec<usize>> = shape.and_then(Value::as_ints).and_then(|shape| {
        let size = |&d: &i64| usize::try_from(d).ok();
        shape.iter().map(size).collect()
    });
    let Some(&[rows, columns]) = shape.as_deref() else {
        return Err(unfit(file, at, "does not say its shape"));
    };
    let places = |name: &str| -> Result<Vec<usize>> {
        let at = format!("{at}/{name}");
        let values = file.array(&at)?.to_i64()?.into_iter();
        let values: Result<Vec<usize>, _> = values.map(usize::try_from).collect();
        values.map_err(|_| unfit(file, &at, "has a negative entry"))
    };
    let sparse = Sparse {
        rows,
        columns,
        by_row,
        starts: places("indptr")?,
        places: places("indices")?,
        values: (file.array(&format!("{at}/data"))?.iter_f64())
            .map(|v| v as f32)
            .collect(),
    };
    sparse.check().map_err(|problem| unfit(file, at, problem))?;
    Ok(Matrix::Sparse(sparse))
}

/// Writes the object, whole or not at all; matrices are packed.
///
/// # Errors
/// Parts that do not fit each other; a column that stands twice or has the name of
/// the index; as [`hdf5::write`].
pub fn write(path: impl AsRef<Path>, data: &AnnData) -> Result<()> {
    let path = path.as_ref();
    let refuse = |what: &str, problem: String| {
        Err(Error::file(
            path,
            format!("`{what}`"),
            problem,
            "give every part one row for each name",
        ))
    };
    let (rows, columns) = (data.obs.names.len(), data.var.names.len());
    let mut root = encoded("anndata", "0.1.0");
    if let Some(x) = &data.x {
        if let Matrix::Sparse(sparse) = x
            && let Err(problem) = sparse.check()
        {
            return refuse("X", problem);
        }
        if x.shape() != [rows, columns] {
            return refuse(
                "X",
                format!("is {:?} for {rows} x {columns} names", x.shape()),
            );
        }
        match x {
            Matrix::Dense(array) => {
                root.dataset("X", dense(array.clone()).gzip(4));
            }
            Matrix::Sparse(sparse) => {
                root.group("X", stored(sparse)?);
            }
        }
    }
    for (at, frame) in [("obs", &data.obs), ("var", &data.var)] {
        for (name, column) in &frame.columns {
            if column.len() != frame.names.len() || name == INDEX {
                let problem = format!("has {} rows for {} names", column.len(), frame.names.len());
                return refuse(&format!("{at}/{name}"), problem);
            }
        }
        root.group(at, framed(frame)?);
    }
    let mut obsm = encoded("dict", "0.1.0");
    for (name, array) in &data.obsm {
        if array.shape.first() != Some(&rows) {
            let problem = format!("is {:?} for {rows} observations", array.shape);
            return refuse(&format!("obsm/{name}"), problem);
        }
        obsm.dataset(name, dense(array.clone()));
    }
    root.group("obsm", obsm);
    for name in ["layers", "obsp", "uns", "varm", "varp"] {
        root.group(name, encoded("dict", "0.1.0"));
    }
    hdf5::write(path, &root)
}

/// The name of the column that names the rows.
const INDEX: &str = "_index";

fn encoded(kind: &str, version: &str) -> Group {
    let mut group = Group::new();
    group.attribute("encoding-type", kind);
    group.attribute("encoding-version", version);
    group
}

fn dense(array: Array) -> Dataset {
    Dataset::from(array)
        .attribute("encoding-type", "array")
        .attribute("encoding-version", "0.2.0")
}

fn texts(texts: Vec<String>) -> Dataset {
    Dataset::from(texts)
        .attribute("encoding-type", "string-array")
        .attribute("encoding-version", "0.2.0")
}

fn stored(sparse: &Sparse) -> Result<Group> {
    let kind = if sparse.by_row {
        "csr_matrix"
    } else {
        "csc_matrix"
    };
    let mut group = encoded(kind, "0.1.0");
    group.attribute("shape", vec![sparse.rows as i64, sparse.columns as i64]);
    let places = |values: &[usize]| -> Result<Dataset> {
        let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        Ok(Dataset::from(Array::from_i64(&[values.len()], &values)?).gzip(4))
    };
    group.dataset("indptr", places(&sparse.starts)?);
    group.dataset("indices", places(&sparse.places)?);
    let values = Array::from_f32(&[sparse.values.len()], &sparse.values)?;
    group.dataset("data", Dataset::from(values).gzip(4));
    Ok(group)
}

fn framed(frame: &Frame) -> Result<Group> {
    let mut group = encoded("dataframe", "0.2.0");
    group.attribute("_index", INDEX);
    let order: Vec<String> = frame.columns.iter().map(|(name, _)| name.clone()).collect();
    group.attribute("column-order", order);
    group.dataset(INDEX, texts(frame.names.clone()));
    for (name, column) in &frame.columns {
        match column {
            Column::Text(values) => {
                group.dataset(name, texts(values.clone()));
            }
            Column::Number(array) => {
                group.dataset(name, dense(array.clone()));
            }
            Column::Categories {
                codes,
                categories,
                ordered,
            } => {
                let mut column = encoded("categorical", "0.2.0");
                column.attribute("ordered", *ordered);
                column.dataset("codes", dense(Array::from_i64(&[codes.len()], codes)?));
                column.dataset("categories", texts(categories.clone()));
                group.group(name, column);
            }
        }
    }
    Ok(group)
}

impl AnnData {
    /// Values of variables in observations: the dense way to make one.
    ///
    /// # Errors
    /// Another number of values than names.
    pub fn dense(obs: Vec<String>, var: Vec<String>, values: &[f32]) -> Result<Self> {
        let x = Array::from_f32(&[obs.len(), var.len()], values)?;
        Ok(Self {
            obs: Frame::new(obs),
            var: Frame::new(var),
            x: Some(Matrix::Dense(x)),
            obsm: BTreeMap::new(),
        })
    }
}
