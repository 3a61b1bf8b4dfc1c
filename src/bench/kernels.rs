//! Speed of the matmul of each weight type.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::random::RandomTensor;
use crate::base::dtype::DType;
use crate::compute::cpu::{Cpu, CpuOptions};
use crate::compute::{Backend, HeadWeights, StoredMatrix};
use crate::format::{Bytes, Tensor};

/// Options of the benchmark.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Weight types.
    pub types: Vec<DType>,
    /// Its rows.
    pub rows: usize,
    /// Its columns, a multiple of every type's block.
    pub cols: usize,
    /// Different matrices used in turn: enough of them do not fit the CPU caches.
    pub copies: usize,
    /// Batch sizes: rows of activations per matmul.
    pub inputs: Vec<usize>,
    /// Duration of each measurement.
    pub time: Duration,
}

/// Speed of one matmul.
#[derive(Debug, Serialize)]
pub struct Speed {
    /// Weight type.
    pub dtype: String,
    /// Batch size: rows of activations.
    pub inputs: usize,
    /// Median time, in microseconds.
    pub product_us: f64,
    /// Multiply-adds per second, in billions.
    pub gmacs: f64,
    /// Bytes of weights read per second, in billions.
    pub gigabytes: f64,
}

/// Measures every weight type with every batch size.
pub fn run(workload: &Workload, options: CpuOptions) -> Result<Vec<Speed>> {
    let mut backend = Cpu::new(options);
    let mut speeds = Vec::new();
    for &dtype in &workload.types {
        let heads = (0..workload.copies as u64)
            .map(|key| head(&mut backend, workload, dtype, key))
            .collect::<Result<Vec<_>>>()?;
        for &inputs in &workload.inputs {
            let product_us = median_us(&mut backend, workload, &heads, inputs)?;
            let weights = (workload.rows * workload.cols) as f64;
            speeds.push(Speed {
                dtype: dtype.to_string(),
                inputs,
                product_us,
                gmacs: weights * inputs as f64 / product_us / 1e3,
                gigabytes: weights * dtype.bits() / 8.0 / product_us / 1e3,
            });
        }
    }
    Ok(speeds)
}

fn head(backend: &mut Cpu, workload: &Workload, dtype: DType, key: u64) -> Result<HeadWeights<Cpu>> {
    let (rows, cols) = (workload.rows, workload.cols);
    let random = RandomTensor::new(dtype, (cols as f32).sqrt().recip(), key);
    let mut bytes = vec![0; dtype.bytes(cols).expect("columns are a multiple of the block length") * rows];
    random.fill(0, &mut bytes);
    let name: Arc<str> = "random".into();
    let values = Tensor { name, dtype, shape: vec![rows, cols], bytes: Bytes::from(bytes) };
    let output = backend.matrix(StoredMatrix { rows, cols, values, scale: None })?;
    Ok(HeadWeights { norm: backend.vector(vec![1.0; cols])?, eps: 1e-6, output })
}

fn median_us(
    backend: &mut Cpu,
    workload: &Workload,
    heads: &[HeadWeights<Cpu>],
    inputs: usize,
) -> Result<f64> {
    let mut x = backend.rows(inputs, workload.cols)?;
    let mut products = backend.rows(inputs, workload.rows)?;
    // The first rows of the matrix itself serve as activations.
    let tokens: Vec<u32> = (0..inputs).map(|i| (i % workload.rows) as u32).collect();
    backend.embed(&heads[0].output, &tokens, &mut x);
    let mut times = Vec::new();
    let started = Instant::now();
    for head in heads.iter().cycle() {
        let product = Instant::now();
        backend.head(head, 0..inputs, &x, &mut products);
        times.push(product.elapsed().as_secs_f64() * 1e6);
        if started.elapsed() > workload.time && times.len() >= heads.len() {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, inputs, product_us, gmacs, gigabytes } = self;
        write!(f, "| {dtype} | {inputs} | {product_us:.1} | {gmacs:.1} | {gigabytes:.2} |")
    }
}
