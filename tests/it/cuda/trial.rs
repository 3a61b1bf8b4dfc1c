//! The emulated driver runs kernels as a device would: results, orders of threads, graphs, mapped memory.

use std::ffi::c_void;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use std::{hint, ptr};

use cudarc::driver::result::stream::launch_host_function;
use cudarc::driver::result::{event, stream};
use cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as THREAD_LOCAL;
use cudarc::driver::{CudaContext, CudaSlice, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use half::bf16;

use super::build::TRIAL;
use super::child;
use super::device::{Argument, Device, code, emulator};

const PTX: &str = include_str!("../../cuda/kernels/trial.ptx");

/// Numbers that are neither round nor alike.
fn numbers(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * step % 101) as f32 - 50.0) / 50.0).collect()
}

#[test]
fn cudarc_drives_it() {
    child::with_driver(TRIAL, &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: there is one stream.
        unsafe { context.disable_event_tracking() };
        assert_eq!(context.name().unwrap(), "Emulated GPU");
        assert_eq!(context.compute_capability().unwrap(), (8, 6));
        let stream = context.new_stream().unwrap();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let add = module.load_function("add").unwrap();
        let (a, b) = (numbers(1000, 37), numbers(1000, 53));
        let (on_a, on_b) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
        let mut sum = stream.alloc_zeros::<f32>(1000).unwrap();
        let shape = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };

        let add_on = |sum: &mut CudaSlice<f32>| {
            let count = 1000i32;
            let mut launch = stream.launch_builder(&add);
            launch.arg(&on_a).arg(&on_b).arg(sum).arg(&count);
            // SAFETY: the kernel takes these arguments, and stays within 1000 numbers.
            unsafe { launch.launch(shape) }.map(drop)
        };
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        add_on(&mut sum).unwrap();
        assert_eq!(stream.clone_dtoh(&sum).unwrap(), expected);

        stream.memset_zeros(&mut sum).unwrap();
        stream.begin_capture(THREAD_LOCAL).unwrap();
        add_on(&mut sum).unwrap();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
        assert_eq!(stream.clone_dtoh(&sum).unwrap(), [0.0; 1000], "nothing ran while it was captured");
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&sum).unwrap(), expected);
        assert_eq!(emulator::executions("add"), 2);
    });
}

#[test]
fn barriers_and_shuffles_give_the_same_in_any_order_of_threads() {
    child::with_driver(TRIAL, &[], || {
        let device = Device::open(PTX);
        let (rows, count) = (6usize, 300usize);
        let (values, weights) = (numbers(rows * count, 37), numbers(count, 53));
        let (on_values, on_weights) = (device.upload(&values), device.upload(&weights));
        let expected: Vec<f32> = values
            .chunks(count)
            .flat_map(|row| {
                let scale = (row.iter().map(|v| v * v).sum::<f32>() / count as f32 + 1e-6).sqrt().recip();
                row.iter().zip(&weights).map(move |(v, w)| v * scale * w).collect::<Vec<_>>()
            })
            .collect();
        for order in ["forward", "backward", "1", "2", "3"] {
            emulator::set("ORDER", order);
            for threads in [32, 64, 256, 1024] {
                let out = device.unset::<bf16>(rows * count);
                let arguments = [
                    on_values.at(),
                    on_weights.at(),
                    out.at(),
                    Argument::Int(count as i32),
                    Argument::Float(1e-6),
                ];
                device.run("rms_norm", (rows as u32, threads, 4 * count as u32), &arguments).unwrap();
                for (at, (got, expected)) in device.read::<bf16>(out).iter().zip(&expected).enumerate() {
                    let error = (got.to_f32() - expected).abs();
                    assert!(
                        error <= 2f32.powi(-8) * expected.abs(),
                        "{order}, {threads} threads, {at}: {got}"
                    );
                }
            }
        }
    });
}

#[test]
fn tensor_cores_multiply_what_arrives_meanwhile() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        for depth in [16usize, 64, 128] {
            let narrow = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
            let (a, b) = (narrow(numbers(16 * depth, 37)), narrow(numbers(8 * depth, 53)));
            let (on_a, on_b, out) = (device.upload(&a), device.upload(&b), device.unset::<f32>(16 * 8));
            let arguments = [on_a.at(), on_b.at(), out.at(), Argument::Int(depth as i32)];
            device.run("matmul_tile", (1, 32, 0), &arguments).unwrap();
            for (at, got) in device.read::<f32>(out).into_iter().enumerate() {
                let (left, right) = (&a[at / 8 * depth..][..depth], &b[at % 8 * depth..][..depth]);
                let products: Vec<f64> =
                    left.iter().zip(right).map(|(a, b)| a.to_f64() * b.to_f64()).collect();
                let (expected, size) =
                    (products.iter().sum::<f64>(), products.iter().map(|p| p.abs()).sum::<f64>());
                assert!(
                    (f64::from(got) - expected).abs() <= depth as f64 * f64::from(f32::EPSILON) * size,
                    "{at}"
                );
            }
        }
    });
}

