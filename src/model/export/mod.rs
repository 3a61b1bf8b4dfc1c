//! A model as a GGUF file: its tensors in order ([`tensors`]), what its metadata says ([`metadata()`]), and which
//! type a tensor gets ([`Recipe`]). Pure: nothing here reads a file.
//!
//! Names and shapes are those that llama.cpp gives the architecture.

mod metadata;
mod recipe;
mod vocabulary;

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Result, ensure};

use super::architecture::{self, Part, Role};
use super::config::{Architecture, Config, FfnShape};

pub use metadata::metadata;
pub use recipe::{Choice, Recipe, exportable};
pub use vocabulary::Vocabulary;

/// A tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportTensor {
    /// Its name in the file.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// What it does, as far as that decides its type.
    pub role: Role,
    /// Its layer.
    pub layer: Option<usize>,
}

/// All tensors of the model, in the order of the file, and what the table says of them. Fails for a model that the
/// architecture's GGUF files cannot describe.
pub fn tensors(config: &Config) -> Result<Vec<(ExportTensor, Part)>> {
    check(config)?;
    let parts = architecture::tensors(config).into_iter().filter(|part| part.gguf_name().is_some());
    Ok(parts.map(|part| (ExportTensor::of(&part), part)).collect())
}

/// What files with an expert in one piece align tensors to: what direct reads are multiples of.
pub const EXPERT_ALIGNMENT: u32 = 4096;

/// How routed experts lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertLayout {
    /// All gates of a layer in one tensor, then all ups, then all downs.
    Stacked,
    /// Each expert in one piece.
    Pieces,
}

/// Every stacked tensor of experts apart, gate, up and down of an expert one after the other, so that it is read at once.
/// `part` takes the rows of an expert.
pub fn by_expert<T>(
    tensors: Vec<(ExportTensor, T)>,
    part: impl Fn(&T, Range<usize>) -> T,
) -> Vec<(ExportTensor, T)> {
    let (mut all, mut experts): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|(tensor, _)| !tensor.is_stacked());
    experts.sort_by_key(|(tensor, _)| (tensor.layer, tensor.role == Role::ExpertsDown));
    for layer in experts.chunk_by(|(a, _), (b, _)| a.layer == b.layer) {
        let count = layer[0].0.shape[0];
        all.extend((0..count).flat_map(|e| layer.iter().map(move |(tensor, from)| (e, tensor, from))).map(
            |(e, tensor, from)| {
                let rows = tensor.shape[1];
                let name = architecture::expert_name(&tensor.name, e);
                let shape = tensor.shape[1..].to_vec();
                (ExportTensor { name, shape, ..tensor.clone() }, part(from, e * rows..(e + 1) * rows))
            },
        ));
    }
    all
}

impl ExportTensor {
    /// That of a part; its name is empty where the architecture has none for it.
    pub fn of(part: &Part) -> Self {
        Self {
            name: part.gguf_name().unwrap_or_default().to_owned(),
            shape: part.shape.clone(),
            role: part.role,
            layer: part.field.layer(),
        }
    }

    /// Whether it is a matrix of each expert of a layer.
    fn is_stacked(&self) -> bool {
        self.role.is_of_experts() && self.shape.len() == 3
    }
}

/// Whether the architecture has names for all layers, and a way to say how experts are weighed.
fn check(config: &Config) -> Result<()> {
    let name = config.architecture.name();
    if !config.architecture.has_experts() {
        return Ok(());
    }
    let dense = config.layers.iter().position(|layer| matches!(layer.ffn, FfnShape::Dense { .. }));
    ensure!(
        dense.is_none(),
        "layer {} has no experts; GGUF's architecture {name} has no place for such a layer",
        dense.unwrap_or_default()
    );
    ensure!(
        config.architecture != Architecture::Qwen3Moe || config.moe_shapes().all(|shape| shape.normalize),
        "norm_topk_prob is false; GGUF's architecture {name} has no key for that"
    );
    Ok(())
}

