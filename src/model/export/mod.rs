//! A model as a GGUF file: the names, shapes and order of its tensors ([`tensors`]), what its metadata says
//! ([`metadata()`]), and which type a tensor gets ([`Recipe`]). Pure: nothing here reads a file.
//!
//! Names and shapes are those that llama.cpp gives the architecture `qwen3next`.

mod metadata;
mod recipe;
mod source;
mod vocabulary;

use anyhow::{Result, ensure};

use super::config::{Config, Mixer};

pub use metadata::metadata;
pub use recipe::{Choice, Recipe, exportable};
pub use source::{Change, Rows, Source};
pub use vocabulary::Vocabulary;

/// A tensor of a GGUF file of this architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportTensor {
    /// Its name in the file.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// What it does, as far as that decides its type.
    pub role: Role,
}

/// What a tensor does, as far as that decides its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Looks tokens up, and does nothing else.
    Embedding,
    /// Turns the last layer into logits; the embedding too where both are one.
    Head,
    /// Gate or up of the routed experts.
    Experts,
    /// Down of the routed experts of this layer.
    ExpertsDown(usize),
    /// Any other matrix that every token meets.
    Trunk,
    /// Values of attention (with what is fused to them) or down of the shared expert, in this layer.
    TrunkSensitive(usize),
    /// Vectors, convolutions and the router: small, and always F32.
    Exact,
}

impl ExportTensor {
    /// A tensor with the role that its name and shape tell. `tied` says that the file's head is its
    /// embedding.
    pub fn new(name: impl Into<String>, shape: &[usize], tied: bool) -> Self {
        let name = name.into();
        let role = Role::of(&name, shape, tied);
        Self { name, shape: shape.to_vec(), role }
    }
}

impl Role {
    fn of(name: &str, shape: &[usize], tied: bool) -> Self {
        let (layer, part) = split_layer(name);
        let Some(part) = part.strip_suffix(".weight").filter(|_| shape.len() > 1) else { return Role::Exact };
        match part {
            "token_embd" if !tied => Role::Embedding,
            "token_embd" | "output" => Role::Head,
            "ffn_gate_inp" | "ssm_conv1d" => Role::Exact,
            _ if part.ends_with("_norm") => Role::Exact,
            "ffn_gate_exps" | "ffn_up_exps" | "ffn_gate_up_exps" => Role::Experts,
            "ffn_down_exps" => Role::ExpertsDown(layer),
            "attn_v" | "attn_qkv" | "ffn_down_shexp" => Role::TrunkSensitive(layer),
            _ => Role::Trunk,
        }
    }
}

/// `(N, rest)` of `blk.N.rest`; `(0, name)` of a name outside the layers.
fn split_layer(name: &str) -> (usize, &str) {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    parts.and_then(|(layer, rest)| Some((layer.parse().ok()?, rest))).unwrap_or((0, name))
}

/// All tensors of the model, in the order of the file. Fails for a model that has layers without experts:
/// the architecture has no names for them.
pub fn tensors(config: &Config) -> Result<Vec<ExportTensor>> {
    ensure!(
        config.dense_layers.is_empty(),
        "layer {} has no experts; GGUF's architecture {} has no place for such a layer",
        config.dense_layers[0],
        metadata::ARCHITECTURE
    );
    let (vocab, hidden) = (config.vocab, config.hidden);
    let mut list = List { tensors: Vec::new(), tied: config.tied };
    list.add("token_embd.weight", &[vocab, hidden]);
    for (layer, mixer) in config.layers.iter().enumerate() {
        match mixer {
            Mixer::FullAttention => list.attention(config, layer),
            Mixer::LinearAttention => list.delta(config, layer),
        }
        list.moe(config, layer);
    }
    list.add("output_norm.weight", &[hidden]);
    if !config.tied {
        list.add("output.weight", &[vocab, hidden]);
    }
    Ok(list.tensors)
}

struct List {
    tensors: Vec<ExportTensor>,
    tied: bool,
}

