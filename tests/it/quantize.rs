//! Quantised files: each holds the model it was made from, as nearly as its types can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fimd::base::Cancel;
use fimd::base::dtype::DType;
use fimd::compute::Precision;
use fimd::compute::cpu::Cpu;
use fimd::decode::sample::log_softmax;
use fimd::format::ModelDir;
use fimd::format::imatrix::Importance;
use fimd::hub::importance;
use fimd::hub::quantize::{Outcome, Plan};
use fimd::model::export::Recipe;
use fimd::model::tokenizer::chat::{Message, Role};
use fimd::model::{Config, LogitRows};
use tempfile::TempDir;

use crate::{load, reference, tiny};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn starter() -> PathBuf {
    repository("src/starter")
}

fn quantize(from: &Path, to: &Path, recipe: &str) -> anyhow::Result<Vec<Outcome>> {
    let dir = ModelDir::open(from)?;
    let plan = Plan::new(&dir, &recipe.parse().unwrap(), "test")?;
    let mut written = 0;
    let outcomes = plan.write(to, 2, |bytes| written += bytes)?;
    assert_eq!(written, plan.bytes());
    assert!(fs::metadata(to)?.len() > plan.bytes());
    Ok(outcomes)
}

/// Log-probabilities of each of `ids` but the first.
fn logprobs(model: &Path, ids: &[u32]) -> Vec<f32> {
    let dir = ModelDir::open(model).unwrap();
    let options = load::options(512, 512);
    let mut model = load::model::<Cpu>(&dir, 2, 16, options).unwrap();
    let mut sequence = model.sequence().unwrap();
    let mut logits = Vec::new();
    reference::forward(&mut model, &mut sequence, ids, LogitRows::All, &Cancel::new(), &mut logits).unwrap();
    let rows = logits.chunks_mut(model.config().vocab).zip(&ids[1..]);
    rows.map(|(row, &id)| {
        log_softmax(row);
        row[id as usize]
    })
    .collect()
}

#[test]
fn the_chat_template_comes_along() {
    let (dir, template) = (TempDir::new().unwrap(), "{{ messages[0].content }}<|im_end|>\n");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(starter().join(name), dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let file = dir.path().join("a.gguf");
    quantize(dir.path(), &file, "q8_0").unwrap();
    let said = [Message::new(Role::User, "a")];
    let ids = [dir.path(), &file].map(|path| {
        let opened = ModelDir::open(path).unwrap();
        load::tokenizer(&opened).encode_chat(&said).unwrap()
    });
    assert!(ids[0] == ids[1] && ids[0].len() == 2, "{ids:?}");
    assert!(load::tokenizer(&ModelDir::open(&starter()).unwrap()).encode_chat(&said).is_err());
}

#[test]
fn every_type_keeps_the_prediction() {
    let dir = TempDir::new().unwrap();
    let text = fs::read_to_string(repository("tests/data/demo/stack.py")).unwrap();
    let text: String = text.split_inclusive('\n').take(12).collect();
    let ids = load::tokenizer(&ModelDir::open(&starter()).unwrap()).encode(&text);
    let original = logprobs(&starter(), &ids);
    // How far the mean and the root mean square of the changes of a log-probability may lie from 0.
    for (mix, mean_max, rms_max) in [
        ("f32", 1e-4, 1e-3),
        ("bf16", 0.01, 0.03),
        ("q8_0", 0.03, 0.05),
        ("q6_k", 0.04, 0.12),
        ("q5_k", 0.05, 0.3),
        ("q5_0", 0.05, 0.3),
        ("q4_k_m", 0.08, 0.4),
        ("q4_k", 0.1, 0.45),
        ("q4_0", 0.12, 0.45),
        ("iq4_nl", 0.1, 0.45),
        ("iq4_xs", 0.1, 0.45),
        ("mxfp4", 0.1, 0.4),
        ("q5_1", 0.05, 0.3),
        ("q4_1", 0.1, 0.45),
        ("q3_k_m", 0.15, 0.65),
        ("iq3_m", 0.15, 0.65),
        ("q2_k", 0.6, 1.3),
        ("iq2_m", 0.15, 0.65),
    ] {
        let file = dir.path().join(format!("{mix}.gguf"));
        quantize(&starter(), &file, mix).unwrap();
        let opened = ModelDir::open(&file).unwrap();
        assert_eq!(load::tokenizer(&opened).encode(&text), ids, "{mix}: the vocabulary came along");
        let changes: Vec<f32> = logprobs(&file, &ids).iter().zip(&original).map(|(a, b)| a - b).collect();
        let mean = changes.iter().sum::<f32>() / changes.len() as f32;
        let rms = (changes.iter().map(|x| x * x).sum::<f32>() / changes.len() as f32).sqrt();
        eprintln!("{mix}: mean {mean:.5}, rms {rms:.5}");
        assert!(mean.abs() <= mean_max && rms <= rms_max, "{mix}: mean {mean}, root mean square {rms}");
    }
}

#[test]
fn float_files_are_the_checkpoint() {
    let dir = TempDir::new().unwrap();
    for case in ["odd", "fp8", "tied", "layer_types", "long"] {
        let checkpoint = repository("tests/data/vectors").join(case);
        let file = dir.path().join(format!("{case}.gguf"));
        let outcomes = quantize(&checkpoint, &file, "f32").unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.deviation.max == 0.0), "{case}");
        let ids = [1, 5, 2, 7, 3, 3, 0, 9, 4, 8, 6, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0, 2, 5];
        let (original, exported) = (logprobs(&checkpoint, &ids), logprobs(&file, &ids));
        for (a, b) in original.iter().zip(&exported) {
            assert!((a - b).abs() < 1e-5, "{case}: {a} became {b}");
        }
    }
}

