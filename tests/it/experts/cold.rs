//! A smaller copy of experts, which is computed with where their own bytes are not in memory.

use std::path::{Path, PathBuf};

use fimd::base::Cancel;
use fimd::base::dtype::DType;
use fimd::bench::plan::Rates;
use fimd::bench::report::Subject;
use fimd::bench::sizes;
use fimd::bench::speed::{self, Engine, Open, Workload};
use fimd::bench::synthetic::Routing;
use fimd::compute::Precision;
use fimd::compute::cpu::Cpu;
use fimd::compute::cuda::{Cuda, probe};
use fimd::format::ModelDir;
use fimd::hub::quantize::Plan;
use fimd::model::config::FfnShape;
use fimd::model::experts::tiers::Tiers;
use fimd::model::experts::{Budget, ExpertOptions};
use fimd::model::export::Recipe;
use fimd::model::{Config, Model, ModelOptions, layout};
use fimd::session::Session;
use tempfile::TempDir;

use super::{logits, open_with, prompt, settle, usage};
use crate::cli::check_fails;
use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::{bench, gpu, load, reference};

const EXPERTS: usize = 12;
const SMALL: DType = DType::Q8_0;

/// A model in F32, and a smaller copy of its experts.
struct Models {
    dir: TempDir,
}

impl Models {
    fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        this.write("model.gguf", 1);
        this.quantise(
            "model.gguf",
            "cold.gguf",
            |plan| plan.experts_alone().unwrap(),
            Recipe::uniform(SMALL),
        );
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, seed: u64) {
        let mut config = bench::small("qwen3-coder-next");
        for layer in &mut config.layers {
            if let FfnShape::Moe(moe) = &mut layer.ffn {
                (moe.experts, moe.top_k) = (EXPERTS, 2);
            }
        }
        bench::write_model(&self.path(name), &config, "f32", seed);
    }

    fn quantise(&self, from: &str, to: &str, change: impl Fn(Plan) -> Plan, recipe: Recipe) {
        let source = ModelDir::open(&self.path(from)).unwrap();
        change(Plan::new(&source, &recipe, "test").unwrap()).write(&self.path(to), 2, |_| {}).unwrap();
    }

    /// With the copy and this many slots of each layer.
    fn options(&self, slots: usize) -> ExpertOptions {
        ExpertOptions {
            budget: Budget::Given(self.needed() + (slots * self.record_bytes()) as u64),
            cold: Some(self.path("cold.gguf")),
            ..ExpertOptions::MAPPED
        }
    }

    /// What the copy takes without any slot.
    fn needed(&self) -> u64 {
        let cold = ModelDir::open(&self.path("cold.gguf")).unwrap();
        let cold = cold.names().map(|name| cold.tensor(name).unwrap().bytes.len() as u64).sum();
        let (trunk, layers) = self.sizes();
        Tiers::divide_beside(cold, 0, trunk, &layers).unwrap_err().needed
    }

    /// Of an expert in all layers.
    fn record_bytes(&self) -> usize {
        self.sizes().1.iter().map(|layer| layer.record_bytes).sum()
    }

    fn sizes(&self) -> (u64, Vec<fimd::model::experts::trace::LayerHeader>) {
        let dir = ModelDir::open(&self.path("model.gguf")).unwrap();
        let config = Config::read(&dir).unwrap();
        (layout::trunk_bytes(&dir, &config), layout::expert_layers(&dir, &config).unwrap().0)
    }

    fn open(&self, slots: usize) -> Session<Cpu> {
        let session = open_with(&self.path("model.gguf"), self.options(slots)).unwrap();
        assert_eq!(usage(&session).slots, slots);
        session
    }

    /// The same on a GPU with slots for some experts of each layer.
    fn open_on_gpu(&self, slots: usize, expert_slots: usize) -> Session<Cuda> {
        probe::probe().unwrap();
        let dir = ModelDir::open(&self.path("model.gguf")).unwrap();
        let cpu = load::cpu(1, 16, Precision::F32);
        let options = gpu::options_with(expert_slots, Precision::F32, Precision::F32, cpu);
        let backend = Cuda::new(options).unwrap();
        let options = ModelOptions { experts: self.options(slots), ..load::options(512, 64) };
        let session =
            load::session(Model::load(&dir, Config::read(&dir).unwrap(), options, backend).unwrap());
        assert_eq!(usage(&session).slots, slots);
        session
    }

    fn exact(&self) -> Session<Cpu> {
        open_with(&self.path("model.gguf"), ExpertOptions::MAPPED).unwrap()
    }
}

