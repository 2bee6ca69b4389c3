//! The emulator itself: every collective and fragment has the answer that CUDA
//! documents, and bugs that were planted are caught ([`planted`]).

mod planted;

use bytemuck::{Pod, Zeroable};
use eosin::device::cuda::kernels::ALL;
use eosin_emulator::{Schedule, kernels, launch, threads};
use half::{bf16, f16};

const ORDERS: [Schedule; 2] = [Schedule::Forward, Schedule::Reverse];

/// Forward, Reverse, and some seeds of the others.
fn schedules() -> impl Iterator<Item = Schedule> {
    ORDERS.into_iter().chain(random()).chain(greedy())
}

fn random() -> impl Iterator<Item = Schedule> {
    (0..8).map(Schedule::Random)
}

fn greedy() -> impl Iterator<Item = Schedule> {
    (0..8).map(Schedule::Greedy)
}

/// Launches on host memory.
fn run<P: Pod>(name: &str, grid: [u32; 3], params: &P, schedule: Schedule) -> Result<(), String> {
    with_shared(name, grid, 0, params, schedule)
}

fn with_shared<P: Pod>(
    name: &str,
    grid: [u32; 3],
    shared: u32,
    params: &P,
    schedule: Schedule,
) -> Result<(), String> {
    let threads = threads(name).ok_or_else(|| format!("no kernel {name}"))?;
    let params = bytemuck::bytes_of(params);
    // SAFETY: each test gives its kernel buffers of the size that it uses.
    unsafe { launch(name, grid, threads, shared, params, schedule) }
}

#[test]
fn every_kernel_of_the_crate_is_emulated() {
    let mut table: Vec<_> = ALL.iter().map(|kernel| kernel.name).collect();
    table.sort_unstable();
    assert_eq!(kernels().collect::<Vec<_>>(), table);
    for kernel in ALL {
        assert_eq!(
            threads(kernel.name),
            Some(kernel.threads),
            "{}",
            kernel.name
        );
    }
    assert_eq!(threads("planted_barrier_sound"), Some(64));
}

// ---- collectives

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Probe {
    output: u64,
    input: u64,
}

/// Values without a pattern, negative ones among them.
fn value(lane: usize) -> i32 {
    (lane as i32 * 37 + 11) % 101 - 50
}

/// Row k of the answers of a probe with `threads` threads is `expected[k]` of
/// each thread, in every schedule.
fn answers(name: &str, threads: usize, expected: &[&dyn Fn(usize) -> i32]) {
    let input: Vec<i32> = (0..threads).map(value).collect();
    for schedule in schedules() {
        let mut output = vec![i32::MIN; expected.len() * threads];
        let params = Probe {
            output: output.as_mut_ptr() as u64,
            input: input.as_ptr() as u64,
        };
        run(name, [1; 3], &params, schedule).unwrap();
        for (row, (got, expected)) in output.chunks(threads).zip(expected).enumerate() {
            let wanted: Vec<i32> = (0..threads).map(expected).collect();
            assert_eq!(got, wanted, "{name}, row {row}, {schedule:?}");
        }
    }
}

#[test]
fn shuffles_answer_as_documented() {
    // Out of its segment, a lane keeps its own value; __shfl_sync wraps around,
    // and __shfl_xor_sync reaches earlier segments.
    let within =
        |lane: usize, source: usize, inside: bool| value(if inside { source } else { lane });
    let next = |i: usize| within(i, i + 1, i < 31);
    answers(
        "probe_shuffles",
        32,
        &[
            &|_| value(5),
            &|i| value(i / 8 * 8 + (i + 3) % 8),
            &|i| within(i, i.wrapping_sub(3), i >= 3),
            &|i| within(i, i.wrapping_sub(3), i % 8 >= 3),
            &|i| within(i, i + 3, i < 29),
            &|i| within(i, i + 3, i % 8 < 5),
            &|i| value(i ^ 5),
            &|i| within(i, i ^ 9, i ^ 9 < i / 8 * 8 + 8),
            &|_| value(31),
            &next,
            &next,
        ],
    );
}

