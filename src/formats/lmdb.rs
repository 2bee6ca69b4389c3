//! Reads and writes LMDB files (the Lightning Memory-Mapped Database, version 1 of its format), without the
//! library: it maps files and trusts what is in them, so that a damaged one ends the process.
//! Here every page, offset and length is checked before it is used.
//!
//! A file is pages of one size. Pages 0 and 1 describe it, each as of another transaction; the
//! later one holds. The entries are a B+ tree by key: branch pages lead to leaf pages, and a
//! value that is too long for a leaf lies on pages of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::atomic::Draft;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// Of every page: its number, flags and bounds.
const HEADER: usize = 16;
/// Of every node of a page: length or child, flags and length of the key.
const NODE: usize = 8;
/// Of pages.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
/// Of nodes: the value lies on pages of its own.
const BIG: u16 = 0x01;
/// More levels than a tree of 2^64 entries has.
const MOST_LEVELS: u16 = 64;
/// No page.
const NONE: u64 = u64::MAX;

/// An open file.
pub struct Lmdb {
    path: PathBuf,
    file: File,
    len: u64,
    page: usize,
    root: u64,
    depth: u16,
    entries: u64,
}

impl Lmdb {
    /// # Errors
    /// A file that cannot be read or is no LMDB of version 1; one whose keys are ordered
    /// otherwise than by their bytes.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |e| Error::io("read", path, e);
        let file = File::open(path).map_err(fail)?;
        let mut out = Self {
            path: path.to_owned(),
            len: file.metadata().map_err(fail)?.len(),
            file,
            page: 512,
            root: NONE,
            depth: 0,
            entries: 0,
        };
        // The first page says how large pages are.
        let first = out.page_at(0)?;
        if number(&first, HEADER) as u32 != MAGIC {
            return Err(Error::file(
                path,
                "",
                "is not an LMDB file",
                "give the .db or data.mdb file that LMDB wrote",
            ));
        }
        let version = (number(&first, HEADER) >> 32) as u32;
        if version != VERSION {
            return Err(out.damaged(0, &format!("says version {version} of the format")));
        }
        let page = number(&first, HEADER + 24) as u32 as usize;
        if !page.is_power_of_two() || !(512..=65536).contains(&page) {
            return Err(out.damaged(0, &format!("says that pages have {page} bytes")));
        }
        out.page = page;
        let mut latest = None;
        for n in 0..2 {
            let meta = out.page_at(n)?;
            let transaction = number(&meta, HEADER + 128);
            let known = number(&meta, HEADER) == u64::from(VERSION) << 32 | u64::from(MAGIC);
            if known && latest.is_none_or(|(t, _)| transaction > t) {
                let tree = [0, 32, 40].map(|at| number(&meta, HEADER + 72 + at));
                latest = Some((transaction, tree));
            }
        }
        let Some((_, [about, entries, root])) = latest else {
            return Err(out.damaged(0, "describes no transaction"));
        };
        let (flags, depth) = ((about >> 32) as u16, (about >> 48) as u16);
        // Reversed, duplicate or whole-number keys.
        if flags & 0x0e != 0 {
            return Err(Error::file(
                path,
                "",
                "has an order of keys that is not read here",
                "write it without dupsort, reversekey and integerkey",
            ));
        }
        (out.entries, out.root, out.depth) = (entries, root, depth);
        Ok(out)
    }

    /// Entries that the file says it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The value of `key`, if it is there.
    ///
    /// # Errors
    /// A page that is not there or not what leads to it says.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut at = self.root;
        if at == NONE {
            return Ok(None);
        }
        for _ in 0..self.depth.min(MOST_LEVELS) {
            let page = self.page_at(at)?;
            let flags = short(&page, 10);
            let nodes = self.nodes(at, &page)?;
            if flags & BRANCH != 0 {
                // The first key stands for all that are less than the second.
                let mut child = None;
                for (i, &node) in nodes.iter().enumerate() {
                    let (this, _) = self.node(at, &page, node)?;
                    if i == 0 || this <= key {
                        child = Some(number(&page, node) & 0xffff_ffff_ffff);
                    }
                }
                at = child.ok_or_else(|| self.damaged(at, "leads nowhere"))?;
            } else if flags & LEAF != 0 {
                for &node in &nodes {
                    let (this, rest) = self.node(at, &page, node)?;
                    if this == key {
                        return self.value(at, &page, node, rest).map(Some);
                    }
                }
                return Ok(None);
            } else {
                return Err(self.damaged(at, "is no page of the tree"));
            }
        }
        Err(self.damaged(at, "lies deeper than the tree is said to be"))
    }

    /// The value of a leaf's node, whose place in the page is `rest`.
    fn value(&mut self, at: u64, page: &[u8], node: usize, rest: usize) -> Result<Vec<u8>> {
        let len = number(page, node) as u32 as usize;
        if short(page, node + 4) & BIG == 0 {
            let value = rest.checked_add(len).and_then(|end| page.get(rest..end));
            return value
                .map(<[u8]>::to_vec)
                .ok_or_else(|| self.damaged(at, "has a value that leaves it"));
        }
        if rest + 8 > page.len() {
            return Err(self.damaged(at, "has a value that leaves it"));
        }
        let first = number(page, rest);
        let head = self.page_at(first)?;
        let start = first.saturating_mul(self.page as u64) + HEADER as u64;
        if short(&head, 10) & OVERFLOW == 0 {
            return Err(self.damaged(first, "is no page of a long value"));
        }
        if start.saturating_add(len as u64) > self.len {
            return Err(self.damaged(first, "has a value that leaves the file"));
        }
        let mut value = vec![0; len];
        self.read(start, &mut value)?;
        Ok(value)
    }

    /// Where the page's nodes begin.
    fn nodes(&self, at: u64, page: &[u8]) -> Result<Vec<usize>> {
        let end = usize::from(short(page, 12));
        if !(HEADER..=page.len()).contains(&end) {
            return Err(self.damaged(at, "has more nodes than room"));
        }
        let places = (HEADER..end.saturating_sub(1)).step_by(2);
        Ok(places.map(|i| usize::from(short(page, i))).collect())
    }

    /// The key of a node, and where what follows it begins.
    fn node<'p>(&self, at: u64, page: &'p [u8], node: usize) -> Result<(&'p [u8], usize)> {
        let key = node + NODE;
        if key > page.len() {
            return Err(self.damaged(at, "has a node that leaves it"));
        }
        let end = key + usize::from(short(page, node + 6));
        match page.get(key..end) {
            Some(found) => Ok((found, end)),
            None => Err(self.damaged(at, "has a key that leaves it")),
        }
    }

    fn page_at(&mut self, number: u64) -> Result<Vec<u8>> {
        let start = number.checked_mul(self.page as u64);
        let inside = start.filter(|s| s.saturating_add(self.page as u64) <= self.len);
        let Some(start) = inside else {
            return Err(self.damaged(number, "is beyond the end of the file"));
        };
        let mut page = vec![0; self.page];
        self.read(start, &mut page)?;
        Ok(page)
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<()> {
        (self.file.seek(SeekFrom::Start(start)))
            .and_then(|_| self.file.read_exact(into))
            .map_err(|e| Error::io("read", &self.path, e))
    }

    fn damaged(&self, page: u64, problem: &str) -> Error {
        Error::file(
            &self.path,
            format!("page {page}"),
            problem,
            "the LMDB file is cut short or damaged: fetch or write it again",
        )
    }
}

