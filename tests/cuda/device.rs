//! Arena and capture, on drivers that need no GPU.

use std::sync::atomic::Ordering;

use eosin::device::cuda::CudaDevice;
use eosin::device::cuda::null::{Ledger, NullDriver};
use eosin::{DType, Device, Tensor};
use eosin_emulator::Schedule;

use crate::emulated::Emulated;

fn emulated() -> CudaDevice {
    CudaDevice::new(Emulated::new(Schedule::Forward)).unwrap()
}

#[test]
fn values_come_back_as_they_went() {
    let device = Device::Cuda(emulated());
    let values: Vec<f32> = (0..30).map(|i| i as f32).collect();
    let x = Tensor::from_slice(&values, &[5, 6]).unwrap();
    let there = x.to(&device).unwrap();
    assert_eq!(there.device(), device);
    assert_eq!(there.to_vec::<f32>().unwrap(), values);
    let empty = Tensor::zeros(&[0, 3], DType::F32).unwrap();
    assert!(
        empty
            .to(&device)
            .unwrap()
            .to_vec::<f32>()
            .unwrap()
            .is_empty()
    );
    let double = Tensor::zeros(&[2], DType::F64).unwrap();
    let error = double.to(&device).unwrap_err();
    assert!(
        error.to_string().contains("f64 is for the CPU alone"),
        "{error}"
    );
}

#[test]
fn streams_of_one_gpu_share_memory_and_others_do_not() {
    let first = emulated();
    let second = first.stream().unwrap();
    assert!(first.same_gpu(&second) && first != second);
    assert!(!first.same_gpu(&emulated()));
    let x = Tensor::full(3.0, &[4], DType::F32).unwrap();
    let on_first = x.to(&Device::Cuda(first.clone())).unwrap();
    let before = second.memory();
    let on_second = on_first.to(&Device::Cuda(second.clone())).unwrap();
    assert_eq!(second.memory(), before);
    drop(on_first);
    assert_eq!(on_second.to_vec::<f32>().unwrap(), [3.0; 4]);
}

/// Its own stream's order would let another buffer have the memory at once.
#[test]
fn memory_that_another_stream_reads_is_not_used_again_before_that_is_done() {
    let driver = Emulated::new(Schedule::Forward);
    let waits = driver.waits();
    let waits = || waits.load(Ordering::Relaxed);
    let first = CudaDevice::new(driver).unwrap();
    let (second, third) = (first.stream().unwrap(), first.stream().unwrap());
    let x = Tensor::full(3.0, &[4], DType::F32).unwrap();
    let on_first = x.to(&Device::Cuda(first.clone())).unwrap();
    let on_second = on_first.to(&Device::Cuda(second.clone())).unwrap();
    let again = on_first.to(&Device::Cuda(second.clone())).unwrap();
    let on_third = on_second.to(&Device::Cuda(third.clone())).unwrap();
    let before = waits();
    drop((on_first, on_second, again));
    assert_eq!((waits(), first.memory().used), (before, 16));
    drop(on_third);
    assert_eq!((waits(), first.memory().used), (before + 2, 0));

    let own = x.to(&Device::Cuda(first.clone())).unwrap();
    let gone = own.to(&Device::Cuda(second.clone())).unwrap();
    drop(gone);
    drop(second);
    let before = waits();
    drop(own);
    assert_eq!((waits(), first.memory().used), (before, 0));
}

#[test]
fn the_same_requests_get_the_same_memory_and_no_more() {
    let device = CudaDevice::new(NullDriver::new()).unwrap();
    let place = Device::Cuda(device.clone());
    let x = Tensor::zeros(&[1000], DType::F32).unwrap();
    let round = || {
        let a = x.to(&place).unwrap();
        let b = x.to(&place).unwrap();
        drop(a);
        let c = x.to(&place).unwrap();
        drop((b, c));
    };
    round();
    let after = device.memory();
    assert_eq!(after.used, 0);
    assert_eq!(after.driver_calls, 1);
    for _ in 0..10 {
        round();
    }
    let later = device.memory();
    assert_eq!((later.reserved, later.driver_calls), (after.reserved, 1));
    assert_eq!(later.high_water, after.high_water);
}

#[test]
fn a_capture_refuses_what_would_leave_the_device() {
    let device = emulated();
    let place = Device::Cuda(device.clone());
    let x = Tensor::zeros(&[3], DType::F32).unwrap().to(&place).unwrap();
    let refused = |outcome: eosin::Result<(eosin::device::cuda::Graph, ())>| {
        let Err(error) = outcome else {
            panic!("it was captured");
        };
        error.to_string()
    };
    let error = refused(device.capture(|| x.to_vec::<f32>().map(drop)));
    assert_eq!(
        error,
        "capture: a value is asked for inside a captured step"
    );
    let host = Tensor::zeros(&[3], DType::F32).unwrap();
    let error = refused(device.capture(|| host.to(&place).map(drop)));
    assert_eq!(
        error,
        "capture: a copy from the host inside a captured step"
    );
    let error = refused(device.capture(|| device.synchronize()));
    assert_eq!(error, "capture: a wait inside a captured step");
    let error = refused(device.capture(|| device.capture(|| Ok(())).map(drop)));
    assert_eq!(error, "capture: a step is being captured already");
    // The device is as it was.
    assert!(!device.is_capturing());
    assert_eq!(x.to_vec::<f32>().unwrap(), [0.0; 3]);
}

#[test]
fn a_recording_driver_keeps_launches_in_their_order() {
    let ledger = Ledger::default();
    let device = CudaDevice::new(NullDriver::recording(ledger.clone())).unwrap();
    let (graph, ()) = device.capture(|| Ok(())).unwrap();
    graph.replay().unwrap();
    assert!(ledger.lock().unwrap().is_empty());
}