/// The roles of tensors by their names: those of files that other tools made too, which fuse some and have layers
/// that are not run.
pub struct Roles(HashMap<String, Role>);

impl Roles {
    /// The roles of the tensors in a table. One that holds several parts has the role of the last.
    pub fn new(parts: &[Part]) -> Self {
        let names = |part: &Part| -> Vec<(String, Role)> {
            let tensors = part.gguf.iter().flat_map(|source| &source.tensors);
            tensors.map(|rows| (split_layer(&rows.tensor).1.to_owned(), part.role)).collect()
        };
        Self(parts.iter().flat_map(names).collect())
    }

    /// The tensor `name` of this shape. What no table knows is part of the trunk if it is a matrix.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> ExportTensor {
        let (layer, part) = split_layer(name);
        // Some files give vectors a second dimension of 1.
        let is_matrix = shape.split_last().is_some_and(|(_, outer)| outer.iter().any(|&size| size > 1));
        let is_weight = part.ends_with(".weight") && !part.ends_with("_norm.weight");
        let unknown = if is_weight { Role::Trunk } else { Role::Exact };
        let role = if is_matrix { self.0.get(part).copied().unwrap_or(unknown) } else { Role::Exact };
        ExportTensor { name: name.into(), shape: shape.to_vec(), role, layer }
    }
}