/// Bytes of the pages that are written.
const PAGE: usize = 4096;
/// The library's longest key.
const MOST_KEY: usize = 511;

/// A file in the making: values go to the disk as they come, each on pages of its own, and
/// the tree over them at the end. It appears under its name when it is finished.
pub struct Writer {
    path: PathBuf,
    draft: Draft,
    /// Of each key: bytes and first page of its value.
    entries: BTreeMap<Vec<u8>, (u32, u64)>,
    /// The next free page.
    next: u64,
}

impl Writer {
    /// # Errors
    /// The file cannot be written.
    pub fn new(path: &Path) -> Result<Self> {
        let mut out = Self {
            path: path.to_owned(),
            draft: Draft::new(path)?,
            entries: BTreeMap::new(),
            next: 0,
        };
        // Filled when all is known.
        out.page(&[0; 2 * PAGE])?;
        Ok(out)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// A key that is empty, longer than 511 bytes or there already; a value of 4 GiB; the
    /// file cannot be written.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let length = u32::try_from(value.len()).ok();
        let fits = (1..=MOST_KEY).contains(&key.len()) && !self.entries.contains_key(key);
        let (Some(length), true) = (length, fits) else {
            return Err(Error::file(
                &self.path,
                format!("key `{}`", String::from_utf8_lossy(key)),
                "cannot be written",
                "give keys of 1 to 511 bytes, each once, and values below 4 GiB",
            ));
        };
        let pages = (HEADER + value.len()).div_ceil(PAGE);
        let first = self.next;
        let mut head = header(first, OVERFLOW);
        head[12..16].copy_from_slice(&(pages as u32).to_le_bytes());
        let pad = pages * PAGE - HEADER - value.len();
        for part in [&head[..], value, &[0; PAGE][..pad]] {
            let wrote = self.draft.out.write_all(part);
            wrote.map_err(|e| Error::io("write", &self.path, e))?;
        }
        self.next += pages as u64;
        self.entries.insert(key.to_vec(), (length, first));
        Ok(())
    }

