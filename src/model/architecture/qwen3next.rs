//! Qwen3-Next and Qwen3-Coder-Next: names and shapes as llama.cpp gives them to the architecture `qwen3next`, and as
//! transformers stores them. Names stand in this order, without the `.weight` that most have.

use std::iter::once;
use std::ops::Range;

use super::part::{Arrangement, Change, Field, LayerField as F, Part, Role, Rows, Source};
use crate::compute::{AttentionShape, DeltaShape};
use crate::model::config::{Config, FfnShape, MixerShape, MoeShape};

/// All tensors of the model, in the order of a GGUF file.
pub(super) fn tensors(config: &Config) -> Vec<Part> {
    let (vocab, hidden) = (config.vocab, config.hidden);
    let table = [vocab, hidden];
    let mut parts = Vec::new();
    let role = if config.tied { Role::Head } else { Role::Embedding };
    add(&mut parts, Field::Embedding, role, ["token_embd.weight", "model.embed_tokens.weight"], &table);
    for (index, shape) in config.layers.iter().enumerate() {
        let mut layer = Layer { index, hidden, parts: &mut parts };
        match &shape.mixer {
            MixerShape::Attention(shape) => layer.attention(shape),
            MixerShape::DeltaNet(shape) => layer.delta(shape),
        }
        match &shape.ffn {
            FfnShape::Dense { width } => layer.dense(*width),
            FfnShape::Moe(shape) => layer.moe(shape),
        }
    }
    let names = ["output_norm.weight", "model.norm.weight"];
    add(&mut parts, Field::OutputNorm, Role::Exact, names, &[hidden]).changed(Change::AddOne);
    if !config.tied {
        add(&mut parts, Field::Head, Role::Head, ["output.weight", "lm_head.weight"], &table);
    }
    parts
}

struct Layer<'a> {
    index: usize,
    hidden: usize,
    parts: &'a mut Vec<Part>,
}

