//! Products of all tiles with some genes at a time, and a sorting network over the
//! tiles whose lanes are genes.

use rayon::prelude::*;

use super::{Ask, Of, result_dtype, words};
use crate::device::cpu::Parts;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::half::{is_half, wide};
use crate::ops::layout::cpu::cast;
use crate::ops::matmul::cpu::blocked::{Finish, Matrix, Product};
use crate::ops::vector::vectorised;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Scores that are computed at once.
const SCORES: usize = 1 << 21;
/// Genes that are sorted side by side: as many as there are bits in two words.
const LANES: usize = 64;
/// Blocks of genes that are worth a task.
const BLOCKS: usize = 8;

/// Genes whose scores are computed at once.
fn part(bags: usize, tiles: usize) -> usize {
    (SCORES / (bags * tiles)).max(LANES) / LANES * LANES
}

/// x and w as the arithmetic takes them, x row-major.
fn operands(x: &Tensor, w: &Tensor) -> Result<(Tensor, Tensor)> {
    let x = wide(&x.detach())?.to_format(Format::Contiguous)?;
    Ok((x, wide(&w.detach())?))
}

/// Rows `start..` of w, as they lie.
fn rows_of(w: &Tensor, start: usize) -> Matrix {
    let (layout, strides) = (w.layout(), w.layout().strides());
    Matrix {
        start: layout.offset() + start * strides[0],
        row: strides[0],
        column: strides[1],
    }
}

pub(super) fn forward(
    ask: &Ask,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (x, w) = operands(x, w)?;
    let bias = bias.map(|b| wide(&b.detach())?.to_format(Format::Contiguous));
    let bias = bias.transpose()?;
    match result_dtype(&x) {
        DType::F64 => forward_of::<f64>(ask, &x, &w, bias.as_ref()),
        _ => forward_of::<f32>(ask, &x, &w, bias.as_ref()),
    }
}

fn forward_of<T: Float>(
    ask: &Ask,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (bags, tiles, e) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let genes = w.shape()[0];
    let (xs, ws) = (x.dense_slice::<T>(ask.op)?, w.elements_of::<T>(ask.op)?);
    let bias = bias.map(|b| b.dense_slice::<T>(ask.op)).transpose()?;
    let (outputs, words) = (ask.outputs(), words(genes));
    let network = network(tiles);
    let at_once = part(bags, tiles).min(genes);
    let mut scores = vec![T::ZERO; bags * tiles * at_once];
    let kept = if ask.keep { bags * tiles * words } else { 0 };
    let mut chosen = vec![0i32; kept];
    let layout = Layout::contiguous(Shape::new(&[bags, outputs, genes])?);
    let y = Tensor::build_unwritten(layout, |out: &mut [T]| {
        for start in (0..genes).step_by(at_once) {
            let len = at_once.min(genes - start);
            let by_column = rows_of(w, start);
            let add = |_: usize, column: usize, sums: &mut [T]| {
                if let Some(bias) = bias {
                    let bias = &bias[start + column..][..sums.len()];
                    sums.iter_mut().zip(bias).for_each(|(s, &b)| *s += b);
                }
            };
            let product = Product {
                sizes: [bags * tiles, e, len],
                a: (xs, Matrix::rows_of(0, e)),
                b: (
                    ws,
                    Matrix {
                        start: by_column.start,
                        row: by_column.column,
                        column: by_column.row,
                    },
                ),
                accumulate: false,
                finish: bias.is_some().then_some(&add as Finish<T>),
            };
            product.run(&mut scores, len);
            let (scores, out) = (&scores, Parts::of(out));
            let chosen = Parts::of(&mut chosen);
            let tasks = len.div_ceil(BLOCKS * LANES);
            (0..bags * tasks).into_par_iter().for_each(|task| {
                let (bag, first) = (task / tasks, task % tasks * BLOCKS * LANES);
                let mut room = Room::new(tiles);
                for at in (first..len.min(first + BLOCKS * LANES)).step_by(LANES) {
                    let lanes = LANES.min(len - at);
                    let rows = &scores[bag * tiles * len + at..(bag + 1) * tiles * len];
                    let mut means = [T::ZERO; LANES * super::MOST_KS];
                    pool(
                        rows,
                        [len, lanes, tiles],
                        &network,
                        (ask.ks, ask.joined),
                        &mut room.keys,
                        &mut means,
                    );
                    let gene = start + at;
                    for (i, means) in means.chunks_exact(LANES).take(outputs).enumerate() {
                        // SAFETY: a task has the genes of its blocks in its bag alone.
                        let to = unsafe { out.part((bag * outputs + i) * genes + gene, lanes) };
                        to.copy_from_slice(&means[..lanes]);
                    }
                    if ask.keep {
                        choose(
                            rows,
                            [len, lanes, tiles],
                            ask.ks[0],
                            &room.keys,
                            &mut room.bits,
                        );
                        for (tile, &bits) in room.bits.iter().enumerate() {
                            // SAFETY: as above; a block's genes have two words of a row.
                            let to = (bag * tiles + tile) * words + gene / 32;
                            let to = unsafe { chosen.part(to, 2) };
                            to.copy_from_slice(&[bits as i32, (bits >> 32) as i32]);
                        }
                    }
                }
            });
        }
    });
    let chosen = ask
        .keep
        .then(|| Tensor::from_slice(&chosen, &[bags, tiles, words]));
    Ok((y, chosen.transpose()?))
}

