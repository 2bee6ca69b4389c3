//! `eosin profile`: where the time of a model's step goes, and how far each
//! operator is from its floor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::console;
use super::device::{self, DeviceChoice};
use crate::device::Device;
use crate::device::cuda::null::NullDriver;
use crate::device::cuda::{CudaDevice, Memory};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;
use crate::ops::{self, Cost};
use crate::profile::workload::{self, Mode};
use crate::profile::{Call, Phase, Profile, observe};
use crate::tensor::Tensor;
use crate::train::config::Precision;
use crate::train::progress::Control;

mod trace;

#[derive(Args)]
pub struct ProfileArgs {
    /// resnet18, resnet50, inception-v3, densenet121, deeppt-autoencoder, deeppt, trnasformer (-l12),
    /// he2rna, tcgn, betavae, dcgan-generator or dcgan-critic
    model: String,
    /// A forward pass, or forward pass, backward pass and update
    #[arg(long, value_enum, default_value = "infer")]
    mode: ModeChoice,
    /// Images of a ResNet, tiles of the autoencoder, samples of 16 tiles to train deeppt
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Steps to observe, of which the median is shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    /// File for a timeline that chrome://tracing and ui.perfetto.dev open
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Arithmetic that the device can do, in place of a measured product
    #[arg(long, value_name = "GFLOP/s")]
    peak_gflops: Option<f64>,
    /// Bytes that the device can read and write, in place of a measured copy
    #[arg(long, value_name = "GB/s")]
    bandwidth: Option<f64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeChoice {
    Infer,
    Train,
}

/// What the device could do at best.
#[derive(Clone, Copy, Serialize)]
struct Ceilings {
    gflops: f64,
    gigabytes: f64,
    source: &'static str,
}

/// A GPU that is not here, for a dry run: fp32 outside the tensor cores and
/// device memory of an H100 SXM.
const ASSUMED: Ceilings = Ceilings {
    gflops: 60e3,
    gigabytes: 3000.0,
    source: "assumed, an H100 SXM in f32",
};

/// What a dry run supposes of operators on a GPU: shares of the ceilings, and
/// that no kernel is shorter than this.
const ARITHMETIC: f64 = 0.8;
const TRAFFIC: f64 = 0.9;
const SHORTEST: f64 = 3e-6;

impl Ceilings {
    /// Seconds that this takes at least.
    fn floor(&self, cost: Cost) -> f64 {
        let arithmetic = cost.flops as f64 / (self.gflops * 1e9);
        arithmetic.max(cost.bytes as f64 / (self.gigabytes * 1e9))
    }

