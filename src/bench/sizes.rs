//! What a plan is made of: the sizes of a model, from its files or from the types of a mix, and the rates of this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::plan::{GpuRates, Rates, Sizes};
use super::{blocks, kernels, machine};
use crate::base::dtype::DType;
use crate::base::reads::ReadFile;
use crate::compute::cpu::CpuOptions;
use crate::compute::cuda::measure::{self, Measured};
use crate::compute::cuda::{self, Cuda, CudaOptions, HostTables};
use crate::compute::experts::MatrixLayout;
use crate::compute::{PassSizes, Precision};
use crate::format::ModelDir;
use crate::hub;
use crate::model::architecture::{self, Field, Part, Role};
use crate::model::config::{FfnShape, LayerShape, MixerShape, MoeShape};
use crate::model::export::{self, Recipe};
use crate::model::{Config, layout};

/// Memory of the GPU for what is small while it is measured, in bytes.
const MEASURING_BYTES: usize = 4 << 20;
/// Norm, queries, keys, values, what places them, attention in parts, their sum, output; short contexts have one part.
const ATTENTION_KERNELS: usize = 8;
/// Norm, both projections (or one, and what divides it), b and a, the trace, the convolution, norms, gates, the rule, the
/// state of the convolution, the gated norm, output.
const DELTA_KERNELS: usize = 12;
/// Norm, gate, up, down.
const DENSE_KERNELS: usize = 4;
/// Norm, logits, the choice, and what tells the host of it, unless all experts have slots.
const ROUTING_KERNELS: usize = 4;
/// Gate, up, the gate of the whole, down.
const SHARED_KERNELS: usize = 4;
/// For how long a kernel is measured.
const MEASURED: Duration = Duration::from_millis(100);

/// The sizes of a model on disk, and the type of its experts.
pub fn of_files(dir: &ModelDir, config: &Config) -> Result<(Sizes, DType)> {
    let (layers, dtype) = layout::expert_layers(dir, config)?;
    let (_, bytes) = layout::embedding(dir, config)?;
    let sizes = Sizes {
        trunk_bytes: layout::trunk_bytes(dir, config),
        lookup_bytes: if config.tied { 0 } else { bytes },
        head_bytes: layout::head(dir, config)?.1,
        head_weights: head_weights(config),
        token_weights: token_weights(config),
        kernels: config.layers.iter().map(kernels_of).sum(),
        layers,
        expert_weights: expert_weights(config),
        cold_bytes: 0,
    };
    Ok((sizes, dtype))
}

/// The sizes of a model in the types of a mix, and the type of most of its weights.
pub fn in_mix(config: &Config, mix: &Recipe) -> Result<(Sizes, DType)> {
    let mut sizes = Sizes {
        trunk_bytes: 0,
        lookup_bytes: 0,
        head_bytes: 0,
        head_weights: head_weights(config),
        token_weights: token_weights(config),
        kernels: config.layers.iter().map(kernels_of).sum(),
        layers: Vec::new(),
        expert_weights: expert_weights(config),
        cold_bytes: 0,
    };
    let mut headers: Vec<_> = config.layers.iter().map(layout::expert_header).collect();
    let mut dtypes = Vec::new();
    for (tensor, part) in export::tensors(config)? {
        let dtype = mix.choose(&tensor, config.layers.len()).dtype;
        let elements = tensor.shape.iter().product();
        let bytes = dtype.bytes(elements).context("rows are whole blocks")?;
        dtypes.push((elements, dtype));
        match part
            .field
            .layer()
            .and_then(|layer| headers[layer].as_mut())
            .filter(|_| part.role.is_of_experts())
        {
            Some(header) => header.record_bytes += bytes / header.experts,
            None => sizes.trunk_bytes += bytes as u64,
        }
        if part.field == Field::Embedding && !config.tied {
            sizes.lookup_bytes = bytes as u64;
        }
        if part.role == Role::Head {
            sizes.head_bytes = bytes as u64;
        }
    }
    sizes.layers = headers.into_iter().flatten().collect();
    let (_, dtype) =
        dtypes.into_iter().max_by_key(|&(elements, _)| elements).context("a model without tensors")?;
    Ok((sizes, dtype))
}

/// Bytes of a smaller copy of all experts in a type, as `fimd quantize --cold` writes it.
pub fn of_copy(config: &Config, dtype: DType) -> Result<u64> {
    Ok(in_mix(config, &Recipe::uniform(dtype))?.0.expert_bytes())
}

/// Kernels that the backend launches for a token in a layer, but those of routed experts.
fn kernels_of(layer: &LayerShape) -> usize {
    let mixer = match layer.mixer {
        MixerShape::Attention(_) => ATTENTION_KERNELS,
        MixerShape::DeltaNet(_) => DELTA_KERNELS,
    };
    let ffn = match &layer.ffn {
        FfnShape::Dense { .. } => DENSE_KERNELS,
        FfnShape::Moe(moe) => ROUTING_KERNELS + moe.shared_width.map_or(0, |_| SHARED_KERNELS),
    };
    mixer + ffn
}

/// Weights of the head.
fn head_weights(config: &Config) -> u64 {
    (config.vocab * config.hidden) as u64
}

/// Weights of a routed expert.
fn expert_weights(config: &Config) -> u64 {
    let of_moe = |moe: &MoeShape| 3 * (config.hidden * moe.width) as u64;
    config.moe_shapes().next().map_or(0, of_moe)
}