/// What a task works in.
struct Room<T> {
    /// A row of lanes for each tile.
    keys: Vec<T>,
    /// Of each tile, a bit for each lane.
    bits: Vec<u64>,
}

impl<T: Float> Room<T> {
    fn new(tiles: usize) -> Self {
        Self {
            keys: vec![T::ZERO; tiles * LANES],
            bits: vec![0; tiles],
        }
    }
}

/// Pairs of places of which the first is to get the larger of both, in turn: Batcher's
/// merge exchange (Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2 M).
fn network(n: usize) -> Vec<[usize; 2]> {
    let mut pairs = Vec::new();
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut d) = (top, 0, p);
        loop {
            pairs.extend((0..n - d).filter(|i| i & p == r).map(|i| [i, i + d]));
            if q == p {
                break;
            }
            (d, r) = (q - p, p);
            q /= 2;
        }
        p /= 2;
    }
    pairs
}

vectorised! {
    /// Rows of `pitch` scores, of which `lanes` count, to rows of LANES means; `keys`
    /// has the scores in descending order afterwards, NaN as infinity.
    fn pool<T: Float>(
        scores: &[T],
        sizes: [usize; 3],
        network: &[[usize; 2]],
        ask: (&[usize], bool),
        keys: &mut [T],
        means: &mut [T],
    ) {
        let [pitch, lanes, _] = sizes;
        let (ks, joined) = ask;
        let mut undefined = [false; LANES];
        for (keys, row) in keys.chunks_exact_mut(LANES).zip(scores.chunks(pitch)) {
            for ((key, &s), undefined) in keys.iter_mut().zip(&row[..lanes]).zip(&mut undefined) {
                let nan = s.is_nan();
                *key = if nan { -T::NEG_INFINITY } else { s };
                *undefined |= nan;
            }
            keys[lanes..].fill(T::ZERO);
        }
        for &[i, j] in network {
            let (high, low) = keys.split_at_mut(j * LANES);
            let (high, low) = (&mut high[i * LANES..][..LANES], &mut low[..LANES]);
            for (a, b) in high.iter_mut().zip(low) {
                let (x, y) = (*a, *b);
                *a = if x > y { x } else { y };
                *b = if y < x { y } else { x };
            }
        }
        let mut sums = [T::ZERO; LANES];
        let mut next = 0;
        if joined {
            means[..LANES].fill(T::ZERO);
        }
        for (j, keys) in keys.chunks_exact(LANES).enumerate() {
            for (sum, &key) in sums.iter_mut().zip(keys) {
                *sum += key;
            }
            let Some(&k) = ks.get(next) else { break };
            if k == j + 1 {
                let of = T::from_f64(k as f64);
                let to = &mut means[if joined { 0 } else { next * LANES }..][..LANES];
                for (m, &sum) in to.iter_mut().zip(&sums) {
                    *m = if joined { *m + sum / of } else { sum / of };
                }
                next += 1;
            }
        }
        if joined {
            let of = T::from_f64(ks.len() as f64);
            means[..LANES].iter_mut().for_each(|m| *m = *m / of);
        }
        // The highest of every k is NaN then.
        for row in means.chunks_exact_mut(LANES) {
            for (m, &undefined) in row.iter_mut().zip(&undefined) {
                *m = if undefined { T::from_f64(f64::NAN) } else { *m };
            }
        }
    }
}