    /// Seconds that a call may take on a GPU that nobody has timed.
    fn predicted(&self, call: &Call) -> f64 {
        let arithmetic = call.cost.flops as f64 / (ARITHMETIC * self.gflops * 1e9);
        let traffic = call.cost.bytes as f64 / (TRAFFIC * self.gigabytes * 1e9);
        let launches = call.launches.len() as f64 * SHORTEST;
        arithmetic.max(traffic).max(launches)
    }
}

/// One operator in one phase.
#[derive(Clone, Default, Serialize)]
struct Row {
    phase: &'static str,
    operator: &'static str,
    calls: usize,
    launches: usize,
    /// Launches by kernel.
    kernels: BTreeMap<&'static str, usize>,
    flops: u64,
    bytes: u64,
    /// None in a dry run.
    seconds: Option<f64>,
    share: Option<f64>,
    /// At the ceilings, call by call.
    floor_seconds: f64,
    floor_share: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    mode: &'static str,
    batch: u32,
    dtype: Precision,
    device: String,
    threads: usize,
    ceilings: Ceilings,
    /// Seconds of each observed step, in their order; none in a dry run.
    steps: Vec<f64>,
    /// Of the median step, which `rows` are of.
    seconds: Option<f64>,
    predicted_seconds: Option<f64>,
    floor_seconds: f64,
    flops: u64,
    bytes: u64,
    launches: usize,
    /// Launches in the name of no operator.
    unattributed: usize,
    memory: Option<DeviceMemory>,
    rows: Vec<Row>,
}

/// Bytes of device memory.
#[derive(Serialize)]
struct DeviceMemory {
    high_water: usize,
    /// That stay from step to step: weights, data, the optimiser's state.
    between_steps: usize,
    buffers_per_step: u64,
}

pub fn profile(
    args: &ProfileArgs,
    dtype: Precision,
    choice: DeviceChoice,
    json: bool,
    control: Control,
) -> Result<()> {
    for (given, what) in [
        (args.peak_gflops, "--peak-gflops"),
        (args.bandwidth, "--bandwidth"),
    ] {
        if given.is_some_and(|v| !v.is_finite() || v <= 0.0) {
            return Err(Error::usage(
                format!("{what} is not above 0"),
                "give what the device can do, or leave it out to have it measured",
            ));
        }
    }
    let dry = choice == DeviceChoice::Null;
    let device = match dry {
        true => Device::Cuda(CudaDevice::new(NullDriver::new())?),
        false => choice.open()?.device,
    };
    let mode = match args.mode {
        ModeChoice::Infer => Mode::Infer,
        ModeChoice::Train => Mode::Train,
    };
    let ceilings = ceilings(args, dry, &device, control)?;
    let (steps, memory) = observed(args, mode, dry, (&device, dtype), control)?;
    let mut seconds: Vec<f64> = steps.iter().map(total).collect();
    let median = median(&seconds);
    let Some(step) = median.and_then(|at| steps.get(at)) else {
        return Err(Error::op("profile", "internal: no step was observed"));
    };
    if let Some(path) = &args.trace {
        let title = format!("{} {}", args.model, mode_name(args.mode));
        write_bytes(path, &trace::json(step, &title)?)?;
    }
    let time = median.map(|at| seconds[at]).filter(|_| !dry);
    if dry {
        seconds.clear();
    }
    let rows = rows(step, &ceilings, time);
    let predicted: f64 = step.calls.iter().map(|c| ceilings.predicted(c)).sum();
    let cost = step.cost();
    let report = Report {
        model: args.model.clone(),
        mode: mode_name(args.mode),
        batch: args.batch,
        dtype,
        device: match dry {
            true => "none: a dry run".into(),
            false => device::name(&device),
        },
        threads: rayon::current_num_threads(),
        ceilings,
        steps: seconds,
        seconds: time,
        predicted_seconds: dry.then_some(predicted),
        floor_seconds: rows.iter().map(|r| r.floor_seconds).sum(),
        flops: cost.flops,
        bytes: cost.bytes,
        launches: step.launches(),
        unattributed: step.unattributed.len(),
        memory,
        rows,
    };
    console::print(json, &report, &report.text())
}

fn mode_name(mode: ModeChoice) -> &'static str {
    match mode {
        ModeChoice::Infer => "infer",
        ModeChoice::Train => "train",
    }
}

/// Seconds of a step: on a device its own, else the host's.
fn total(step: &Profile) -> f64 {
    step.device.unwrap_or(step.host).length().as_secs_f64()
}

/// The place of the median, the lower one of two.
fn median(values: &[f64]) -> Option<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order.get(order.len().checked_sub(1)? / 2).copied()
}

/// Steps after a warm-up: the first makes the optimiser's state, the second is
/// the first with all of its memory at hand. A dry run is the same each time.
fn observed(
    args: &ProfileArgs,
    mode: Mode,
    dry: bool,
    (device, dtype): (&Device, Precision),
    control: Control,
) -> Result<(Vec<Profile>, Option<DeviceMemory>)> {
    let count = if dry { 1 } else { args.steps as usize };
    let batch = args.batch as usize;
    workload::in_dtype(&args.model, mode, batch, (device, dtype.dtype()), |step| {
        control.progress.begin("profiling", 2 + count);
        for done in 0..2 {
            control.check("nothing was written")?;
            step()?;
            control.progress.at(done + 1, "");
        }
        let mut steps = Vec::with_capacity(count);
        let before = memory(device);
        for done in 0..count {
            control.check("nothing was written")?;
            steps.push(observe(device, &mut *step)?.1);
            control.progress.at(3 + done, "");
        }
        control.progress.end();
        let after = memory(device);
        let memory = before.zip(after).map(|(before, after)| DeviceMemory {
            high_water: after.high_water,
            between_steps: after.used,
            buffers_per_step: (after.buffers - before.buffers) / count as u64,
        });
        Ok((steps, memory))
    })
}

