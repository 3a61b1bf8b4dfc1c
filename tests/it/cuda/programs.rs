//! Random programs on several streams give what the same steps give one after the other, as long as they wait for each
//! other where they must, however late streams are, and also as a graph.

use std::ptr;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL};
use fimd::base::random::Mmix;

use super::build::TRIAL;
use super::child;
use super::device::{Argument, Buffer, Device};

const PTX: &str = include_str!("../../cuda/kernels/trial.ptx");
const BUFFERS: usize = 5;
const STREAMS: usize = 3;
const STEPS: usize = 30;

/// `to = a + b`, by the numbers of buffers.
#[derive(Clone, Copy)]
struct Step {
    stream: usize,
    a: usize,
    b: usize,
    to: usize,
}

impl Step {
    fn random(random: &mut Mmix) -> Self {
        let mut below = |limit: usize| ((random.unit() + 1.0) / 2.0 * limit as f32) as usize % limit;
        Self { stream: below(STREAMS), a: below(BUFFERS), b: below(BUFFERS), to: below(BUFFERS) }
    }

    /// Whether one must come before the other because one of them writes what the other has.
    fn conflicts(self, other: Self) -> bool {
        let has = |step: Self, buffer| step.a == buffer || step.b == buffer || step.to == buffer;
        has(self, other.to) || has(other, self.to)
    }
}

struct Machine {
    device: Device,
    streams: [sys::CUstream; STREAMS],
    buffers: [Buffer; BUFFERS],
}

impl Machine {
    fn new() -> Self {
        let device = Device::open(PTX);
        let streams = [device.stream, device.new_stream(), device.new_stream()];
        let buffers = [0, 1, 2, 3, 4].map(|at| device.upload(&[at as f32; 32]));
        Self { device, streams, buffers }
    }

    /// An event that completes with all that the stream has so far.
    fn mark(&self, stream: usize) -> sys::CUevent {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
        // SAFETY: both are open.
        unsafe { result::event::record(event, self.streams[stream]) }.unwrap();
        event
    }

    fn wait(&self, stream: usize, event: sys::CUevent) {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are open.
        unsafe { result::stream::wait_event(self.streams[stream], event, flags) }.unwrap();
    }

    /// Issues the steps on their streams, which begin after the first one and end before it continues.
    fn issue(&self, steps: &[Step]) {
        let begin = self.mark(0);
        (1..STREAMS).for_each(|stream| self.wait(stream, begin));
        let mut marks = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            for (earlier, mark) in steps[..at].iter().zip(&marks) {
                if earlier.stream != step.stream && earlier.conflicts(*step) {
                    self.wait(step.stream, *mark);
                }
            }
            let [a, b, to] = [step.a, step.b, step.to].map(|buffer| self.buffers[buffer].at());
            let arguments = [a, b, to, Argument::Int(32)];
            self.device.launch_on(self.streams[step.stream], "add", (1, 32, 0), &arguments).unwrap();
            marks.push(self.mark(step.stream));
        }
        (1..STREAMS).for_each(|stream| self.wait(0, self.mark(stream)));
    }

    fn values(&self) -> [f32; BUFFERS] {
        self.buffers.map(|buffer| self.device.read::<f32>(buffer)[31])
    }
}

#[test]
fn random_programs_run_as_if_one_after_the_other() {
    child::with_driver(TRIAL, &[("LATE_US", "200"), ("ORDER", "7")], || {
        let machine = Machine::new();
        let mut expected = machine.values();
        let mut run = |steps: &[Step]| {
            steps.iter().for_each(|step| expected[step.to] = expected[step.a] + expected[step.b]);
            expected
        };
        for seed in 0..12 {
            let mut random = Mmix(seed);
            let steps: Vec<Step> = (0..STEPS).map(|_| Step::random(&mut random)).collect();
            machine.issue(&steps);
            assert_eq!(machine.values(), run(&steps), "seed {seed}");

            let (stream, mut graph) = (machine.streams[0], ptr::null_mut());
            // SAFETY: the stream is open, and each handle is used as long as it is one.
            unsafe { result::stream::begin_capture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) }.unwrap();
            machine.issue(&steps);
            unsafe { sys::cuStreamEndCapture(stream, &mut graph) }.result().unwrap();
            let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let graph = unsafe { result::graph::instantiate(graph, flags) }.unwrap();
            for _ in 0..2 {
                // SAFETY: as above.
                unsafe { result::graph::launch(graph, stream) }.unwrap();
                assert_eq!(machine.values(), run(&steps), "seed {seed}, as a graph");
            }
        }
    });
}
