//! From a folder to a model on the CPU, as the tests need it.

use fimd::compute::cpu::{Cpu, CpuOptions, Level};
use fimd::format::ModelDir;
use fimd::model::{Config, Model, ModelOptions, Tokenizer};
use fimd::session::packed::Precision;
use fimd::session::{Session, SessionOptions};

/// The model in `dir`.
pub fn model(
    dir: &ModelDir,
    threads: usize,
    delta_chunk_rows_min: usize,
    options: ModelOptions,
) -> anyhow::Result<Model<Cpu>> {
    layers(dir, Config::read(dir)?, threads, delta_chunk_rows_min, options)
}

/// The layers of the model in `dir` that `config` has.
pub fn layers(
    dir: &ModelDir,
    config: Config,
    threads: usize,
    delta_chunk_rows_min: usize,
    options: ModelOptions,
) -> anyhow::Result<Model<Cpu>> {
    let backend = Cpu::new(CpuOptions {
        threads,
        eps: config.eps,
        delta_chunk_rows_min,
        level: Level::detect(),
        exact: false,
    });
    Model::load(dir, config, options, backend)
}

/// Sizes of a model for one sequence, and for as much again.
pub fn options(positions_max: usize, batch_max: usize) -> ModelOptions {
    ModelOptions { positions_max, batch_max, kv_bytes_max: 1 << 30 }
}

/// A session that keeps its past exactly.
pub fn session(model: Model<Cpu>) -> Session<Cpu> {
    let options = SessionOptions { cache_bytes_max: 1 << 30, precision: Precision::F32 };
    Session::new(model, options)
}

/// The tokenizer in `dir`.
pub fn tokenizer(dir: &ModelDir) -> Tokenizer {
    Tokenizer::read(dir).unwrap().unwrap()
}
