//! Decoded tiles that the next region is likely to need again.
//!
//! Regions seldom lie on the borders of stored tiles, so neighbours share
//! them: without a cache each is decoded two to four times.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::Rgb8;

/// Which picture of the file, and which of its tiles.
pub type Key = (usize, u64);

/// The tiles used last, up to a number of bytes.
pub struct Cache {
    budget: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    tiles: HashMap<Key, (u64, Arc<Rgb8>)>,
    /// By when they were used last.
    order: BTreeMap<u64, Key>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            held: Mutex::default(),
        }
    }

    pub fn get(&self, key: Key) -> Option<Arc<Rgb8>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = &mut *held;
        let (used, tile) = held.tiles.get_mut(&key)?;
        held.order.remove(used);
        held.clock += 1;
        *used = held.clock;
        held.order.insert(held.clock, key);
        Some(Arc::clone(tile))
    }

    /// A tile above the whole budget is not kept.
    pub fn put(&self, key: Key, tile: &Arc<Rgb8>) {
        let size = tile.data.len();
        if size > self.budget {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.tiles.contains_key(&key) {
            return; // another thread decoded it too
        }
        while held.bytes + size > self.budget {
            let Some((_, oldest)) = held.order.pop_first() else {
                break;
            };
            if let Some((_, gone)) = held.tiles.remove(&oldest) {
                held.bytes -= gone.data.len();
            }
        }
        held.clock += 1;
        let now = held.clock;
        held.bytes += size;
        held.order.insert(now, key);
        held.tiles.insert(key, (now, Arc::clone(tile)));
    }
}
