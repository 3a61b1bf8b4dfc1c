//! Models whose experts do not all fit their memory.

mod cold;
#[cfg(unix)]
mod faults;

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use fimd::base::Cancel;
use fimd::bench::plan::Rates;
use fimd::bench::report::Subject;
use fimd::bench::sizes;
use fimd::bench::speed::{self, Engine, Open, Workload};
use fimd::bench::synthetic::Routing;
use fimd::compute::cpu::Cpu;
use fimd::compute::cuda::{Cuda, probe};
use fimd::compute::experts::Ranking;
use fimd::compute::{Backend, Precision};
use fimd::format::ModelDir;
use fimd::hub::quantize::Plan;
use fimd::model::experts::store::ExpertUsage;
use fimd::model::experts::tiers::Tiers;
use fimd::model::experts::trace::{LayerHeader, Recorder, Trace};
use fimd::model::experts::{Budget, ExpertOptions};
use fimd::model::export::Recipe;
use fimd::model::{Config, Model, ModelOptions, layout};
use fimd::session::{DeviceFailure, Session};
use tempfile::TempDir;

use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::{gpu, load, tiny};

const LAYERS: [&str; 8] = [
    "linear_attention",
    "full_attention",
    "linear_attention",
    "full_attention",
    "linear_attention",
    "linear_attention",
    "linear_attention",
    "full_attention",
];
const EXPERTS: usize = 48;
const TOP_K: usize = 2;
/// Gate, up and down of an expert, in f32.
const RECORD_BYTES: usize = 3 * 16 * 264 * 4;
const WEIGHTS: &str = "model.safetensors";

fn folder() -> TempDir {
    tiny::folder_with(&LAYERS, EXPERTS)
}

/// What holds `slots` slots of each layer.
fn budget(dir: &ModelDir, slots: usize) -> u64 {
    let trunk = layout::trunk_bytes(dir, &Config::read(dir).unwrap());
    let layer = LayerHeader { experts: EXPERTS, top_k: TOP_K, record_bytes: RECORD_BYTES };
    let layers = [layer; LAYERS.len()];
    let least = Tiers::divide(0, trunk, &layers).unwrap_err().needed;
    least + ((slots - 2 * TOP_K) * LAYERS.len() * RECORD_BYTES) as u64
}

fn open(path: &Path, slots: usize) -> Result<Session<Cpu>> {
    let dir = ModelDir::open(path).unwrap();
    let budget = Budget::Given(budget(&dir, slots));
    open_with(path, ExpertOptions { budget, ..ExpertOptions::MAPPED })
}

fn open_with(path: &Path, experts: ExpertOptions) -> Result<Session<Cpu>> {
    let dir = ModelDir::open(path)?;
    let options = ModelOptions { experts, ..load::options(512, 64) };
    let backend = Cpu::new(load::cpu(2, 16, Precision::F32));
    Ok(load::session(Model::load(&dir, Config::read(&dir)?, options, backend)?))
}

fn prompt(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 7 + i * seed + seed) % 256) as u32).collect()
}

/// Logits after prompts of several lengths, some of them after tokens that are known.
fn logits(session: &mut Session<Cpu>) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for (len, seed) in [(1, 1), (70, 2), (3, 3), (130, 4)] {
        let mut tokens = prompt(len, seed);
        for _ in 0..3 {
            session.sync(&tokens, &[], &Cancel::new()).unwrap();
            all.push(session.logits().to_vec());
            tokens.push(all.len() as u32);
        }
    }
    all
}

fn usage<B: Backend>(session: &Session<B>) -> ExpertUsage {
    session.usage().experts.expect("the model does not fit")
}

