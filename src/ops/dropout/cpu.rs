use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::images::format_of;
use crate::random::Philox;
use crate::shape::{Format, Layout};
use crate::tensor::Tensor;

pub(super) fn dropout(x: &Tensor, p: f64, stream: Philox) -> Result<Tensor> {
    if is_half(x) {
        return widened([x], |[x]| dropout(x, p, stream));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, p, stream),
        DType::F64 => run::<f64>(x, p, stream),
        other => Err(Error::dtype("dropout", &[other], "a float is needed")),
    }
}

fn run<T: Float>(x: &Tensor, p: f64, stream: Philox) -> Result<Tensor> {
    // One block serves four elements that are neighbours in logical order, so
    // it is cheaper to turn x around than to draw in another order.
    let format = format_of(x);
    let plain = x.detach().to_format(Format::Contiguous)?;
    let from = plain.dense_slice::<T>("dropout")?;
    let scale = T::from_f64(1.0 / (1.0 - p));
    let layout = Layout::contiguous(*plain.layout().shape());
    let y = Tensor::build(layout, |out: &mut [T]| {
        cpu::for_chunks(out, 4, &|start, chunk| {
            let values = &from[start..start + chunk.len()];
            let quads = chunk.chunks_mut(4).zip(values.chunks(4));
            for (i, (out, values)) in quads.enumerate() {
                let block = (start / 4 + i) as u64;
                let words = stream.block(stream.position.wrapping_add(block));
                for ((o, &v), word) in out.iter_mut().zip(values).zip(words) {
                    if f64::from(Philox::unit(word)) >= p {
                        *o = v * scale;
                    }
                }
            }
        });
    });
    y.to_format(format)
}
