//! Tensors as dense images, for operators that work on the last two axes.
//!
//! Channels last is taken as (N, H, W, C). Any other arrangement is brought to
//! row-major order and taken as images of one channel, their number being the
//! product of the leading axes. So one loop, whose innermost axis is the
//! channels, serves both.

use crate::error::Result;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Channels last for what is channels-last, padded or not; row-major elsewhere.
pub(crate) fn format_of(x: &Tensor) -> Format {
    let layout = x.layout();
    if x.rank() == 4 && layout.strides()[1] == 1 && !layout.is_contiguous() {
        Format::ChannelsLast
    } else {
        Format::Contiguous
    }
}

pub(crate) struct Images {
    /// The values in `format`, off the tape.
    pub tensor: Tensor,
    pub format: Format,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Images {
    /// x must have at least two axes.
    pub fn of(x: &Tensor, format: Format) -> Result<Self> {
        let tensor = x.detach().to_format(format)?;
        let (lead, last) = x.shape().split_at(x.rank() - 2);
        let c = match (format, lead) {
            (Format::ChannelsLast, &[_, c]) => c,
            _ => 1,
        };
        Ok(Self {
            tensor,
            format,
            h: last[0],
            w: last[1],
            c,
        })
    }

    /// The same arrangement with other sizes of the last two axes.
    pub fn resized(&self, [h, w]: [usize; 2]) -> Result<Layout> {
        let mut dims = self.tensor.shape().to_vec();
        let last = dims.len() - 2;
        dims[last..].copy_from_slice(&[h, w]);
        Layout::new(Shape::new(&dims)?, self.format)
    }
}
