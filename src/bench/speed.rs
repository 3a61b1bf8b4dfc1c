//! `fimd bench speed`: prefill and decode speed of a model.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::fit::{self, Depth, Spread};
use super::gpu::Gpu;
use super::machine::{self, Machine};
use super::plan::{self, Rates, Sizes};
use super::report::{
    Decode, Estimate, Estimated, Experts, Fidelity, First, GpuPrompts, More, OnGpu, Prefill, Prompts, Report,
    Subject,
};
use super::synthetic::Routing;
use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::compute::experts::DeviceVisits;
use crate::compute::logits::LogitForm;
use crate::decode::sample::{argmax, log_softmax};
use crate::model::WeightBytes;
use crate::model::experts::store::ExpertUsage;
use crate::session::Session;

/// Options of the benchmark.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Prompt lengths, in tokens; at least one.
    pub prompts: Vec<usize>,
    /// Tokens to decode, at least one.
    pub generate: usize,
    /// Repetitions of each measurement, at least one.
    pub runs: usize,
    /// What decides which tokens there are.
    pub routing: Routing,
    /// More tokens of a known prompt that are measured, too; 0 for none.
    pub more: usize,
}

/// Threads and kernels, for the report.
#[derive(Clone, Debug)]
pub struct Engine {
    pub threads: usize,
    /// Name of the kernels.
    pub kernels: String,
    /// Where the model is to run on a GPU: that, and how large the model is.
    pub gpu: Option<(Gpu, Sizes)>,
}

/// A model of which this one has the first layers.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    pub layers: usize,
    /// Size of its file, in bytes.
    pub file_bytes: u64,
    /// A smaller depth with the same mix of layers, measured too.
    pub shallow: usize,
}

/// Measures the model that `open` opens with a number of layers: all that `subject` has, then, to estimate a larger
/// model, fewer. Where its experts do not all fit in memory, what `plan` says of it and of the machine predicts its speed.
/// `say` reports progress.
///
/// Fails when a prompt exceeds the context, and when logits are not finite.
pub fn run<B: Backend>(
    subject: Subject,
    workload: &Workload,
    whole: Option<Whole>,
    engine: Engine,
    Open { model: open, exact }: Open<
        impl Fn(usize) -> Result<Session<B>>,
        impl FnOnce() -> Result<Session<B>>,
    >,
    plan: impl FnOnce() -> Result<(Sizes, Rates)>,
    say: &dyn Fn(String),
) -> Result<Report> {
    say(format!("loading {}", subject.name));
    let started = Instant::now();
    let mut session = open(subject.layers)?;
    let load_ms = milliseconds(started.elapsed());
    ensure!(
        engine.gpu.is_none() || session.model().is_on_device(),
        "the model does not run on the GPU; the log says why (FIMD_LOG=info)"
    );
    let deep = measure(&mut session, workload, say)?;
    let weights = session.model().weight_bytes();
    // Before another session is opened.
    let peak_memory_bytes = machine::peak_memory();
    let is_cold = deep.experts.as_ref().is_some_and(|usage| usage.decode.cold > 0);
    let mixed = if is_cold { Some(decoded(&mut session, workload, say)?) } else { None };
    drop(session);
    let fidelity = match mixed {
        Some(mixed) => Some(compare(&mixed, &mut exact()?, workload, say)?),
        None => None,
    };

    let shallow = match whole {
        Some(whole) if whole.layers > subject.layers => {
            say(format!("loading {} layers", whole.shallow));
            Some((whole, measure(&mut open(whole.shallow)?, workload, say)?))
        }
        _ => None,
    };
    say("measuring what the machine can do".into());
    let experts = match &deep.experts {
        Some(usage) => Some(experts(usage, workload, &deep, &weights, plan()?)),
        None => None,
    };
    let bandwidth = machine::bandwidth(engine.threads);
    let machine = Machine::read();
    let estimate = shallow.map(|(whole, shallow)| {
        let depths = [(whole.shallow, &shallow), (subject.layers, &deep)];
        estimate(depths, whole, workload, machine.memory_bytes)
    });
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        threads: engine.threads,
        kernels: engine.kernels,
        memory_gb_per_s: bandwidth / 1e9,
        runs: workload.runs,
        load_ms,
        first: First {
            tokens: deep.first_tokens,
            ms: deep.first_ms,
            tokens_per_s: deep.first_tokens as f64 / deep.first_ms * 1e3,
        },
        prefill: prefill(workload, &deep, &weights, bandwidth),
        decode: decode(workload, &deep, &weights, bandwidth),
        experts,
        on_gpu: engine.gpu.map(|(gpu, sizes)| on_gpu(gpu, &sizes, workload, &deep)),
        more: deep.more.map(|(context, ms, back_ms)| More { context, tokens: workload.more, ms, back_ms }),
        fidelity,
        peak_memory_bytes,
        logits_hash: format!("{:016x}", deep.logits_hash),
        estimate,
        model: subject,
    })
}

