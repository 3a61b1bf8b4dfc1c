//! What goes wrong is found: kernels that are wrong, and faults that are injected.

use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, result, sys};

use super::build::TRIAL;
use super::child;
use super::device::{Argument, Device, Shape, code, emulator};

const PTX: &str = include_str!("../../cuda/kernels/faulty.ptx");
const TRIAL_PTX: &str = include_str!("../../cuda/kernels/trial.ptx");
const ONE_WARP: Shape = (1, 32, 0);

const ILLEGAL_ADDRESS: u32 = 700;
const CONTEXT_IS_DESTROYED: u32 = 709;
const MISALIGNED: u32 = 716;
const LAUNCH_FAILED: u32 = 719;

/// Runs a kernel that fails, and says why it did.
#[track_caller]
fn fails(device: &Device, kernel: &str, shape: Shape, arguments: &[Argument], with: u32) -> String {
    assert_eq!(
        code(device.launch(kernel, shape, arguments)),
        0,
        "it fails when it runs, not when it is launched"
    );
    assert_eq!(code(device.wait()), with, "{kernel}: {}", emulator::explanation());
    assert_eq!(code(device.launch(kernel, shape, arguments)), with, "the error stays");
    assert_eq!(code(result::mem_get_info()), with);
    let why = emulator::explanation();
    emulator::forget_errors();
    why
}

#[test]
fn wrong_kernels_fail_and_say_why() {
    child::with_driver(TRIAL, &[], || {
        let device = Device::open(PTX);
        let check = |kernel: &str, shape: Shape, arguments: &[Argument], with: u32, expected: &[&str]| {
            let why = fails(&device, kernel, shape, arguments, with);
            for part in [&[kernel], expected].concat() {
                assert!(why.contains(part), "{part:?} is not in {why:?}");
            }
        };
        let out = device.unset::<f32>(64);
        let count = |count: i32| [out.at(), Argument::Int(count)];

        check(
            "divergent_barrier",
            (3, 64, 0),
            &[out.at()],
            LAUNCH_FAILED,
            &["block (0, 0, 0)", "32 of 64 threads wait"],
        );
        check("divergent_lanes", ONE_WARP, &[out.at()], LAUNCH_FAILED, &["at different instructions"]);
        check("trap", ONE_WARP, &[out.at()], LAUNCH_FAILED, &["thread 3: __trap()"]);

        check("fill", ONE_WARP, &count(65), ILLEGAL_ADDRESS, &["0 bytes behind an allocation of 256 bytes"]);
        check(
            "fill",
            (1, 1, 0),
            &[Argument::At(0), Argument::Int(1)],
            ILLEGAL_ADDRESS,
            &["of no allocation"],
        );
        let host = [0f32; 32];
        let pageable = [Argument::At(host.as_ptr() as u64), Argument::Int(1)];
        check("fill", ONE_WARP, &pageable, ILLEGAL_ADDRESS, &["argument 0", "of no allocation"]);
        let freed = device.unset::<f32>(64);
        // SAFETY: only a kernel that is to fail still has it.
        unsafe { result::memory_free(freed.address) }.unwrap();
        check("fill", ONE_WARP, &[freed.at(), Argument::Int(1)], ILLEGAL_ADDRESS, &["of no allocation"]);

        check(
            "fill_shared",
            (1, 32, 100),
            &count(26),
            LAUNCH_FAILED,
            &["behind 100 bytes of dynamic shared memory"],
        );
        check(
            "fill_shared",
            (1, 32, 128),
            &count(33),
            ILLEGAL_ADDRESS,
            &["behind 128 bytes of dynamic shared memory"],
        );
        let vector = device.upload(&[1f32; 8]);
        check("misaligned", (1, 1, 0), &[vector.at(), out.at()], MISALIGNED, &["misaligned"]);
        check("out_of_bounds", ONE_WARP, &count(8), MISALIGNED, &["an index that is not of its array"]);

        // The same kernels where nothing is wrong, and after all that.
        for (kernel, shape, arguments) in [
            ("fill", ONE_WARP, count(64)),
            ("fill_shared", (1, 32, 100), count(25)),
            ("out_of_bounds", ONE_WARP, count(7)),
        ] {
            assert_eq!(
                code(device.run(kernel, shape, &arguments)),
                0,
                "{kernel}: {}",
                emulator::explanation()
            );
        }
    });
}

