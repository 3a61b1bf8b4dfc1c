//! The report of a speed benchmark: one JSON object, or tables in Markdown.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use serde::Serialize;

use super::fit::Spread;
use super::gpu::Gpu;
use super::machine::Machine;

/// The model that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// Name of the model, or of the one that is imitated.
    pub name: String,
    /// Its path; none for the built-in starter.
    pub path: Option<PathBuf>,
    pub layers: usize,
    /// The mix of types of a synthetic model.
    pub quant: Option<String>,
    /// Size of its files in bytes; none for the built-in starter.
    pub file_bytes: Option<u64>,
}

/// All figures of a run. Bandwidths are decimal gigabytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of fimd.
    pub version: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// Compute threads.
    pub threads: usize,
    /// SIMD level of the kernels.
    pub kernels: String,
    /// Memory bandwidth of these threads, in GB/s.
    pub memory_gb_per_s: f64,
    pub model: Subject,
    /// Repetitions of each measurement.
    pub runs: usize,
    /// Load time without the tokenizer, in milliseconds.
    pub load_ms: f64,
    pub first: First,
    pub prefill: Vec<Prefill>,
    pub decode: Decode,
    /// Where experts came from in decoding; none where all weights are mapped.
    pub experts: Option<Experts>,
    /// Where the model runs on a GPU.
    pub on_gpu: Option<OnGpu>,
    /// A few more tokens of a known prompt, where that was asked for.
    pub more: Option<More>,
    /// Where some were computed with in a smaller copy.
    pub fidelity: Option<Fidelity>,
    /// Peak memory up to the end of decoding, in bytes; none where it is unknown.
    pub peak_memory_bytes: Option<u64>,
    /// FNV-1a hash of the last logits, hexadecimal: equal for bit-identical runs.
    pub logits_hash: String,
    /// For a synthetic model: the speed of the whole one.
    pub estimate: Option<Estimate>,
}

/// The first forward pass after loading, which reads the weights into memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct First {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Milliseconds.
    pub ms: f64,
    pub tokens_per_s: f64,
}

/// Prompts of one length.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Prefill {
    /// Tokens of the prompt.
    pub tokens: usize,
    pub tokens_per_s: Spread,
    /// Bytes of weights read at least once, with experts chosen uniformly.
    pub weight_bytes: u64,
    /// Upper bound if memory-bound: the time to read these.
    pub memory_bound_tokens_per_s: f64,
}

/// Tokens one by one, after the first.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Decode {
    /// How many.
    pub tokens: usize,
    pub tokens_per_s: Spread,
    /// Bytes of weights read per token.
    pub weight_bytes: u64,
    /// Weights read per second at the median speed, in GB.
    pub gb_per_s: f64,
    /// That as a share of the memory bandwidth.
    pub memory_share: f64,
}

/// Experts that memory does not all hold: in the last run of decoding, and of each prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Experts {
    /// Slots of each layer.
    pub slots: usize,
    /// Share of the visits that found the expert in memory.
    pub hit_rate: f64,
    /// Experts that a token read from disk.
    pub misses_per_token: f64,
    /// Experts that it computed with in a smaller copy.
    pub cold_per_token: f64,
    /// Bytes that it read.
    pub bytes_per_token: f64,
    /// Bytes of the experts that it missed.
    pub missed_bytes_per_token: f64,
    /// What the disk gave while a pass waited for it, in GB/s.
    pub read_gb_per_s: f64,
    /// Share of the time that passes waited for it.
    pub reading_share: f64,
    /// In the first prompt, before anything was in memory.
    pub first: Prompts,
    /// In those of each length.
    pub prefill: Vec<Prompts>,
    /// Tokens per second that a plan with these hits predicts, see `fimd plan`.
    pub predicted_tokens_per_s: f64,
    /// What the disk gives when nothing else is done, in GB/s.
    pub disk_gb_per_s: f64,
}

/// Experts of a prompt.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Prompts {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Share of the experts that were in memory.
    pub hit_rate: f64,
    /// Bytes that were read meanwhile.
    pub bytes: u64,
    /// As a rate over all of its time, in GB/s.
    pub read_gb_per_s: f64,
}

/// A model on a GPU, in the last run of decoding and of each prompt.
#[derive(Clone, Debug, Serialize)]
pub struct OnGpu {
    pub gpu: Gpu,
    /// Experts of each layer that have a slot, of how many; both 0 without experts.
    pub slots: usize,
    pub experts: usize,
    /// Share of the visits that found the expert in its slot.
    pub hit_rate: f64,
    /// Experts of a decoded token that were copied to slots.
    pub copied_per_token: f64,
    /// Those of them that were copied from where they are, without being laid out first.
    pub in_place_per_token: f64,
    /// Bytes of a decoded token that the GPU reads of its memory, that come over the link, and that the CPU reads: of weights.
    pub gpu_bytes: f64,
    pub link_bytes: f64,
    pub cpu_bytes: f64,
    /// Tokens per second were there nothing but these bytes to move, at the measured bandwidths and the best division.
    pub bound_tokens_per_s: f64,
    /// The median speed as a share of that.
    pub bound_share: f64,
    /// Prompts of each length.
    pub prefill: Vec<GpuPrompts>,
}

