//! Named arrays in file order, and the strict comparison with what a model expects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::Array;
use crate::error::{Error, Result};

/// Named arrays in the order of their file, with the file's metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    arrays: Vec<(String, Array)>,
    index: HashMap<String, usize>,
    pub metadata: BTreeMap<String, String>,
}

impl Weights {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an array.
    ///
    /// # Errors
    /// The name is taken.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) -> Result<()> {
        let name = name.into();
        if self.index.contains_key(&name) {
            return Err(Error::usage(
                format!("key `{name}` is there twice"),
                "give every array its own name",
            ));
        }
        self.index.insert(name.clone(), self.arrays.len());
        self.arrays.push((name, array));
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Array> {
        let &at = self.index.get(name)?;
        self.arrays.get(at).map(|(_, array)| array)
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// The number of elements of all arrays together.
    pub fn elements(&self) -> usize {
        self.arrays.iter().map(|(_, array)| array.len()).sum()
    }

    /// In file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.iter().map(|(name, _)| name.as_str())
    }

    /// In file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays
            .iter()
            .map(|(name, array)| (name.as_str(), array))
    }
}

/// In file order.
impl IntoIterator for Weights {
    type Item = (String, Array);
    type IntoIter = std::vec::IntoIter<(String, Array)>;

    fn into_iter(self) -> Self::IntoIter {
        self.arrays.into_iter()
    }
}

/// Compares the keys and shapes of `got`, read from `path`, with what a model
/// expects, and reports everything that does not fit in one error.
///
/// Keys that end in `num_batches_tracked` may be missing: PyTorch before 0.4.1
/// did not write them, and batch norm with a fixed momentum does not read them.
///
/// # Errors
/// A key is missing, unexpected, or of another shape.
pub fn check_keys(
    path: impl AsRef<Path>,
    expected: &[(String, Vec<usize>)],
    got: &Weights,
) -> Result<()> {
    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    for (name, shape) in expected {
        match got.get(name) {
            Some(array) if array.shape == *shape => {}
            Some(array) => misshapen.push(format!("{name}: {:?}, not {shape:?}", array.shape)),
            None if name.ends_with("num_batches_tracked") => {}
            None => missing.push(name.clone()),
        }
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let unexpected: Vec<String> = got
        .names()
        .filter(|name| !known.contains(name))
        .map(str::to_owned)
        .collect();

    let problems: Vec<String> = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshapen),
    ]
    .iter()
    .filter(|(_, keys)| !keys.is_empty())
    .map(|(what, keys)| {
        let noun = if keys.len() == 1 { "key" } else { "keys" };
        format!(
            "{} {noun} {what} ({})",
            keys.len(),
            shortened(keys, keys.len())
        )
    })
    .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::file(
        path,
        "",
        problems.join(", "),
        "the file must belong to this architecture and configuration: `eosin inspect` lists its keys and shapes",
    ))
}

/// As many items of a list as a message shows.
pub(crate) const SHOWN: usize = 8;

/// The first few of `count` items, and how many more there are.
pub(crate) fn shortened(items: &[String], count: usize) -> String {
    let shown = items.get(..SHOWN).unwrap_or(items);
    let text = shown.join(", ");
    match count - shown.len() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