#[test]
fn the_order_of_threads_shows_a_missing_barrier() {
    child::with_driver(TRIAL, &[], || {
        let device = Device::open(PTX);
        let wrong = |order: &str| {
            emulator::set("ORDER", order);
            let out = device.unset::<f32>(256);
            device.run("missing_barrier", (1, 256, 0), &[out.at()]).unwrap();
            let values = device.read::<f32>(out);
            values.iter().enumerate().filter(|(at, value)| **value != 255.0 - *at as f32).count()
        };
        for order in ["forward", "backward", "1", "2"] {
            assert!(wrong(order) > 0, "{order}");
        }
    });
}

#[test]
fn what_is_not_set_is_nan() {
    child::with_driver(TRIAL, &[], || {
        let device = Device::open(PTX);
        let memory = device.unset::<f32>(1000);
        assert!(device.read::<f32>(memory).iter().all(|value| value.is_nan()));
        // Each block begins with shared memory that is not set, whatever the one before it left.
        for _ in 0..2 {
            let shared = device.unset::<f32>(64);
            device.run("unset_shared", (3, 32, 128), &[shared.at()]).unwrap();
            assert!(device.read::<f32>(shared).iter().all(|value| value.is_nan()));
        }
        let (input, out) = (device.upload(&[3f32; 4]), device.unset::<f32>(2));
        device.run("early_read", (1, 1, 0), &[input.at(), out.at()]).unwrap();
        let values = device.read::<f32>(out);
        assert!(values[0].is_nan(), "read before the copy was waited for: {}", values[0]);
        assert_eq!(values[1], 3.0);
        emulator::set("POISON", "0");
        let memory = device.unset::<f32>(1000);
        assert!(device.read::<f32>(memory).iter().all(|value| *value == 0.0));
    });
}

#[test]
fn launches_that_a_device_would_refuse_are_refused() {
    child::with_driver(TRIAL, &[], || {
        let device = Device::open(PTX);
        let trial = Device::open(TRIAL_PTX);
        let out = device.unset::<f32>(2048);
        let arguments = [out.at(), Argument::Int(1)];
        for shape in [(0, 32, 0), (1, 0, 0), (1, 1025, 0), (1, 32, (48 << 10) + 1)] {
            assert_eq!(code(device.launch("fill_shared", shape, &arguments)), 1, "{shape:?}");
        }
        assert_eq!(code(device.run("fill_shared", (1, 1024, 48 << 10), &arguments)), 0);
        let four = [out.at(), out.at(), out.at(), Argument::Int(16)];
        assert_eq!(code(trial.launch("matmul_tile", (1, 64, 0), &four)), 1);
        assert!(emulator::explanation().contains("64 threads, its launch bounds say 32"));

        let set = |bytes: i32| {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a module that is there.
            unsafe {
                result::function::set_function_attribute(
                    device.function("fill_shared").unwrap(),
                    attribute,
                    bytes,
                )
            }
        };
        assert_eq!(code(set((99 << 10) + 1)), 1, "a block of this device has less");
        assert_eq!(code(set(99 << 10)), 0);
        assert_eq!(code(device.run("fill_shared", (1, 32, 99 << 10), &arguments)), 0);
    });
}

#[test]
fn calls_fail_as_they_are_told_to() {
    let faults = "cuMemAlloc_v2#3=2,cuLaunchKernel#2=1,cuStreamQuery#2+=801,kernel:fill#3=719";
    child::with_driver(TRIAL, &[("FAULTS", faults)], || {
        let device = Device::open(PTX);
        // SAFETY: nothing uses what is allocated.
        let allocations = [0; 4].map(|_| code(unsafe { result::malloc_sync(256) }));
        assert_eq!(allocations, [0, 0, 2, 0]);
        // SAFETY: the stream is open.
        let queries = [0; 4].map(|_| unsafe { sys::cuStreamQuery(device.stream) } as u32);
        assert_eq!(queries, [0, 801, 801, 801]);
        let out = device.unset::<f32>(64);
        let run = || code(device.run("fill", ONE_WARP, &[out.at(), Argument::Int(64)]));
        // A launch that is refused does not run.
        assert_eq!([run(), run(), run(), run(), run()], [0, 1, 0, LAUNCH_FAILED, LAUNCH_FAILED]);
        assert_eq!(emulator::executions("fill"), 3);
        assert_eq!(emulator::calls("cuLaunchKernel"), 4, "a lost context has no kernels to launch");
    });
}

