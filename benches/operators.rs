//! The operators of the table under criterion, on the CPU and on CUDA.

use std::time::Duration;

use criterion::{Bencher, Throughput};
use eosin::Device;
use eosin::device::cuda::CudaDevice;

use crate::Criterion;
use crate::clock::Clock;
use crate::table::events::time;
use crate::table::{self, Bench};

/// Sets of inputs that take turns on a GPU.
const SETS: u64 = 4;

/// Twice the L2 cache of an H100.
const FLUSHED: usize = 128 << 20;

/// Whether more than the default set may run: the build has the feature
/// `bench-all`, or something in particular was asked for.
pub fn every_shape() -> bool {
    cfg!(feature = "bench-all") || table::has_filter(std::env::args().skip(1))
}

/// Adds a bench whose body is made by `prepare` when it runs and not when it is
/// filtered out: the check can take longer than the timing.
fn add<T>(
    c: &mut Criterion,
    prefix: &str,
    bench: Bench,
    prepare: impl Fn() -> eosin::Result<T>,
    time: impl Fn(&mut Bencher<Clock>, &mut T),
) {
    let group = format!("{prefix}{}", bench.group());
    let name = format!("{group}/{}", bench.name());
    let throughput = bench.throughput().unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut group = c.benchmark_group(group);
    group.throughput(match throughput {
        table::Throughput::Flops(n) => Throughput::Elements(n),
        table::Throughput::Bytes(n) => Throughput::BytesDecimal(n),
    });
    let mut ready = None;
    group.bench_function(bench.name(), |b| {
        let make = || prepare().unwrap_or_else(|e| panic!("{name}: {e}"));
        time(b, ready.get_or_insert_with(make));
    });
    group.finish();
}

/// Writes the table for peers on a GPU (`benches/peers/gpu.py`) to the file that
/// the environment names.
pub fn described(_: &mut Criterion) {
    if let Some(file) = std::env::var_os("EOSIN_BENCH_TABLE") {
        std::fs::write(&file, table::described())
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}

/// The benches of the CPU.
pub fn cpu(c: &mut Criterion) {
    let all = every_shape();
    for bench in table::on_cpu() {
        if !(all || bench.by_default) {
            continue;
        }
        let prepare = || {
            bench.check(&Device::Cpu)?;
            bench.prepare(&Device::Cpu, 0)
        };
        add(c, "", bench, prepare, |b, run| {
            b.iter(|| run().expect("it succeeded when it was checked"));
        });
    }
}

/// The benches of the first GPU, by its own clock; without one a line that says
/// that they were skipped.
pub fn cuda(c: &mut Criterion) {
    let device = match open() {
        Ok(device) => device,
        Err(reason) => {
            println!("cuda: skipped: no GPU ({reason})\n");
            return;
        }
    };
    println!("cuda: {}\n", device.name());
    let all = every_shape();
    for bench in table::on_cuda() {
        if !(all || bench.by_default) {
            continue;
        }
        let place = Device::Cuda(device.clone());
        let prepare = || {
            bench.check(&place)?;
            (0..SETS)
                .map(|seed| bench.prepare(&place, seed))
                .collect::<eosin::Result<Vec<_>>>()
        };
        add(c, "cuda/", bench, prepare, |b, runs| {
            b.iter_custom(|calls| -> Duration {
                let timed = time(&device, runs, calls, FLUSHED);
                timed.expect("it succeeded when it was checked")
            });
        });
    }
}

#[cfg(feature = "cuda")]
fn open() -> eosin::Result<CudaDevice> {
    CudaDevice::new(eosin::device::cuda::nvidia::NvidiaDriver::new(0)?)
}

#[cfg(not(feature = "cuda"))]
fn open() -> eosin::Result<CudaDevice> {
    Err(eosin::Error::usage(
        "this build has not the feature cuda",
        "build it with the feature cuda",
    ))
}