/// Experts of a prompt on a GPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GpuPrompts {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Share of the visited experts that had a slot.
    pub hit_rate: f64,
    /// Bytes of experts that came over the link.
    pub link_bytes: f64,
}

/// A few more tokens of a prompt that is known, as a keystroke brings them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct More {
    /// Tokens of the prompt.
    pub context: usize,
    /// New ones.
    pub tokens: usize,
    /// Milliseconds to evaluate them.
    pub ms: Spread,
    /// Milliseconds to return to the state behind the prompt, and to evaluate one token there.
    pub back_ms: Spread,
}

/// What a smaller copy of experts changes: log-probabilities of the likeliest tokens of the model without it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fidelity {
    /// Tokens after which they were compared.
    pub tokens: usize,
    /// Mean absolute difference.
    pub mean_error_nats: f64,
    /// Share of the tokens after which the same one is the likeliest.
    pub top1_agreement: f64,
}

/// The speed of a deeper model: a line through the times at two depths.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Its layers.
    pub layers: usize,
    /// The depths measured.
    pub from_layers: [usize; 2],
    pub prefill: Vec<Estimated>,
    /// Writing tokens, in a second.
    pub decode_tokens_per_s: Spread,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Whether this machine's memory is larger than the file by the tenth that everything else needs.
    pub fits_memory: bool,
}

/// The estimated speed for prompts of one length.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimated {
    /// Tokens of the prompt.
    pub tokens: usize,
    pub tokens_per_s: Spread,
}

/// Markdown.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { model, machine, .. } = self;
        write!(f, "{}, {} layers", model.name, model.layers)?;
        if let Some(quant) = &model.quant {
            write!(f, ", random weights in {quant}")?;
        }
        if let Some(bytes) = model.file_bytes {
            write!(f, ", {}", gigabytes(bytes))?;
        }
        writeln!(f, "\n{}, {} cores, {}", machine.cpu, machine.cores, gigabytes(machine.memory_bytes))?;
        writeln!(
            f,
            "{} threads with {} kernels, which read {:.1} GB/s from memory\n",
            self.threads, self.kernels, self.memory_gb_per_s
        )?;

        table(f, &format!("{} layers", model.layers), self.runs)?;
        for prefill in &self.prefill {
            row(f, &format!("prefill, {} tokens", prefill.tokens), prefill.tokens_per_s)?;
        }
        row(f, &format!("decode, {} tokens", self.decode.tokens), self.decode.tokens_per_s)?;
        self.details(f)?;
        self.estimate.as_ref().map_or(Ok(()), |estimate| estimate.describe(f, self))
    }
}