/// Weights that a token is multiplied with. An element of a recurrent state counts as three: it is multiplied with a key, takes
/// another product with that, and is multiplied with a query. On tensor cores that is what chunks take, see `delta.cu`.
fn token_weights(config: &Config) -> u64 {
    let parts = architecture::tensors(config);
    let of_part = |part: &Part| {
        let elements: usize = part.shape.iter().product();
        let header = part.field.layer().and_then(|layer| layout::expert_header(&config.layers[layer]));
        match header.filter(|_| part.role.is_of_experts()) {
            Some(header) => elements / header.experts * header.top_k,
            None if part.field == Field::Embedding && !config.tied => 0,
            None => elements,
        }
    };
    let states = config.delta_shapes().map(|shape| 3 * shape.state_len());
    parts.iter().map(of_part).chain(states).sum::<usize>() as u64
}

/// What memory, arithmetic and disk do in a second, for weights of a type and a smaller copy of the experts in another one; the
/// disk as [`disk`] says.
pub fn rates(options: CpuOptions, dtype: DType, cold: Option<DType>, path: Option<&Path>) -> Result<Rates> {
    let [one, many] = speeds(options, dtype, [1, 64])?;
    let weights_per_s = 1e9 * one.gigabytes;
    let cold_per_s = match cold {
        Some(cold) if cold != dtype => 1e9 * speeds(options, cold, [1])?[0].gigabytes,
        _ => weights_per_s,
    };
    let disk_per_s = disk(path)?.bytes_per_s;
    Ok(Rates { weights_per_s, macs_per_s: 1e9 * many.gmacs, disk_per_s, cold_per_s })
}

/// The speed of products with weights of a type, by how many tokens are evaluated together.
fn speeds<const N: usize>(
    options: CpuOptions,
    dtype: DType,
    tokens: [usize; N],
) -> Result<[kernels::Speed; N]> {
    let measured = if dtype == DType::F8E4M3 { DType::Q8_0 } else { dtype };
    // More than the caches of a server hold.
    let workload = kernels::Workload {
        types: vec![measured],
        rows: 512,
        cols: 2048,
        copies: 256,
        inputs: tokens.to_vec(),
        time: MEASURED,
    };
    let speeds = kernels::run(&workload, options)?;
    speeds.try_into().map_err(|_| anyhow!("the kernels cannot be measured"))
}

/// What the kernels of the GPU of this machine do in a second with weights of a type, in dense blocks of some of these sizes.
pub(super) fn of_gpu_kernels(
    options: CpuOptions,
    dtype: DType,
    all_sizes: &[(usize, usize, usize)],
) -> Result<blocks::Speed> {
    let (precision, kv) = (Precision::F16, Precision::F16);
    let open = |sizes: &PassSizes, dtype| {
        let matrix = |rows, cols| {
            let layout = MatrixLayout { rows, cols, dtype, scale_block: blocks::scale_block(dtype) };
            cuda::matrix_bytes(&layout, 1).context("rows are whole blocks")
        };
        let (hidden, width) = (sizes.hidden, sizes.dense_width);
        let weights = 2 * matrix(width, hidden)? + matrix(hidden, width)?;
        let bytes = usize::try_from(weights + cuda::working_bytes(sizes)?)? + MEASURING_BYTES;
        Cuda::new(CudaOptions {
            bytes,
            precision,
            kv,
            expert_slots: 0,
            ring_bytes: 0,
            sweep_rows_min: None,
            host_tables: HostTables::None,
            graphs: false,
            cpu: options,
        })
    };
    blocks::measure(dtype, all_sizes, open)
}

/// What the GPU of this machine does in a second with weights of a type, and what its memory gives to both.
pub fn gpu_rates(options: CpuOptions, dtype: DType) -> Result<GpuRates> {
    let dtype = if dtype == DType::F8E4M3 { DType::Q8_0 } else { dtype };
    let Measured { link_per_s, launch_s, wait_s } = measure::measure()?;
    let blocks::Speed { weights_per_s, macs_per_s } = of_gpu_kernels(options, dtype, &blocks::SIZES)?;
    let memory_per_s = machine::bandwidth_at_a_glance(options.threads);
    let copy_per_s = machine::copies_at_a_glance();
    Ok(GpuRates { weights_per_s, macs_per_s, link_per_s, launch_s, wait_s, memory_per_s, copy_per_s })
}

/// A disk, and what it reads in a second.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file that was read.
    pub file: PathBuf,
    pub bytes_per_s: f64,
}

/// Measures the disk that holds the model at `path`, or else this program: past the page cache where the system allows it,
/// with as many reads at a time as the disk wants.
pub fn disk(path: Option<&Path>) -> Result<Disk> {
    let dir = path.map(|path| hub::open(Some(path))).transpose()?;
    let files = dir.iter().flat_map(|dir| dir.files());
    let largest = files.max_by_key(|file| file.len()).map(|file| file.path().to_owned());
    let file = largest.map_or_else(machine::program, Ok)?;
    let rate = ReadFile::open(&file, true).and_then(|file| file.rate());
    let bytes_per_s = rate.with_context(|| format!("cannot read {}", file.display()))?.bytes_per_s;
    Ok(Disk { file, bytes_per_s })
}