impl List {
    fn attention(&mut self, config: &Config, layer: usize) {
        let (hidden, shape) = (config.hidden, config.attention);
        let (query_width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        self.add_all(
            layer,
            &[
                ("attn_norm.weight", &[hidden]),
                ("attn_q.weight", &[2 * query_width, hidden]),
                ("attn_k.weight", &[kv_width, hidden]),
                ("attn_v.weight", &[kv_width, hidden]),
                ("attn_q_norm.weight", &[shape.head_dim]),
                ("attn_k_norm.weight", &[shape.head_dim]),
                ("attn_output.weight", &[hidden, query_width]),
            ],
        );
    }

    fn delta(&mut self, config: &Config, layer: usize) {
        let (hidden, shape) = (config.hidden, config.delta);
        let values = shape.value_heads * shape.value_dim;
        self.add_all(
            layer,
            &[
                ("attn_norm.weight", &[hidden]),
                ("attn_qkv.weight", &[shape.channels(), hidden]),
                ("attn_gate.weight", &[values, hidden]),
                ("ssm_ba.weight", &[2 * shape.value_heads, hidden]),
                ("ssm_conv1d.weight", &[shape.channels(), shape.conv_kernel]),
                ("ssm_dt.bias", &[shape.value_heads]),
                ("ssm_a", &[shape.value_heads]),
                ("ssm_norm.weight", &[shape.value_dim]),
                ("ssm_out.weight", &[hidden, values]),
            ],
        );
    }

    fn moe(&mut self, config: &Config, layer: usize) {
        let (hidden, shape) = (config.hidden, config.moe);
        self.add_all(
            layer,
            &[
                ("post_attention_norm.weight", &[hidden]),
                ("ffn_gate_inp.weight", &[shape.experts, hidden]),
                ("ffn_gate_exps.weight", &[shape.experts, shape.width, hidden]),
                ("ffn_up_exps.weight", &[shape.experts, shape.width, hidden]),
                ("ffn_down_exps.weight", &[shape.experts, hidden, shape.width]),
                ("ffn_gate_inp_shexp.weight", &[hidden]),
                ("ffn_gate_shexp.weight", &[shape.shared_width, hidden]),
                ("ffn_up_shexp.weight", &[shape.shared_width, hidden]),
                ("ffn_down_shexp.weight", &[hidden, shape.shared_width]),
            ],
        );
    }

    fn add_all(&mut self, layer: usize, parts: &[(&str, &[usize])]) {
        for (part, shape) in parts {
            self.add(&format!("blk.{layer}.{part}"), shape);
        }
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push(ExportTensor::new(name, shape, self.tied));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::format::gguf::{Array, Value};
    use crate::format::{Bytes, ModelDir};

    pub(super) fn starter() -> Config {
        let config = include_bytes!("../../starter/config.json");
        let weights = Bytes::embedded(include_bytes!("../../starter/model.safetensors"));
        Config::read(&ModelDir::from_safetensors("starter", config, None, &weights).unwrap()).unwrap()
    }

    #[test]
    fn every_parameter_has_a_place() {
        let mut config = starter();
        let tied = tensors(&config).unwrap();
        config.tied = false;
        let untied = tensors(&config).unwrap();
        let find = |tensors: &[ExportTensor], name: &str| {
            tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!((tied.len(), untied.len()), (3 * 18 + 16 + 2, 3 * 18 + 16 + 3));
        let mut names: Vec<_> = untied.iter().map(|tensor| &tensor.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), untied.len());

        for (name, shape, role) in [
            ("token_embd.weight", &[8192, 256][..], Role::Embedding),
            ("output.weight", &[8192, 256], Role::Head),
            ("output_norm.weight", &[256], Role::Exact),
            ("blk.0.attn_qkv.weight", &[512, 256], Role::TrunkSensitive(0)),
            ("blk.0.attn_gate.weight", &[256, 256], Role::Trunk),
            ("blk.0.ssm_conv1d.weight", &[512, 4], Role::Exact),
            ("blk.0.ssm_ba.weight", &[8, 256], Role::Trunk),
            ("blk.0.ssm_a", &[4], Role::Exact),
            ("blk.3.attn_q.weight", &[512, 256], Role::Trunk),
            ("blk.3.attn_v.weight", &[128, 256], Role::TrunkSensitive(3)),
            ("blk.3.ffn_gate_inp.weight", &[16, 256], Role::Exact),
            ("blk.3.ffn_gate_inp_shexp.weight", &[256], Role::Exact),
            ("blk.3.ffn_up_exps.weight", &[16, 256, 256], Role::Experts),
            ("blk.3.ffn_down_exps.weight", &[16, 256, 256], Role::ExpertsDown(3)),
            ("blk.3.ffn_down_shexp.weight", &[256, 256], Role::TrunkSensitive(3)),
        ] {
            assert_eq!(find(&untied, name), ExportTensor { name: name.into(), shape: shape.into(), role });
        }
        assert_eq!(find(&tied, "token_embd.weight").role, Role::Head);

        config.dense_layers = vec![2];
        assert!(tensors(&config).unwrap_err().to_string().contains("layer 2 has no experts"));
    }

    #[test]
    fn recipes_choose_types() {
        let experts =
            |layer| ExportTensor::new(format!("blk.{layer}.ffn_down_exps.weight"), &[4, 256, 512], false);
        let raised: Vec<usize> = (0..48)
            .filter(|&layer| Recipe::q4_k_m().choose(&experts(layer), 48).dtype == DType::Q6K)
            .collect();
        assert_eq!(raised[..8], [0, 1, 2, 3, 4, 5, 8, 11]);
        assert_eq!(raised[16..], [38, 41, 42, 43, 44, 45, 46, 47]);

        let matrix = |name: &str, cols| ExportTensor::new(format!("{name}.weight"), &[7, cols], false);
        for (recipe, name, cols, dtype, instead_of) in [
            ("q4_k_m", "output", 256, DType::Q6K, None),
            ("q4_k_m", "token_embd", 256, DType::Q4K, None),
            ("Q4_K_M", "blk.9.ssm_ba", 96, DType::Q5_0, Some(DType::Q4K)),
            ("q4_k_m", "output", 96, DType::Q8_0, Some(DType::Q6K)),
            ("q4_k_m", "output", 100, DType::F16, Some(DType::Q6K)),
            ("mxfp4", "blk.0.ffn_up_exps", 32, DType::Mxfp4, None),
            ("MXFP4", "blk.0.ffn_up_shexp", 32, DType::Q8_0, None),
            ("mxfp4", "blk.0.ffn_up_exps", 8, DType::F16, Some(DType::Mxfp4)),
            ("iq4_xs", "blk.0.attn_q", 32, DType::Iq4Nl, Some(DType::Iq4Xs)),
            ("bf16", "blk.0.attn_q", 33, DType::BF16, None),
            ("q8_0", "blk.0.ffn_gate_inp", 256, DType::F32, None),
            ("q8_0", "blk.0.attn_norm", 256, DType::F32, None),
        ] {
            let choice = recipe.parse::<Recipe>().unwrap().choose(&matrix(name, cols), 48);
            assert_eq!(choice, Choice { dtype, instead_of }, "{recipe} {name} {cols}");
        }
        assert!("f8_e4m3".parse::<Recipe>().unwrap_err().contains("GGUF has no type F8_E4M3"));
        assert!("q3_k_m".parse::<Recipe>().unwrap_err().contains("q4_k_m"));
    }

    #[test]
    fn metadata_describes_the_model_and_its_vocabulary() {
        let config = starter();
        let tokenizer = include_bytes!("../../starter/tokenizer.json");
        let vocabulary = Vocabulary { tokenizer, chat_template: None, eos: None };
        let entries = metadata(&config, &Recipe::q4_k_m(), "starter", Some(vocabulary)).unwrap();
        let find =
            |key: &str| &entries.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{key}")).1;
        for (key, value) in [
            ("general.architecture", Value::String("qwen3next".into())),
            ("general.file_type", Value::U32(15)),
            ("qwen3next.ssm.inner_size", Value::U32(256)),
            ("qwen3next.rope.dimension_count", Value::U32(32)),
            ("qwen3next.rope.freq_base", Value::F32(1e5)),
            ("qwen3next.full_attention_interval", Value::U32(4)),
            ("tokenizer.ggml.pre", Value::String("qwen2".into())),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            ("tokenizer.ggml.eos_token_id", Value::U32(8134)),
            ("tokenizer.ggml.fim_mid_token_id", Value::U32(8151)),
        ] {
            assert_eq!(find(key), &value, "{key}");
        }
        let Value::Array(Array::String(tokens)) = find("tokenizer.ggml.tokens") else { panic!() };
        let Value::Array(Array::I32(types)) = find("tokenizer.ggml.token_type") else { panic!() };
        let Value::Array(Array::String(merges)) = find("tokenizer.ggml.merges") else { panic!() };
        assert_eq!((tokens.len(), types.len(), &merges[0][..]), (8192, 8192, "Ġ Ġ"));
        for (id, text, kind) in [
            (8134, "<|endoftext|>", 3),
            (8151, "<|fim_middle|>", 3),
            (8159, "</think>", 4),
            (8160, "[PAD8160]", 5),
        ] {
            assert_eq!((&tokens[id][..], types[id]), (text, kind));
        }
        assert!(types[..8134].iter().all(|&kind| kind == 1));

        let chat = Vocabulary { chat_template: Some("{{ messages }}"), ..vocabulary };
        let entries = metadata(&config, &Recipe::q4_k_m(), "starter", Some(chat)).unwrap();
        let eos = entries.iter().find(|(key, _)| key == "tokenizer.ggml.eos_token_id");
        assert_eq!(eos.unwrap().1, Value::U32(8136), "the end of a turn");
    }

    #[test]
    fn metadata_tells_which_layers_are_recurrent() {
        let (linear, full) = (Mixer::LinearAttention, Mixer::FullAttention);
        let key = |layers: &[Mixer]| {
            let config = Config { layers: layers.into(), ..starter() };
            let entries = metadata(&config, &Recipe::q4_k_m(), "", None).unwrap();
            let found = |key: &str| {
                entries.iter().find(|(name, _)| name.ends_with(key)).map(|(_, value)| value.clone())
            };
            (found("full_attention_interval"), found("recurrent_layers"))
        };
        assert_eq!(key(&[linear, linear]), (Some(Value::U32(4)), None));
        assert_eq!(key(&[linear, full, linear]), (Some(Value::U32(2)), None));
        assert_eq!(key(&[full, full]), (Some(Value::U32(1)), None));
        assert_eq!(key(&[linear; 4]), (Some(Value::U32(5)), None));
        let irregular = Value::Array(Array::Bool(vec![false, true, true]));
        assert_eq!(key(&[full, linear, linear]), (None, Some(irregular)));
    }

    #[test]
    fn other_tokenizers_are_refused() {
        let text = String::from_utf8(include_bytes!("../../starter/tokenizer.json").to_vec()).unwrap();
        let other_pattern = text.replace(r"|\\p{N}| ?", r"|\\p{N}+| ?");
        assert_ne!(text, other_pattern);
        let few_rows = Config { vocab: 8000, ..starter() };
        for (tokenizer, config, expected) in [
            ("[]", starter(), "byte-level BPE"),
            (&other_pattern, starter(), "another way than Qwen2"),
            (&text.replace("\"id\": 8135", "\"id\": 8134"), starter(), "two tokens with the id 8134"),
            (&text, few_rows, "only 8000 rows"),
        ] {
            let vocabulary = Vocabulary { tokenizer: tokenizer.as_bytes(), chat_template: None, eos: None };
            let error = metadata(&config, &Recipe::q4_k_m(), "", Some(vocabulary)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