impl Report {
    fn details(&self, f: &mut Formatter) -> fmt::Result {
        let Self { first, decode, .. } = self;
        writeln!(
            f,
            "\nA decoded token reads {} of weights: {:.1} GB/s, {:.0} % of what memory can do.",
            gigabytes(decode.weight_bytes),
            decode.gb_per_s,
            100.0 * decode.memory_share,
        )?;
        for prefill in &self.prefill {
            writeln!(
                f,
                "A prompt of {} reads at least {}: memory alone would allow {} tokens/s.",
                prefill.tokens,
                gigabytes(prefill.weight_bytes),
                figure(prefill.memory_bound_tokens_per_s),
            )?;
        }
        writeln!(
            f,
            "Loading took {:.0} ms, the first prompt ({} tokens) {:.0} ms ({} tokens/s).",
            self.load_ms,
            first.tokens,
            first.ms,
            figure(first.tokens_per_s),
        )?;
        if let Some(experts) = &self.experts {
            writeln!(
                f,
                "{} experts of each layer fit in memory; {:.1} % of the visits hit them. A token read {:.1} experts, {}, at \
                 {:.2} GB/s of {:.2} that the disk gives, which was {:.0} % of its time; a plan with these hits predicts {} \
                 tokens/s.",
                experts.slots,
                100.0 * experts.hit_rate,
                experts.misses_per_token,
                gigabytes(experts.bytes_per_token as u64),
                experts.read_gb_per_s,
                experts.disk_gb_per_s,
                100.0 * experts.reading_share,
                figure(experts.predicted_tokens_per_s),
            )?;
            let first = ("The first prompt", &experts.first);
            let prompts = experts.prefill.iter().map(|prompts| ("A prompt", prompts));
            for (what, Prompts { tokens, hit_rate, bytes, read_gb_per_s }) in
                std::iter::once(first).chain(prompts)
            {
                writeln!(
                    f,
                    "{what} of {tokens} found {:.1} % of its experts in memory and read {} in all, at {read_gb_per_s:.2} GB/s.",
                    100.0 * hit_rate,
                    gigabytes(*bytes),
                )?;
            }
        }
        if let Some(on_gpu) = &self.on_gpu {
            let OnGpu { gpu, slots, experts, hit_rate, gpu_bytes, link_bytes, cpu_bytes, .. } = on_gpu;
            writeln!(
                f,
                "On {}, whose memory copies {:.0} GB/s, with a link of {:.1} GB/s: {slots} of {experts} experts of each layer \
                 have a slot; {:.1} % of the visits hit them. For a token it reads {}, {} come over the link, and the CPU reads {}: \
                 bandwidths alone would allow {} tokens/s, of which {:.0} % are reached.",
                gpu.name,
                gpu.memory_gb_per_s,
                gpu.link_gb_per_s,
                100.0 * hit_rate,
                gigabytes(*gpu_bytes as u64),
                gigabytes(*link_bytes as u64),
                gigabytes(*cpu_bytes as u64),
                figure(on_gpu.bound_tokens_per_s),
                100.0 * on_gpu.bound_share,
            )?;
            for GpuPrompts { tokens, hit_rate, link_bytes } in &on_gpu.prefill {
                let (percent, bytes) = (100.0 * hit_rate, gigabytes(*link_bytes as u64));
                writeln!(
                    f,
                    "A prompt of {tokens} found {percent:.1} % of its experts in slots; {bytes} came over the link."
                )?;
            }
        }
        if let Some(More { context, tokens, ms, back_ms }) = &self.more {
            writeln!(
                f,
                "{tokens} more tokens after {context} known ones took {:.2} ms ({:.2} to {:.2}); returning to those, and one token, \
                 {:.2} ms ({:.2} to {:.2}).",
                ms.median, ms.min, ms.max, back_ms.median, back_ms.min, back_ms.max
            )?;
        }
        if let (Some(experts), Some(fidelity)) = (&self.experts, &self.fidelity) {
            writeln!(
                f,
                "A token computed with {:.1} experts in their smaller copy. Beside the model without it, after {} tokens: mean \
                 error of a log-probability {:.4} nats, the likeliest token the same in {:.1} %.",
                experts.cold_per_token,
                fidelity.tokens,
                fidelity.mean_error_nats,
                100.0 * fidelity.top1_agreement,
            )?;
        }
        if let Some(bytes) = self.peak_memory_bytes {
            writeln!(f, "Peak memory {}.", gigabytes(bytes))?;
        }
        writeln!(f, "Hash of the last logits: {}", self.logits_hash)
    }
}

impl Estimate {
    fn describe(&self, f: &mut Formatter, report: &Report) -> fmt::Result {
        writeln!(f)?;
        table(f, &format!("all {} layers, estimated", self.layers), report.runs)?;
        for prefill in &self.prefill {
            row(f, &format!("prefill, {} tokens", prefill.tokens), prefill.tokens_per_s)?;
        }
        row(f, "decode", self.decode_tokens_per_s)?;
        let [shallow, deep] = self.from_layers;
        writeln!(
            f,
            "\nThe estimate is a line, time = a + b x layers, through the times at {shallow} and {deep} layers. It \
             holds where the whole model stays in memory: {}.",
            gigabytes(self.file_bytes)
        )?;
        if !self.fits_memory {
            writeln!(
                f,
                "This machine has {}, too little for the file and a tenth more: experts would come from disk, and \
                 all would be much slower than estimated.",
                gigabytes(report.machine.memory_bytes)
            )?;
        }
        Ok(())
    }
}

fn table(f: &mut Formatter, what: &str, runs: usize) -> fmt::Result {
    let range = if runs > 1 { format!("range of {runs} runs") } else { "one run".into() };
    writeln!(f, "| {what} | tokens/s | {range} |\n|---|---:|---:|")
}

fn row(f: &mut Formatter, what: &str, speed: Spread) -> fmt::Result {
    let Spread { median, min, max } = speed;
    writeln!(f, "| {what} | {} | {} to {} |", figure(median), figure(min), figure(max))
}

/// Three digits, or all there are before the point.
fn figure(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Decimal units, three digits.
fn gigabytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes < 1e9 { format!("{} MB", figure(bytes / 1e6)) } else { format!("{} GB", figure(bytes / 1e9)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in
            [(0.1234, "0.12"), (9.876, "9.88"), (38.61, "38.6"), (131.4, "131"), (2606.0, "2606")]
        {
            assert_eq!(figure(value), text);
        }
        assert_eq!(gigabytes(391_000_000), "391 MB");
        assert_eq!(gigabytes(48_400_000_000), "48.4 GB");
    }
}
