//! Bugs that were planted are caught, and their sound twins are not.

use bytemuck::{Pod, Zeroable};
use eosin_emulator::{Schedule, kernels, launch};

const SCHEDULES: [Schedule; 6] = [
    Schedule::Forward,
    Schedule::Reverse,
    Schedule::Random(1),
    Schedule::Random(2),
    Schedule::Greedy(1),
    Schedule::Greedy(2),
];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    output: u64,
    input: u64,
    count: u32,
    padding: u32,
}

/// Runs one block of 64 threads on the input 0, 1, .. 63; what was written, of
/// which 64 elements are the kernel's and the rest nobody's.
fn run(name: &str, count: u32, schedule: Schedule) -> Result<Vec<f32>, String> {
    let input: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let mut output = vec![f32::NAN; 128];
    let params = Params {
        output: output.as_mut_ptr() as u64,
        input: input.as_ptr() as u64,
        count,
        padding: 0,
    };
    // SAFETY: the kernels write fewer than 128 elements and read 64.
    unsafe {
        launch(
            name,
            [1, 1, 1],
            64,
            0,
            bytemuck::bytes_of(&params),
            schedule,
        )?
    };
    Ok(output)
}

fn reversed() -> Vec<f32> {
    (0..64).rev().map(|i| i as f32).collect()
}

#[test]
fn a_removed_barrier_gives_other_values() {
    let mut caught = 0;
    for schedule in SCHEDULES {
        let sound = run("planted_barrier_sound", 64, schedule).unwrap();
        assert_eq!(sound[..64], reversed(), "{schedule:?}");
        let faulty = run("planted_barrier_removed", 64, schedule).unwrap();
        caught += usize::from(faulty[..64] != reversed());
    }
    assert_eq!(caught, SCHEDULES.len());
}

#[test]
fn a_divergent_barrier_is_an_error() {
    for schedule in SCHEDULES {
        let error = run("planted_barrier_divergent", 64, schedule).unwrap_err();
        assert!(error.contains("is in __syncthreads at line"), "{error}");
        assert!(
            error.starts_with("planted_barrier_divergent: block (0, 0, 0), thread"),
            "{error}"
        );
    }
}

#[test]
fn a_return_before_a_barrier_is_an_error() {
    for schedule in SCHEDULES {
        let error = run("planted_barrier_early_return", 64, schedule).unwrap_err();
        let either = [
            "returns while others wait",
            "for threads that have returned",
        ];
        assert!(either.iter().any(|e| error.contains(e)), "{error}");
    }
}

#[test]
fn a_divergent_warp_is_an_error() {
    for schedule in SCHEDULES {
        let error = run("planted_warp_divergent", 64, schedule).unwrap_err();
        assert!(
            error.contains("while lanes of its warp wait in __shfl_xor_sync"),
            "{error}"
        );
    }
}

#[test]
fn an_index_past_shared_memory_is_an_error() {
    for schedule in SCHEDULES {
        let sound = run("planted_shared_sound", 64, schedule).unwrap();
        assert_eq!(sound[63], 63.0);
        let error = run("planted_shared_too_far", 64, schedule).unwrap_err();
        assert!(
            error.contains("writes past the end of shared memory"),
            "{error}"
        );
    }
}

#[test]
fn an_index_past_a_buffer_is_found_by_its_guard() {
    use crate::emulated::Emulated;
    use eosin::device::cuda::driver::Driver;
    for (name, sound) in [
        ("planted_global_sound", true),
        ("planted_global_too_far", false),
    ] {
        let device = Emulated::new(Schedule::Forward);
        let (input, output) = (device.alloc(20 * 4).unwrap(), device.alloc(20 * 4).unwrap());
        device.write(input, &[0; 80]).unwrap();
        let params = Params {
            output,
            input,
            count: 20,
            padding: 0,
        };
        // SAFETY: buffers of 20 elements; the guards around them take one more.
        unsafe {
            let bytes = bytemuck::bytes_of(&params);
            launch(name, [1, 1, 1], 64, 0, bytes, Schedule::Forward).unwrap();
        }
        let mut read = [0; 80];
        let outcome = device.read(output, &mut read);
        assert_eq!(outcome.is_ok(), sound, "{name}: {outcome:?}");
        if let Err(error) = outcome {
            assert!(
                error
                    .to_string()
                    .contains("wrote outside a buffer of 80 bytes"),
                "{error}"
            );
        }
        device.free(input, 80);
        if sound {
            device.free(output, 80);
        }
    }
}

#[test]
fn an_output_that_nothing_wrote_is_nan() {
    let output = run("planted_output_unwritten", 64, Schedule::Forward).unwrap();
    assert!(output[..63].iter().all(|v| !v.is_nan()) && output[63].is_nan());
}

#[test]
fn a_parameter_struct_of_another_size_is_an_error() {
    // SAFETY: it must not run.
    let error = unsafe {
        launch(
            "planted_barrier_sound",
            [1, 1, 1],
            64,
            0,
            &[0; 16],
            Schedule::Forward,
        )
    };
    assert_eq!(
        error.unwrap_err(),
        "planted_barrier_sound: takes 24 bytes, was given 16"
    );
    // SAFETY: it must not run.
    let error = unsafe { launch("nothing", [1, 1, 1], 64, 0, &[], Schedule::Forward) };
    assert_eq!(error.unwrap_err(), "no kernel is named nothing");
}

#[test]
fn every_kernel_of_the_table_is_emulated() {
    let emulated: Vec<&str> = kernels().collect();
    for kernel in eosin::device::cuda::kernels::ALL {
        assert!(
            emulated.contains(&kernel.name),
            "{} is missing",
            kernel.name
        );
    }
}
