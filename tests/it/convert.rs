//! From a checkpoint in safetensors to the same model in GGUF, value by value, for tests that compare both.

use std::collections::BTreeMap;
use std::path::Path;

use fimd::base::dtype::DType;
use fimd::format::gguf::{Array, TensorInfo, Value, Writer};
use fimd::format::{ModelDir, Tensor};
use fimd::model::Config;
use fimd::model::config::{LayerShape, MixerShape, MoeShape};

/// How the files of different tools keep the same matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// As present tools write them, in the element type of the checkpoint, FP8 as F32.
    Split,
    /// One tensor wherever one is allowed: `ssm_in`, `ffn_gate_up_exps` and `attn_qkv`.
    Fused,
    /// As [`Form::Split`], all as F32.
    Float,
}

/// A GGUF file to be.
pub struct Gguf {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(TensorInfo, Vec<u8>)>,
}

impl Gguf {
    /// The model in `dir`, which has experts in all layers.
    pub fn of(dir: &ModelDir, form: Form) -> Self {
        let config = Config::read(dir).unwrap();
        let mut this = Self { metadata: metadata(&config), tensors: Vec::new() };
        let mut source = Source { dir, config: &config, form, out: &mut this.tensors };
        source.matrix("token_embd.weight", "model.embed_tokens.weight");
        source.norm("output_norm.weight", "model.norm.weight");
        if !config.tied {
            source.matrix("output.weight", "lm_head.weight");
        }
        for (index, layer) in config.layers.iter().enumerate() {
            source.layer(index, layer);
        }
        this
    }

    /// Sets a metadata key.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.metadata.iter_mut().find(|(own, _)| own == key) {
            Some(entry) => entry.1 = value,
            None => self.metadata.push((key.into(), value)),
        }
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        self.write(&path);
        std::fs::read(path).unwrap()
    }

    pub fn write(&self, path: &Path) {
        let infos: Vec<TensorInfo> = self.tensors.iter().map(|(info, _)| info.clone()).collect();
        let mut writer = Writer::create(path, &self.metadata, &infos).unwrap();
        for (_, bytes) in &self.tensors {
            writer.write(bytes).unwrap();
        }
        writer.finish().unwrap();
    }
}

fn metadata(config: &Config) -> Vec<(String, Value)> {
    let count = |value: usize| Value::U32(value as u32);
    let (attention, delta, moe) = (config.attention(), config.delta(), moe(config));
    let is_recurrent = |layer: &LayerShape| matches!(layer.mixer, MixerShape::DeltaNet(_));
    let recurrent = config.layers.iter().map(is_recurrent).collect();
    let model = [
        ("block_count", count(config.layers.len())),
        ("context_length", count(config.context_max)),
        ("embedding_length", count(config.hidden)),
        ("attention.head_count", count(attention.heads)),
        ("attention.head_count_kv", count(attention.kv_heads)),
        ("attention.key_length", count(attention.head_dim)),
        ("attention.value_length", count(attention.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::F32(config.eps)),
        ("attention.recurrent_layers", Value::Array(Array::Bool(recurrent))),
        ("rope.freq_base", Value::F32(attention.rope_theta as f32)),
        ("rope.dimension_count", count(attention.rotary_dim)),
        ("expert_count", count(moe.experts)),
        ("expert_used_count", count(moe.top_k)),
        ("expert_feed_forward_length", count(moe.width)),
        ("expert_shared_feed_forward_length", count(moe.shared_width.unwrap())),
        ("expert_weights_norm", Value::Bool(moe.normalize)),
        ("ssm.conv_kernel", count(delta.conv_kernel)),
        ("ssm.state_size", count(delta.key_dim)),
        ("ssm.group_count", count(delta.key_heads)),
        ("ssm.time_step_rank", count(delta.value_heads)),
        ("ssm.inner_size", count(delta.value_heads * delta.value_dim)),
    ];
    let architecture = ("general.architecture".to_owned(), "qwen3next".into());
    std::iter::once(architecture)
        .chain(model.map(|(key, value)| (format!("qwen3next.{key}"), value)))
        .collect()
}

fn moe(config: &Config) -> MoeShape {
    *config.moe_shapes().next().unwrap()
}

/// The metadata of the tokenizer that a `tokenizer.json` describes, for a model with `rows` rows of logits.
pub fn tokenizer_metadata(json: &[u8], rows: usize) -> Vec<(String, Value)> {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const USER_DEFINED: i32 = 4;
    const UNUSED: i32 = 5;
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    let mut texts: BTreeMap<usize, (String, i32)> = BTreeMap::new();
    for (text, id) in json["model"]["vocab"].as_object().unwrap() {
        texts.insert(id.as_u64().unwrap() as usize, (text.clone(), NORMAL));
    }
    for token in json["added_tokens"].as_array().unwrap() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        let text = token["content"].as_str().unwrap().to_owned();
        texts.insert(token["id"].as_u64().unwrap() as usize, (text, kind));
    }
    let pad = |id| (format!("[PAD{id}]"), UNUSED);
    let (tokens, types) = (0..rows).map(|id| texts.remove(&id).unwrap_or_else(|| pad(id))).unzip();
    let merge = |pair: &serde_json::Value| match pair {
        serde_json::Value::String(pair) => pair.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    vec![
        ("tokenizer.ggml.model".into(), "gpt2".into()),
        ("tokenizer.ggml.pre".into(), "qwen2".into()),
        ("tokenizer.ggml.tokens".into(), Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type".into(), Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges".into(), Value::Array(Array::String(merges))),
    ]
}

struct Source<'a> {
    dir: &'a ModelDir,
    config: &'a Config,
    form: Form,
    out: &'a mut Vec<(TensorInfo, Vec<u8>)>,
}