/// `(N, rest)` of `blk.N.rest`; the whole of a name outside the layers.
fn split_layer(name: &str) -> (Option<usize>, &str) {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    parts.and_then(|(layer, rest)| Some((Some(layer.parse().ok()?), rest))).unwrap_or((None, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::format::gguf::{Array, Value};
    use crate::format::{Bytes, ModelDir};
    use crate::model::config::{FfnShape, LayerShape, MixerShape};

    fn starter() -> Config {
        let config = include_bytes!("../../starter/config.json");
        let weights = Bytes::embedded(include_bytes!("../../starter/model.safetensors"));
        Config::read(&ModelDir::from_safetensors("starter", config, None, &weights).unwrap()).unwrap()
    }

    #[test]
    fn every_parameter_has_a_place() {
        let mut config = starter();
        let list = |config: &Config| -> Vec<ExportTensor> {
            tensors(config).unwrap().into_iter().map(|(tensor, _)| tensor).collect()
        };
        let tied = list(&config);
        config.tied = false;
        let untied = list(&config);
        let find = |tensors: &[ExportTensor], name: &str| {
            tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!((tied.len(), untied.len()), (3 * 18 + 16 + 2, 3 * 18 + 16 + 3));
        let mut names: Vec<_> = untied.iter().map(|tensor| &tensor.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), untied.len());

        for (name, shape, role, layer) in [
            ("token_embd.weight", &[8192, 256][..], Role::Embedding, None),
            ("output.weight", &[8192, 256], Role::Head, None),
            ("output_norm.weight", &[256], Role::Exact, None),
            ("blk.0.attn_qkv.weight", &[512, 256], Role::TrunkSensitive, Some(0)),
            ("blk.0.attn_gate.weight", &[256, 256], Role::Trunk, Some(0)),
            ("blk.0.ssm_conv1d.weight", &[512, 4], Role::Exact, Some(0)),
            ("blk.0.ssm_ba.weight", &[8, 256], Role::Trunk, Some(0)),
            ("blk.0.ssm_a", &[4], Role::Exact, Some(0)),
            ("blk.3.attn_q.weight", &[512, 256], Role::Trunk, Some(3)),
            ("blk.3.attn_v.weight", &[128, 256], Role::TrunkSensitive, Some(3)),
            ("blk.3.ffn_gate_inp.weight", &[16, 256], Role::Exact, Some(3)),
            ("blk.3.ffn_gate_inp_shexp.weight", &[256], Role::Exact, Some(3)),
            ("blk.3.ffn_up_exps.weight", &[16, 256, 256], Role::Experts, Some(3)),
            ("blk.3.ffn_down_exps.weight", &[16, 256, 256], Role::ExpertsDown, Some(3)),
            ("blk.3.ffn_down_shexp.weight", &[256, 256], Role::TrunkSensitive, Some(3)),
        ] {
            let expected = ExportTensor { name: name.into(), shape: shape.into(), role, layer };
            assert_eq!(find(&untied, name), expected);
            assert_eq!(roles().tensor(name, shape), expected, "in a file made elsewhere");
        }
        assert_eq!(find(&tied, "token_embd.weight").role, Role::Head);
        for (name, shape, role) in [
            ("blk.3.ffn_gate_inp_shexp.weight", &[1, 256][..], Role::Exact),
            ("blk.0.ssm_in.weight", &[768, 256], Role::Trunk),
            ("blk.3.attn_qkv.weight", &[768, 256], Role::TrunkSensitive),
            ("blk.3.ffn_gate_up_exps.weight", &[16, 512, 256], Role::Experts),
            ("blk.4.ffn_down_exps.weight", &[16, 256, 256], Role::ExpertsDown),
            ("blk.4.nextn.eh_proj.weight", &[256, 512], Role::Trunk),
            ("blk.4.nextn.enorm.weight", &[256], Role::Exact),
            ("blk.4.nextn.some_norm.weight", &[2, 256], Role::Exact),
            ("rope_freqs.bias", &[2, 256], Role::Exact),
        ] {
            assert_eq!(roles().tensor(name, shape).role, role, "{name}, as other tools write it");
        }

        config.layers[2].ffn = FfnShape::Dense { width: 256 };
        assert!(tensors(&config).unwrap_err().to_string().contains("layer 2 has no experts"));
    }

    /// Of a model with a head of its own.
    fn roles() -> Roles {
        Roles::new(&architecture::tensors(&Config { tied: false, ..starter() }))
    }

    #[test]
    fn recipes_choose_types() {
        let roles = roles();
        let experts = |layer| roles.tensor(&format!("blk.{layer}.ffn_down_exps.weight"), &[4, 256, 512]);
        let raised: Vec<usize> = (0..48)
            .filter(|&layer| Recipe::q4_k_m().choose(&experts(layer), 48).dtype == DType::Q6K)
            .collect();
        assert_eq!(raised[..8], [0, 1, 2, 3, 4, 5, 8, 11]);
        assert_eq!(raised[16..], [38, 41, 42, 43, 44, 45, 46, 47]);

        let matrix = |name: &str, cols| roles.tensor(&format!("{name}.weight"), &[7, cols]);
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
            ("q3_k_m", "blk.0.attn_v", 256, DType::Q5K, None),
            ("q3_k_m", "blk.9.attn_v", 32, DType::Iq4Nl, Some(DType::Q3K)),
            ("q2_k", "output", 256, DType::Q6K, None),
            ("iq2_m", "blk.9.ffn_up_exps", 256, DType::Iq2S, None),
            ("iq3_m", "blk.9.ffn_up", 256, DType::Iq3S, None),
            ("bf16", "blk.0.attn_q", 33, DType::BF16, None),
            ("q8_0", "blk.0.ffn_gate_inp", 256, DType::F32, None),
            ("q8_0", "blk.0.attn_norm", 256, DType::F32, None),
        ] {
            let choice = recipe.parse::<Recipe>().unwrap().choose(&matrix(name, cols), 48);
            assert_eq!(choice, Choice { dtype, instead_of }, "{recipe} {name} {cols}");
        }
        assert!("iq1_s".parse::<Recipe>().unwrap_err().contains("only read"));
        assert!("f8_e4m3".parse::<Recipe>().unwrap_err().contains("GGUF has no type F8_E4M3"));
        assert!("q3_k_x".parse::<Recipe>().unwrap_err().contains("q4_k_m"));
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
        let starter = starter();
        let (linear, full) = (starter.layers[0], starter.layers[3]);
        assert!(matches!(linear.mixer, MixerShape::DeltaNet(_)));
        let key = |layers: &[LayerShape]| {
            let config = Config { layers: layers.into(), ..starter.clone() };
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