fn memory(device: &Device) -> Option<Memory> {
    match device {
        Device::Cpu => None,
        Device::Cuda(device) => Some(device.memory()),
    }
}

/// Those that were given; the rest measured in well under a second, or assumed.
fn ceilings(args: &ProfileArgs, dry: bool, device: &Device, control: Control) -> Result<Ceilings> {
    let known = match (args.peak_gflops, args.bandwidth) {
        (Some(gflops), Some(gigabytes)) => Ceilings {
            gflops,
            gigabytes,
            source: "given",
        },
        _ if dry => ASSUMED,
        _ => {
            control.progress.note("measuring a copy and a product");
            measured(device)?
        }
    };
    Ok(Ceilings {
        gflops: args.peak_gflops.unwrap_or(known.gflops),
        gigabytes: args.bandwidth.unwrap_or(known.gigabytes),
        source: match (args.peak_gflops, args.bandwidth) {
            (None, None) | (Some(_), Some(_)) => known.source,
            _ => "one given, one measured or assumed",
        },
    })
}

/// The best of several copies of a tensor larger than the caches, and of several
/// square products, both by eosin's own operators in f32.
fn measured(device: &Device) -> Result<Ceilings> {
    let (rows, side) = match device {
        Device::Cpu => (1 << 14, 1024),
        Device::Cuda(_) => (1 << 16, 4096),
    };
    let filled = |shape: [usize; 2]| Tensor::full_on(1.0, &shape, DType::F32, device);
    let best = |f: &dyn Fn() -> Result<Tensor>| -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..8 {
            let (_, seen) = observe(device, f)?;
            for call in &seen.calls {
                best = best.min(call.span().length().as_secs_f64());
            }
        }
        Ok(best.max(1e-9))
    };
    let (x, a) = (filled([rows, 1024])?, filled([side, side])?);
    let copy = best(&|| ops::affine(&x, 1.0, 0.0))?;
    let product = best(&|| ops::matmul(&a, &a))?;
    Ok(Ceilings {
        gflops: 2.0 * (side as f64).powi(3) / product * 1e-9,
        gigabytes: 2.0 * 4.0 * x.elements() as f64 / copy * 1e-9,
        source: "measured here, by eosin's own copy and product",
    })
}

