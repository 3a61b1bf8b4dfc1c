//! Streams that capture: what a graph replays, and what breaks a capture.

use std::ptr;

use cudarc::driver::sys::{self, CUstreamCaptureMode as Mode};
use cudarc::driver::{DriverError, result};

use super::build::TRIAL;
use super::child;
use super::device::{Argument, Buffer, Device, code, emulator};

const PTX: &str = include_str!("../../cuda/kernels/trial.ptx");

struct Capturing {
    device: Device,
    other: sys::CUstream,
    a: Buffer,
    sum: Buffer,
}

impl Capturing {
    fn new() -> Self {
        let device = Device::open(PTX);
        let (a, sum) = (device.upload(&[1f32; 32]), device.upload(&[0f32; 32]));
        Self { other: device.new_stream(), a, sum, device }
    }

    fn begin(&self) {
        // SAFETY: the stream is open.
        unsafe {
            result::stream::begin_capture(self.device.stream, Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        }
        .unwrap();
    }

    /// Ends the capture; a graph that can be launched.
    fn end(&self) -> Result<sys::CUgraphExec, DriverError> {
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is open, and each handle is used as long as it is one.
        unsafe {
            sys::cuStreamEndCapture(self.device.stream, &mut graph).result()?;
            let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let executable = result::graph::instantiate(graph, flags)?;
            result::graph::destroy(graph)?;
            Ok(executable)
        }
    }

    fn launch(&self, graph: sys::CUgraphExec) {
        // SAFETY: the graph is one.
        unsafe { result::graph::launch(graph, self.device.stream) }.unwrap();
    }

    /// `to = a + b` on a stream.
    fn add(&self, stream: sys::CUstream, a: Buffer, b: Buffer, to: Buffer) -> Result<(), DriverError> {
        self.device.launch_on(stream, "add", (1, 32, 0), &[a.at(), b.at(), to.at(), Argument::Int(32)])
    }

    /// `sum += a` on the stream that captures.
    fn count(&self) -> Result<(), DriverError> {
        self.add(self.device.stream, self.sum, self.a, self.sum)
    }

    fn join(&self, late: sys::CUstream, early: sys::CUstream) -> Result<(), DriverError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: event and streams are open.
        unsafe {
            result::event::record(event, early)?;
            result::stream::wait_event(late, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
        }
    }

    fn sum(&self) -> f32 {
        self.device.read::<f32>(self.sum)[0]
    }
}

#[test]
fn a_graph_replays_what_was_captured() {
    child::with_driver(TRIAL, &[], || {
        let test = Capturing::new();
        test.begin();
        for _ in 0..5 {
            test.count().unwrap();
        }
        let graph = test.end().unwrap();
        assert_eq!(test.sum(), 0.0);
        assert_eq!(emulator::executions("add"), 0);
        for launched in 1..4 {
            test.launch(graph);
            assert_eq!(test.sum(), 5.0 * launched as f32);
        }
        // SAFETY: the graph is one.
        unsafe { result::graph::exec_destroy(graph) }.unwrap();
        assert_eq!(emulator::executions("add"), 15);
        assert_eq!(emulator::calls("cuLaunchKernel"), 5);
    });
}

#[test]
fn streams_fork_and_join_within_a_capture() {
    child::with_driver(TRIAL, &[], || {
        let test = Capturing::new();
        let (stream, other, twice) = (test.device.stream, test.other, test.device.upload(&[0f32; 32]));
        test.begin();
        test.count().unwrap();
        test.join(other, stream).unwrap();
        test.add(other, test.a, test.a, twice).unwrap();
        test.count().unwrap();
        test.join(stream, other).unwrap();
        test.add(stream, test.sum, twice, test.sum).unwrap();
        let graph = test.end().unwrap();
        test.launch(graph);
        test.launch(graph);
        assert_eq!(test.sum(), 8.0);

        test.begin();
        test.join(other, stream).unwrap();
        test.add(other, test.a, test.a, twice).unwrap();
        assert_eq!(code(test.end()), 904, "the other stream was not joined");
        test.begin();
        test.join(other, stream).unwrap();
        test.add(other, test.a, test.a, twice).unwrap();
        test.join(stream, other).unwrap();
        test.add(other, test.a, test.a, twice).unwrap();
        assert_eq!(code(test.end()), 904, "nor was what it did after the join");
    });
}

#[test]
fn a_graph_takes_numbers_at_its_capture_and_memory_at_its_launch() {
    child::with_driver(TRIAL, &[], || {
        let test = Capturing::new();
        let mut host = vec![1f32; 32];
        test.begin();
        // SAFETY: the memory is there as long as the graph.
        unsafe { result::memcpy_htod_async(test.a.address, &host, test.device.stream) }.unwrap();
        test.count().unwrap();
        let graph = test.end().unwrap();
        host.fill(7.0);
        test.launch(graph);
        assert_eq!(test.sum(), 7.0);
        host.fill(2.0);
        test.launch(graph);
        assert_eq!(test.sum(), 9.0);
    });
}

#[test]
fn some_calls_break_a_capture() {
    child::with_driver(TRIAL, &[], || {
        let test = Capturing::new();
        let stream = test.device.stream;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
        // SAFETY: event and stream are open.
        unsafe { result::event::record(event, test.other) }.unwrap();
        // SAFETY: handles are open, and what is allocated is not used.
        let calls: [(&str, &dyn Fn() -> u32, u32); 6] = unsafe {
            [
                ("waiting for it", &|| code(result::stream::synchronize(stream)), 900),
                ("asking whether it is done", &|| sys::cuStreamQuery(stream) as u32, 900),
                ("allocating", &|| code(result::malloc_sync(256)), 900),
                ("page-locking", &|| code(result::malloc_host(256, 0)), 900),
                ("waiting for all", &|| code(result::ctx::synchronize()), 900),
                (
                    "waiting for an event from outside",
                    &|| {
                        code(result::stream::wait_event(
                            stream,
                            event,
                            sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT,
                        ))
                    },
                    905,
                ),
            ]
        };
        for (what, call, expected) in calls {
            test.begin();
            test.count().unwrap();
            assert_eq!(call(), expected, "{what}");
            assert_eq!(code(test.count()), 901, "after {what}");
            assert_eq!(code(test.end()), 901, "after {what}");
            assert_eq!(code(test.device.wait()), 0, "the stream is as before: {what}");
        }
        assert_eq!(test.sum(), 0.0);

        // In a capture of this thread, others may allocate.
        test.begin();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let context = cudarc::driver::CudaContext::new(0).unwrap();
                context.bind_to_thread().unwrap();
                // SAFETY: it is not used.
                assert_eq!(code(unsafe { result::malloc_sync(256) }), 0);
            });
        });
        assert_eq!(code(test.end()), 0);
    });
}