/// The tiles of the `k` highest scores, from the same rows and their order: a bit for
/// each lane.
fn choose<T: Float>(
    scores: &[T],
    [pitch, lanes, tiles]: [usize; 3],
    k: usize,
    keys: &[T],
    bits: &mut [u64],
) {
    let least = &keys[(k - 1) * LANES..][..LANES];
    let above = |s: T, least: T| s > least || s.is_nan();
    let mut missing = [k; LANES];
    for row in scores.chunks(pitch) {
        for ((missing, &s), &least) in missing.iter_mut().zip(&row[..lanes]).zip(least) {
            *missing = missing.wrapping_sub(usize::from(above(s, least)));
        }
    }
    for (bits, row) in bits.iter_mut().zip(scores.chunks(pitch)) {
        *bits = 0;
        for (lane, (&s, &least)) in row[..lanes].iter().zip(least).enumerate() {
            let equal = s == least && missing[lane] > 0;
            missing[lane] -= usize::from(equal);
            *bits |= u64::from(equal || above(s, least)) << lane;
        }
    }
    // NaN is above everything here, even where more than k are.
    for lane in 0..lanes {
        if (0..tiles).filter(|&t| bits[t] >> lane & 1 == 1).count() > k {
            let nan = |t: &usize| scores[t * pitch + lane].is_nan();
            let first: Vec<usize> = (0..tiles).filter(nan).take(k).collect();
            for (t, bits) in bits.iter_mut().enumerate() {
                *bits &= !(1 << lane) | u64::from(first.contains(&t)) << lane;
            }
        }
    }
}

/// The gradient of x or w from dy (B, G).
pub(super) fn gradient(
    of: Of,
    dy: &Tensor,
    [x, w]: [&Tensor; 2],
    chosen: &Tensor,
    k: usize,
) -> Result<Tensor> {
    let dtype = x.dtype();
    // Halves are multiplied with dy / k as rounded as they are.
    let dy = crate::ops::affine(&dy.detach(), 1.0 / k as f64, 0.0)?;
    let dy = match is_half(x) {
        true => cast(&cast(&dy, dtype)?, DType::F32)?,
        false => dy,
    };
    let (x, w) = operands(x, w)?;
    let g = match x.dtype() {
        DType::F64 => gradient_of::<f64>(of, &dy, [&x, &w], chosen)?,
        _ => gradient_of::<f32>(of, &dy, [&x, &w], chosen)?,
    };
    cast(&g, dtype)
}

fn gradient_of<T: Float>(
    of: Of,
    dy: &Tensor,
    [x, w]: [&Tensor; 2],
    chosen: &Tensor,
) -> Result<Tensor> {
    let op = super::GRADIENT;
    let (bags, tiles, e) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let genes = w.shape()[0];
    let dy = dy.to_format(Format::Contiguous)?;
    let (dys, bits) = (dy.dense_slice::<T>(op)?, chosen.dense_slice::<i32>(op)?);
    let (xs, ws) = (x.dense_slice::<T>(op)?, w.elements_of::<T>(op)?);
    let (rows, words) = (bags * tiles, words(genes));
    let at_once = part(bags, tiles).min(genes);
    let mut scores = vec![T::ZERO; rows * at_once];
    let layout = match of {
        Of::Tokens => *x.layout().shape(),
        Of::Weight => Shape::new(&[genes, e])?,
    };
    Ok(Tensor::build_unwritten(
        Layout::contiguous(layout),
        |out: &mut [T]| {
            for start in (0..genes).step_by(at_once) {
                let len = at_once.min(genes - start);
                let each = scores[..rows * len].par_chunks_mut(len).enumerate();
                each.for_each(|(row, to)| {
                    let dy = &dys[row / tiles * genes + start..][..len];
                    let bits = &bits[row * words + start / 32..(row + 1) * words];
                    for ((to, dy), bits) in to.chunks_mut(32).zip(dy.chunks(32)).zip(bits) {
                        for (i, (to, &dy)) in to.iter_mut().zip(dy).enumerate() {
                            *to = if bits >> i & 1 == 1 { dy } else { T::ZERO };
                        }
                    }
                });
                let scores = &scores[..rows * len];
                match of {
                    Of::Tokens => Product {
                        sizes: [rows, len, e],
                        a: (scores, Matrix::rows_of(0, len)),
                        b: (ws, rows_of(w, start)),
                        accumulate: start > 0,
                        finish: None,
                    }
                    .run(out, e),
                    Of::Weight => Product {
                        sizes: [len, rows, e],
                        a: (
                            scores,
                            Matrix {
                                start: 0,
                                row: 1,
                                column: len,
                            },
                        ),
                        b: (xs, Matrix::rows_of(0, e)),
                        accumulate: false,
                        finish: None,
                    }
                    .run(&mut out[start * e..(start + len) * e], e),
                }
            }
        },
    ))
}

/// 1 where a tile was chosen and 0 elsewhere, (B, T, G).
pub(super) fn dense(chosen: &Tensor, genes: usize, dtype: DType) -> Result<Tensor> {
    let bits = chosen.dense_slice::<i32>(super::CHOSEN)?;
    let (shape, words) = (chosen.shape(), words(genes));
    let ones = bits
        .chunks_exact(words)
        .flat_map(|row| (0..genes).map(move |g| f32::from((row[g / 32] >> (g % 32) & 1) as u8)));
    let ones: Vec<f32> = ones.collect();
    cast(
        &Tensor::from_slice(&ones, &[shape[0], shape[1], genes])?,
        dtype,
    )
}