/// The lanes of a warp for which something holds, as a mask.
fn lanes(holds: impl Fn(usize) -> bool) -> i32 {
    (0..32)
        .filter(|&i| holds(i))
        .fold(0u32, |mask, i| mask | 1 << i) as i32
}

#[test]
fn votes_answer_as_documented() {
    answers(
        "probe_votes",
        32,
        &[
            &|_| lanes(|i| value(i) % 3 == 0),
            &|_| 1,
            &|_| 0,
            &|_| 1,
            &|_| 0,
            &|i| lanes(|j| j % 5 == i % 5),
            &|_| -1,
            &|_| 1,
            &|_| 0,
            &|_| 0,
            &|i| lanes(|j| j % 2 == i % 2 && j < 16),
        ],
    );
    answers(
        "probe_block_votes",
        80,
        &[&|_| 27, &|_| 1, &|_| 0, &|_| 1, &|_| 0, &|i| {
            lanes(|j| j % 2 == 1 && (i < 64 || j < 16))
        }],
    );
}

#[test]
fn reductions_answer_as_documented() {
    let all = || (0..32).map(value);
    let unsigned = || all().map(|v| v as u32);
    answers(
        "probe_reductions",
        32,
        &[
            &|_| all().sum(),
            &|_| all().min().unwrap(),
            &|_| all().max().unwrap(),
            &|_| unsigned().min().unwrap() as i32,
            &|_| unsigned().max().unwrap() as i32,
            &|_| all().fold(-1, |a, b| a & b),
            &|_| all().fold(0, |a, b| a | b),
            &|_| all().fold(0, |a, b| a ^ b),
        ],
    );
}

#[test]
fn named_barriers_let_warps_hand_over() {
    let input: Vec<i32> = (0..64).map(value).collect();
    for schedule in schedules() {
        let mut output = vec![i32::MIN; 4 * 32];
        let params = Probe {
            output: output.as_mut_ptr() as u64,
            input: input.as_ptr() as u64,
        };
        run("probe_named_barriers", [1; 3], &params, schedule).unwrap();
        for (i, &got) in output.iter().enumerate() {
            let (round, lane) = (i / 32, i % 32);
            let expected = value(lane) + value(lane + 32) + 2 * round as i32;
            assert_eq!(got, expected, "round {round}, {schedule:?}");
        }
    }
}

#[test]
fn every_block_of_a_grid_runs_once() {
    for (grid, schedule) in [[1, 1, 1], [7, 1, 1], [3, 5, 2], [4, 4, 4], [1, 9, 3]]
        .into_iter()
        .flat_map(|grid| schedules().map(move |schedule| (grid, schedule)))
    {
        let blocks = grid.iter().product::<u32>() as usize;
        let mut output = vec![0i32; blocks * 32 + 1];
        let params = Probe {
            output: output.as_mut_ptr() as u64,
            input: 0,
        };
        run("probe_places", grid, &params, schedule).unwrap();
        // How many threads ran, and where each one was.
        assert_eq!(output.pop(), Some(blocks as i32 * 32));
        for (i, got) in output.into_iter().enumerate() {
            let block = i as u32 / 32;
            let [x, y, z] = [
                block % grid[0],
                block / grid[0] % grid[1],
                block / grid[0] / grid[1],
            ];
            assert_eq!(got as u32, (100 * z + 10 * y + x) * 100 + i as u32 % 32);
        }
    }
}

// ---- ptx.cuh

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Fragments {
    d: u64,
    a: u64,
    b: u64,
}

