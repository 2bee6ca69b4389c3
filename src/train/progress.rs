//! What a long computation tells its caller, and how it is asked to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Receives progress. The library itself prints nothing.
pub trait Progress: Sync {
    /// A stage of `total` steps begins (0: unknown).
    fn begin(&self, stage: &str, total: usize);
    /// `done` steps of the stage are done.
    fn at(&self, done: usize, detail: &str);
    /// Something that the user should read now.
    fn note(&self, message: &str);
    fn end(&self);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: usize) {}
    fn at(&self, _: usize, _: &str) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// Progress out, stop requests in.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    pub progress: &'a dyn Progress,
    pub stop: &'a AtomicBool,
}

impl Control<'_> {
    /// # Errors
    /// [`Error::Interrupted`] once a stop was asked for.
    pub fn check(&self, remedy: &str) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted(remedy.to_owned()));
        }
        Ok(())
    }
}