/// Waits until nothing is read in the background any more.
fn settle<B: Backend>(session: &Session<B>) -> ExpertUsage {
    let started = Instant::now();
    let mut before = usage(session);
    loop {
        thread::sleep(Duration::from_millis(400));
        let now = usage(session);
        if now.background_bytes == before.background_bytes && now.background_bytes > 0 {
            return now;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{now:?}");
        before = now;
    }
}

#[test]
fn a_prompt_is_one_sweep_where_experts_are_read() {
    let dir = folder();
    let batch_max = |experts: ExpertOptions| {
        let options = ModelOptions { experts, sweep_max: 256, ..load::options(512, 64) };
        let opened = ModelDir::open(dir.path()).unwrap();
        let config = Config::read(&opened).unwrap();
        let backend = Cpu::new(load::cpu(1, 16, Precision::F32));
        Model::load(&opened, config, options, backend).unwrap().options().batch_max
    };
    let slots = Budget::Given(budget(&ModelDir::open(dir.path()).unwrap(), 8));
    assert_eq!(batch_max(ExpertOptions::MAPPED), 64);
    assert_eq!(batch_max(ExpertOptions { budget: slots, ..ExpertOptions::MAPPED }), 256);
}

#[test]
fn a_benchmark_says_what_was_read_and_what_a_plan_predicts() {
    let dir = folder();
    let subject = Subject { name: "tiny".into(), path: None, layers: 8, quant: None, file_bytes: None };
    let workload = Workload { prompts: vec![16], generate: 6, runs: 2, routing: Routing::Uniform, more: 0 };
    let engine = Engine { threads: 2, kernels: "portable".into(), gpu: None };
    let open = |_| open(dir.path(), 8);
    let plan = || {
        let dir = ModelDir::open(dir.path())?;
        let (sizes, _) = sizes::of_files(&dir, &Config::read(&dir)?)?;
        Ok((sizes, Rates { weights_per_s: 1e9, macs_per_s: 1e9, disk_per_s: 1e9, cold_per_s: 1e9 }))
    };
    let report = speed::run(
        subject,
        &workload,
        None,
        engine,
        Open { model: open, exact: || unreachable!("there is no smaller copy") },
        plan,
        &|_| (),
    )
    .unwrap();
    let experts = report.experts.as_ref().unwrap();
    assert_eq!((experts.slots, experts.first.tokens, experts.prefill.len()), (8, 16, 1));
    let missed = experts.misses_per_token * RECORD_BYTES as f64;
    assert!((experts.bytes_per_token / missed - 1.0).abs() < 0.01, "{experts:?}");
    assert!(experts.hit_rate > 0.0 && experts.hit_rate < 0.9, "runs have tokens of their own: {experts:?}");
    assert!(experts.first.bytes > 0 && experts.predicted_tokens_per_s > 0.0);
    let text = report.to_string();
    assert!(
        text.contains("a plan with these hits predicts") && text.contains("The first prompt of 16 found")
    );
}

#[test]
fn results_are_the_same_wherever_experts_are() {
    let dir = folder();
    let mut mapped = open_with(dir.path(), ExpertOptions::MAPPED).unwrap();
    assert_eq!(mapped.usage().experts, None);
    let expected = logits(&mut mapped);
    for slots in [2 * TOP_K, 20] {
        let mut session = open(dir.path(), slots).unwrap();
        assert_eq!(usage(&session).slots, slots);
        for (i, (found, expected)) in logits(&mut session).iter().zip(&expected).enumerate() {
            assert!(
                found == expected,
                "{slots} slots, logits {i}: {}",
                crate::reference::distance(found, expected)
            );
        }
        let used = usage(&session);
        assert!(used.hits > 0 && used.visits > used.hits && used.fetched_bytes > 0, "{used:?}");
        let misses = used.visits - used.hits - used.ahead;
        assert!(
            used.fetched_bytes <= misses * RECORD_BYTES as u64,
            "only misses are read, each once: {used:?}"
        );
    }
    let whole = ExpertOptions { budget: Budget::Given(1 << 40), ..ExpertOptions::MAPPED };
    assert_eq!(open_with(dir.path(), whole).unwrap().usage().experts, None, "what fits is mapped");
}

#[test]
fn a_gpu_copies_experts_from_their_slots() {
    child::with_driver(PRODUCT, &[("LATE_US", "100")], || {
        let folder = folder();
        let mut exact = open_with(folder.path(), ExpertOptions::MAPPED).unwrap();
        probe::probe().unwrap();
        let dir = ModelDir::open(folder.path()).unwrap();
        let cpu = load::cpu(1, 16, Precision::F32);
        let backend = Cuda::new(gpu::options_with(3, Precision::F32, Precision::F32, cpu)).unwrap();
        let budget =
            Budget::Given(budget(&dir, 30) - layout::trunk_bytes(&dir, &Config::read(&dir).unwrap()));
        let experts = ExpertOptions { budget, is_on_device: true, ..ExpertOptions::MAPPED };
        let options = ModelOptions { experts, ..load::options(512, 64) };
        let model = Model::load(&dir, Config::read(&dir).unwrap(), options, backend).unwrap();
        let mut session = load::session(model);
        assert_eq!(usage(&session).slots, 30);
        for round in 0..100 {
            let tokens = prompt(20, round);
            exact.sync(&tokens, &[], &Cancel::new()).unwrap();
            session.sync(&tokens, &[], &Cancel::new()).unwrap();
            let error = crate::reference::distance(exact.logits(), session.logits());
            assert!(error < 1e-3, "round {round}: {error}");
            if session.model().expert_visits().unwrap().in_place > 3 {
                return;
            }
        }
        panic!("{:?}", session.model().expert_visits());
    });
}

#[test]
fn scales_come_along() {
    for case in ["fp8", "qwen3_moe_fp8"] {
        let dir = ModelDir::open(&crate::reference::folder(case)).unwrap();
        let config = Config::read(&dir).unwrap();
        // Three experts of each layer cannot be fewer than two tokens visit.
        let refused = ExpertOptions { budget: Budget::Given(1), ..ExpertOptions::MAPPED };
        let options = ModelOptions { experts: refused, ..load::options(256, 256) };
        let backend = || Cpu::new(load::cpu(1, 16, Precision::F32));
        let error = Model::load(&dir, config, options, backend()).err().unwrap().to_string();
        assert!(error.contains("are too few for this model") && error.contains("--ram-budget"), "{error}");
    }
}

#[test]
fn free_memory_that_holds_too_little_is_no_error() {
    let dir = folder();
    let free = ExpertOptions { budget: Budget::Free(1), ..ExpertOptions::MAPPED };
    assert_eq!(open_with(dir.path(), free).unwrap().usage().experts, None);
}

#[test]
fn a_long_prompt_leaves_most_of_the_cache_and_reads_an_expert_once() {
    let dir = folder();
    let mut session = open(dir.path(), 24).unwrap();
    settle(&session);
    let before = usage(&session);
    session.sync(&prompt(60, 5), &[], &Cancel::new()).unwrap();
    let used = usage(&session).since(&before);
    assert!(used.visits <= (LAYERS.len() * EXPERTS) as u64 && used.tokens == 60, "{used:?}");
    assert!(used.hits > 0 && used.ahead > 0, "slots were filled, and the next layer is read ahead: {used:?}");
}

#[test]
fn a_cancelled_prompt_changes_nothing() {
    let dir = folder();
    let mut session = open(dir.path(), 8).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(session.sync(&prompt(60, 5), &[], &cancel).unwrap().cancelled);
    let mut mapped = open_with(dir.path(), ExpertOptions::MAPPED).unwrap();
    for session in [&mut session, &mut mapped] {
        session.sync(&prompt(60, 5), &[], &Cancel::new()).unwrap();
    }
    assert_eq!(session.logits(), mapped.logits());
}

#[test]
fn a_truncated_file_is_an_error() {
    for slots in [None, Some(8)] {
        let dir = folder();
        let budget = slots.map(|slots| Budget::Given(budget(&ModelDir::open(dir.path()).unwrap(), slots)));
        let budget = budget.unwrap_or(Budget::Unlimited);
        let open = || open_with(dir.path(), ExpertOptions { budget, ..ExpertOptions::MAPPED });
        let mut session = open().unwrap();
        session.sync(&prompt(10, 1), &[], &Cancel::new()).unwrap();
        let expected = session.logits().to_vec();
        let path = dir.path().join(WEIGHTS);
        let bytes = fs::read(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64 / 2).unwrap();
        let error = session.sync(&prompt(60, 2), &[], &Cancel::new()).unwrap_err();
        assert!(error.is::<DeviceFailure>());
        assert!(format!("{error:#}").contains("truncated"), "{error:#}");
        assert!(open().is_err());
        fs::write(&path, bytes).unwrap();
        let mut session = open().unwrap();
        session.sync(&prompt(10, 1), &[], &Cancel::new()).unwrap();
        assert_eq!(session.logits(), expected);
    }
}

#[test]
fn a_replaced_file_is_the_old_one_until_it_is_loaded() {
    let dir = folder();
    let mut session = open(dir.path(), 8).unwrap();
    let path = dir.path().join(WEIGHTS);
    let other = dir.path().join("other");
    fs::write(&other, [1; 1000]).unwrap();
    let old = dir.path().join("old");
    fs::hard_link(&path, &old).unwrap();
    fs::rename(&other, &path).unwrap();
    session.sync(&prompt(60, 2), &[], &Cancel::new()).unwrap();
    let found = session.logits().to_vec();
    fs::rename(&old, &path).unwrap();
    let mut mapped = open_with(dir.path(), ExpertOptions::MAPPED).unwrap();
    mapped.sync(&prompt(60, 2), &[], &Cancel::new()).unwrap();
    assert_eq!(found, mapped.logits());
}

#[test]
fn what_was_useful_is_read_again_after_a_restart() {
    let dir = folder();
    let remembered = tempfile::tempdir().unwrap();
    let open = || {
        let budget = Budget::Given(budget(&ModelDir::open(dir.path()).unwrap(), 8));
        let remembered_in = Some(remembered.path().to_owned());
        open_with(dir.path(), ExpertOptions { budget, remembered_in, ..ExpertOptions::MAPPED }).unwrap()
    };
    let ask = |session: &mut Session<Cpu>| {
        let before = settle(session);
        session.sync(&[1], &[], &Cancel::new()).unwrap();
        usage(session).since(&before)
    };
    let mut session = open();
    ask(&mut session);
    for seed in 0..6 {
        session.reset();
        session.sync(&[1], &[], &Cancel::new()).unwrap();
        session.sync(&[1, seed], &[], &Cancel::new()).unwrap();
    }
    drop(session);
    assert_eq!(fs::read_dir(remembered.path()).unwrap().count(), 1);
    let again = ask(&mut open());
    assert_eq!(again.hits, again.visits, "all that the token visits was filled in first");
}

#[test]
fn an_expert_in_one_piece_is_one_run_of_bytes() {
    let dir = folder();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let source = ModelDir::open(dir.path()).unwrap();
    let recipe = "f16".parse::<Recipe>().unwrap();
    let plan = || Plan::new(&source, &recipe, "test").unwrap();
    let [stacked, pieces] = ["stacked.gguf", "pieces.gguf"].map(|name| dir.path().join(name));
    plan().write(&stacked, 2, |_| {}).unwrap();
    plan().by_expert().unwrap().write(&pieces, 2, |_| {}).unwrap();

    let opened = ModelDir::open(&pieces).unwrap();
    let place = |name: &str| {
        let tensor = opened.tensor(&format!("blk.5.ffn_{name}_exps.7.weight")).unwrap();
        (tensor.bytes.place().unwrap().1, tensor.bytes.len() as u64)
    };
    let [(gate, len), (up, _), (down, _)] = ["gate", "up", "down"].map(place);
    let step = len.next_multiple_of(4096);
    assert_eq!((gate % 4096, up - gate, down - up), (0, step, step));

    let mut expected = open_with(&stacked, ExpertOptions::MAPPED).unwrap();
    let expected = logits(&mut expected);
    assert!(logits(&mut open_with(&pieces, ExpertOptions::MAPPED).unwrap()) == expected);
    let layers =
        [LayerHeader { experts: EXPERTS, top_k: TOP_K, record_bytes: RECORD_BYTES / 2 }; LAYERS.len()];
    let config = Config::read(&opened).unwrap();
    assert_eq!(layout::expert_layers(&opened, &config).unwrap().0, layers);
    let least = Tiers::divide(0, layout::trunk_bytes(&opened, &config), &layers).unwrap_err().needed;
    let within = ExpertOptions { budget: Budget::Given(least), ..ExpertOptions::MAPPED };
    let mut session = open_with(&pieces, within).unwrap();
    assert!(logits(&mut session) == expected && usage(&session).fetched_bytes > 0);

    // From GGUF, and back to other types.
    let again = dir.path().join("again.gguf");
    let source = ModelDir::open(&stacked).unwrap();
    Plan::new(&source, &recipe, "test").unwrap().by_expert().unwrap().write(&again, 2, |_| {}).unwrap();
    assert!(logits(&mut open_with(&again, ExpertOptions::MAPPED).unwrap()) == expected);
    let dense = ModelDir::open(&crate::reference::folder("qwen3_odd")).unwrap();
    assert!(Plan::new(&dense, &recipe, "test").unwrap().by_expert().is_err());
}

#[test]
fn routing_is_recorded() {
    let dir = folder();
    let path = dir.path().join("trace");
    let recorder = Some(Recorder::new(&path));
    let mut session = open_with(dir.path(), ExpertOptions { recorder, ..ExpertOptions::MAPPED }).unwrap();
    session.sync(&prompt(5, 1), &[], &Cancel::new()).unwrap();
    session.push(7, &Cancel::new()).unwrap();
    let trace = Trace::read(&path).unwrap();
    assert_eq!(trace.header.layers.len(), LAYERS.len());
    let layer = LayerHeader { experts: EXPERTS, top_k: TOP_K, record_bytes: RECORD_BYTES };
    assert!(trace.header.layers.iter().all(|own| *own == layer));
    let ranking = |pass: &'_ [Vec<u32>]| trace.header.ranking(0, &pass[0]).rows().len();
    assert_eq!(trace.passes.iter().map(|pass| ranking(pass)).collect::<Vec<_>>(), [5, 1]);
    for row in trace.passes.iter().flat_map(|pass| trace.header.ranking(0, &pass[0]).rows()) {
        let distinct: BTreeSet<u32> = row.iter().copied().collect();
        assert_eq!((row.len(), distinct.len()), (Ranking::depth(TOP_K, EXPERTS), row.len()));
    }
}
