//! Budgets of device memory, page-locked memory, and when copies read and write.

use std::time::Duration;
use std::{slice, thread};

use cudarc::driver::{result, sys};

use super::build::TRIAL;
use super::child;
use super::device::{Argument, Device, code, emulator};

const PTX: &str = include_str!("../../cuda/kernels/trial.ptx");
const OUT_OF_MEMORY: u32 = 2;

fn free() -> usize {
    result::mem_get_info().unwrap().0
}

/// Page-locks `bytes` at `address`.
fn register(address: *mut u8, bytes: usize) -> u32 {
    // SAFETY: the driver refuses what is not there.
    unsafe { sys::cuMemHostRegister_v2(address.cast(), bytes, 0) as u32 }
}

fn unregister(address: *mut u8) -> u32 {
    // SAFETY: the driver refuses what was not registered.
    unsafe { sys::cuMemHostUnregister(address.cast()) as u32 }
}

/// Memory of whole pages, for tests to register.
fn pages(count: usize) -> *mut u8 {
    Box::leak(vec![0u8; (count + 1) * 4096].into_boxed_slice())
        .as_mut_ptr()
        .map_addr(|at| at.next_multiple_of(4096))
}

#[test]
fn there_is_as_much_memory_as_is_set() {
    let settings = [
        ("MEMORY", "64MiB"),
        ("TAKEN", "8MiB"),
        ("CONTEXT", "4MiB"),
        ("NEIGHBOURS", "16MiB@cuMemGetInfo_v2#3,-8MiB@cuMemGetInfo_v2#5"),
    ];
    child::with_driver(TRIAL, &settings, || {
        let _device = Device::open(PTX);
        assert_eq!(free(), 52 << 20);
        // SAFETY: nothing reads it.
        let first = unsafe { result::malloc_sync(40 << 20) }.unwrap();
        assert_eq!(free(), 12 << 20);
        assert_eq!(free(), 0, "another process took what there was");
        // SAFETY: as above.
        assert_eq!(code(unsafe { result::malloc_sync(1) }), OUT_OF_MEMORY);
        // SAFETY: nothing uses it.
        unsafe { result::memory_free(first) }.unwrap();
        assert_eq!(free(), 40 << 20);
        assert_eq!(free(), 48 << 20, "another process gave something back");
        // SAFETY: as above.
        let (rest, more) = unsafe { (result::malloc_sync(48 << 20), result::malloc_sync(1)) };
        assert_eq!((code(rest), code(more)), (0, OUT_OF_MEMORY));
        assert_eq!(emulator::peak_memory(), 48 << 20);
    });
}

#[test]
fn a_large_arena_costs_nothing_until_it_is_written() {
    child::with_driver(TRIAL, &[("MEMORY", "40GiB")], || {
        let device = Device::open(PTX);
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = resident();
        let arena = device.unset::<u8>(39 << 30);
        // Its last floats are not set, as all others.
        let mut last = [0f32; 4];
        // SAFETY: within the arena.
        unsafe { result::memcpy_dtoh_sync(&mut last, arena.address + (39 << 30) - 16) }.unwrap();
        assert!(last.iter().all(|value| value.is_nan()));
        assert!(resident() < before + (64 << 20));
    });
}

#[test]
fn page_locking_is_refused_beyond_a_limit() {
    child::with_driver(TRIAL, &[("PAGE_LOCK", "64KiB")], || {
        let _device = Device::open(PTX);
        let memory = pages(32);
        assert_eq!(register(memory, 40 << 10), 0);
        assert_eq!(register(memory.wrapping_add(48 << 10), 40 << 10), OUT_OF_MEMORY);
        // A part is granted.
        assert_eq!(register(memory.wrapping_add(48 << 10), 20 << 10), 0);
        assert_eq!(register(memory.wrapping_add(4 << 10), 4 << 10), 712, "it is locked already");
        // SAFETY: nothing uses it.
        assert_eq!(code(unsafe { result::malloc_host(8 << 10, 0) }), OUT_OF_MEMORY);
        assert_eq!(unregister(memory), 0);
        assert_eq!(unregister(memory), 713);
        // SAFETY: nothing uses it.
        let host = unsafe { result::malloc_host(40 << 10, 0) };
        assert_eq!(code(host), 0);

        let mut address = 0;
        // SAFETY: it writes one address.
        let mut device_address =
            |host: *mut u8| unsafe { sys::cuMemHostGetDevicePointer_v2(&mut address, host.cast(), 0) } as u32;
        assert_eq!(device_address(memory.wrapping_add(48 << 10)), 0);
        assert_eq!(device_address(memory), 1, "this is not locked any more");

        // Memory that cannot be written, and none at all.
        let text = "constant";
        assert_eq!(register(text.as_ptr().cast_mut(), text.len()), 1);
        assert_eq!(register(std::ptr::without_provenance_mut(4096), 4096), 1);
    });
}