/// How sessions are opened.
pub struct Open<F, G> {
    /// The model that is measured, with a number of layers.
    pub model: F,
    /// The same whole, with every expert in its own type, where the one that is measured has a smaller copy of them.
    pub exact: G,
}

/// Times at one depth.
struct Measured {
    first_tokens: usize,
    first_ms: f64,
    /// One for each prompt length.
    prefill_ms: Vec<Spread>,
    /// Of one token.
    decode_ms: Spread,
    logits_hash: u64,
    /// Where experts do not all fit in memory.
    experts: Option<Usage>,
    /// Where a GPU has some of them: in the last run of each prompt length, and of decoding.
    visits: Option<(Vec<DeviceVisits>, DeviceVisits)>,
    /// Tokens of a known prompt, and milliseconds of more tokens, and of returning to it.
    more: Option<(usize, Spread, Spread)>,
}

/// What a run did with experts, in memory of the host and on a device.
type Used = (ExpertUsage, DeviceVisits);

/// What was done with experts.
struct Usage {
    /// In the first prompt.
    first: ExpertUsage,
    /// In the last run of each prompt length.
    prefill: Vec<ExpertUsage>,
    /// In the last run of decoding.
    decode: ExpertUsage,
}

/// The seed of prompts and continuations.
const SEED: u64 = 0;

/// Evaluates the longest prompt once, which reads the weights into memory, then prefill of all prompts and decode in
/// turns, each from an empty session. Where experts do not all fit in memory, every run has tokens of its own: the
/// experts of those before are no longer those that are needed.
fn measure<B: Backend>(
    session: &mut Session<B>,
    workload: &Workload,
    say: &dyn Fn(String),
) -> Result<Measured> {
    let tokens = workload.routing.tokens(session.model().config().vocab);
    let is_tiered = session.usage().experts.is_some();
    let has_slots = session.usage().device_experts.is_some();
    let mut seed = SEED;
    let mut draw = |len| {
        seed += u64::from(is_tiered || has_slots);
        tokens.take(seed, len)
    };
    let first_tokens = workload.prompts.iter().copied().max().unwrap_or(1);
    say(format!("first pass, {first_tokens} tokens"));
    let (first_ms, (first, _)) = used(session, |session| prefill_ms(session, &draw(first_tokens)))?;

    let mut prefill: Vec<Vec<f64>> = vec![Vec::new(); workload.prompts.len()];
    let mut decode = Vec::new();
    let mut experts = Usage { first, prefill: Vec::new(), decode: ExpertUsage::default() };
    let mut visits = (Vec::new(), DeviceVisits::default());
    let known = first_tokens.min(session.context().saturating_sub(workload.more + 1));
    let mut more = (Vec::new(), Vec::new());
    for run in 1..=workload.runs {
        experts.prefill.clear();
        visits.0.clear();
        for (&len, times) in workload.prompts.iter().zip(&mut prefill) {
            say(format!("run {run} of {}: prefill, {len} tokens", workload.runs));
            let (ms, (usage, on_device)) = used(session, |session| prefill_ms(session, &draw(len)))?;
            times.push(ms);
            experts.prefill.push(usage);
            visits.0.push(on_device);
        }
        if workload.more > 0 {
            say(format!("run {run} of {}: {} more tokens", workload.runs, workload.more));
            let (ms, back_ms) = more_ms(session, &draw(known + workload.more + 1), known)?;
            more.0.push(ms);
            more.1.push(back_ms);
        }
        say(format!("run {run} of {}: decode", workload.runs));
        let (ms, (usage, on_device)) =
            used(session, |session| decode_ms(session, &draw(workload.generate + 1)))?;
        decode.push(ms);
        experts.decode = usage;
        visits.1 = on_device;
    }
    ensure!(
        session.logits().iter().all(|logit| logit.is_finite()),
        "the model's logits are not finite: its weights hold NaN or overflow"
    );
    Ok(Measured {
        first_tokens,
        first_ms,
        prefill_ms: prefill.into_iter().map(Spread::of).collect(),
        decode_ms: Spread::of(decode),
        experts: is_tiered.then_some(experts),
        visits: has_slots.then_some(visits),
        more: (workload.more > 0).then(|| (known, Spread::of(more.0), Spread::of(more.1))),
        logits_hash: fnv1a(session.logits().iter().flat_map(|logit| logit.to_le_bytes())),
    })
}

