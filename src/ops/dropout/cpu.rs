use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::images::format_of;
use crate::ops::vector::vectorised;
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
    // `Philox::unit(word) >= p` in integers, which are exact too.
    let from_on = (p * f64::from(1u32 << 24)).ceil() as u32;
    let y = Tensor::build_unwritten(layout, |out: &mut [T]| {
        cpu::for_chunks(out, 4, &|start, out| {
            let first = stream.position.wrapping_add((start / 4) as u64);
            keep(
                &from[start..start + out.len()],
                stream,
                first,
                from_on,
                scale,
                out,
            );
        });
    });
    y.to_format(format)
}

vectorised! {
    /// Element i is kept by word i % 4 of block `first` + i / 4.
    fn keep<T: Float>(
        x: &[T],
        stream: Philox,
        first: u64,
        from_on: u32,
        scale: T,
        out: &mut [T],
    ) {
        const BLOCKS: usize = 8;
        for (i, (x, out)) in x.chunks(4 * BLOCKS).zip(out.chunks_mut(4 * BLOCKS)).enumerate() {
            let words = stream.blocks::<BLOCKS>(first.wrapping_add((i * BLOCKS) as u64));
            for (j, (o, &v)) in out.iter_mut().zip(x).enumerate() {
                let kept = words[j % 4][j / 4] >> 8 >= from_on;
                *o = if kept { v * scale } else { T::ZERO };
            }
        }
    }
}
