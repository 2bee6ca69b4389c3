//! Kernels with a bug each are caught, and their sound twins are not.
//!
//! Under a sanitizer these end the program, see tests/emulator/sanitize.sh.

use bytemuck::{Pod, Zeroable};
use eosin::device::cuda::driver::{Driver, Launch};
use eosin::device::cuda::kernels::Kernel;
use eosin_emulator::{Schedule, launch};

use super::{ORDERS, greedy, random, schedules, with_shared};
use crate::emulated::Emulated;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Planted {
    output: u64,
    input: u64,
    count: u32,
    padding: u32,
}

/// Elements that planted kernels may read and write; most use 64.
const ROOM: usize = 1024;

/// The output of one block of 64 threads on the input 0, 1, 2, ...
fn planted(name: &str, count: u32, shared: u32, schedule: Schedule) -> Result<Vec<f32>, String> {
    let input: Vec<f32> = (0..ROOM).map(|i| i as f32).collect();
    let mut output = vec![f32::NAN; ROOM];
    let params = Planted {
        output: output.as_mut_ptr() as u64,
        input: input.as_ptr() as u64,
        count,
        padding: 0,
    };
    with_shared(name, [1; 3], shared, &params, schedule)?;
    Ok(output)
}

fn first_64(values: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..64).map(values).collect()
}

/// "FILE:LINE" of the first line below tests/emulator/planted/ with this text
/// after the kernel's name.
macro_rules! site {
    ($file:literal, $kernel:literal, $text:literal) => {{
        let source = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/emulator/planted/",
            $file
        ));
        let mut lines = source.lines().enumerate();
        lines.find(|(_, line)| line.contains($kernel)).unwrap();
        let (number, _) = lines.find(|(_, line)| line.contains($text)).unwrap();
        format!("{}:{}", $file, number + 1)
    }};
}

/// How many of the schedules show a difference from the sound kernel's answer,
/// which is the same in all of them.
fn differs(
    (sound, faulty): (&str, &str),
    count: u32,
    expected: &[f32],
    schedules: impl Iterator<Item = Schedule>,
) -> usize {
    schedules
        .filter(|&schedule| {
            let output = planted(sound, count, 0, schedule).unwrap();
            assert_eq!(output[..expected.len()], *expected, "{sound}, {schedule:?}");
            let output = planted(faulty, count, 0, schedule).unwrap();
            output[..expected.len()] != *expected
        })
        .count()
}

/// The error that a planted kernel ends with in every schedule.
fn refused(name: &str, shared: u32, says: &str) {
    for schedule in schedules() {
        let error = planted(name, 64, shared, schedule).unwrap_err();
        assert!(error.starts_with(name), "{error}");
        assert!(error.contains(says), "{schedule:?}: {error}");
    }
}

#[test]
fn a_removed_barrier_shows_in_every_schedule_when_memory_is_fresh() {
    let names = ("planted_barrier_sound", "planted_barrier_removed");
    let expected = first_64(|i| (63 - i) as f32);
    assert_eq!(differs(names, 64, &expected, schedules()), 18);
}

#[test]
fn a_removed_barrier_shows_when_one_warp_runs_ahead() {
    let names = ("planted_rounds_sound", "planted_rounds_barrier_removed");
    let expected = first_64(|i| (4 * (63 - i) + 6) as f32);
    assert!(differs(names, 4, &expected, random()) >= 4);
    assert_eq!(differs(names, 4, &expected, greedy()), 8);
}

#[test]
fn a_removed_syncwarp_shows() {
    let names = ("planted_syncwarp_sound", "planted_syncwarp_removed");
    let expected = first_64(|i| (i ^ 31) as f32);
    assert_eq!(differs(names, 64, &expected, schedules()), 18);
}

#[test]
fn a_missing_wait_for_a_copy_shows() {
    let names = ("planted_pipeline_sound", "planted_pipeline_wait_missing");
    let expected: Vec<f32> = (0..ROOM).map(|i| i as f32).collect();
    let late = ORDERS.into_iter().chain(greedy());
    assert_eq!(differs(names, 4, &expected, late), 10);
    // Of many copies at random some are late.
    assert_eq!(differs(names, 4, &expected, random()), 8);
}

