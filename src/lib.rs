//! eosin: a hand-written compute engine and, on it, four model families that
//! link histology slides and gene expression.
//!
//! A service shares one [`Session`] and gives each of its threads a [`Runner`]:
//!
//! ```no_run
//! use eosin::{Device, Session, Tensor, Threads};
//!
//! # #[cfg(feature = "formats")]
//! # fn main() -> eosin::Result<()> {
//! let path = std::path::Path::new("resnet50.pth");
//! let weights = eosin::formats::read_weights(path)?;
//! let model = eosin::models::registry::Model::named("resnet50")?;
//! let session: Session = model.session(&weights, path, &Default::default(), &Device::Cpu)?;
//!
//! let runner = session.runner(Threads::Own(2))?; // one for each calling thread
//! let image = Tensor::from_slice(&vec![0.0f32; 3 * 224 * 224], &[1, 3, 224, 224])?;
//! for (name, value) in runner.run(&image)? {
//!     println!("{name} {:?}", value.shape());
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "formats"))]
//! # fn main() {}
//! ```

pub mod autograd;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "slides")]
pub mod cohort;
pub mod device;
pub mod dtype;
pub mod error;
#[cfg(feature = "formats")]
pub mod expression;
#[cfg(feature = "formats")]
pub mod formats;
#[cfg(feature = "slides")]
pub mod jobs;
#[cfg(feature = "formats")]
pub mod metrics;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod profile;
pub mod random;
#[cfg(feature = "formats")]
pub mod report;
#[cfg(feature = "formats")]
pub mod response;
#[cfg(feature = "formats")]
pub mod search;
pub mod session;
pub mod shape;
#[cfg(feature = "slides")]
pub mod simulate;
#[cfg(feature = "slides")]
pub mod slides;
pub mod storage;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use session::{Runner, Session, Threads};
pub use tensor::Tensor;
