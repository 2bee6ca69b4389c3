//! What travels with a forward pass: the pass itself, fixed tables, and who
//! wants to see results on the way.

use crate::device::Device;
use crate::error::Result;
use crate::nn::{Buffer, Pass};
use crate::ops::{self, Comparison};
use crate::tensor::Tensor;

/// Called with the name of a module, as published, and what it computed.
pub type Watch<'a> = dyn Fn(&str, &Tensor) + 'a;

/// Tables that the forward pass reads. They are no part of the state, but lie
/// where the parameters lie, so that a captured step finds them there.
pub(super) struct Tables {
    /// 0, 1, 2, .. for as many as any identity needs.
    counting: Buffer,
}

impl Tables {
    /// For identities of up to `widest`.
    pub fn new(widest: usize) -> Result<Self> {
        let counting: Vec<f32> = (0..widest).map(|i| i as f32).collect();
        let counting = Tensor::from_slice(&counting, &[widest])?;
        Ok(Self {
            counting: Buffer::new("counting", counting),
        })
    }

    pub fn to_device(&self, device: &Device) -> Result<()> {
        let value = self.counting.value();
        if value.device() != *device {
            self.counting.set(value.to(device)?)?;
        }
        Ok(())
    }

    /// 0, 1, .., n - 1 in f32: (n).
    pub fn counting(&self, n: usize) -> Result<Tensor> {
        ops::slice(&self.counting.value(), 0, 0, n)
    }

    /// The identity (n, n), bool.
    pub fn identity(&self, n: usize) -> Result<Tensor> {
        let counting = self.counting(n)?;
        let column = ops::reshape(&counting, &[n, 1])?;
        ops::compare(&column, Comparison::Equal, &counting)
    }
}

/// Where in the network a forward pass is.
pub(super) struct Context<'a> {
    pub pass: &'a Pass,
    pub tables: &'a Tables,
    watch: Option<&'a Watch<'a>>,
    /// The module's name; empty at the root, and where nobody watches.
    name: String,
}

impl<'a> Context<'a> {
    pub fn new(pass: &'a Pass, tables: &'a Tables, watch: Option<&'a Watch<'a>>) -> Self {
        Self {
            pass,
            tables,
            watch,
            name: String::new(),
        }
    }

    /// The context of the module `name` below this one.
    pub fn at(&self, name: &str) -> Self {
        Self {
            pass: self.pass,
            tables: self.tables,
            watch: self.watch,
            name: match self.watch {
                Some(_) => crate::nn::key(&self.name, name),
                None => String::new(),
            },
        }
    }

    /// Whether somebody wants to see what would otherwise be one pass with what follows.
    pub fn watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Shows what the module `name` below this one computed.
    pub fn show(&self, name: &str, value: &Tensor) {
        if let Some(watch) = self.watch {
            watch(&crate::nn::key(&self.name, name), value);
        }
    }

    /// As [`Self::show`] for what is computed for the sake of showing it.
    pub fn show_with(&self, name: &str, value: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        if self.watch.is_some() {
            self.show(name, &value()?);
        }
        Ok(())
    }
}
