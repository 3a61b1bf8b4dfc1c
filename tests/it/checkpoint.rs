//! Damaged, foreign and unusual checkpoints: each is opened or refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use fimd::base::Cancel;
use fimd::compute::cpu::Cpu;
use fimd::decode::drafts::DraftCost;
use fimd::decode::{Task, generate};
use fimd::format::ModelDir;
use fimd::model::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load;

/// A copy of a reference checkpoint to damage.
struct Checkpoint(TempDir);

impl Checkpoint {
    fn copy(case: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors").join(case);
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        Self(dir)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn edit(self, file: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = fs::read(self.path(file)).unwrap();
        edit(&mut bytes);
        fs::write(self.path(file), bytes).unwrap();
        self
    }

    fn edit_json(self, file: &str, edit: impl FnOnce(&mut Value)) -> Self {
        self.edit(file, |bytes| {
            let mut value = serde_json::from_slice(bytes).unwrap();
            edit(&mut value);
            *bytes = serde_json::to_vec(&value).unwrap();
        })
    }

    fn config(self, key: &str, value: Value) -> Self {
        self.edit_json("config.json", |config| config[key] = value)
    }

    fn header(self, file: &str, edit: impl FnOnce(&mut Value)) -> Self {
        self.edit(file, |bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            edit(&mut header);
            let header = serde_json::to_vec(&header).unwrap();
            let data = bytes.split_off(8 + length);
            *bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header);
            bytes.extend(data);
        })
    }

    /// Overwrites the elements of a tensor.
    fn fill(self, file: &str, tensor: &str, pattern: &[u8]) -> Self {
        self.edit(file, |bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            let offsets = &header[tensor]["data_offsets"];
            let at = |i: usize| 8 + length + offsets[i].as_u64().unwrap() as usize;
            for (i, byte) in bytes[at(0)..at(1)].iter_mut().enumerate() {
                *byte = pattern[i % pattern.len()];
            }
        })
    }

    /// Opens it as `path` and generates two tokens.
    fn run_as(&self, path: &Path) -> anyhow::Result<Vec<u32>> {
        let dir = ModelDir::open(path)?;
        let options = load::options(64, 64);
        let mut session = load::session(load::model::<Cpu>(&dir, 1, 8, options)?);
        let task = Task::greedy(vec![1, 2, 3], 2);
        Ok(generate(&mut session, None, &task, &mut DraftCost::default(), &Cancel::new(), &mut |_| {})?.ids)
    }

    #[track_caller]
    fn check_refused(&self, words: &[&str]) {
        let error = format!("{:#}", self.run_as(self.0.path()).expect_err("it should be refused"));
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }

    #[track_caller]
    fn check_runs(&self) -> Vec<u32> {
        self.run_as(self.0.path()).unwrap()
    }
}

const WEIGHTS: &str = "model.safetensors";
const NORM: &str = "model.norm.weight";

#[test]
fn damaged_safetensors_files_are_refused() {
    let odd = || Checkpoint::copy("odd");
    odd().edit(WEIGHTS, |bytes| bytes.truncate(5)).check_refused(&[WEIGHTS, "shorter than"]);
    odd().edit(WEIGHTS, |bytes| bytes.clear()).check_refused(&[WEIGHTS]);
    odd().edit(WEIGHTS, |bytes| bytes[..8].fill(0xff)).check_refused(&[WEIGHTS, "100 MB"]);
    odd().edit(WEIGHTS, |bytes| bytes.truncate(500)).check_refused(&[WEIGHTS, "cut short"]);
    odd().edit(WEIGHTS, |bytes| bytes.truncate(bytes.len() - 1)).check_refused(&[WEIGHTS, "cut short"]);
    odd().edit(WEIGHTS, |bytes| bytes.push(0)).check_refused(&[WEIGHTS, "trailing"]);
    odd().edit(WEIGHTS, |bytes| bytes[8] = b'?').check_refused(&[WEIGHTS]);

    let offsets = |offsets: Value| odd().header(WEIGHTS, |header| header[NORM]["data_offsets"] = offsets);
    offsets(json!([0, 116])).check_refused(&[WEIGHTS, "overlaps"]);
    offsets(json!([1u64 << 60, (1u64 << 60) + 116])).check_refused(&[WEIGHTS]);
    offsets(json!([116, 0])).check_refused(&[WEIGHTS]);
    odd().header(WEIGHTS, |header| header[NORM]["shape"] = json!([30])).check_refused(&[WEIGHTS, "shape"]);
    odd()
        .header(WEIGHTS, |header| header[NORM]["shape"] = json!([u64::MAX, 29]))
        .check_refused(&[WEIGHTS, "overflow"]);
    odd().header(WEIGHTS, |header| header[NORM]["dtype"] = json!("F99")).check_refused(&[WEIGHTS, "F99"]);
}