impl Layer<'_> {
    fn attention(&mut self, shape: &AttentionShape) {
        let (hidden, head) = (self.hidden, shape.head_dim);
        let (query, kv) = (shape.heads * shape.query_width(), shape.kv_heads * head);
        let [key, value, end] = [query, query + kv, query + 2 * kv];
        let (fused, all) = (self.gguf("attn_qkv.weight"), [end, hidden]);

        self.norm(F::MixerNorm, ["attn_norm", "input_layernorm"], hidden);
        self.matrix(F::Query, Role::Trunk, ["attn_q", "self_attn.q_proj"], [query, hidden]).fused(
            &fused,
            &all,
            once(0..key),
        );
        self.matrix(F::Key, Role::Trunk, ["attn_k", "self_attn.k_proj"], [kv, hidden]).fused(
            &fused,
            &all,
            once(key..value),
        );
        self.matrix(F::Value, Role::TrunkSensitive, ["attn_v", "self_attn.v_proj"], [kv, hidden]).fused(
            &fused,
            &all,
            once(value..end),
        );
        self.norm(F::QueryNorm, ["attn_q_norm", "self_attn.q_norm"], head);
        self.norm(F::KeyNorm, ["attn_k_norm", "self_attn.k_norm"], head);
        let output = [hidden, shape.heads * head];
        self.matrix(F::AttentionOutput, Role::Trunk, ["attn_output", "self_attn.o_proj"], output);
    }

    /// Two projections have their rows grouped by key head: `[q | k | v | z]`, which is split in most GGUF files, and
    /// `[b | a]`.
    fn delta(&mut self, shape: &DeltaShape) {
        let (hidden, heads, keys) = (self.hidden, shape.value_heads, shape.key_heads);
        let (channels, values) = (shape.channels(), heads * shape.value_dim);
        let (fused, all) = (self.gguf("ssm_in.weight"), [channels + values, hidden]);
        let group_values = values / keys;
        let widths = [shape.key_dim, shape.key_dim, group_values, group_values];
        let (qkv, z) = (grouped_rows(keys, &widths, &[0, 1, 2]), grouped_rows(keys, &widths, &[3]));
        let ba = grouped_rows(keys, &[heads / keys; 2], &[0, 1]);

        self.norm(F::MixerNorm, ["attn_norm", "input_layernorm"], hidden);
        let names = ["attn_qkv", "linear_attn.in_proj_qkvz"];
        self.matrix(F::DeltaChannels, Role::TrunkSensitive, names, [channels, hidden])
            .checkpoint_rows(&all, qkv.clone())
            .fused(&fused, &all, qkv);
        self.matrix(F::DeltaZ, Role::Trunk, ["attn_gate", "linear_attn.in_proj_qkvz"], [values, hidden])
            .checkpoint_rows(&all, z.clone())
            .fused(&fused, &all, z);
        self.matrix(F::DeltaBa, Role::Trunk, ["ssm_ba", "linear_attn.in_proj_ba"], [2 * heads, hidden])
            .arranged(Arrangement::Rows(ba));
        let conv = [channels, shape.conv_kernel];
        self.matrix(F::DeltaConv, Role::Exact, ["ssm_conv1d", "linear_attn.conv1d"], conv)
            .checkpoint_shape(&[channels, 1, shape.conv_kernel])
            .arranged(Arrangement::Transposed);
        self.vector(F::DeltaDtBias, ["ssm_dt.bias", "linear_attn.dt_bias"], heads);
        self.vector(F::DeltaDecay, ["ssm_a", "linear_attn.A_log"], heads).changed(Change::NegativeExp);
        self.vector(F::DeltaNorm, ["ssm_norm.weight", "linear_attn.norm.weight"], shape.value_dim);
        self.matrix(F::DeltaOutput, Role::Trunk, ["ssm_out", "linear_attn.out_proj"], [hidden, values]);
    }

    fn moe(&mut self, shape: &MoeShape) {
        let (hidden, experts, width) = (self.hidden, shape.experts, shape.width);
        let (wide, narrow) = ([experts, width, hidden], [experts, hidden, width]);
        let (fused, both) = (self.gguf("ffn_gate_up_exps.weight"), [experts, 2 * width, hidden]);
        let half = |half| grouped_rows(experts, &[width; 2], &[half]);

        self.norm(F::FfnNorm, ["post_attention_norm", "post_attention_layernorm"], hidden);
        self.matrix(F::Router, Role::Exact, ["ffn_gate_inp", "mlp.gate"], [experts, hidden]);
        self.experts(F::ExpertsGate, Role::Experts, ["ffn_gate_exps", "gate_proj"], wide).fused(
            &fused,
            &both,
            half(0),
        );
        self.experts(F::ExpertsUp, Role::Experts, ["ffn_up_exps", "up_proj"], wide).fused(
            &fused,
            &both,
            half(1),
        );
        self.experts(F::ExpertsDown, Role::ExpertsDown, ["ffn_down_exps", "down_proj"], narrow);
        let Some(width) = shape.shared_width else { return };
        let names = ["ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"];
        self.vector(F::SharedExpertGate, names, hidden).checkpoint_shape(&[1, hidden]);
        self.block("mlp.shared_expert", width);
    }

    /// GGUF's architecture has no place for such a layer.
    fn dense(&mut self, width: usize) {
        self.norm(F::FfnNorm, ["post_attention_norm", "post_attention_layernorm"], self.hidden);
        let block = self.parts.len();
        self.block("mlp", width);
        self.parts[block..].iter_mut().for_each(|part| part.gguf.clear());
    }

    /// A feed-forward block that every token visits.
    fn block(&mut self, stored: &str, width: usize) {
        let (wide, narrow) = ([width, self.hidden], [self.hidden, width]);
        let name = |projection: &str| format!("{stored}.{projection}_proj");
        self.matrix(F::SharedGate, Role::Trunk, ["ffn_gate_shexp", &name("gate")], wide);
        self.matrix(F::SharedUp, Role::Trunk, ["ffn_up_shexp", &name("up")], wide);
        self.matrix(F::SharedDown, Role::TrunkSensitive, ["ffn_down_shexp", &name("down")], narrow);
    }

    /// Checkpoints keep experts one by one.
    fn experts(&mut self, field: F, role: Role, [gguf, stored]: [&str; 2], shape: [usize; 3]) -> &mut Part {
        let [experts, rows, cols] = shape;
        let name = |e| self.checkpoint(&format!("mlp.experts.{e}.{stored}.weight"));
        let tensors = (0..experts).map(|e| Rows::new(&name(e), &[rows, cols], once(0..rows))).collect();
        let part = self.add(field, role, [&format!("{gguf}.weight"), stored], &shape);
        part.checkpoint = vec![Source { tensors, change: Change::None }];
        part
    }

    fn matrix(&mut self, field: F, role: Role, names: [&str; 2], shape: [usize; 2]) -> &mut Part {
        let [gguf, stored] = names.map(|name| format!("{name}.weight"));
        self.add(field, role, [&gguf, &stored], &shape)
    }

    /// Checkpoints keep it as `w` of `1 + w`.
    fn norm(&mut self, field: F, names: [&str; 2], len: usize) {
        let [gguf, stored] = names.map(|name| format!("{name}.weight"));
        self.vector(field, [&gguf, &stored], len).changed(Change::AddOne);
    }

    /// With its whole names.
    fn vector(&mut self, field: F, names: [&str; 2], len: usize) -> &mut Part {
        self.add(field, Role::Exact, names, &[len])
    }

    fn add(&mut self, field: F, role: Role, [gguf, stored]: [&str; 2], shape: &[usize]) -> &mut Part {
        let (gguf, stored) = (self.gguf(gguf), self.checkpoint(stored));
        add(self.parts, Field::Layer(self.index, field), role, [&gguf, &stored], shape)
    }

    fn gguf(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.index)
    }

    fn checkpoint(&self, name: &str) -> String {
        format!("model.layers.{}.{name}", self.index)
    }
}

fn add<'a>(
    parts: &'a mut Vec<Part>,
    field: Field,
    role: Role,
    names: [&str; 2],
    shape: &[usize],
) -> &'a mut Part {
    parts.push(Part::new(field, role, names, shape));
    parts.last_mut().expect("one was pushed")
}

/// The rows of a matrix that hold the asked kinds, each of all groups. Every group is made of rows of each kind,
/// `widths` many.
fn grouped_rows(groups: usize, widths: &[usize], kinds: &[usize]) -> Vec<Range<usize>> {
    let group: usize = widths.iter().sum();
    let ranges = |&kind: &usize| {
        let start: usize = widths[..kind].iter().sum();
        (0..groups).map(move |i| i * group + start..i * group + start + widths[kind])
    };
    kinds.iter().flat_map(ranges).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_apart() {
        let rows = |kinds: &[usize]| grouped_rows(2, &[3, 3, 10, 10], kinds);
        assert_eq!(rows(&[0, 1, 2]), [0..3, 26..29, 3..6, 29..32, 6..16, 32..42]);
        assert_eq!(rows(&[3]), [16..26, 42..52]);
        assert_eq!(grouped_rows(2, &[2; 2], &[0, 1]), [0..2, 4..6, 2..4, 6..8]);
    }
}