/// The sizes of a mixer that no layer has may be left out.
#[test]
fn stacks_of_one_mixer_run_from_both_kinds_of_files() {
    let attention = ["num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta"];
    let delta = ["linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"];
    for (mixer, others) in [("full_attention", &delta[..]), ("linear_attention", &attention)] {
        let dir = tiny::folder_of([mixer; 2]);
        let path = dir.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        others.iter().for_each(|key| drop(config.as_object_mut().unwrap().remove(*key).unwrap()));
        fs::write(&path, config.to_string()).unwrap();
        fs::remove_file(dir.path().join("tokenizer.json")).unwrap();

        let (out, file) = (TempDir::new().unwrap(), "model.gguf");
        quantize(dir.path(), &out.path().join(file), "f32").unwrap();
        let configs = [dir.path(), &out.path().join(file)]
            .map(|path| Config::read(&ModelDir::open(path).unwrap()).unwrap());
        assert_eq!(configs[0], configs[1], "{mixer}");
        assert_eq!(configs[0].attention_shapes().count(), if mixer == "full_attention" { 2 } else { 0 });
        let ids = [97, 98, 99, 100, 101, 102];
        let [original, exported] = [dir.path(), &out.path().join(file)].map(|path| logprobs(path, &ids));
        assert!(original.iter().all(|logprob| *logprob > -0.5), "{mixer}: it recites {original:?}");
        for (a, b) in original.iter().zip(&exported) {
            assert!((a - b).abs() < 1e-5, "{mixer}: {a} became {b}");
        }
    }
}

#[test]
fn odd_rows_take_other_types_and_the_report_says_so() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("odd.gguf");
    let outcomes = quantize(&repository("tests/data/vectors/odd"), &file, "q4_k_m").unwrap();
    let moved: Vec<_> = outcomes.iter().filter(|outcome| outcome.to.instead_of.is_some()).collect();
    assert!(!moved.is_empty());
    for outcome in moved {
        let cols = *outcome.shape.last().unwrap();
        assert!(outcome.to.instead_of.unwrap().bytes(cols).is_none(), "{outcome:?}");
        assert!(outcome.to.dtype.bytes(cols).is_some(), "{outcome:?}");
    }
    assert_eq!(logprobs(&file, &[1, 2, 3, 4]).len(), 3, "it runs");
}

#[test]
fn a_gguf_file_is_quantised_like_its_checkpoint() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    quantize(&starter(), &path("float.gguf"), "f32").unwrap();
    quantize(&starter(), &path("direct.gguf"), "q4_k_m").unwrap();
    quantize(&path("float.gguf"), &path("detour.gguf"), "q4_k_m").unwrap();
    check_same(&path("direct.gguf"), &path("detour.gguf"), |_| true);

    let outcomes = quantize(&path("direct.gguf"), &path("mixed.gguf"), "q4_k").unwrap();
    check_same(&path("direct.gguf"), &path("mixed.gguf"), |dtype| dtype != DType::Q6K);
    for outcome in outcomes {
        let changed = outcome.from != outcome.to.dtype;
        assert_eq!(changed, outcome.from == DType::Q6K, "{outcome:?}");
        assert_eq!(changed, outcome.deviation.max > 0.0, "{outcome:?}");
    }
}