#[test]
fn a_device_that_is_lost_stays_lost() {
    child::with_driver(TRIAL, &[("FAULTS", "cuStreamSynchronize#2=719")], || {
        let device = Device::open(PTX);
        let (number, out) = (device.mapped_words(1), device.unset::<f32>(64));
        assert_eq!(code(device.run("fill", ONE_WARP, &[out.at(), Argument::Int(64)])), 0);
        // A kernel that waits for the host is ended, too, so that nothing hangs.
        let waiting = device.new_stream();
        let arguments = [Argument::At(number as u64), out.at()];
        device.launch_on(waiting, "wait_for_host", ONE_WARP, &arguments).unwrap();
        assert_eq!(code(device.wait()), LAUNCH_FAILED);
        let until = Instant::now() + Duration::from_secs(20);
        // SAFETY: the stream is open, and what is freed is no longer used.
        unsafe {
            assert_eq!(code(result::stream::synchronize(waiting)), LAUNCH_FAILED);
            assert_eq!(code(result::malloc_sync(256)), LAUNCH_FAILED);
            assert_eq!(
                code(result::memory_free(out.address)),
                LAUNCH_FAILED,
                "it is freed, and says so all the same"
            );
            assert_eq!(code(result::stream::destroy(waiting)), LAUNCH_FAILED);
        }
        assert!(Instant::now() < until);

        // The context takes the error and its memory with it; another can be had.
        drop(device);
        // SAFETY: the stream is of the context that is gone.
        assert_eq!(code(unsafe { result::stream::synchronize(waiting) }), CONTEXT_IS_DESTROYED);
        let device = Device::open(PTX);
        assert_eq!(result::mem_get_info().unwrap(), (8 << 30, 8 << 30));
        let out = device.unset::<f32>(64);
        assert_eq!(code(device.run("fill", ONE_WARP, &[out.at(), Argument::Int(64)])), 0);
    });
}

#[test]
fn no_driver_is_found_where_there_is_none() {
    child::without_driver(|| {
        // SAFETY: nothing is called.
        if unsafe { sys::is_culib_present() } {
            eprintln!("SKIPPED: this machine has a CUDA driver");
        }
    });
}

#[test]
fn a_driver_without_devices_says_so() {
    child::with_driver(TRIAL, &[("DEVICES", "0")], || {
        assert_eq!(code(CudaContext::new(0)), 100);
    });
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    child::with_driver(TRIAL, &[], || {
        CudaContext::new(0).unwrap();
        for (name, value, expected) in [
            ("MEMORY", "lots", "'lots' is not a whole number"),
            ("MEMORY", "-1", "'-1' is not a whole number"),
            ("CAPABILITY", "86", "'86' has no '.'"),
            ("POISON", "yes", "'yes' is neither 0 nor 1"),
            ("FAULTS", "cuMemAlloc_v2#1", "'cuMemAlloc_v2#1' has no '='"),
            ("NEIGHBOURS", "1MiB@cuInit", "'cuInit' has no '#'"),
            ("COLOUR", "red", "no setting COLOUR"),
        ] {
            assert_eq!(emulator::try_set(name, value), Err(expected.to_owned()));
        }
    });
}

#[test]
fn it_pretends_what_it_is_told_to() {
    let settings = [
        ("NAME", "GeForce of tests"),
        ("CAPABILITY", "8.9"),
        ("DRIVER", "12080"),
        ("DEVICES", "2"),
        ("MEMORY", "96MiB"),
    ];
    child::with_driver(TRIAL, &settings, || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "GeForce of tests");
        assert_eq!(context.compute_capability().unwrap(), (8, 9));
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        assert_eq!(context.total_mem().unwrap(), 96 << 20);
        let mut version = 0;
        // SAFETY: it writes one number.
        assert_eq!(code(unsafe { sys::cuDriverGetVersion(&mut version) }.result()), 0);
        assert_eq!(version, 12080);
        assert_eq!(code(result::device::get(2)), 101);
    });
}

#[test]
fn names_are_those_of_the_oldest_driver() {
    child::with_driver(TRIAL, &[], || {
        CudaContext::new(0).unwrap();
        // SAFETY: functions are looked for, not called.
        let has = |name: &str| unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
        for name in
            ["cuInit", "cuMemAlloc_v2", "cuGraphLaunch", "cuTexObjectCreate", "cuLaunchCooperativeKernel"]
        {
            assert!(has(name), "{name}");
        }
        for later in
            ["cuEventElapsedTime_v2", "cuCtxCreate_v4", "cuStreamBeginCaptureToGraph", "cuFuncGetParamInfo"]
        {
            assert!(!has(later), "{later}");
        }
        let cooperative = unsafe {
            // SAFETY: it refuses before it looks at anything.
            sys::culib().get::<unsafe extern "C" fn() -> u32>(b"cuLaunchCooperativeKernel").unwrap()()
        };
        assert_eq!(cooperative, 801);
    });
}
