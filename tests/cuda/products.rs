//! Which launches products of 16-bit floats become, on a driver that records them.

use eosin::autograd::grad;
use eosin::device::cuda::null::{Ledger, NullDriver, Recorded};
use eosin::device::cuda::{CudaDevice, Wgmma};
use eosin::ops::{self, Activation};
use eosin::{DType, Device, Result, Tensor};

/// What `f` launches, given a function that makes tensors.
pub fn launches(f: impl FnOnce(&dyn Fn(&[usize]) -> Tensor) -> Result<()>) -> Vec<Recorded> {
    let ledger = Ledger::default();
    let device = CudaDevice::new(NullDriver::recording(ledger.clone())).unwrap();
    let on = Device::Cuda(device);
    f(&|shape| Tensor::zeros(shape, DType::BF16).unwrap().to(&on).unwrap()).unwrap();
    ledger.lock().unwrap().clone()
}

pub fn launch(kernel: &'static str, grid: [u32; 3], threads: u32, shared: u32) -> Recorded {
    Recorded {
        kernel,
        grid,
        threads,
        shared,
    }
}

#[test]
fn large_products_are_one_launch_of_large_tiles() {
    let found = launches(|zeros| {
        ops::matmul(&zeros(&[2048, 512]), &zeros(&[512, 1000]))?;
        Ok(())
    });
    let expected = launch(
        "eosin_matmul_forward_nn_128_bf16",
        [16 * 8, 1, 1],
        256,
        64 << 10,
    );
    assert_eq!(found, [expected]);
}

/// Of one matrix, in lines that start at multiples of 16 bytes, and large.
#[test]
fn wgmma_takes_what_suits_it_where_it_may() {
    let names = |products| {
        let found = launches(|zeros| {
            let a = zeros(&[2048, 512]);
            if let Device::Cuda(device) = a.device() {
                device.set_wgmma(products);
            }
            ops::matmul(&a, &zeros(&[512, 1000]))?;
            ops::matmul(&a, &zeros(&[512, 2000]))?;
            ops::matmul(&a, &ops::transpose(&zeros(&[777, 512]), 0, 1)?)?;
            ops::linear(&a, &zeros(&[1536, 512]), None, Activation::Gelu)?;
            ops::matmul(&a, &zeros(&[512, 1001]))?;
            ops::matmul(&a, &zeros(&[512, 64]))?;
            ops::matmul(&zeros(&[2, 2048, 512]), &zeros(&[512, 1000]))?;
            Ok(())
        });
        found
            .iter()
            .map(|l| (l.kernel, l.grid[0], l.shared))
            .collect::<Vec<_>>()
    };
    let both = 1024 + 3 * (32 << 10) + 3 * 16;
    let wide = 1024 + 4 * (48 << 10) + 4 * 16;
    let suited = names(Wgmma::Suited);
    let expected = [
        ("eosin_matmul_forward_wgmma_nn_128_bf16", 128, both),
        ("eosin_matmul_forward_wgmma_nn_256_bf16", 128, wide),
        ("eosin_matmul_forward_wgmma_nt_128_bf16", 112, both),
        ("eosin_linear_forward_wgmma_nt_256_bf16", 96, wide),
    ];
    assert_eq!(suited[..4], expected);
    let never = names(Wgmma::Never);
    assert_eq!(suited[4..], never[4..]);
    assert!(never.iter().all(|(name, ..)| !name.contains("wgmma")));
}

#[test]
fn small_products_are_one_launch_of_small_tiles() {
    let found = launches(|zeros| {
        let (q, k) = (zeros(&[4, 6, 50, 64]), zeros(&[4, 6, 50, 64]));
        ops::matmul(&q, &ops::transpose(&k, -1, -2)?)?;
        Ok(())
    });
    let expected = launch("eosin_matmul_forward_nt_64_bf16", [24, 1, 1], 128, 32 << 10);
    assert_eq!(found, [expected]);
}

/// A layer of tRNAsformer, forward and backward: nothing is copied or turned, and
/// the weights' gradient, few tiles along many rows, is cut into parts.
#[test]
fn a_layer_reads_its_operands_as_they_lie() {
    let found = launches(|zeros| {
        let x = zeros(&[64, 50, 384]).variable();
        let (w, bias) = (zeros(&[1152, 384]).variable(), zeros(&[1152]).variable());
        let y = ops::linear(&x, &w, Some(&bias), Activation::Gelu)?;
        let seed = zeros(&[64, 50, 1152]);
        grad(&[&y], Some(&[&seed]), &[&x, &w, &bias], false)?;
        Ok(())
    });
    let names: Vec<_> = found.iter().map(|l| (l.kernel, l.grid)).collect();
    assert_eq!(
        names,
        [
            ("eosin_linear_forward_nt_128_bf16", [25 * 9, 1, 1]),
            ("eosin_gelu_backward_bf16", [3600, 1, 1]),
            // The tiles of x's gradient, and three parts of the weights'.
            ("eosin_linear_backward_64_bf16", [50 * 6 + 3 * 18 * 6, 1, 1]),
        ]
    );
}