#[test]
fn none_can_be_locked_where_the_limit_is_nothing() {
    child::with_driver(TRIAL, &[("PAGE_LOCK", "0")], || {
        let _device = Device::open(PTX);
        assert_eq!(register(pages(1), 4096), OUT_OF_MEMORY);
        // SAFETY: nothing uses it.
        assert_eq!(code(unsafe { result::malloc_host(1, 0) }), OUT_OF_MEMORY);
    });
}

#[test]
fn copies_from_locked_memory_are_late_and_others_are_not() {
    child::with_driver(TRIAL, &[("LATE_US", "20000")], || {
        let device = Device::open(PTX);
        let (from_locked, from_pageable) = (device.unset::<u32>(4), device.unset::<u32>(4));
        let locked = device.mapped_words(4);
        let mut pageable = vec![1u32; 4];
        // SAFETY: four words, which nothing else holds. That one copy reads them late is what is tested.
        let locked = unsafe { slice::from_raw_parts_mut(locked, 4) };
        locked.fill(1);
        unsafe {
            result::memcpy_htod_async(from_locked.address, locked, device.stream).unwrap();
            result::memcpy_htod_async(from_pageable.address, &pageable, device.stream).unwrap();
        }
        locked.fill(2);
        pageable.fill(2);
        assert_eq!(device.read::<u32>(from_locked), [2; 4], "the source was changed too early");
        assert_eq!(device.read::<u32>(from_pageable), [1; 4], "the source was read at the call");

        // To pageable memory the host waits, to locked memory it does not.
        // SAFETY: the stream is waited for before the memory goes.
        unsafe { result::memcpy_dtoh_async(&mut pageable, from_pageable.address, device.stream) }.unwrap();
        assert_eq!(pageable, [1; 4]);
        unsafe { result::memcpy_dtoh_async(locked, from_pageable.address, device.stream) }.unwrap();
        assert_eq!(*locked, [2; 4]);
        device.wait().unwrap();
        assert_eq!(*locked, [1; 4]);
    });
}

#[test]
fn a_late_stream_shows_a_wait_that_is_missing() {
    child::with_driver(TRIAL, &[("LATE_US", "20000"), ("LATE_STREAM", "1")], || {
        let device = Device::open(PTX);
        let other = device.new_stream();
        let (a, b, sum) = (device.upload(&[1f32; 32]), device.upload(&[2f32; 32]), device.unset::<f32>(32));
        let twice = device.unset::<f32>(32);
        let double = |does_wait: bool| {
            let add =
                |stream, a: super::device::Buffer, b: super::device::Buffer, sum: super::device::Buffer| {
                    let arguments = [a.at(), b.at(), sum.at(), Argument::Int(32)];
                    device.launch_on(stream, "add", (1, 32, 0), &arguments).unwrap();
                };
            // SAFETY: the memory is there.
            unsafe { result::memset_d8_sync(sum.address, 0, 128) }.unwrap();
            add(device.stream, a, b, sum);
            if does_wait {
                let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
                // SAFETY: event and streams are open.
                unsafe {
                    result::event::record(event, device.stream).unwrap();
                    result::stream::wait_event(other, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                        .unwrap();
                    result::event::destroy(event).unwrap();
                }
            }
            add(other, sum, sum, twice);
            // SAFETY: the stream is open.
            unsafe { result::stream::synchronize(other) }.unwrap();
            device.read::<f32>(twice)[0]
        };
        assert_eq!(double(true), 6.0);
        assert_eq!(double(false), 0.0);
        thread::sleep(Duration::from_millis(1));
    });
}