#[test]
fn a_copy_into_a_tile_that_is_still_read_shows() {
    let names = ("planted_pipeline_sound", "planted_pipeline_barrier_removed");
    let expected: Vec<f32> = (0..ROOM).map(|i| i as f32).collect();
    assert!(differs(names, 4, &expected, schedules()) >= 16);
}

#[test]
fn a_divergent_barrier_is_an_error() {
    let name = "planted_barrier_divergent";
    let error = planted(name, 64, 0, Schedule::Forward).unwrap_err();
    let first = site!("barriers.cu", "planted_barrier_divergent", "__syncthreads");
    let (file, line) = first.split_once(':').unwrap();
    let second = format!("{file}:{}", line.parse::<u32>().unwrap() + 2);
    assert_eq!(
        error,
        format!(
            "{name}, block (0, 0, 0), thread 32, {second}: divergent barrier: \
             __syncthreads while others wait in __syncthreads at {first}"
        )
    );
    refused(name, 0, "divergent barrier: __syncthreads while");
}

#[test]
fn a_return_before_a_barrier_is_an_error() {
    // Which is told depends on who comes first.
    for schedule in schedules() {
        let error = planted("planted_barrier_early_return", 64, 0, schedule).unwrap_err();
        let late = "__syncthreads after";
        let early = "the thread returns while";
        assert!(error.contains(late) || error.contains(early), "{error}");
    }
    refused("planted_mask_of_returned", 0, "returned");
}

#[test]
fn a_deadlock_is_an_error_that_says_who_waits_where() {
    let error = planted("planted_deadlock", 64, 0, Schedule::Forward).unwrap_err();
    let block = site!("barriers.cu", "planted_deadlock", "__syncthreads");
    let warp = site!("barriers.cu", "planted_deadlock", "__syncwarp");
    let who = format!(
        "deadlock: thread 0 waits in __syncthreads at {block}, \
         thread 16 waits in __syncwarp at {warp}"
    );
    assert!(error.ends_with(&who), "{error}");
    refused("planted_deadlock", 0, "deadlock: thread ");
}

#[test]
fn lanes_that_do_not_meet_are_an_error() {
    refused(
        "planted_warp_divergent",
        0,
        "divergent warp: __shfl_xor_sync while other lanes wait in __shfl_xor_sync at barriers.cu:",
    );
    // What else goes wrong depends on who comes first.
    let name = "planted_mask_mismatch";
    let error = planted(name, 64, 0, Schedule::Forward).unwrap_err();
    let pending = "__shfl_sync with mask ffff0000 while lanes of it wait in __shfl_sync at";
    assert!(error.contains(pending), "{error}");
    refused(name, 0, "__shfl_sync");
    refused(
        "planted_mask_without_caller",
        0,
        "the mask 0000ffff leaves out the calling lane",
    );
}

#[test]
fn an_index_outside_of_shared_memory_is_an_error() {
    for (name, shared) in [
        ("planted_shared_sound", 0),
        ("planted_pointer_sound", 0),
        ("planted_dynamic_sound", 256),
    ] {
        for schedule in schedules() {
            let output = planted(name, 64, shared, schedule).unwrap();
            assert_eq!(output[..64], first_64(|i| i as f32), "{name}");
        }
    }
    let index = "index 64 is outside of 'float [64]'";
    refused("planted_shared_too_far", 0, index);
    let after = "a write outside of `held`: byte 256 of its 256";
    refused("planted_pointer_too_far", 0, after);
    let before = "a write outside of `held`: byte -4 of its 256";
    refused("planted_pointer_before", 0, before);
    let dynamic = "a write outside of `dynamic shared memory`: byte 256 of its 256";
    refused("planted_dynamic_too_far", 256, dynamic);
}

#[test]
fn shared_memory_that_nothing_wrote_is_nan() {
    for schedule in schedules() {
        let output = planted("planted_shared_unwritten", 64, 0, schedule).unwrap();
        let unwritten = (0..64).filter(|&i| output[i].is_nan());
        assert_eq!(unwritten.collect::<Vec<_>>(), [5]);
    }
}

#[test]
fn more_shared_memory_than_there_is_is_an_error() {
    let says = "static shared memory of 49600 bytes, with `does_not`, is over the limit of 49152";
    refused("planted_static_too_large", 0, says);
    let says = "dynamic shared memory of 232449 bytes is over the limit of 232448";
    refused("planted_dynamic_sound", 232_449, says);
    let says = "static and dynamic shared memory of 256 + 232448 bytes";
    refused("planted_pointer_sound", 232_448, says);
}

