//! Synthetic models, and what `fimd bench` prints.

use std::fs;
use std::path::Path;

use fimd::bench::report::Subject;
use fimd::bench::speed::{self, Engine, Open, Whole, Workload};
use fimd::bench::synthetic::{self, Published, Routing, Synthetic};
use fimd::compute::cpu::Cpu;
use fimd::format::ModelDir;
use fimd::model::Config;
use fimd::model::config::{FfnShape, MixerShape};
use fimd::model::export::ExpertLayout;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{check_fails, json, program};
use crate::load;

/// A published model in small: as deep as one group of layers, rows of whole blocks.
pub fn small(name: &str) -> Config {
    let mut config = Published::of_name(name).unwrap().config(synthetic::GROUP);
    (config.vocab, config.hidden) = (8448, 256);
    for layer in &mut config.layers {
        match &mut layer.mixer {
            MixerShape::Attention(shape) => {
                shape.rotary_dim = shape.rotary_dim * 64 / shape.head_dim;
                (shape.heads, shape.kv_heads, shape.head_dim) = (4, 2, 64);
            }
            MixerShape::DeltaNet(shape) => {
                (shape.key_heads, shape.value_heads, shape.key_dim, shape.value_dim) = (2, 4, 64, 64);
            }
        }
        match &mut layer.ffn {
            FfnShape::Moe(shape) => {
                shape.shared_width = shape.shared_width.map(|_| 256);
                (shape.experts, shape.top_k, shape.width) = (8, 2, 256);
            }
            FfnShape::Dense { width } => (*width, config.dense_width) = (512, 512),
        }
    }
    config
}

/// Writes the model in the types of `quant`; returns the bytes its tensors were said to have.
pub fn write_model(path: &Path, config: &Config, quant: &str, seed: u64) -> u64 {
    let model = Synthetic::new(
        "small",
        config.clone(),
        quant.parse().unwrap(),
        ExpertLayout::Stacked,
        Routing::Uniform,
    )
    .unwrap();
    let mut written = 0;
    model.write(path, seed, &mut |bytes| written += bytes).unwrap();
    assert_eq!(written, model.bytes().unwrap());
    written
}

/// The same for a small Qwen3-Coder-Next.
fn write(path: &Path, quant: &str, seed: u64) -> u64 {
    write_model(path, &small("qwen3-coder-next"), quant, seed)
}

#[test]
fn synthetic_models_load_and_stay_in_range() {
    let dir = TempDir::new().unwrap();
    let quants = [
        "q4_k_m", "mxfp4", "q8_0", "q4_0", "q5_0", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "bf16", "f16", "f32",
        "q3_k_m", "iq3_m", "q2_k", "iq2_m",
    ];
    let each_quant = quants.map(|quant| ("qwen3-coder-next", quant));
    let each_model = synthetic::MODELS.map(|model| (model.name, "q4_k_m"));
    for (name, quant) in each_quant.into_iter().chain(each_model) {
        let config = small(name);
        let path = dir.path().join("small.gguf");
        write_model(&path, &config, quant, 1);
        let dir = ModelDir::open(&path).unwrap();
        let options = load::options(64, 64);
        let mut session = load::session(load::model::<Cpu>(&dir, 2, 16, options).unwrap());
        assert_eq!(session.model().config(), &config, "{name} {quant}");

        let tokens: Vec<u32> = (0..16).map(|i| i * 7919 % 8448).collect();
        let (mut rows, mut previous) = (0, Vec::new());
        session
            .for_each_logits(&tokens, |position, logits| {
                let square: f32 = logits.iter().map(|logit| logit * logit).sum();
                let rms = (square / logits.len() as f32).sqrt();
                assert!((0.8..1.2).contains(&rms), "{name} {quant}: logits of RMS {rms} at {position}");
                assert_ne!(logits, previous, "{name} {quant}: {position} is like the position before");
                previous = logits.to_vec();
                rows += 1;
            })
            .unwrap();
        assert_eq!(rows, tokens.len());
    }
}

#[test]
fn a_synthetic_model_has_a_working_vocabulary() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("small.gguf");
    write(&path, "q4_k_m", 1);
    let tokenizer = load::tokenizer(&ModelDir::open(&path).unwrap());
    let text = "fn main() {\n\tprintln!(\"naïve 世界 🦀\");\r\n}\n";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
    assert_eq!(tokenizer.special("<|endoftext|>"), Some(8448 - 293));
    let fim = tokenizer.fim().unwrap();
    assert_eq!([fim.prefix, fim.middle, fim.suffix], [8171, 8172, 8173]);
}