/// The same bytes, aligned to 16 as device memory is.
fn aligned<T: Pod>(values: &[T]) -> Vec<u128> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let mut words = vec![0u128; bytes.len().div_ceil(16)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

/// A small integer, so that sums are exact in any order and every format.
fn small(i: usize) -> f32 {
    (i * 29 % 17) as f32 - 8.0
}

/// d + a b on the probe, against the plain product; `a` is 16 x `depth`.
fn product<T: Pod>(name: &str, depth: usize, narrow: impl Fn(f32) -> T) {
    let (a, b): (Vec<f32>, Vec<f32>) = (
        (0..16 * depth).map(small).collect(),
        (0..depth * 8).map(|i| small(i + 5)).collect(),
    );
    let pack = |values: &[f32]| -> Vec<u128> {
        let narrow: Vec<T> = values.iter().map(|&v| narrow(v)).collect();
        aligned(&narrow)
    };
    let (packed_a, packed_b) = (pack(&a), pack(&b));
    for schedule in schedules() {
        let before: Vec<f32> = (0..16 * 8).map(|i| small(i + 2)).collect();
        let mut d = before.clone();
        let params = Fragments {
            d: d.as_mut_ptr() as u64,
            a: packed_a.as_ptr() as u64,
            b: packed_b.as_ptr() as u64,
        };
        run(name, [1; 3], &params, schedule).unwrap();
        for (i, (&got, &start)) in d.iter().zip(&before).enumerate() {
            let (row, column) = (i / 8, i % 8);
            let terms = (0..depth).map(|k| a[row * depth + k] * b[k * 8 + column]);
            let expected = start + terms.sum::<f32>();
            assert_eq!(got, expected, "{name}: row {row}, column {column}");
        }
    }
}

#[test]
fn products_of_fragments_are_those_of_matrices() {
    product("probe_mma_bf16", 16, bf16::from_f32);
    product("probe_mma_f16", 16, f16::from_f32);
    product("probe_mma_tf32", 8, |v| v);
    product("probe_product", 16, bf16::from_f32);
}

#[test]
fn matrices_load_as_documented() {
    let input: Vec<u16> = (0..32 * 8).map(|i| i as u16 * 3 + 1).collect();
    let rows: Vec<u128> = aligned(&input);
    let element = |matrix: usize, row: usize, column: usize| input[(matrix * 8 + row) * 8 + column];
    for schedule in schedules() {
        let mut output = vec![0u32; 14 * 32];
        let params = Probe {
            output: output.as_mut_ptr() as u64,
            input: rows.as_ptr() as u64,
        };
        run("probe_ldmatrix", [1; 3], &params, schedule).unwrap();
        // The forms x1, x2, x4, each register of each, then all of it transposed.
        let matrices = [0, 0, 1, 0, 1, 2, 3];
        for (i, got) in output.into_iter().enumerate() {
            let (register, lane) = (i / 32, i % 32);
            let (matrix, transposed) = (matrices[register % 7], register >= 7);
            let [low, high] = [0, 1].map(|next| {
                let (row, column) = (lane / 4, lane % 4 * 2 + next);
                match transposed {
                    false => element(matrix, row, column),
                    true => element(matrix, column, row),
                }
            });
            let expected = u32::from(low) | u32::from(high) << 16;
            assert_eq!(got, expected, "register {register}, lane {lane}");
        }
    }
}

#[test]
fn copies_end_in_zeros_after_their_source() {
    let bytes: Vec<u8> = (0..=255).map(|i: u8| i | 1).collect();
    let words: Vec<u128> = aligned(&bytes);
    for schedule in schedules() {
        let mut output = vec![0u32; 3 * 64];
        let params = Probe {
            output: output.as_mut_ptr() as u64,
            input: words.as_ptr() as u64,
        };
        run("probe_copies", [1; 3], &params, schedule).unwrap();
        let held: &[u8] = bytemuck::cast_slice(&output);
        for (size, held) in [4, 8, 16].into_iter().zip(held.chunks(256)) {
            for (i, (&got, &source)) in held.iter().zip(&bytes).enumerate() {
                let copied = i / size % (size + 1);
                let expected = if i % size < copied { source } else { 0 };
                assert_eq!(got, expected, "{size} bytes at a time, byte {i}");
            }
        }
    }
}

// ---- numbers

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Conversions {
    half: u64,
    bfloat: u64,
    from_half: u64,
    from_bfloat: u64,
    input: u64,
}

#[test]
fn halves_convert_as_elsewhere() {
    const COUNT: usize = 1 << 16;
    // Every half, its neighbours in f32 and the ties between it and the next one;
    // then the same for bf16; then bits of every kind.
    let ties =
        |bits: u32, step: u32| [0, 1, step / 2 - 1, step / 2, step / 2 + 1].map(|d| bits + d);
    let halves = (0..=u16::MAX).flat_map(|i| ties(f16::from_bits(i).to_f32().to_bits(), 1 << 13));
    let bfloats = (0..=u16::MAX).flat_map(|i| ties(u32::from(i) << 16, 1 << 16));
    let others = (0..COUNT as u32).map(|i| i.wrapping_mul(0x9e37_79b9));
    // Between 0 and the smallest half, and between its multiples.
    let small = (0..1u32 << 14).map(|i| (i as f32 * 2f32.powi(-26)).to_bits());
    let values: Vec<f32> = (halves.chain(bfloats).chain(others).chain(small))
        .map(f32::from_bits)
        .collect();
    for chunk in values.chunks_exact(COUNT) {
        let mut half = vec![0u16; COUNT];
        let mut bfloat = vec![0u16; COUNT];
        let mut from_half = vec![0f32; COUNT];
        let mut from_bfloat = vec![0f32; COUNT];
        let params = Conversions {
            half: half.as_mut_ptr() as u64,
            bfloat: bfloat.as_mut_ptr() as u64,
            from_half: from_half.as_mut_ptr() as u64,
            from_bfloat: from_bfloat.as_mut_ptr() as u64,
            input: chunk.as_ptr() as u64,
        };
        let grid = [COUNT as u32 / 256, 1, 1];
        run("probe_conversions", grid, &params, Schedule::Forward).unwrap();
        for (i, &v) in chunk.iter().enumerate() {
            if v.is_nan() {
                assert_eq!([half[i], bfloat[i]], [0x7fff; 2]);
            } else {
                assert_eq!(half[i], f16::from_f32(v).to_bits(), "{v:e} as f16");
                assert_eq!(bfloat[i], bf16::from_f32(v).to_bits(), "{v:e} as bf16");
            }
            let bits = i as u16;
            let wide = [
                f16::from_bits(bits).to_f32(),
                bf16::from_bits(bits).to_f32(),
            ];
            for (got, expected) in [from_half[i], from_bfloat[i]].into_iter().zip(wide) {
                let same = got.to_bits() == expected.to_bits();
                assert!(same || got.is_nan() && expected.is_nan(), "{bits:04x}");
            }
        }
    }
}

#[test]
fn functions_of_bits_answer_as_documented() {
    let input: Vec<u32> = (0..64u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9) >> (i % 7))
        .collect();
    let mut output = vec![0u32; 9 * 32];
    let params = Probe {
        output: output.as_mut_ptr() as u64,
        input: input.as_ptr() as u64,
    };
    run("probe_bits", [1; 3], &params, Schedule::Forward).unwrap();
    for lane in 0..32 {
        let (a, b) = (input[lane], input[lane + 32]);
        let (signed_a, signed_b) = (i64::from(a as i32), i64::from(b as i32));
        let both = u64::from(b) << 32 | u64::from(a);
        let byte = |i: u32| (both >> (8 * i) & 0xff) as u32;
        let expected = [
            ((u64::from(a) * u64::from(b)) >> 32) as u32,
            ((signed_a * signed_b) >> 32) as u32,
            a.reverse_bits(),
            a.count_ones(),
            a.leading_zeros(),
            if a == 0 { 0 } else { a.trailing_zeros() + 1 },
            ((both << 9) >> 32) as u32,
            (both >> 9) as u32,
            byte(5) | byte(0) << 8 | byte(1) << 16 | byte(7) << 24,
        ];
        let got: Vec<u32> = output.iter().skip(lane).step_by(32).copied().collect();
        assert_eq!(got, expected, "of {a:08x} and {b:08x}");
    }
}
