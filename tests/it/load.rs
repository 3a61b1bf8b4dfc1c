//! From a folder to a model, as the tests need it.

use fimd::compute::Backend;
use fimd::compute::Precision;
use fimd::compute::cpu::{Cpu, CpuOptions, Level};
use fimd::format::ModelDir;
use fimd::model::experts::ExpertOptions;
use fimd::model::{Config, Model, ModelOptions, Tokenizer};
use fimd::session::{Session, SessionOptions};

/// A backend that the tests of sessions and passes run on.
pub trait TestBackend: Backend<Recurrent: Send, Experts: Send> + Sized {
    /// With its own threads.
    fn open(options: CpuOptions) -> Self;

    /// How many times fewer steps a random test makes.
    const STEPS_DIVISOR: usize = 1;
}

impl TestBackend for Cpu {
    fn open(options: CpuOptions) -> Self {
        Cpu::new(options)
    }
}

/// The tests `$name::<B>` on every backend.
macro_rules! on_every_backend {
    ($($name:ident)*) => {
        mod on_the_cpu {
            $(#[test] fn $name() { super::$name::<fimd::compute::cpu::Cpu>() })*
        }
        mod on_a_late_device {
            $(#[test] fn $name() { super::$name::<crate::late::Late>() })*
        }
        #[cfg(unix)]
        mod on_a_gpu {
            $(#[test] fn $name() {
                if crate::gpu::is_there() {
                    super::$name::<fimd::compute::cuda::Cuda>()
                }
            })*
        }
    };
}
pub(crate) use on_every_backend;

/// Options of the CPU that compute the same on every machine of a level.
pub fn cpu(threads: usize, delta_chunk_rows_min: usize, precision: Precision) -> CpuOptions {
    CpuOptions {
        threads,
        delta_chunk_rows_min,
        level: Level::detect(),
        exact: false,
        repack: false,
        precision,
        kv: Precision::F32,
    }
}

/// The model in `dir`.
pub fn model<B: TestBackend>(
    dir: &ModelDir,
    threads: usize,
    delta_chunk_rows_min: usize,
    options: ModelOptions,
) -> anyhow::Result<Model<B>> {
    layers(dir, Config::read(dir)?, threads, delta_chunk_rows_min, options)
}

/// The layers of the model in `dir` that `config` has.
pub fn layers<B: TestBackend>(
    dir: &ModelDir,
    config: Config,
    threads: usize,
    delta_chunk_rows_min: usize,
    options: ModelOptions,
) -> anyhow::Result<Model<B>> {
    Model::load(dir, config, options, B::open(cpu(threads, delta_chunk_rows_min, Precision::F32)))
}

/// Sizes of a model for one sequence, and for as much again.
pub fn options(positions_max: usize, batch_max: usize) -> ModelOptions {
    let experts = ExpertOptions::MAPPED;
    ModelOptions { positions_max, batch_max, sweep_max: batch_max, kv_bytes_max: 1 << 26, experts }
}

/// A session that forgets nothing.
pub fn session<B: Backend>(model: Model<B>) -> Session<B> {
    Session::new(model, SessionOptions { state_bytes_max: 1 << 30 }).unwrap()
}

/// The tokenizer in `dir`.
pub fn tokenizer(dir: &ModelDir) -> Tokenizer {
    Tokenizer::read(dir).unwrap().unwrap()
}