/// Both files have the same tensors, and those of the asked types have the same bytes.
#[track_caller]
fn check_same(a: &Path, b: &Path, which: impl Fn(DType) -> bool) {
    let (a, b) = (ModelDir::open(a).unwrap(), ModelDir::open(b).unwrap());
    assert_eq!(a.names().count(), b.names().count());
    for name in a.names() {
        let (a, b) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
        assert_eq!(a.shape, b.shape);
        if which(a.dtype) {
            assert_eq!((a.dtype, &a.bytes[..]), (b.dtype, &b.bytes[..]), "{name}");
        }
    }
}

#[test]
fn a_recipe_chooses_by_role() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("model.gguf");
    let recipe = Recipe { trunk: DType::BF16, head: DType::Q8_0, ..Recipe::uniform(DType::Mxfp4) };
    let source = ModelDir::open(&starter()).unwrap();
    Plan::new(&source, &recipe, "test").unwrap().write(&file, 1, |_| {}).unwrap();
    let model = ModelDir::open(&file).unwrap();
    for (name, dtype) in [
        ("token_embd.weight", DType::Q8_0),
        ("blk.0.ssm_out.weight", DType::BF16),
        ("blk.0.ffn_gate_shexp.weight", DType::BF16),
        ("blk.0.ffn_gate_exps.weight", DType::Mxfp4),
        ("blk.0.ffn_down_exps.weight", DType::Mxfp4),
        ("blk.0.ffn_gate_inp.weight", DType::F32),
        ("blk.0.ssm_conv1d.weight", DType::F32),
        ("blk.3.attn_q_norm.weight", DType::F32),
    ] {
        assert_eq!(model.tensor(name).unwrap().dtype, dtype, "{name}");
    }
}

#[test]
fn an_importance_matrix_lowers_the_errors_that_count() {
    let temp = TempDir::new().unwrap();
    let path = |name: &str| temp.path().join(name);
    for case in ["qwen3_moe_q8_0", "qwen3_5_moe", "qwen2_tied"] {
        let checkpoint = repository("tests/data/vectors").join(case);
        let dir = ModelDir::open(&checkpoint).unwrap();
        let tokens: Vec<u32> = (0..300).map(|i| i * i % 61).collect();
        let options = load::cpu(2, 16, Precision::F32);
        let mut recorded = 0;
        let importance = importance::record(&dir, &tokens, 128, options, |count| recorded += count).unwrap();
        assert_eq!(recorded, tokens.len());
        importance.write(&path("imatrix"), &["text".into()], 3, 128).unwrap();
        assert_eq!(Importance::read(&path("imatrix")).unwrap(), importance);

        quantize(&checkpoint, &path("float.gguf"), "f32").unwrap();
        quantize(&checkpoint, &path("plain.gguf"), "q4_0").unwrap();
        let plan = Plan::new(&dir, &"q4_0".parse().unwrap(), "test").unwrap();
        let plan = plan.weighted(&importance, &path("imatrix")).unwrap();
        plan.write(&path("weighted.gguf"), 2, |_| {}).unwrap();
        let [float, plain, weighted] =
            ["float.gguf", "plain.gguf", "weighted.gguf"].map(|name| ModelDir::open(&path(name)).unwrap());
        let mut errors = [0.0; 2];
        for (name, sums) in &importance.tensors {
            let original = float.tensor(name).unwrap();
            let (cols, rows) = (*original.shape.last().unwrap(), original.to_f32().len());
            let (rows, weights) = (rows / cols, sums.weights());
            for (file, error) in [&plain, &weighted].into_iter().zip(&mut errors) {
                let stored = file.tensor(name).unwrap().to_f32();
                for (i, (a, b)) in original.to_f32().iter().zip(&stored).enumerate() {
                    let matrix = i / cols * sums.counts.len() / rows;
                    *error += f64::from(weights[matrix * cols + i % cols]) * f64::from(a - b).powi(2);
                }
            }
        }
        eprintln!("{case}: the weighted error falls from {} to {}", errors[0], errors[1]);
        assert!(errors[1] < 0.99 * errors[0], "{case}: {errors:?}");

        let queries: Vec<&String> =
            importance.tensors.keys().filter(|name| name.ends_with("attn_q.weight")).collect();
        assert!(!queries.is_empty(), "{case}");
        for name in queries {
            let key = name.replace("attn_q", "attn_k");
            assert_eq!(importance.tensors[name], importance.tensors[&key], "{case}: both meet the same");
        }
        let mut missing: Vec<&str> =
            weighted.names().filter(|name| is_missing(&weighted, &importance, name)).collect();
        missing.sort();
        assert!(missing.iter().all(|name| name.contains("ssm_")), "{case}: {missing:?}");
        let other = ModelDir::open(&repository("tests/data/vectors/odd")).unwrap();
        let other = Plan::new(&other, &"q4_0".parse().unwrap(), "test").unwrap();
        let other = other.weighted(&importance, Path::new("a.imatrix")).err();
        let error = other.expect("matrices of other sizes").to_string();
        assert!(error.contains("a.imatrix") && error.contains("another model"), "{case}: {error}");
    }
}