#[test]
fn blocks_run_in_the_order_that_is_set() {
    child::with_driver(TRIAL, &[], || {
        let device = Device::open(PTX);
        let order = |name: &str| {
            emulator::set("ORDER", name);
            let (ended, order) = (device.upload(&[0u32]), device.unset::<u32>(40));
            device.run("count_blocks", (40, 64, 0), &[ended.at(), order.at()]).unwrap();
            device.read::<u32>(order)
        };
        let forward: Vec<u32> = (0..40).collect();
        assert_eq!(order("forward"), forward);
        assert_eq!(order("backward"), forward.iter().rev().copied().collect::<Vec<_>>());
        let (one, two) = (order("1"), order("2"));
        assert_ne!(one, two);
        for mut seeded in [one, two] {
            assert_ne!(seeded, forward);
            seeded.sort_unstable();
            assert_eq!(seeded, forward, "each block runs once");
        }
    });
}

#[test]
fn a_kernel_and_the_host_wait_for_each_other_in_mapped_memory() {
    child::on_device(TRIAL, || {
        let device = Device::open(PTX);
        let words = device.mapped_words(3);
        // SAFETY: three words that are there until the process ends.
        let word = |at: usize| unsafe { AtomicU32::from_ptr(words.add(at)) };
        let at = |word: u64| Argument::At(words as u64 + 4 * word);
        let other = device.new_stream();
        let (a, sum) = (device.upload(&[1f32; 32]), device.unset::<f32>(32));
        for number in 1..50u32 {
            (0..3).for_each(|at| word(at).store(0, SeqCst));
            device.launch("answer_host", (1, 64, 0), &[at(0), at(1), at(2)]).unwrap();
            let wait = |at: usize| {
                let until = Instant::now() + Duration::from_secs(20);
                loop {
                    let value = word(at).load(SeqCst);
                    if value != 0 {
                        return value;
                    }
                    assert!(Instant::now() < until, "word {at} does not come");
                    hint::spin_loop();
                }
            };
            wait(0);
            // The kernel that waits does not keep another stream from running.
            let arguments = [a.at(), a.at(), sum.at(), Argument::Int(32)];
            device.launch_on(other, "add", (1, 32, 0), &arguments).unwrap();
            // SAFETY: the stream is open.
            unsafe { stream::synchronize(other) }.unwrap();
            word(1).store(number, SeqCst);
            assert_eq!(wait(2), 2 * number);
            device.wait().unwrap();
        }
    });
}

#[test]
fn the_trace_has_calls_and_kernels_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    child::with_driver(TRIAL, &[("TRACE", path.to_str().unwrap())], || {
        let device = Device::open(PTX);
        let (a, sum) = (device.upload(&[1f32; 32]), device.unset::<f32>(32));
        let arguments = [a.at(), a.at(), sum.at(), Argument::Int(32)];
        device.run("add", (1, 32, 0), &arguments).unwrap();
        device.launch("add", (0, 32, 0), &arguments).unwrap_err();
        let trace = std::fs::read_to_string(std::env::var("EMULATED_CUDA_TRACE").unwrap()).unwrap();
        let lines: Vec<&str> = trace.lines().collect();
        assert_eq!(lines[0], "cuInit = 0");
        let launched = ["cuLaunchKernel = 0", "kernel:add", "cuStreamSynchronize = 0", "cuLaunchKernel = 1"];
        // A kernel may begin before its launch has returned.
        let seen: Vec<&str> = lines.into_iter().filter(|line| launched.contains(line)).collect();
        assert!(seen == launched || seen == [launched[1], launched[0], launched[2], launched[3]], "{trace}");
    });
}

#[test]
fn events_measure_and_host_functions_run_in_turn() {
    child::with_driver(TRIAL, &[("LATE_US", "5000")], || {
        let device = Device::open(PTX);
        let [start, end] = [(); 2].map(|()| event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap());
        let (a, sum) = (device.upload(&[1f32; 32]), device.unset::<f32>(32));
        extern "C" fn note(reached: *mut c_void) {
            // SAFETY: what is given below.
            unsafe { &*reached.cast::<AtomicU32>() }.store(1, SeqCst);
        }
        let reached = AtomicU32::new(0);
        // SAFETY: events and stream are open, and the number outlives the wait.
        unsafe {
            event::record(start, device.stream).unwrap();
            device.launch("add", (1, 32, 0), &[a.at(), a.at(), sum.at(), Argument::Int(32)]).unwrap();
            launch_host_function(device.stream, note, ptr::from_ref(&reached).cast_mut().cast()).unwrap();
            event::record(end, device.stream).unwrap();
            assert_eq!(code(event::query(end)), 600, "it is late");
            assert_eq!(reached.load(SeqCst), 0);
            event::synchronize(end).unwrap();
            assert_eq!(reached.load(SeqCst), 1);
            assert_eq!(code(event::query(end)), 0);
            let ms = event::elapsed(start, end).unwrap();
            assert!((15.0..1000.0).contains(&ms), "three operations, each late by 5 ms: {ms}");
        }
    });
}
