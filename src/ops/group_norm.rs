//! `group_norm`: [`layer_norm`](super::layer_norm) over groups of channels,
//! made of recorded operators (Wu and He 2018).

use crate::error::{Error, Result};
use crate::ops;
use crate::shape::Format;
use crate::tensor::Tensor;

/// x (N, C, ..) with statistics per sample over each of `groups` equal runs of
/// channels; weight (C) and bias (C). Channels-last x gives a channels-last
/// result, without a copy when there is one group.
///
/// # Errors
/// `groups` does not divide C; a weight or bias of another shape or dtype.
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let given: Vec<&Tensor> = weight.into_iter().chain(bias).collect();
    let channels = x.shape().get(1).copied().unwrap_or(0);
    let divides = channels.checked_rem(groups) == Some(0) && x.rank() >= 2;
    if !divides || given.iter().any(|t| t.shape() != [channels]) {
        let mut shapes = vec![x.shape()];
        shapes.extend(given.iter().map(|t| t.shape()));
        let expected = format!("x (N, C, ..), weight (C), bias (C), C in {groups} groups");
        return Err(Error::shape("group_norm", &shapes, expected));
    }
    let channels_last =
        x.rank() == 4 && !x.layout().is_contiguous() && x.layout().strides()[1] == 1;
    // One group has no order of its elements, so those of storage will do.
    let rotated = channels_last && groups == 1;
    let x = if rotated {
        ops::permute(&x.to_format(Format::ChannelsLast)?, &[0, 2, 3, 1])?
    } else {
        x.clone()
    };
    let samples = x.shape()[0];
    let size = x.elements().checked_div(samples * groups).unwrap_or(0);
    let rows = ops::reshape(&x, &[samples, groups, size])?;
    let y = ops::reshape(&ops::layer_norm(&rows, 1, None, None, eps)?, x.shape())?;
    let mut y = if rotated {
        ops::permute(&y, &[0, 3, 1, 2])?
    } else if channels_last {
        y.to_format(Format::ChannelsLast)?
    } else {
        y
    };
    let mut per_channel = vec![1; y.rank() - 1];
    per_channel[0] = channels;
    if let Some(w) = weight {
        y = ops::mul(&y, &ops::reshape(w, &per_channel)?)?;
    }
    if let Some(b) = bias {
        y = ops::add(&y, &ops::reshape(b, &per_channel)?)?;
    }
    Ok(y)
}