/// The result of `work`, and what it did with experts.
fn used<B: Backend>(
    session: &mut Session<B>,
    work: impl FnOnce(&mut Session<B>) -> Result<f64>,
) -> Result<(f64, Used)> {
    let used = |session: &Session<B>| {
        let usage = session.usage();
        (usage.experts.unwrap_or_default(), usage.device_experts.unwrap_or_default())
    };
    let before = used(session);
    let result = work(session)?;
    let after = used(session);
    Ok((result, (after.0.since(&before.0), after.1.since(&before.1))))
}

/// Milliseconds to evaluate `prompt` in an empty session.
pub(super) fn prefill_ms<B: Backend>(session: &mut Session<B>, prompt: &[u32]) -> Result<f64> {
    session.reset();
    let started = Instant::now();
    session.sync(prompt, &[], &Cancel::new())?;
    Ok(milliseconds(started.elapsed()))
}

/// Milliseconds to evaluate all but the last of `tokens` where `known` of them are evaluated already; and to return to those and
/// evaluate the last.
fn more_ms<B: Backend>(session: &mut Session<B>, tokens: &[u32], known: usize) -> Result<(f64, f64)> {
    session.reset();
    session.sync(&tokens[..known], &[], &Cancel::new())?;
    let timed = |session: &mut Session<B>, tokens: &[u32]| {
        let started = Instant::now();
        session.sync(tokens, &[], &Cancel::new())?;
        anyhow::Ok(milliseconds(started.elapsed()))
    };
    let more = timed(session, &tokens[..tokens.len() - 1])?;
    let back = [&tokens[..known], &tokens[tokens.len() - 1..]].concat();
    Ok((more, timed(session, &back)?))
}

/// Mean time per token after the first of `tokens`, in milliseconds. The tokens are fixed, so that the work does not
/// depend on rounding of logits.
pub(super) fn decode_ms<B: Backend>(session: &mut Session<B>, tokens: &[u32]) -> Result<f64> {
    session.reset();
    session.sync(&tokens[..1], &[], &Cancel::new())?;
    let started = Instant::now();
    for end in 2..tokens.len() {
        session.sync_as(LogitForm::Top, &tokens[..end], &[], &Cancel::new())?;
    }
    session.sync(tokens, &[], &Cancel::new())?;
    Ok(milliseconds(started.elapsed()) / (tokens.len() - 1) as f64)
}

/// The seed of the tokens whose logits are compared.
const COMPARED_SEED: u64 = 1 << 32;

fn compared_tokens<B: Backend>(session: &Session<B>, workload: &Workload) -> Vec<u32> {
    workload.routing.tokens(session.model().config().vocab).take(COMPARED_SEED, workload.generate)
}

