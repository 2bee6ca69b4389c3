//! What asking a GPU costs the host, on the null driver: goals of the kernel
//! plan are 1 us for a launch and 10 us for the replay of a captured step.

use eosin::device::cuda::CudaDevice;
use eosin::device::cuda::null::NullDriver;
use eosin::profile::workload::{self, Mode};
use eosin::{DType, Device, Tensor, ops};

use crate::{Criterion, bench};

fn null() -> Device {
    Device::Cuda(CudaDevice::new(NullDriver::new()).expect("a null device"))
}

/// An operator of one launch: its checks, its result's memory, the launch.
pub fn launch(c: &mut Criterion) {
    let mut group = c.benchmark_group("host/launch/null");
    bench(&mut group, "affine_64x64", || {
        let x = Tensor::full_on(1.0, &[64, 64], DType::F32, &null()).expect("a tensor");
        move || ops::affine(&x, 2.0, 1.0)
    });
    group.finish();
}

/// A captured step of the autoencoder: the copy of its input, the numbers of the
/// optimiser and the graph; and the same step asked for launch by launch.
pub fn step(c: &mut Criterion) {
    for (name, mode) in [("replay", Mode::Replay), ("eager", Mode::Train)] {
        let mut group = c.benchmark_group(format!("host/{name}/null"));
        workload::with("deeppt-autoencoder", mode, 64, &null(), |step| {
            bench(&mut group, "autoencoder_b64", || {
                for _ in 0..3 {
                    step().expect("a step");
                }
                step
            });
            Ok(())
        })
        .expect("an autoencoder");
        group.finish();
    }
}