/// Whether a tensor of a layer was quantised without weights.
fn is_missing(file: &ModelDir, importance: &Importance, name: &str) -> bool {
    let is_quantised = file.tensor(name).unwrap().dtype == DType::Q4_0;
    is_quantised && name.starts_with("blk.") && !importance.tensors.contains_key(name)
}

fn fimd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fimd")).arg("quantize").args(args).output().unwrap()
}

/// Fails, says every one of `words`, and leaves the folder of the output as it was.
#[track_caller]
fn check_refused(args: &[&str], output: &Path, words: &[&str]) {
    let list = || fs::read_dir(output.parent().unwrap()).unwrap().count();
    let before = list();
    let result = fimd(args);
    let errors = String::from_utf8_lossy(&result.stderr).into_owned();
    assert_eq!(result.status.code(), Some(1), "{args:?}: {errors}");
    for word in words {
        assert!(errors.contains(word), "{args:?}: {word:?} is not in: {errors}");
    }
    assert_eq!(list(), before, "nothing was left behind");
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let checkpoint = dir.path().join("damaged");
    fs::create_dir(&checkpoint).unwrap();
    let vectors = repository("tests/data/vectors/tied");
    fs::copy(vectors.join("config.json"), checkpoint.join("config.json")).unwrap();
    let mut weights = fs::read(vectors.join("model.safetensors")).unwrap();
    let length = weights.len();
    // All bits set are no number in every float format.
    weights[length - 4..].fill(0xff);
    fs::write(checkpoint.join("model.safetensors"), weights).unwrap();
    let checkpoint = checkpoint.to_str().unwrap();
    let dense = repository("tests/data/vectors/dense_mlp");

    let output = dir.path().join("out.gguf");
    let out = output.to_str().unwrap();
    check_refused(&[checkpoint, out], &output, &["damaged: tensor", "no number"]);
    check_refused(&[checkpoint, out, "--mix", "bf16"], &output, &["damaged: tensor", "no number"]);
    check_refused(&[dense.to_str().unwrap(), out], &output, &["dense_mlp", "has no experts"]);
    check_refused(&[checkpoint, &out.replace("gguf", "bin")], &output, &["must end in .gguf"]);
    check_refused(&["no/such/model", out], &output, &["no/such/model"]);

    fs::write(&output, "precious").unwrap();
    let tied = vectors.to_str().unwrap();
    check_refused(&[tied, out], &output, &["out.gguf exists", "--force"]);
    check_refused(&[checkpoint, out, "--force"], &output, &["no number"]);
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    assert!(fimd(&[tied, out, "--force"]).status.success());
    assert!(ModelDir::open(&output).is_ok());
    assert_eq!(fimd(&[tied, out, "--experts", "iq1_s"]).status.code(), Some(2), "wrong usage");
}

#[test]
fn the_report_names_every_tensor() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (starter, out, report) = (starter(), path("out.gguf"), path("report.json"));
    let starter = starter.to_str().unwrap();
    let arguments = ["--mix", "q8_0", "--experts", "q4_k", "--threads", "1"];
    let result = fimd(&[&[starter, &out, "--report", &report], &arguments[..]].concat());
    let summary = String::from_utf8(result.stdout).unwrap();
    assert!(result.status.success() && summary.contains("bits per weight; the error is"), "{summary}");
    let lines: Vec<serde_json::Value> = fs::read_to_string(&report)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names = ModelDir::open(Path::new(&out)).unwrap().names().count();
    assert_eq!(lines.len(), names + 1);
    let experts = lines.iter().find(|line| line["name"] == "blk.1.ffn_up_exps.weight").unwrap();
    assert_eq!((&experts["from"], &experts["to"]), (&"F8_E4M3".into(), &"Q4_K".into()));
    let error = experts["relative_rms_error"].as_f64().unwrap();
    assert!((0.05..0.08).contains(&error), "{error}");
    assert!(lines[names]["total"]["bits_per_weight"].as_f64().unwrap() > 4.5);

    let result = fimd(&[&[starter, &out, "--force", "--report", "-"], &arguments[..]].concat());
    let table = String::from_utf8(result.stdout).unwrap();
    assert_eq!(table.lines().count(), names + 2, "{table}");
}
