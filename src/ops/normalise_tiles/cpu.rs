use super::{Affine, OP, StainMap};
use crate::device::cpu::for_chunks;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::layout::cpu::cast;
use crate::ops::separable::{self, Taps};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

pub(super) fn normalise_tiles(
    x: &Tensor,
    maps: &[Taps; 2],
    stain: Option<&StainMap>,
    affine: &Affine,
    to: DType,
) -> Result<Tensor> {
    let &[n, h, w, c] = x.shape() else {
        return Err(crate::error::Error::op(OP, "internal: other axes"));
    };
    let x = x.detach().to_format(Format::Contiguous)?;
    let from = x.dense_slice::<u8>(OP)?;
    let layout = Layout::new(Shape::new(&[n, c, h, w])?, Format::ChannelsLast)?;
    let densities = stain.map(StainMap::densities);
    let levels = Tensor::build_unwritten(layout, |out: &mut [f32]| {
        for_chunks(out, 3, &|start, out| {
            let from = from[start..start + out.len()].chunks_exact(3);
            for (out, pixel) in out.chunks_exact_mut(3).zip(from) {
                match (stain, &densities) {
                    (Some(stain), Some(densities)) => {
                        let d = [0, 1, 2].map(|c| densities[usize::from(pixel[c])]);
                        for (out, row) in out.iter_mut().zip(stain.matrix) {
                            let density = row[0] * d[0] + row[1] * d[1] + row[2] * d[2];
                            let v = stain.light * (-density).exp();
                            *out = f32::from(v.clamp(0.0, 255.0) as u8);
                        }
                    }
                    _ => (out.iter_mut().zip(pixel)).for_each(|(o, &v)| *o = f32::from(v)),
                }
            }
        });
    });
    let resized = separable::cpu::separable(OP, &levels, maps)?;
    let resized = resized.to_format(Format::ChannelsLast)?;
    let values = resized.dense_slice::<f32>(OP)?;
    let y = Tensor::build_unwritten(*resized.layout(), |out: &mut [f32]| {
        for_chunks(out, 3, &|start, out| {
            let values = values[start..start + out.len()].chunks_exact(3);
            for (out, values) in out.chunks_exact_mut(3).zip(values) {
                for (c, (o, &v)) in out.iter_mut().zip(values).enumerate() {
                    *o = v * affine.scale[c] + affine.shift[c];
                }
            }
        });
    });
    cast(&y, to)
}