fn error(path: &Path, options: ExpertOptions) -> String {
    format!("{:#}", open_with(path, options).err().unwrap())
}

#[test]
fn without_slots_it_is_the_model_in_the_smaller_type() {
    let models = Models::new();
    let experts = SMALL;
    let recipe = Recipe { experts, experts_raised: experts, ..Recipe::uniform(DType::F32) };
    models.quantise("model.gguf", "small.gguf", |plan| plan, recipe);
    let mut small = open_with(&models.path("small.gguf"), ExpertOptions::MAPPED).unwrap();
    let mut session = models.open(0);
    assert!(logits(&mut session) == logits(&mut small));
    let used = usage(&session);
    assert_eq!((used.hits, used.cold, used.fetched_bytes), (0, used.visits, 0), "{used:?}");
}

#[test]
fn where_all_experts_of_a_prompt_have_slots_it_is_the_model() {
    let models = Models::new();
    // Of one token, no expert that is not visited has a better rank.
    let tokens = prompt(1, 3);
    let mut exact = models.exact();
    exact.sync(&tokens, &[], &Cancel::new()).unwrap();
    let mut session = models.open(8);
    for _ in 0..100 {
        settle(&session);
        let before = usage(&session);
        session.reset();
        session.sync(&tokens, &[], &Cancel::new()).unwrap();
        let used = usage(&session).since(&before);
        if used.hits == used.visits {
            return assert_eq!(session.logits(), exact.logits());
        }
        // Its logits may be those of the model all the same: an expert gets its slot while others are computed with.
        assert!(used.cold > 0, "{used:?}");
    }
    panic!("experts that are visited again and again get no slots: {:?}", usage(&session));
}

#[test]
fn a_mixture_is_near_the_model_and_reads_nothing_in_between() {
    let models = Models::new();
    let mut session = models.open(8);
    settle(&session);
    let (found, expected, without) =
        (logits(&mut session), logits(&mut models.exact()), logits(&mut models.open(0)));
    let used = usage(&session);
    assert!(used.hits > 0 && used.cold > 0 && used.fetched_bytes == 0, "{used:?}");
    assert_eq!(used.hits + used.cold, used.visits);
    let distance = |found: &[Vec<f32>]| -> f32 {
        found.iter().zip(&expected).map(|(found, expected)| reference::distance(found, expected)).sum()
    };
    let [mixed, cold] = [&found, &without].map(|found| distance(found));
    assert!(0.0 < mixed && mixed < cold, "{mixed} {cold}");
}

#[test]
fn a_gpu_has_slots_for_what_is_in_memory_as_it_is_stored() {
    child::with_driver(PRODUCT, &[], || {
        let models = Models::new();
        let tokens = prompt(3, 3);
        let mut exact = models.exact();
        exact.sync(&tokens, &[], &Cancel::new()).unwrap();
        let mut cold = models.open(0);
        cold.sync(&tokens, &[], &Cancel::new()).unwrap();
        let far = reference::distance(cold.logits(), exact.logits());

        let mut session = models.open_on_gpu(0, 6);
        session.sync(&tokens, &[], &Cancel::new()).unwrap();
        let (found, visits) = (usage(&session), session.model().expert_visits().unwrap());
        assert_eq!((visits.hits, visits.copied), (0, 0), "the copy is computed with where it is");
        assert_eq!((found.cold, found.fetched_bytes), (visits.visits, 0), "{found:?}");
        let error = reference::distance(session.logits(), cold.logits());
        assert!(error < far / 4.0, "{error} of {far}");

        let mut session = models.open_on_gpu(8, 8);
        for _ in 0..100 {
            settle(&session);
            let before = (usage(&session), session.model().expert_visits().unwrap());
            session.reset();
            session.sync(&tokens, &[], &Cancel::new()).unwrap();
            let used = usage(&session).since(&before.0);
            let visits = session.model().expert_visits().unwrap();
            // The GPU asks the host for what has no slot there.
            let [all, on_gpu] = [visits.visits - before.1.visits, visits.hits - before.1.hits];
            assert_eq!((used.visits, used.fetched_bytes), (all - on_gpu, 0), "{used:?}");
            if on_gpu > 0 && on_gpu + used.hits == all {
                let error = reference::distance(session.logits(), exact.logits());
                println!("{on_gpu} of {all} experts on the GPU: {error} of {far}");
                return assert!(error < far / 4.0, "{error} of {far}");
            }
        }
        panic!("experts that are visited again and again get no slots: {:?}", usage(&session));
    });
}