/// By phase, the most expensive operators first.
fn rows(step: &Profile, ceilings: &Ceilings, seconds: Option<f64>) -> Vec<Row> {
    let mut found: BTreeMap<(Phase, &str), Row> = BTreeMap::new();
    let mut times: BTreeMap<(Phase, &str), Duration> = BTreeMap::new();
    for (call, own) in step.calls.iter().zip(step.own_times()) {
        let key = (call.phase, call.op);
        let row = found.entry(key).or_insert_with(|| Row {
            phase: call.phase.name(),
            operator: call.op,
            ..Row::default()
        });
        row.calls += 1;
        row.launches += call.launches.len();
        for kernel in &call.launches {
            *row.kernels.entry(kernel).or_default() += 1;
        }
        row.flops += call.cost.flops;
        row.bytes += call.cost.bytes;
        row.floor_seconds += ceilings.floor(call.cost);
        *times.entry(key).or_default() += own;
    }
    let mut rows: Vec<((Phase, &str), Row)> = found.into_iter().collect();
    for (key, row) in &mut rows {
        let Some(total) = seconds else { continue };
        let own = times.get(key).map_or(0.0, Duration::as_secs_f64);
        row.seconds = Some(own);
        row.share = Some(own / total.max(1e-12));
        row.floor_share = Some(row.floor_seconds / own.max(1e-12));
    }
    let weight = |row: &Row| row.seconds.unwrap_or(row.floor_seconds);
    rows.sort_by(|(a, x), (b, y)| a.0.cmp(&b.0).then(weight(y).total_cmp(&weight(x))));
    rows.into_iter().map(|(_, row)| row).collect()
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} {}, batch {}, {}, on {}, {} threads\n",
            self.model,
            self.mode,
            self.batch,
            self.dtype.dtype(),
            self.device,
            self.threads
        );
        let Ceilings {
            gflops,
            gigabytes,
            source,
        } = self.ceilings;
        let _ = writeln!(
            text,
            "ceilings: {gflops:.1} GFLOP/s, {gigabytes:.1} GB/s ({source})\n"
        );
        let head = "phase     operator                calls launches      GFLOP        MB";
        let timed = self.seconds.is_some();
        let _ = match timed {
            true => writeln!(
                text,
                "{head}         ms  share  GFLOP/s     GB/s  % of floor"
            ),
            false => writeln!(text, "{head}   floor us"),
        };
        for row in &self.rows {
            let _ = write!(
                text,
                "{:9} {:22} {:6} {:8} {:10.3} {:9.2}",
                row.phase,
                row.operator,
                row.calls,
                row.launches,
                row.flops as f64 * 1e-9,
                row.bytes as f64 * 1e-6,
            );
            let _ = match (row.seconds, row.share, row.floor_share) {
                (Some(s), Some(share), Some(floor)) => writeln!(
                    text,
                    " {:10.3} {:5.1}% {:8.1} {:8.1} {:10.1}%",
                    s * 1e3,
                    share * 100.0,
                    row.flops as f64 * 1e-9 / s.max(1e-12),
                    row.bytes as f64 * 1e-9 / s.max(1e-12),
                    floor * 100.0,
                ),
                _ => writeln!(text, " {:10.2}", row.floor_seconds * 1e6),
            };
        }
        let _ = writeln!(text);
        self.summary(&mut text);
        text
    }

    fn summary(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "least work {:.3} GFLOP, {:.2} MB; {} launches",
            self.flops as f64 * 1e-9,
            self.bytes as f64 * 1e-6,
            self.launches
        );
        if self.unattributed > 0 {
            let _ = writeln!(text, "{} launches are of no operator", self.unattributed);
        }
        if let Some(memory) = &self.memory {
            let _ = writeln!(
                text,
                "device memory: {:.2} MB at most, {:.2} MB between steps, {} buffers a step",
                memory.high_water as f64 * 1e-6,
                memory.between_steps as f64 * 1e-6,
                memory.buffers_per_step
            );
        }
        if let Some(seconds) = self.seconds {
            let operators: f64 = self.rows.iter().filter_map(|r| r.seconds).sum();
            let range = self.steps.iter().fold([f64::INFINITY, 0.0], |[a, b], &s| {
                [f64::min(a, s), f64::max(b, s)]
            });
            let _ = writeln!(
                text,
                "step {:.3} ms, the median of {} from {:.3} to {:.3}; {:.3} ms between operators",
                seconds * 1e3,
                self.steps.len(),
                range[0] * 1e3,
                range[1] * 1e3,
                (seconds - operators).max(0.0) * 1e3
            );
            let _ = writeln!(
                text,
                "floor {:.3} ms, {:.1} % of the step",
                self.floor_seconds * 1e3,
                self.floor_seconds / seconds.max(1e-12) * 100.0
            );
            let cached = |row: &Row| row.floor_share.is_some_and(|share| share > 1.0);
            if self.rows.iter().any(cached) {
                let _ = writeln!(
                    text,
                    "over 100 % of a floor: caches held the operands, or another load slowed the probe"
                );
            }
        }
        if let Some(predicted) = self.predicted_seconds {
            let _ = writeln!(
                text,
                "floor {:.3} ms; predicted {:.3} ms: {:.0} % of arithmetic or {:.0} % of bandwidth, \
                 {:.0} us a launch, not measured",
                self.floor_seconds * 1e3,
                predicted * 1e3,
                ARITHMETIC * 100.0,
                TRAFFIC * 100.0,
                SHORTEST * 1e6
            );
        }
    }
}