    /// Writes the tree, and puts the file in its place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        let overflow = self.next - 2;
        let count = self.entries.len() as u64;
        let node = |low: u64, flags: u16, key: &[u8], rest: &[u8]| {
            let mut node = (low as u32).to_le_bytes().to_vec();
            node.extend(flags.to_le_bytes());
            node.extend((key.len() as u16).to_le_bytes());
            node.extend(key);
            node.extend(rest);
            node.resize(node.len().next_multiple_of(2), 0);
            node
        };
        let leaves = std::mem::take(&mut self.entries);
        let leaves = leaves.into_iter().map(|(key, (length, first))| {
            let node = node(length.into(), BIG, &key, &first.to_le_bytes());
            (key, node)
        });
        let mut level = self.level(LEAF, leaves.collect())?;
        let (mut depth, leaf_pages, mut branch_pages) = (1u16, level.len() as u64, 0);
        while level.len() > 1 {
            let nodes = level.into_iter().map(|(key, page)| {
                // The page's number takes the place of the flags too.
                let node = node(page, (page >> 32) as u16, &key, &[]);
                (key, node)
            });
            level = self.level(BRANCH, nodes.collect())?;
            branch_pages += level.len() as u64;
            depth += 1;
        }
        let root = level.first().map(|(_, page)| *page);
        let size = self.next * PAGE as u64;
        let fail = |e| Error::io("write", &self.path, e);
        self.draft.out.seek(SeekFrom::Start(0)).map_err(fail)?;
        for transaction in 0..2u64 {
            let mut page = header(transaction, META);
            page.extend(MAGIC.to_le_bytes());
            page.extend(VERSION.to_le_bytes());
            page.extend([0, size].map(u64::to_le_bytes).concat());
            // Free pages: none. Whole-number keys, as the library has them.
            page.extend((PAGE as u32).to_le_bytes());
            page.extend([8u16, 0].map(u16::to_le_bytes).concat());
            page.extend([0, 0, 0, 0, NONE].map(u64::to_le_bytes).concat());
            // The entries; before the first transaction there are none.
            let filled = transaction == 1 && root.is_some();
            page.extend(0u32.to_le_bytes());
            page.extend(
                [0, if filled { depth } else { 0 }]
                    .map(u16::to_le_bytes)
                    .concat(),
            );
            let tree = match (filled, root) {
                (true, Some(root)) => [branch_pages, leaf_pages, overflow, count, root],
                _ => [0, 0, 0, 0, NONE],
            };
            page.extend(tree.map(u64::to_le_bytes).concat());
            let last = if transaction == 1 { self.next - 1 } else { 1 };
            page.extend([last, transaction].map(u64::to_le_bytes).concat());
            page.resize(PAGE, 0);
            self.draft.out.write_all(&page).map_err(fail)?;
        }
        self.draft.finish()
    }

    /// Writes nodes, in the order of their keys, to as many pages as they need; gives the
    /// first key and the number of each page.
    fn level(&mut self, kind: u16, mut nodes: Vec<Keyed>) -> Result<Vec<(Vec<u8>, u64)>> {
        let mut cuts = vec![0];
        let mut used = HEADER;
        for (i, (_, node)) in nodes.iter().enumerate() {
            if used + node.len() + 2 > PAGE {
                cuts.push(i);
                used = HEADER;
            }
            used += node.len() + 2;
        }
        // A page that leads to one page alone is no branch. Any page holds seven.
        let last = cuts.len() - 1;
        if last > 0 && cuts[last] + 1 == nodes.len() {
            cuts[last] -= 1;
        }
        let mut pages = Vec::with_capacity(cuts.len());
        for at in cuts.into_iter().rev() {
            let on_page = nodes.split_off(at);
            if !on_page.is_empty() {
                pages.push(on_page);
            }
        }
        let mut out = Vec::with_capacity(pages.len());
        for on_page in pages.into_iter().rev() {
            let number = self.next;
            let mut page = header(number, kind);
            page.resize(PAGE, 0);
            let mut upper = PAGE;
            let lower = HEADER + 2 * on_page.len();
            for (i, (key, node)) in on_page.iter().enumerate() {
                let mut node = node.clone();
                if kind == BRANCH && i == 0 {
                    // It stands for all that are less than the second.
                    node.truncate(NODE);
                    node[6..8].fill(0);
                }
                upper -= node.len();
                page[upper..upper + node.len()].copy_from_slice(&node);
                page[HEADER + 2 * i..][..2].copy_from_slice(&(upper as u16).to_le_bytes());
                if i == 0 {
                    out.push((key.clone(), number));
                }
            }
            page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
            page[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
            self.page(&page)?;
        }
        Ok(out)
    }

    /// Writes whole pages.
    fn page(&mut self, bytes: &[u8]) -> Result<()> {
        self.next += (bytes.len() / PAGE) as u64;
        let wrote = self.draft.out.write_all(bytes);
        wrote.map_err(|e| Error::io("write", &self.path, e))
    }
}

/// A key, and the node that has it.
type Keyed = (Vec<u8>, Vec<u8>);

/// The first bytes of a page; its bounds are zero.
fn header(number: u64, kind: u16) -> Vec<u8> {
    let mut header = number.to_le_bytes().to_vec();
    header.extend([0, 0]);
    header.extend(kind.to_le_bytes());
    header.extend([0; 4]);
    header
}

/// The eight bytes at `at`, which lie within.
fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u16::from_le_bytes)
}