/// Log-probabilities after each of some tokens, evaluated one after the other.
fn decoded<B: Backend>(
    session: &mut Session<B>,
    workload: &Workload,
    say: &dyn Fn(String),
) -> Result<Vec<Vec<f32>>> {
    say("comparing, with the smaller copy".into());
    session.reset();
    let tokens = compared_tokens(session, workload);
    let after = |end| {
        session.sync(&tokens[..end], &[], &Cancel::new())?;
        Ok(logprobs(session.logits()))
    };
    (1..=tokens.len()).map(after).collect()
}

/// What the smaller copy of experts changes: `mixed` are log-probabilities with it.
fn compare<B: Backend>(
    mixed: &[Vec<f32>],
    exact: &mut Session<B>,
    workload: &Workload,
    say: &dyn Fn(String),
) -> Result<Fidelity> {
    say("comparing, without it".into());
    let tokens = compared_tokens(exact, workload);
    let (mut deltas, mut agreeing) = (Vec::new(), 0);
    exact.for_each_logits(&tokens, |i, logits| {
        let exact = logprobs(logits);
        let likeliest = argmax(&exact);
        let best = likeliest as usize;
        deltas.push(f64::from((mixed[i][best] - exact[best]).abs()));
        agreeing += usize::from(argmax(&mixed[i]) == likeliest);
    })?;
    let count = deltas.len().max(1) as f64;
    Ok(Fidelity {
        tokens: deltas.len(),
        mean_error_nats: deltas.iter().sum::<f64>() / count,
        top1_agreement: agreeing as f64 / count,
    })
}