#[test]
fn a_copy_that_hardware_refuses_is_an_error() {
    for schedule in schedules() {
        let output = planted("planted_copy_sound", 64, 0, schedule).unwrap();
        assert_eq!(output[..64], first_64(|i| i as f32));
    }
    let misaligned = "cp.async of 16 bytes: its destination is not aligned to them";
    refused("planted_copy_misaligned", 0, misaligned);
    refused("planted_copy_to_floats", 0, misaligned);
    let outside = "cp.async: its destination is outside of the block's shared memory";
    refused("planted_copy_too_far", 0, outside);
}

#[test]
fn a_box_that_is_read_too_early_or_brought_too_early_shows() {
    let expected: Vec<f32> = (0..ROOM).map(|i| i as f32).collect();
    let whole = |name, schedule| match planted(name, 4, 0, schedule) {
        Ok(output) => output == expected,
        Err(error) => {
            // Phases get out of step: bytes that nobody waits for, or for ever.
            let known = ["mbarrier", "on their way"]
                .iter()
                .any(|w| error.contains(w));
            assert!(known, "{error}");
            false
        }
    };
    for schedule in schedules() {
        assert!(whole("planted_boxes_sound", schedule), "{schedule:?}");
        for faulty in [
            "planted_boxes_wait_missing",
            "planted_boxes_readers_forgotten",
        ] {
            assert!(!whole(faulty, schedule), "{faulty}, {schedule:?}");
        }
    }
}

#[test]
fn boxes_that_hardware_refuses_or_waits_for_in_vain_are_errors() {
    for (name, says) in [
        ("planted_boxes_bytes_too_many", "waits in mbarrier.try_wait"),
        ("planted_boxes_misaligned", "or not aligned to 1024"),
        ("planted_mbarrier_unknown", "nobody initialised"),
    ] {
        for schedule in schedules() {
            let error = planted(name, 4, 0, schedule).unwrap_err();
            assert!(error.contains(says), "{schedule:?}: {error}");
        }
    }
}

#[test]
fn what_a_warpgroup_forgets_shows() {
    let expected = [16.0; 128];
    for faulty in ["planted_wgmma_wait_missing", "planted_wgmma_operand_lost"] {
        let names = ("planted_wgmma_sound", faulty);
        assert_eq!(differs(names, 4, &expected, schedules()), 18, "{faulty}");
    }
    refused("planted_wgmma_fence_missing", 0, "without wgmma.fence");
    refused("planted_wgmma_half_a_group", 0, "in no group of four");
}

#[test]
fn what_the_processor_or_compiler_catches_is_an_error_of_the_launch() {
    refused("planted_misaligned", 0, "not aligned to 16 bytes");
    refused("planted_null", 0, "an access to byte 36 of a null pointer");
    refused("planted_shift_too_wide", 0, "a shift of 'unsigned int' by ");
    refused("planted_trap", 0, "thread 7, barriers.cu:");
    let wild = "an access to memory that is not there";
    let barrier = site!("memory.cu", "planted_wild", "__syncthreads");
    refused("planted_wild", 0, &format!("{barrier}: {wild}"));
    let stack = "its local variables need more stack than the emulator has";
    refused("planted_large_frame", 0, stack);
    // And the emulator goes on as if nothing had been.
    let output = planted("planted_barrier_sound", 64, 0, Schedule::Forward).unwrap();
    assert_eq!(output[..64], first_64(|i| (63 - i) as f32));
}