#[test]
fn a_copy_is_that_of_its_model_and_has_to_fit() {
    let models = Models::new();
    models.write("other.gguf", 2);
    let other = error(&models.path("other.gguf"), models.options(4));
    assert!(other.contains("cold.gguf is the smaller copy of another model's experts"), "{other}");
    let no_copy = ExpertOptions { cold: Some(models.path("other.gguf")), ..models.options(4) };
    let no_copy = error(&models.path("model.gguf"), no_copy);
    assert!(
        no_copy.contains("other.gguf is no smaller copy") && no_copy.contains("fimd quantize --cold"),
        "{no_copy}"
    );
    let missing = ExpertOptions { cold: Some(models.path("missing.gguf")), ..models.options(4) };
    assert!(error(&models.path("model.gguf"), missing).contains("missing.gguf"));

    let needed = models.needed();
    let small = ExpertOptions { budget: Budget::Given(needed - 1), ..models.options(0) };
    let small = error(&models.path("model.gguf"), small);
    assert!(small.contains("leave out --cold"), "{small}");
    let free = ExpertOptions { budget: Budget::Free(needed - 1), ..models.options(0) };
    let mut session = open_with(&models.path("model.gguf"), free).unwrap();
    assert!(logits(&mut session) == logits(&mut models.exact()), "it is not used where it does not fit");
    assert!(session.usage().experts.is_none_or(|usage| usage.cold == 0));
    let whole = ExpertOptions { budget: Budget::Given(1 << 40), ..models.options(0) };
    assert_eq!(open_with(&models.path("model.gguf"), whole).unwrap().usage().experts, None);

    let [model, cold] = ["model.gguf", "cold.gguf"].map(|name| models.path(name).display().to_string());
    check_fails(&["quantize", &model, &cold, "--cold", "q2_k", "--mix", "q8_0"], 2, &["cannot be used with"]);
    let dense = reference::folder("qwen3_odd");
    let dense = ModelDir::open(&dense).unwrap();
    let dense = Plan::new(&dense, &Recipe::uniform(SMALL), "test").unwrap();
    assert!(dense.experts_alone().err().unwrap().to_string().contains("has no experts"));
}

#[test]
fn a_benchmark_says_what_the_copy_costs() {
    let models = Models::new();
    let subject = Subject { name: "small".into(), path: None, layers: 4, quant: None, file_bytes: None };
    let workload = Workload { prompts: vec![16], generate: 6, runs: 1, routing: Routing::Uniform, more: 0 };
    let engine = Engine { threads: 2, kernels: "portable".into(), gpu: None };
    let plan = || {
        let dir = ModelDir::open(&models.path("model.gguf"))?;
        let (sizes, _) = sizes::of_files(&dir, &Config::read(&dir)?)?;
        Ok((sizes, Rates { weights_per_s: 1e9, macs_per_s: 1e9, disk_per_s: 1e9, cold_per_s: 1e9 }))
    };
    let open = Open { model: |_| Ok(models.open(4)), exact: || Ok(models.exact()) };
    let report = speed::run(subject, &workload, None, engine, open, plan, &|_| ()).unwrap();
    let (experts, fidelity) = (report.experts.as_ref().unwrap(), report.fidelity.unwrap());
    assert!(
        experts.cold_per_token > 0.0 && experts.misses_per_token == 0.0 && experts.bytes_per_token == 0.0
    );
    assert_eq!(fidelity.tokens, 6);
    assert!(fidelity.mean_error_nats > 0.0 && (0.0..=1.0).contains(&fidelity.top1_agreement), "{fidelity:?}");
    assert!(report.to_string().contains("in their smaller copy"), "{report}");
}