fn logprobs(logits: &[f32]) -> Vec<f32> {
    let mut logprobs = logits.to_vec();
    log_softmax(&mut logprobs);
    logprobs
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn prefill(workload: &Workload, measured: &Measured, weights: &WeightBytes, bandwidth: f64) -> Vec<Prefill> {
    let prompts = workload.prompts.iter().zip(&measured.prefill_ms);
    prompts
        .map(|(&tokens, ms)| {
            let weight_bytes = weights.read_by(tokens);
            Prefill {
                tokens,
                tokens_per_s: ms.rate(1e3 * tokens as f64),
                weight_bytes,
                memory_bound_tokens_per_s: tokens as f64 / (weight_bytes as f64 / bandwidth),
            }
        })
        .collect()
}

fn decode(workload: &Workload, measured: &Measured, weights: &WeightBytes, bandwidth: f64) -> Decode {
    let tokens_per_s = measured.decode_ms.rate(1e3);
    let weight_bytes = weights.read_by(1);
    let bytes_per_s = tokens_per_s.median * weight_bytes as f64;
    Decode {
        tokens: workload.generate,
        tokens_per_s,
        weight_bytes,
        gb_per_s: bytes_per_s / 1e9,
        memory_share: bytes_per_s / bandwidth,
    }
}

fn experts(
    usage: &Usage,
    workload: &Workload,
    measured: &Measured,
    weights: &WeightBytes,
    (sizes, rates): (Sizes, Rates),
) -> Experts {
    let Usage { first, prefill, decode } = usage;
    let tokens = (decode.tokens as f64).max(1.0);
    let misses = decode.misses() as f64 / tokens;
    let visited_bytes = weights.experts as f64 * weights.experts_visited;
    let visits = decode.visits as f64 / tokens;
    // A copy that does not fit is not used.
    let cold_bytes = if decode.cold > 0 { sizes.cold_bytes } else { 0 };
    let sizes = Sizes { cold_bytes, ..sizes };
    let prompts = |tokens, usage: &ExpertUsage, ms| Prompts {
        tokens,
        hit_rate: usage.hit_rate(),
        bytes: usage.fetched_bytes + usage.background_bytes,
        read_gb_per_s: (usage.fetched_bytes + usage.background_bytes) as f64 / ms / 1e6,
    };
    let lengths = workload.prompts.iter().zip(prefill).zip(&measured.prefill_ms);
    Experts {
        slots: decode.slots,
        hit_rate: decode.hit_rate(),
        misses_per_token: misses,
        cold_per_token: decode.cold as f64 / tokens,
        bytes_per_token: decode.bytes_per_token(),
        missed_bytes_per_token: visited_bytes * misses / visits.max(1.0),
        read_gb_per_s: decode.fetch_rate() / 1e9,
        reading_share: decode.fetch_ns as f64 / 1e6 / tokens / measured.decode_ms.median,
        first: prompts(measured.first_tokens, first, measured.first_ms),
        prefill: lengths.map(|((&tokens, usage), ms)| prompts(tokens, usage, ms.median)).collect(),
        predicted_tokens_per_s: plan::speed(&sizes, &rates, decode.hit_rate()).tokens_per_s,
        disk_gb_per_s: rates.disk_per_s / 1e9,
    }
}

fn on_gpu(gpu: Gpu, sizes: &Sizes, workload: &Workload, measured: &Measured) -> OnGpu {
    let experts: usize = sizes.layers.iter().map(|layer| layer.experts).sum();
    let record_bytes = sizes.expert_bytes() as f64 / (experts as f64).max(1.0);
    let of_layer = sizes.layers.first().map_or(0, |layer| layer.experts);
    // With the first token.
    let tokens = workload.generate as u64 + 1;
    let all_visits = tokens * sizes.layers.iter().map(|layer| layer.top_k as u64).sum::<u64>();
    // Where none is missing, none is counted.
    let all =
        DeviceVisits { slots: of_layer, visits: all_visits, hits: all_visits, ..DeviceVisits::default() };
    let (prefill, decode) =
        measured.visits.clone().unwrap_or_else(|| (vec![all; workload.prompts.len()], all));
    let DeviceVisits { slots, visits, hits, copied, in_place, .. } = decode;
    let of_token = |experts: u64| experts as f64 / tokens as f64;
    // A dense model reads all it has.
    let hit_rate = if visits == 0 { 1.0 } else { decode.hit_rate() };
    let bound_tokens_per_s = 1.0 / gpu.bound_s(sizes, hit_rate);
    let prompts = workload.prompts.iter().zip(prefill).map(|(&tokens, visits)| GpuPrompts {
        tokens,
        hit_rate: visits.hit_rate(),
        link_bytes: (visits.copied + visits.streamed) as f64 * record_bytes,
    });
    OnGpu {
        slots,
        experts: of_layer,
        hit_rate,
        copied_per_token: of_token(copied),
        in_place_per_token: of_token(in_place),
        gpu_bytes: (sizes.trunk_bytes - sizes.lookup_bytes) as f64 + of_token(hits + copied) * record_bytes,
        link_bytes: of_token(copied) * record_bytes,
        cpu_bytes: of_token(visits.saturating_sub(hits + copied)) * record_bytes,
        bound_tokens_per_s,
        bound_share: 1e3 / measured.decode_ms.median / bound_tokens_per_s,
        prefill: prompts.collect(),
        gpu,
    }
}

fn estimate(
    depths: [(usize, &Measured); 2],
    whole: Whole,
    workload: &Workload,
    memory_bytes: u64,
) -> Estimate {
    let at = |ms: &dyn Fn(&Measured) -> Spread| {
        let [shallow, deep] = depths.map(|(layers, measured)| Depth { layers, ms: ms(measured) });
        fit::extrapolate(shallow, deep, whole.layers)
    };
    let prefill = |(i, &tokens): (usize, &usize)| {
        let ms = at(&|measured| measured.prefill_ms[i]);
        Estimated { tokens, tokens_per_s: ms.rate(1e3 * tokens as f64) }
    };
    Estimate {
        layers: whole.layers,
        from_layers: depths.map(|(layers, _)| layers),
        prefill: workload.prompts.iter().enumerate().map(prefill).collect(),
        decode_tokens_per_s: at(&|measured| measured.decode_ms).rate(1e3),
        file_bytes: whole.file_bytes,
        fits_memory: whole.file_bytes as f64 * 1.1 < memory_bytes as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_published_ones() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text.bytes()), hash, "{text:?}");
        }
    }
}