#[test]
fn an_output_that_nothing_wrote_is_nan() {
    let output = planted("planted_output_unwritten", 64, 0, Schedule::Forward).unwrap();
    assert!(output[..63].iter().all(|v| !v.is_nan()) && output[63].is_nan());
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_an_error() {
    let name = "planted_barrier_sound";
    let refusal = |name: &str, grid, threads, params: &[u8]| {
        // SAFETY: none of them may run.
        unsafe { launch(name, grid, threads, 0, params, Schedule::Forward) }.unwrap_err()
    };
    let params = Planted::zeroed();
    let params = bytemuck::bytes_of(&params);
    assert_eq!(
        refusal(name, [1; 3], 64, &params[..16]),
        "planted_barrier_sound: parameters of 16 bytes, the kernel's struct has 24"
    );
    assert_eq!(
        refusal(name, [1; 3], 128, params),
        "planted_barrier_sound: a block of 128 threads, its __launch_bounds__ say 64"
    );
    assert_eq!(
        refusal(name, [1, 0, 1], 64, params),
        "planted_barrier_sound: a grid of 1 x 0 x 1 blocks, wants 1 to 2147483647 x 65535 x 65535"
    );
    assert_eq!(
        refusal("nothing", [1; 3], 64, params),
        "the emulator was built without a kernel called nothing"
    );
}

// ---- the driver

/// A kernel of the emulator's own, as the crate's table would hold it.
macro_rules! kernel {
    ($name:literal) => {{
        static KERNEL: Kernel = Kernel {
            index: usize::MAX,
            module: usize::MAX,
            name: $name,
            threads: 64,
        };
        &KERNEL
    }};
}

/// Input and output of 20 elements on a device, the input written, and what a
/// launch of the kernel takes.
fn on_device(device: &Emulated) -> (u64, Planted) {
    let (input, output) = (device.alloc(80).unwrap(), device.alloc(80).unwrap());
    let values: Vec<f32> = (0..20).map(|i| i as f32).collect();
    device.write(input, bytemuck::cast_slice(&values)).unwrap();
    let params = Planted {
        output,
        input,
        count: 20,
        padding: 0,
    };
    (output, params)
}

fn launch_on(device: &Emulated, kernel: &'static Kernel, params: &Planted) {
    let launch = Launch {
        kernel,
        grid: [1; 3],
        shared: 0,
        params: bytemuck::bytes_of(params),
    };
    device.launch(&launch).unwrap();
}

fn read(device: &Emulated, from: u64) -> eosin::Result<Vec<f32>> {
    let mut values = vec![0f32; 20];
    device.read(from, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

#[test]
fn an_index_outside_of_a_buffer_is_an_error_of_the_next_read() {
    let device = Emulated::new(Schedule::Forward);
    let (output, params) = on_device(&device);
    assert!(read(&device, output).unwrap().iter().all(|v| v.is_nan()));
    launch_on(&device, kernel!("planted_global_sound"), &params);
    let values = read(&device, output).unwrap();
    assert!(values.iter().enumerate().all(|(i, &v)| v == i as f32));
    launch_on(&device, kernel!("planted_global_read_too_far"), &params);
    let values = read(&device, output).unwrap();
    assert!(values[..19].iter().all(|v| !v.is_nan()) && values[19].is_nan());

    launch_on(&device, kernel!("planted_global_too_far"), &params);
    let outside = "emulator: a kernel wrote outside of buffer 1: byte 80 of its 80";
    for _ in 0..2 {
        let error = read(&device, params.input).unwrap_err();
        assert_eq!(error.to_string(), outside);
    }
    // Told once more when the buffer is gone, and then no longer.
    device.free(output, 80);
    assert_eq!(device.synchronize().unwrap_err().to_string(), outside);
    device.synchronize().unwrap();
    let error = read(&device, output).unwrap_err();
    assert!(
        error.to_string().ends_with("is outside of every buffer"),
        "{error}"
    );
}

#[test]
fn a_captured_launch_runs_at_each_replay_only() {
    let device = Emulated::new(Schedule::Reverse);
    let (output, params) = on_device(&device);
    device.begin_capture().unwrap();
    launch_on(&device, kernel!("planted_global_sound"), &params);
    let graph = device.end_capture().unwrap();
    assert!(read(&device, output).unwrap()[0].is_nan());
    graph.replay().unwrap();
    assert_eq!(read(&device, output).unwrap()[19], 19.0);
    device.write(params.input, &[0; 80]).unwrap();
    graph.replay().unwrap();
    assert_eq!(read(&device, output).unwrap(), [0.0; 20]);
    assert!(device.end_capture().is_err());
    assert!(crate::emulated::kernels_that_ran().contains("planted_global_sound"));
}

#[test]
fn launches_run_side_by_side() {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..20 {
                    let schedule = Schedule::Random(thread * 100 + round);
                    let output = planted("planted_rounds_sound", 4, 0, schedule).unwrap();
                    let expected = first_64(|i| (4 * (63 - i) + 6) as f32);
                    assert_eq!(output[..64], expected);
                    planted("planted_barrier_divergent", 4, 0, schedule).unwrap_err();
                }
            });
        }
    });
}
