//! How fast products with matrices of each type are.

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

/// What is measured.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Types of the matrix.
    pub types: Vec<DType>,
    /// Its rows.
    pub rows: usize,
    /// Its columns, a multiple of every type's block.
    pub cols: usize,
    /// Different matrices that take turns: enough of them do not fit the caches.
    pub copies: usize,
    /// How many inputs are multiplied at a time.
    pub inputs: Vec<usize>,
    /// How long each measurement takes.
    pub time: Duration,
}

/// The speed of one product.
#[derive(Debug, Serialize)]
pub struct Speed {
    /// Type of the matrix.
    pub dtype: String,
    /// How many inputs are multiplied at a time.
    pub inputs: usize,
    /// Median time of a product, in microseconds.
    pub product_us: f64,
    /// Billion multiplications with addition a second.
    pub gmacs: f64,
    /// Billion bytes of the matrix a second.
    pub gigabytes: f64,
}

/// Measures every type with every count of inputs.
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
    let mut bytes = vec![0; dtype.bytes(cols).expect("columns are whole blocks") * rows];
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
    // The first rows of the matrix itself serve as inputs.
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
