//! Where in a checkpoint the rows of an exported tensor lie, and what changes on the way.

use std::ops::Range;

use super::split_layer;
use crate::compute::DeltaShape;
use crate::model::config::Config;

/// What an exported tensor is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Rows of stored tensors, to be set one below the other.
    pub parts: Vec<Rows>,
    /// What is done to each element.
    pub change: Change,
}

/// Some rows of a stored tensor; a vector is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Which rows, where a row is as long as one of the exported tensor.
    pub rows: Range<usize>,
}

/// What is done to each element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// `1 + w`: checkpoints store norms as their distance from one.
    AddOne,
    /// `-exp(w)`: checkpoints store the decay as a logarithm.
    NegativeExp,
}

impl Change {
    /// Changes `values`.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Change::None => {}
            Change::AddOne => values.iter_mut().for_each(|value| *value += 1.0),
            Change::NegativeExp => values.iter_mut().for_each(|value| *value = -value.exp()),
        }
    }
}

impl Source {
    /// The source of the tensor that [`super::tensors`] lists by this name, in a checkpoint with the names of
    /// the published ones.
    pub fn of_checkpoint(config: &Config, name: &str) -> Self {
        let (layer, part) = split_layer(name);
        let at = |rest: &str| format!("model.layers.{layer}.{rest}");
        let hidden = config.hidden;
        let (attention, delta, moe) = (config.attention, config.delta, config.moe);
        let (query_width, kv_width) =
            (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
        let matrix = |tensor: String, rows: usize, cols: usize| Self::whole(tensor, &[rows, cols], rows);
        let vector = |tensor: String, len: usize| Self::whole(tensor, &[len], 1);
        let norm = |tensor: String, len: usize| vector(tensor, len).changed(Change::AddOne);
        let experts = |projection: &str, rows: usize, cols: usize| {
            let expert = |e: usize| {
                let tensor = at(&format!("mlp.experts.{e}.{projection}.weight"));
                Rows { tensor, shape: vec![rows, cols], rows: 0..rows }
            };
            Self { parts: (0..moe.experts).map(expert).collect(), change: Change::None }
        };
        let qkvz = |parts: &[usize]| Self {
            parts: grouped_rows(&delta, parts)
                .into_iter()
                .map(|rows| Rows {
                    tensor: at("linear_attn.in_proj_qkvz.weight"),
                    shape: vec![delta.channels() + delta.value_heads * delta.value_dim, hidden],
                    rows,
                })
                .collect(),
            change: Change::None,
        };
        match part {
            "token_embd.weight" => matrix("model.embed_tokens.weight".into(), config.vocab, hidden),
            "output.weight" => matrix("lm_head.weight".into(), config.vocab, hidden),
            "output_norm.weight" => norm("model.norm.weight".into(), hidden),
            "attn_norm.weight" => norm(at("input_layernorm.weight"), hidden),
            "post_attention_norm.weight" => norm(at("post_attention_layernorm.weight"), hidden),

            "attn_q.weight" => matrix(at("self_attn.q_proj.weight"), 2 * query_width, hidden),
            "attn_k.weight" => matrix(at("self_attn.k_proj.weight"), kv_width, hidden),
            "attn_v.weight" => matrix(at("self_attn.v_proj.weight"), kv_width, hidden),
            "attn_output.weight" => matrix(at("self_attn.o_proj.weight"), hidden, query_width),
            "attn_q_norm.weight" => norm(at("self_attn.q_norm.weight"), attention.head_dim),
            "attn_k_norm.weight" => norm(at("self_attn.k_norm.weight"), attention.head_dim),

            "attn_qkv.weight" => qkvz(&[0, 1, 2]),
            "attn_gate.weight" => qkvz(&[3]),
            "ssm_ba.weight" => matrix(at("linear_attn.in_proj_ba.weight"), 2 * delta.value_heads, hidden),
            "ssm_conv1d.weight" => Self::whole(
                at("linear_attn.conv1d.weight"),
                &[delta.channels(), 1, delta.conv_kernel],
                delta.channels(),
            ),
            "ssm_dt.bias" => vector(at("linear_attn.dt_bias"), delta.value_heads),
            "ssm_a" => vector(at("linear_attn.A_log"), delta.value_heads).changed(Change::NegativeExp),
            "ssm_norm.weight" => vector(at("linear_attn.norm.weight"), delta.value_dim),
            "ssm_out.weight" => {
                matrix(at("linear_attn.out_proj.weight"), hidden, delta.value_heads * delta.value_dim)
            }

            "ffn_gate_inp.weight" => matrix(at("mlp.gate.weight"), moe.experts, hidden),
            "ffn_gate_exps.weight" => experts("gate_proj", moe.width, hidden),
            "ffn_up_exps.weight" => experts("up_proj", moe.width, hidden),
            "ffn_down_exps.weight" => experts("down_proj", hidden, moe.width),
            "ffn_gate_inp_shexp.weight" => matrix(at("mlp.shared_expert_gate.weight"), 1, hidden),
            "ffn_gate_shexp.weight" => {
                matrix(at("mlp.shared_expert.gate_proj.weight"), moe.shared_width, hidden)
            }
            "ffn_up_shexp.weight" => matrix(at("mlp.shared_expert.up_proj.weight"), moe.shared_width, hidden),
            "ffn_down_shexp.weight" => {
                matrix(at("mlp.shared_expert.down_proj.weight"), hidden, moe.shared_width)
            }
            _ => unreachable!("{name} is not an exported tensor"),
        }
    }

    /// All of a tensor of `rows` rows.
    pub fn whole(tensor: String, shape: &[usize], rows: usize) -> Self {
        Self { parts: vec![Rows { tensor, shape: shape.to_vec(), rows: 0..rows }], change: Change::None }
    }

    fn changed(self, change: Change) -> Self {
        Self { change, ..self }
    }
}

/// The rows of `in_proj_qkvz` that hold the asked parts (0 to 3: q, k, v, z), each of all heads. The matrix
/// groups its rows by key head, `[q | k | v | z]`.
fn grouped_rows(shape: &DeltaShape, parts: &[usize]) -> Vec<Range<usize>> {
    let values = shape.value_heads / shape.key_heads * shape.value_dim;
    let heights = [shape.key_dim, shape.key_dim, values, values];
    let group: usize = heights.iter().sum();
    let ranges = |&part: &usize| {
        let start: usize = heights[..part].iter().sum();
        (0..shape.key_heads).map(move |head| {
            let start = head * group + start;
            start..start + heights[part]
        })
    };
    parts.iter().flat_map(ranges).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{tensors, tests::starter};
    use super::*;

    #[test]
    fn sources_have_the_exported_shapes() {
        let mut config = starter();
        config.tied = false;
        for tensor in tensors(&config).unwrap() {
            let source = Source::of_checkpoint(&config, &tensor.name);
            let cols = *tensor.shape.last().unwrap();
            let rows: usize = source.parts.iter().map(|part| part.rows.len()).sum();
            assert_eq!(rows * cols, tensor.shape.iter().product::<usize>(), "{}", tensor.name);
            for part in &source.parts {
                let stored: usize = part.shape.iter().product();
                assert!(part.rows.end * cols <= stored, "{}", tensor.name);
            }
        }
    }

    #[test]
    fn groups_come_apart() {
        let shape =
            DeltaShape { key_heads: 2, value_heads: 4, key_dim: 3, value_dim: 5, conv_kernel: 4, eps: 1e-6 };
        let rows = |parts: &[usize]| grouped_rows(&shape, parts);
        assert_eq!(rows(&[0, 1, 2]), [0..3, 26..29, 3..6, 29..32, 6..16, 32..42]);
        assert_eq!(rows(&[3]), [16..26, 42..52]);
    }

    #[test]
    fn changes_are_those_of_the_format() {
        let changed = |change: Change| {
            let mut values = [0.0, -0.5];
            change.apply(&mut values);
            values
        };
        assert_eq!(changed(Change::None), [0.0, -0.5]);
        assert_eq!(changed(Change::AddOne), [1.0, 0.5]);
        assert_eq!(changed(Change::NegativeExp), [-1.0, -(-0.5f32).exp()]);
    }
}
