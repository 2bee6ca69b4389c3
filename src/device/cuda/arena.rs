//! Device memory, handed out as addresses.
//!
//! Memory is asked of the driver in chunks and never given back while the
//! device lives, so that neither a step nor a request waits for the driver.
//! A released block serves the next buffer that it fits: work of one stream is
//! done in its order, so whatever still reads the block runs first.
//!
//! A captured graph keeps the addresses that it was captured with. Blocks that
//! are handed out under capture therefore belong to the graph's pool: what is
//! released goes back to that pool (a later operator of the same capture may
//! have it) and to the others only when the graph is dropped.
//!
//! The same calls in the same order give the same addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::driver::Driver;
use crate::error::Result;

/// What every block's size and address is a multiple of.
const ALIGNMENT: usize = 256;

/// The pool of blocks that belong to no graph.
pub(super) const COMMON: u64 = 0;

/// Free blocks by size, of one size by address.
type Free = BTreeSet<(usize, u64)>;

#[derive(Default)]
pub(super) struct Arena {
    free: HashMap<u64, Free>,
    /// Blocks in use and the pool that they belong to.
    used: BTreeMap<u64, (usize, u64)>,
    /// The part of the newest chunk that was not handed out yet.
    rest: (u64, usize),
    chunks: Vec<(u64, usize)>,
    capturing: Option<u64>,
    /// Graphs that were captured so far.
    graphs: u64,
    statistics: Memory,
}

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In buffers that exist.
    pub used: usize,
    /// The most that `used` ever was.
    pub high_water: usize,
    /// Asked of the driver.
    pub reserved: usize,
    /// Buffers handed out so far.
    pub buffers: u64,
    /// Times that the driver was asked.
    pub driver_calls: u64,
}

impl Arena {
    pub fn statistics(&self) -> Memory {
        self.statistics
    }

    /// The address and size of a block of at least `bytes`.
    pub fn take(&mut self, driver: &dyn Driver, bytes: usize) -> Result<(u64, usize)> {
        let Some(chunk) = driver.chunk() else {
            let address = driver.alloc(bytes.max(1))?;
            self.statistics.reserved += bytes;
            self.statistics.driver_calls += 1;
            self.hand_out(address, bytes);
            return Ok((address, bytes));
        };
        let size = bytes.max(1).next_multiple_of(ALIGNMENT);
        let pool = self.capturing.unwrap_or(COMMON);
        // A graph takes from its own pool first, then from the common one,
        // whose block it then keeps.
        for from in [pool, COMMON] {
            let free = self.free.entry(from).or_default();
            // Not one that is wastefully large.
            let fitting = free.range((size, 0)..(size + size / 2 + ALIGNMENT, 0));
            if let Some(&(found, address)) = fitting.into_iter().next() {
                free.remove(&(found, address));
                self.hand_out(address, found);
                return Ok((address, found));
            }
        }
        if self.rest.1 < size {
            let (address, left) = self.rest;
            if left > 0 {
                self.free.entry(COMMON).or_default().insert((left, address));
            }
            let asked = size.max(chunk).next_multiple_of(ALIGNMENT);
            self.rest = (driver.alloc(asked)?, asked);
            self.chunks.push(self.rest);
            self.statistics.reserved += asked;
            self.statistics.driver_calls += 1;
        }
        let address = self.rest.0;
        self.rest = (address + size as u64, self.rest.1 - size);
        self.hand_out(address, size);
        Ok((address, size))
    }

    fn hand_out(&mut self, address: u64, size: usize) {
        let pool = self.capturing.unwrap_or(COMMON);
        self.used.insert(address, (size, pool));
        self.statistics.used += size;
        self.statistics.buffers += 1;
        self.statistics.high_water = self.statistics.high_water.max(self.statistics.used);
    }

    pub fn give_back(&mut self, driver: &dyn Driver, address: u64) {
        let Some((size, pool)) = self.used.remove(&address) else {
            return;
        };
        self.statistics.used -= size;
        // Without chunks a block goes back to the driver, unless a graph may
        // still write to it.
        if driver.chunk().is_none() && pool == COMMON {
            self.statistics.reserved -= size;
            driver.free(address, size);
        } else {
            self.free.entry(pool).or_default().insert((size, address));
        }
    }

    /// From here on blocks belong to a new graph, whose number it returns.
    pub fn begin_capture(&mut self) -> u64 {
        self.graphs += 1;
        self.capturing = Some(self.graphs);
        self.graphs
    }

    pub fn end_capture(&mut self) {
        self.capturing = None;
    }

    /// The graph is gone: its blocks are anyone's.
    pub fn dissolve(&mut self, driver: &dyn Driver, graph: u64) {
        for (_, pool) in self.used.values_mut() {
            if *pool == graph {
                *pool = COMMON;
            }
        }
        for (size, address) in self.free.remove(&graph).unwrap_or_default() {
            if driver.chunk().is_none() {
                self.statistics.reserved -= size;
                driver.free(address, size);
            } else {
                self.free.entry(COMMON).or_default().insert((size, address));
            }
        }
    }

    /// Everything back to the driver, when the device goes.
    pub fn close(&mut self, driver: &dyn Driver) {
        for (address, size) in self.chunks.drain(..) {
            driver.free(address, size);
        }
        if driver.chunk().is_none() {
            let kept = std::mem::take(&mut self.free);
            for (size, address) in kept.into_values().flatten() {
                driver.free(address, size);
            }
        }
    }
}