#[test]
fn tensors_that_do_not_fit_the_model_are_refused_by_name() {
    let odd = || Checkpoint::copy("odd");
    let rename = |header: &mut Value, from: &str, to: &str| {
        let header = header.as_object_mut().unwrap();
        let info = header.remove(from).unwrap();
        header.insert(to.into(), info);
    };
    odd()
        .header(WEIGHTS, |header| rename(header, "model.layers.1.mlp.experts.4.up_proj.weight", "other"))
        .check_refused(&["model.layers.1.mlp.experts.4.up_proj.weight", "missing"]);
    odd()
        .header(WEIGHTS, |header| header[NORM]["shape"] = json!([1, 29]))
        .check_refused(&[NORM, "[1, 29]", "[29]"]);
    odd()
        .header(WEIGHTS, |header| header[NORM]["dtype"] = json!("I32"))
        .check_refused(&[NORM, "I32", "BF16"]);
    odd().config("vocab_size", json!(66)).check_refused(&["model.embed_tokens.weight", "[66, 29]"]);

    let scale = "model.layers.0.mlp.experts.0.up_proj.weight_scale_inv";
    let weight = "model.layers.0.mlp.experts.0.up_proj.weight";
    let shard = |name: &str| {
        let index = fs::read(Checkpoint::copy("fp8").path("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        index["weight_map"][name].as_str().unwrap().to_owned()
    };
    let fp8 = || {
        Checkpoint::copy("fp8").edit_json("model.safetensors.index.json", |index| {
            index["weight_map"].as_object_mut().unwrap().remove(scale);
        })
    };
    fp8().header(&shard(scale), |header| rename(header, scale, "other")).check_refused(&[weight, "without"]);
    fp8()
        .header(&shard(scale), |header| header[scale]["shape"] = json!([4, 1]))
        .check_refused(&[scale, "[4, 1]", "[2, 2]"]);
    Checkpoint::copy("fp8")
        .config("quantization_config", Value::Null)
        .check_refused(&["scale_inv", "config.json"]);
}

#[test]
fn foreign_and_impossible_configurations_are_refused() {
    let odd = || Checkpoint::copy("odd");
    odd().config("model_type", json!("llama")).check_refused(&["config.json", "llama", "qwen3_next"]);
    odd().edit("config.json", |text| text.truncate(40)).check_refused(&["config.json"]);
    odd()
        .edit_json("config.json", |config| {
            config.as_object_mut().unwrap().remove("hidden_size");
        })
        .check_refused(&["config.json", "hidden_size"]);
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("num_experts", json!(1u64 << 40)),
        ("num_hidden_layers", json!(-1)),
        ("num_experts_per_tok", json!(8)),
        ("num_key_value_heads", json!(2)),
        ("linear_num_key_heads", json!(2)),
        ("rms_norm_eps", json!(0)),
        ("partial_rotary_factor", json!(0.5)),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["sliding"])),
        ("quantization_config", json!({ "quant_method": "awq" })),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
    ] {
        let word = if key == "partial_rotary_factor" { "even" } else { "" };
        odd().config(key, value).check_refused(&["config.json", word]);
    }
    let missing = odd();
    fs::remove_file(missing.path("config.json")).unwrap();
    missing.check_refused(&["config.json"]);
}

#[test]
fn shards_are_checked_against_their_index() {
    let index = "model.safetensors.index.json";
    let fp8 = || Checkpoint::copy("fp8");
    fp8()
        .edit_json(index, |index| {
            index["weight_map"]["extra.weight"] = json!("model-00001-of-00002.safetensors")
        })
        .check_refused(&["extra.weight", "missing"]);
    fp8()
        .edit_json(index, |index| index["weight_map"][NORM] = json!("../model.safetensors"))
        .check_refused(&["../model.safetensors", "plain file name"]);
    fp8()
        .edit_json(index, |index| index["weight_map"][NORM] = json!("gone.safetensors"))
        .check_refused(&["gone.safetensors"]);
    fp8().edit(index, |text| text.truncate(9)).check_refused(&[index]);
    let empty = Checkpoint(TempDir::new().unwrap()).0;
    let error = ModelDir::open(empty.path()).err().unwrap();
    assert!(error.to_string().contains(index), "{error}");
}

#[test]
fn nan_weights_are_an_error_not_a_token() {
    Checkpoint::copy("odd")
        .fill(WEIGHTS, "model.layers.2.mlp.gate.weight", &f32::NAN.to_le_bytes())
        .check_refused(&["NaN"]);
}

#[test]
fn a_model_may_be_a_folder_or_a_file() {
    let odd = Checkpoint::copy("odd");
    assert_eq!(odd.check_runs(), odd.run_as(&odd.path(WEIGHTS)).unwrap());
    for (path, word) in [(odd.path("gone"), "gone"), (odd.path("config.json"), "neither")] {
        let error = format!("{:#}", odd.run_as(&path).unwrap_err());
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn both_spellings_of_the_rope_settings_mean_the_same() {
    let plain = Checkpoint::copy("odd");
    let config: Value = serde_json::from_slice(&fs::read(plain.path("config.json")).unwrap()).unwrap();
    let nested = Checkpoint::copy("odd").edit_json("config.json", |nested| {
        let nested = nested.as_object_mut().unwrap();
        let theta = nested.remove("rope_theta");
        let factor = nested.remove("partial_rotary_factor");
        nested.insert(
            "rope_parameters".into(),
            json!({ "rope_type": "default", "rope_theta": theta, "partial_rotary_factor": factor }),
        );
    });
    let parse =
        |checkpoint: &Checkpoint| Config::read(&ModelDir::open(checkpoint.0.path()).unwrap()).unwrap();
    assert!(config["rope_theta"].is_number());
    assert_eq!(parse(&plain), parse(&nested));
    assert_eq!(plain.check_runs(), nested.check_runs());
}