#[test]
fn equal_seeds_make_equal_files() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, seed| {
        let path = dir.path().join(name);
        write(&path, "q4_k_m", seed);
        fs::read(path).unwrap()
    };
    let first = file("a", 1);
    assert!(first == file("b", 1));
    assert!(first != file("c", 2));
}

#[test]
fn a_deeper_model_is_estimated() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("small.gguf");
    let file_bytes = write(&path, "q4_k_m", 1);
    let open = |layers| {
        let dir = ModelDir::open(&path)?;
        let mut config = Config::read(&dir)?;
        config.layers.truncate(layers);
        let options = load::options(64, 64);
        Ok(load::session(load::layers::<Cpu>(&dir, config, 1, 16, options)?))
    };
    let subject =
        Subject { name: "small".into(), path: None, layers: 4, quant: None, file_bytes: Some(file_bytes) };
    let workload =
        Workload { prompts: vec![4, 32], generate: 4, runs: 2, routing: Routing::Uniform, more: 0 };
    let whole = Whole { layers: 48, file_bytes: u64::MAX, shallow: 0 };
    let engine = Engine { threads: 1, kernels: "portable".into(), gpu: None };
    let plan = || unreachable!("its experts are all in memory");
    let report = speed::run(
        subject,
        &workload,
        Some(whole),
        engine,
        Open { model: open, exact: || unreachable!("there is no smaller copy") },
        plan,
        &|_| (),
    )
    .unwrap();

    let estimate = report.estimate.as_ref().unwrap();
    assert_eq!((estimate.layers, estimate.from_layers), (48, [0, 4]));
    assert!(estimate.decode_tokens_per_s.median > 0.0);
    assert!(estimate.decode_tokens_per_s.median <= report.decode.tokens_per_s.median);
    assert_eq!(estimate.prefill.iter().map(|part| part.tokens).collect::<Vec<_>>(), [4, 32]);
    let text = report.to_string();
    for words in ["| decode, 4 tokens |", "all 48 layers, estimated", "times at 0 and 4 layers", "too little"]
    {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn bench_speed_prints_the_documented_keys() {
    let args =
        ["bench", "speed", "--prompt", "8,3", "--generate", "2", "--runs", "2", "--threads", "1", "--json"];
    let report = json(&args);
    for key in [
        "/version",
        "/machine/cpu",
        "/machine/cores",
        "/machine/memory_bytes",
        "/threads",
        "/kernels",
        "/memory_gb_per_s",
        "/model/name",
        "/model/path",
        "/model/layers",
        "/model/quant",
        "/model/file_bytes",
        "/runs",
        "/load_ms",
        "/first/tokens",
        "/first/ms",
        "/first/tokens_per_s",
        "/prefill/0/tokens",
        "/prefill/0/tokens_per_s/median",
        "/prefill/0/tokens_per_s/min",
        "/prefill/1/tokens_per_s/max",
        "/prefill/1/weight_bytes",
        "/prefill/1/memory_bound_tokens_per_s",
        "/decode/tokens",
        "/decode/tokens_per_s/median",
        "/decode/weight_bytes",
        "/decode/gb_per_s",
        "/decode/memory_share",
        "/peak_memory_bytes",
        "/logits_hash",
        "/estimate",
    ] {
        assert!(report.pointer(key).is_some(), "{key} is not in {report}");
    }
    assert_eq!(report["first"]["tokens"], 8, "the longest prompt comes first");
    assert_eq!((&report["prefill"][1]["tokens"], &report["decode"]["tokens"]), (&3.into(), &2.into()));
    assert_eq!(report["estimate"], Value::Null);
    assert_eq!(json(&args)["logits_hash"], report["logits_hash"]);
}

#[test]
fn bench_speed_refuses_what_it_cannot_measure() {
    let check =
        |args: &[&str], code, words: &[&str]| check_fails(&[&["bench", "speed"], args].concat(), code, words);
    let synthetic = ["--synthetic", "qwen3-coder-next"];
    for layers in ["0", "6", "68", "x"] {
        check(&[&synthetic[..], &["--layers", layers]].concat(), 2, &["--layers", "multiple of 4 up to 64"]);
    }
    check(&[&synthetic[..], &["--quant", "q3_k_x"]].concat(), 2, &["--quant", "q4_k_m"]);
    check(&[&synthetic[..], &["--model", "x.gguf"]].concat(), 2, &["--model"]);
    check(&[&synthetic[..], &["--write", "Cargo.toml"]].concat(), 1, &["Cargo.toml exists; remove it"]);
    check(&["--synthetic", "gpt-2"], 2, &["qwen3-coder-next", "qwen3.5-4b"]);
    let deep = ["--synthetic", "qwen2.5-coder-1.5b", "--layers", "32"];
    check(&deep, 1, &["qwen2.5-coder-1.5b has 28 layers"]);
    check(&["--layers", "4"], 2, &["--synthetic"]);
    check(&["--prompt", "0"], 2, &["--prompt"]);
    check(&["--runs", "0"], 2, &["--runs"]);
    check(&["--prompt", "64", "--context", "32"], 1, &["64 tokens", "--context"]);
    check(&["--model", "nowhere.gguf"], 1, &["nowhere.gguf"]);
}

#[test]
fn a_soak_counts_every_response() {
    let output =
        program().args(["bench", "daemon", "--requests", "60", "--clients", "2", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&report["requests"], &report["answered"], &report["lost"]], [60, 60, 0], "{report}");
    // Whether one is late depends on the machine; the command says it.
    assert_eq!(output.status.success(), report["late"] == 0, "{report}");
    check_fails(&["bench", "daemon", "--requests", "9", "--seconds", "9"], 2, &["--requests", "--seconds"]);
}

#[test]
fn recorded_routing_is_replayed() {
    let dir = TempDir::new().unwrap();
    let (trace, plot) = (dir.path().join("trace"), dir.path().join("plot.svg"));
    let (trace, plot) = (trace.to_str().unwrap(), plot.to_str().unwrap());
    json(&["generate", "--prompt", "fn main() {", "--max-tokens", "6", "--trace", trace, "--json"]);
    let rates = ["--memory-rate", "10", "--disk-rate", "0.5"];
    let report =
        json(&[&["bench", "experts", "--trace", trace, "--plot", plot, "--json"][..], &rates].concat());
    assert!(report["decoded_tokens"].as_u64().unwrap() >= 3, "{report}");
    let lines = report["lines"].as_array().unwrap();
    let hits = |line: &Value| line["points"][1]["hit_rate"].as_f64().unwrap();
    let best = hits(lines.last().unwrap());
    assert!(lines.iter().all(|line| hits(line) <= best) && best > 0.0);
    assert!(fs::read_to_string(plot).unwrap().starts_with("<svg"));
    check_fails(&["bench", "experts", "--trace", plot], 1, &["is not a trace of experts"]);
}

#[test]
fn schedules_are_predicted_for_machines_that_are_not_here() {
    let one = ["bench", "schedule", "--json", "--machine", "rtx-3060-desktop", "--vram-budget", "7680"];
    let reports = json(&one);
    let report = &reports.as_array().unwrap()[0];
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(
        rows.len(),
        13,
        "four shares of hits and what fits, for two kinds of routing, and three shares"
    );
    assert!((30..80).contains(&report["slots"].as_u64().unwrap()) && report["fixed_s"].as_f64() > Some(0.0));
    let (drawn, varied) = rows.split_at(10);
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap();
    for kind in drawn.chunks(5) {
        assert!(kind[..4].is_sorted_by_key(|row| number(row, "tokens_per_s")), "{kind:?}");
        for row in &kind[1..4] {
            let (found, wanted) = (number(row, "hit_rate"), number(row, "wanted"));
            assert!(found >= wanted && found < wanted + 0.1, "{row}");
        }
    }
    assert!(varied.is_sorted_by_key(|row| number(row, "tokens_per_s")), "{varied:?}");
    for row in varied {
        assert!((number(row, "hit_rate") - number(row, "wanted")).abs() <= 0.03, "{row}");
        assert_eq!((&row["slots"], &row["routing"]), (&report["slots"], &"varied".into()));
    }
    check_fails(
        &["bench", "schedule", "--vram-budget", "1024"],
        1,
        &["does not fit", "1024 MiB may be used"],
    );
    check_fails(&["bench", "schedule", "--synthetic", "qwen2.5-coder-1.5b"], 1, &["without experts"]);
}

#[test]
fn warm_ups_are_judged_on_routing_that_is_drawn() {
    let rates = ["--memory-rate", "20", "--disk-rate", "1", "--memory", "12.5"];
    let report = json(&[&["bench", "experts", "--json", "--routing", "text"], &rates[..]].concat());
    let found = &report["warm_ups"][0];
    let [before, after] = ["without", "last_tokens"].map(|name| found[name]["first"].as_f64().unwrap());
    assert!(after > before + 0.01 && before > 0.4, "{found}");
    let table = &found["table"];
    assert!(table["known"].as_f64() > Some(0.2) && table["named"].as_f64() > Some(0.02), "{found}");
}

#[test]
fn a_plan_follows_from_sizes_and_rates() {
    let plan = |arguments: &[&str]| json(&[&["plan", "--json"][..], arguments].concat());
    let large = plan(&["--synthetic", "qwen3-coder-next", "--ram-budget", "24000"]);
    let slots = large["place"]["tiers"]["slots"].as_u64().unwrap();
    assert!((150..=260).contains(&slots), "{large}");
    let [text, uniform] = ["text", "uniform"].map(|routing| large[routing]["tokens_per_s"].as_f64().unwrap());
    assert!(text > uniform && uniform > 0.0);
    assert!(large["advice"].as_array().unwrap().len() >= 2, "{large}");
    // Nothing is measured for a machine that is named.
    let laptop = |flags: &[&str]| {
        plan(&[&["--synthetic", "qwen3-coder-next", "--machine", "rtx-3070-ti-laptop"], flags].concat())
    };
    let with_copy = |dtype| laptop(&["--vram-budget", "0", "--ram-budget", "36000", "--cold", dtype]);
    let copied = with_copy("iq2_s");
    assert!((1..200).contains(&copied["place"]["tiers"]["slots"].as_u64().unwrap()), "{copied}");
    assert_eq!(copied["place"]["tiers"]["cold_bytes"], copied["sizes"]["cold_bytes"]);
    assert_eq!(
        (copied["text"]["disk_bytes"].as_u64(), large["text"]["cold_bytes"].as_u64()),
        (Some(0), Some(0))
    );
    let too_small = with_copy("q8_0")["place"]["too_small"]["ram_bytes"].as_u64().unwrap();
    assert!(too_small > 80_000_000_000, "{too_small}");
    let beside = laptop(&["--vram-budget", "7680"]);
    let gpu = &beside["machine"]["gpu"];
    assert!((30..80).contains(&gpu["slots"].as_u64().unwrap()), "{gpu}");
    assert_eq!((&beside["place"], beside["text"]["disk_bytes"].as_u64()), (&Value::from("memory"), Some(0)));
    let per_s = |plan: &Value| plan["text"]["tokens_per_s"].as_f64().unwrap();
    let on_cpu = laptop(&["--vram-budget", "0"]);
    assert!(on_cpu["machine"]["gpu"].is_null() && per_s(&beside) > 1.5 * per_s(&on_cpu), "{beside}");
    let small = laptop(&["--vram-budget", "7680", "--ram-budget", "24000"]);
    assert!(small["place"]["tiers"]["trunk_bytes"] == 0 && small["text"]["disk_bytes"].as_u64() > Some(0));
    assert!(per_s(&small) < per_s(&beside));
    let refused = laptop(&["--vram-budget", "1024"]);
    assert!(refused["gpu_refused"].as_str().unwrap().contains("1024 MiB may be used"), "{refused}");
    if !Path::new("/dev/nvidiactl").exists() {
        let without = ["plan", "--synthetic", "qwen3-coder-next", "--vram-budget", "8192"];
        check_fails(&without, 1, &["--machine NAME"]);
    }
    let synthetic = ["plan", "--synthetic", "qwen3-coder-next", "--cold", "cold.gguf"];
    check_fails(&synthetic, 1, &["--cold TYPE"]);

    let mut listed = program();
    listed.args(["models", "--json"]).env("FIMD_EXPERTS_RAM_BYTES_MAX", (24_000u64 << 20).to_string());
    let models: Value = serde_json::from_slice(&listed.output().unwrap().stdout).unwrap();
    let row = |name| models["models"].as_array().unwrap().iter().find(|model| model["name"] == name).unwrap();
    let same = row("qwen3-coder-next");
    assert_eq!(same["place"]["tiers"], large["place"]["tiers"], "models and plan agree");
    assert!(same["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(row("qwen3-coder-30b-a3b")["place"], "memory");
    assert_eq!(row("qwen2.5-coder-0.5b")["place"], Value::Null, "nothing is known of its shape");
}
