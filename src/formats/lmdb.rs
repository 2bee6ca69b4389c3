//! Reads LMDB files (the Lightning Memory-Mapped Database, version 1 of its format), without the
//! library: it maps files and trusts what is in them, so that a damaged one ends the process.
//! Here every page, offset and length is checked before it is used.
//!
//! A file is pages of one size. Pages 0 and 1 describe it, each as of another transaction; the
//! later one holds. The entries are a B+ tree by key: branch pages lead to leaf pages, and a
//! value that is too long for a leaf lies on pages of its own.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

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

/// The eight bytes at `at`, which lie within.
fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u16::from_le_bytes)
}