impl Source<'_> {
    fn layer(&mut self, index: usize, layer: &LayerShape) {
        let to = |name: &str| format!("blk.{index}.{name}");
        let from = |name: &str| format!("model.layers.{index}.{name}");
        self.norm(&to("attn_norm.weight"), &from("input_layernorm.weight"));
        self.norm(&to("post_attention_norm.weight"), &from("post_attention_layernorm.weight"));
        match layer.mixer {
            MixerShape::Attention(_) => self.attention(&to, &from),
            MixerShape::DeltaNet(_) => self.delta(&to, &from),
        }
        self.matrix(&to("ffn_gate_inp.weight"), &from("mlp.gate.weight"));
        for part in ["gate", "up", "down"] {
            let shared = from(&format!("mlp.shared_expert.{part}_proj.weight"));
            self.matrix(&to(&format!("ffn_{part}_shexp.weight")), &shared);
        }
        let gate = self.tensor(&from("mlp.shared_expert_gate.weight"));
        self.put(&to("ffn_gate_inp_shexp.weight"), gate.dtype, &[self.config.hidden], &gate.bytes);
        self.experts(&to, &from);
    }

    fn attention(&mut self, to: &dyn Fn(&str) -> String, from: &dyn Fn(&str) -> String) {
        let parts = ["q", "k", "v"];
        let name = |part: &str| from(&format!("self_attn.{part}_proj.weight"));
        if self.form == Form::Fused {
            let all = parts.map(|part| self.tensor(&name(part)));
            let rows = all.iter().map(|part| part.shape[0]).sum();
            let bytes = all.each_ref().map(|part| &part.bytes[..]).concat();
            self.put(&to("attn_qkv.weight"), all[0].dtype, &[rows, self.config.hidden], &bytes);
        } else {
            for part in parts {
                self.matrix(&to(&format!("attn_{part}.weight")), &name(part));
            }
        }
        self.matrix(&to("attn_output.weight"), &from("self_attn.o_proj.weight"));
        self.norm(&to("attn_q_norm.weight"), &from("self_attn.q_norm.weight"));
        self.norm(&to("attn_k_norm.weight"), &from("self_attn.k_norm.weight"));
    }

    fn delta(&mut self, to: &dyn Fn(&str) -> String, from: &dyn Fn(&str) -> String) {
        let shape = self.config.delta();
        let at = |name: &str| from(&format!("linear_attn.{name}"));
        let decay: Vec<f32> = self.tensor(&at("A_log")).to_f32().iter().map(|a| -a.exp()).collect();
        self.floats(&to("ssm_a"), &[shape.value_heads], &decay);
        let plain = [("ssm_dt.bias", "dt_bias"), ("ssm_norm.weight", "norm.weight")];
        for (name, stored) in plain {
            let tensor = self.tensor(&at(stored));
            self.floats(&to(name), &tensor.shape, &tensor.to_f32());
        }
        let conv = self.tensor(&at("conv1d.weight")).to_f32();
        self.floats(&to("ssm_conv1d.weight"), &[shape.channels(), shape.conv_kernel], &conv);
        self.matrix(&to("ssm_ba.weight"), &at("in_proj_ba.weight"));
        self.matrix(&to("ssm_out.weight"), &at("out_proj.weight"));
        let stored = at("in_proj_qkvz.weight");
        if self.form == Form::Fused {
            return self.matrix(&to("ssm_in.weight"), &stored);
        }
        let grouped = self.tensor(&stored);
        let values = shape.value_heads / shape.key_heads * shape.value_dim;
        let widths = [shape.key_dim, shape.key_dim, values, values];
        let kind = |kind: usize| -> Vec<u8> {
            let (group, start) = (widths.iter().sum::<usize>(), widths[..kind].iter().sum::<usize>());
            let rows = (0..shape.key_heads).map(|head| head * group + start);
            rows.flat_map(|start| grouped.rows(start..start + widths[kind]).bytes.to_vec()).collect()
        };
        let hidden = self.config.hidden;
        let qkv = [kind(0), kind(1), kind(2)].concat();
        self.put(&to("attn_qkv.weight"), grouped.dtype, &[shape.channels(), hidden], &qkv);
        self.put(&to("attn_gate.weight"), grouped.dtype, &[values * shape.key_heads, hidden], &kind(3));
    }

    fn experts(&mut self, to: &dyn Fn(&str) -> String, from: &dyn Fn(&str) -> String) {
        let MoeShape { experts, width, .. } = moe(self.config);
        let hidden = self.config.hidden;
        let stored =
            |e: usize, part: &str| self.tensor(&from(&format!("mlp.experts.{e}.{part}_proj.weight")));
        let all = |parts: &[&str]| -> Vec<u8> {
            let both = |e| parts.iter().flat_map(move |part| stored(e, part).bytes.to_vec());
            (0..experts).flat_map(both).collect()
        };
        let dtype = stored(0, "gate").dtype;
        let (gate, up, both, down) = (all(&["gate"]), all(&["up"]), all(&["gate", "up"]), all(&["down"]));
        self.put(&to("ffn_down_exps.weight"), dtype, &[experts, hidden, width], &down);
        if self.form == Form::Fused {
            return self.put(&to("ffn_gate_up_exps.weight"), dtype, &[experts, 2 * width, hidden], &both);
        }
        self.put(&to("ffn_gate_exps.weight"), dtype, &[experts, width, hidden], &gate);
        self.put(&to("ffn_up_exps.weight"), dtype, &[experts, width, hidden], &up);
    }

    fn norm(&mut self, name: &str, stored: &str) {
        let tensor = self.tensor(stored);
        let values: Vec<f32> = tensor.to_f32().iter().map(|w| 1.0 + w).collect();
        self.floats(name, &tensor.shape, &values);
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.put(name, DType::F32, shape, &bytes);
    }

    fn matrix(&mut self, name: &str, stored: &str) {
        let tensor = self.tensor(stored);
        self.put(name, tensor.dtype, &tensor.shape, &tensor.bytes);
    }

    fn put(&mut self, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) {
        let (mut dtype, mut bytes) = (dtype, bytes.to_vec());
        if self.form == Form::Float {
            let mut values = vec![0.0; shape.iter().product()];
            fimd::format::blocks::to_f32(dtype, &bytes, &mut values);
            bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            dtype = DType::F32;
        }
        self.out.push((TensorInfo { name: name.into(), dtype, shape: shape.to_vec() }, bytes));
    }

    /// A tensor as stored, or as F32 where it is FP8, which GGUF does not have.
    fn tensor(&self, name: &str) -> Tensor {
        let stored = self.dir.tensor(name).unwrap();
        if stored.dtype != DType::F8E4M3 {
            return stored;
        }
        let [block_rows, block_cols] = self.config.fp8_block.unwrap();
        let cols = stored.shape[1];
        let scale = self.dir.tensor(&format!("{name}_scale_inv")).unwrap().to_f32();
        let of = |i: usize| scale[i / cols / block_rows * cols.div_ceil(block_cols) + i % cols / block_cols];
        let values = stored.to_f32().into_iter().enumerate().map(|(i, value)| value * of(i));
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        Tensor { dtype: DType::F32, bytes: bytes.into(), ..stored }
    }
}
