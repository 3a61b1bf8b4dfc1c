//! Qwen3-Next and Qwen3-Coder-Next: names and shapes as transformers stores them, and as llama.cpp gives them to the
//! architecture `qwen3next`.

use std::iter::once;
use std::ops::Range;

use super::part::{Arrangement, Change, Field, LayerField, Part, Role, Rows, Source};
use crate::compute::{AttentionShape, DeltaShape};
use crate::model::config::{Config, FfnShape, MixerShape, MoeShape};

/// All tensors of the model, in the order of a GGUF file.
pub fn tensors(config: &Config) -> Vec<Part> {
    let (vocab, hidden) = (config.vocab, config.hidden);
    let part = |field, role, shape: &[usize], gguf: &str, checkpoint: &str| {
        Part::new(field, role, shape, gguf.into(), checkpoint.into())
    };
    let role = if config.tied { Role::Head } else { Role::Embedding };
    let embedding =
        part(Field::Embedding, role, &[vocab, hidden], "token_embd.weight", "model.embed_tokens.weight");
    let mut norm = part(Field::OutputNorm, Role::Exact, &[hidden], "output_norm.weight", "model.norm.weight");
    norm.changed(Change::AddOne);
    let head = part(Field::Head, Role::Head, &[vocab, hidden], "output.weight", "lm_head.weight");

    let mut parts = vec![embedding];
    for (index, shape) in config.layers.iter().enumerate() {
        let mut layer = Layer { index, hidden, parts: &mut parts };
        match &shape.mixer {
            MixerShape::Attention(shape) => layer.attention(shape),
            MixerShape::DeltaNet(shape) => layer.delta(shape),
        }
        layer.norm(
            LayerField::FfnNorm,
            hidden,
            "post_attention_norm.weight",
            "post_attention_layernorm.weight",
        );
        match &shape.ffn {
            FfnShape::Dense { width } => layer.dense(*width),
            FfnShape::Moe(shape) => layer.moe(shape),
        }
    }
    parts.push(norm);
    parts.extend((!config.tied).then_some(head));
    parts
}

struct Layer<'a> {
    index: usize,
    hidden: usize,
    parts: &'a mut Vec<Part>,
}

impl Layer<'_> {
    fn attention(&mut self, shape: &AttentionShape) {
        let hidden = self.hidden;
        let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let query_width = shape.heads * shape.query_width();
        let (query, kv) = ([query_width, hidden], [kv_width, hidden]);
        let [key, value, end] = [0, 1, 2].map(|parts| query_width + parts * kv_width);
        let all = [end, hidden];
        let fused = self.gguf("attn_qkv.weight");

        self.norm(LayerField::MixerNorm, hidden, "attn_norm.weight", "input_layernorm.weight");
        self.add(LayerField::Query, Role::Trunk, &query, "attn_q.weight", "self_attn.q_proj.weight").fused(
            fused.clone(),
            &all,
            once(0..key),
        );
        self.add(LayerField::Key, Role::Trunk, &kv, "attn_k.weight", "self_attn.k_proj.weight").fused(
            fused.clone(),
            &all,
            once(key..value),
        );
        self.add(LayerField::Value, Role::TrunkSensitive, &kv, "attn_v.weight", "self_attn.v_proj.weight")
            .fused(fused, &all, once(value..end));
        self.norm(LayerField::QueryNorm, shape.head_dim, "attn_q_norm.weight", "self_attn.q_norm.weight");
        self.norm(LayerField::KeyNorm, shape.head_dim, "attn_k_norm.weight", "self_attn.k_norm.weight");
        let output = [hidden, width];
        let field = LayerField::AttentionOutput;
        self.add(field, Role::Trunk, &output, "attn_output.weight", "self_attn.o_proj.weight");
    }

    /// Checkpoints group the rows of two projections by key head: `[q | k | v | z]` and `[b | a]`.
    fn delta(&mut self, shape: &DeltaShape) {
        let (hidden, heads) = (self.hidden, shape.value_heads);
        let (channels, values) = (shape.channels(), heads * shape.value_dim);
        let per_key = heads / shape.key_heads;
        let value_width = per_key * shape.value_dim;
        let widths = [shape.key_dim, shape.key_dim, value_width, value_width];
        let qkvz = |kinds: &[usize]| grouped_rows(shape.key_heads, &widths, kinds);
        let (stored, all) = ("linear_attn.in_proj_qkvz.weight", [channels + values, hidden]);
        let fused = self.gguf("ssm_in.weight");

        self.norm(LayerField::MixerNorm, hidden, "attn_norm.weight", "input_layernorm.weight");
        let (field, role) = (LayerField::DeltaChannels, Role::TrunkSensitive);
        self.add(field, role, &[channels, hidden], "attn_qkv.weight", stored)
            .checkpoint_rows(&all, qkvz(&[0, 1, 2]))
            .fused(fused.clone(), &all, qkvz(&[0, 1, 2]));
        self.add(LayerField::DeltaZ, Role::Trunk, &[values, hidden], "attn_gate.weight", stored)
            .checkpoint_rows(&all, qkvz(&[3]))
            .fused(fused, &all, qkvz(&[3]));
        let stored = "linear_attn.in_proj_ba.weight";
        self.add(LayerField::DeltaBa, Role::Trunk, &[2 * heads, hidden], "ssm_ba.weight", stored)
            .arranged(Arrangement::Rows(grouped_rows(shape.key_heads, &[per_key; 2], &[0, 1])));
        let (conv, stored) = ([channels, shape.conv_kernel], "linear_attn.conv1d.weight");
        self.add(LayerField::DeltaConv, Role::Exact, &conv, "ssm_conv1d.weight", stored)
            .checkpoint_shape(&[channels, 1, shape.conv_kernel])
            .arranged(Arrangement::Transposed);
        self.vector(LayerField::DeltaDtBias, heads, "ssm_dt.bias", "linear_attn.dt_bias");
        self.vector(LayerField::DeltaDecay, heads, "ssm_a", "linear_attn.A_log").changed(Change::NegativeExp);
        self.vector(LayerField::DeltaNorm, shape.value_dim, "ssm_norm.weight", "linear_attn.norm.weight");
        let (output, stored) = ([hidden, values], "linear_attn.out_proj.weight");
        self.add(LayerField::DeltaOutput, Role::Trunk, &output, "ssm_out.weight", stored);
    }

    fn moe(&mut self, shape: &MoeShape) {
        let (hidden, experts, width) = (self.hidden, shape.experts, shape.width);
        let (wide, narrow) = ([experts, width, hidden], [experts, hidden, width]);
        let router = [experts, hidden];
        self.add(LayerField::Router, Role::Exact, &router, "ffn_gate_inp.weight", "mlp.gate.weight");
        let (both, fused) = ([experts, 2 * width, hidden], self.gguf("ffn_gate_up_exps.weight"));
        let half = |half| grouped_rows(experts, &[width; 2], &[half]);
        self.experts(
            LayerField::ExpertsGate,
            Role::Experts,
            &wide,
            "ffn_gate_exps.weight",
            "gate_proj.weight",
        )
        .fused(fused.clone(), &both, half(0));
        self.experts(LayerField::ExpertsUp, Role::Experts, &wide, "ffn_up_exps.weight", "up_proj.weight")
            .fused(fused, &both, half(1));
        let (field, role) = (LayerField::ExpertsDown, Role::ExpertsDown);
        self.experts(field, role, &narrow, "ffn_down_exps.weight", "down_proj.weight");
        let Some(width) = shape.shared_width else { return };
        let (gate, stored) = ("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight");
        self.vector(LayerField::SharedExpertGate, hidden, gate, stored).checkpoint_shape(&[1, hidden]);
        self.block(width, "mlp.shared_expert");
    }

    /// GGUF's architecture has no place for such a layer.
    fn dense(&mut self, width: usize) {
        self.block(width, "mlp");
        let block = self.parts.len() - 3;
        self.parts[block..].iter_mut().for_each(|part| part.gguf.clear());
    }

    /// A feed-forward block that every token visits.
    fn block(&mut self, width: usize, stored: &str) {
        let (wide, narrow) = ([width, self.hidden], [self.hidden, width]);
        for (field, role, shape, name) in [
            (LayerField::SharedGate, Role::Trunk, wide, "gate"),
            (LayerField::SharedUp, Role::Trunk, wide, "up"),
            (LayerField::SharedDown, Role::TrunkSensitive, narrow, "down"),
        ] {
            let gguf = format!("ffn_{name}_shexp.weight");
            self.add(field, role, &shape, &gguf, &format!("{stored}.{name}_proj.weight"));
        }
    }

    /// Checkpoints keep experts one by one.
    fn experts(
        &mut self,
        field: LayerField,
        role: Role,
        shape: &[usize; 3],
        gguf: &str,
        checkpoint: &str,
    ) -> &mut Part {
        let [experts, rows, cols] = *shape;
        let name = |e| self.checkpoint(&format!("mlp.experts.{e}.{checkpoint}"));
        let expert = |e| Rows::new(name(e), &[rows, cols], once(0..rows));
        let tensors = (0..experts).map(expert).collect();
        let part = self.add(field, role, shape, gguf, checkpoint);
        part.checkpoint = vec![Source { tensors, change: Change::None }];
        part
    }

    /// Checkpoints keep it as `w` of `1 + w`.
    fn norm(&mut self, field: LayerField, len: usize, gguf: &str, checkpoint: &str) -> &mut Part {
        self.vector(field, len, gguf, checkpoint).changed(Change::AddOne)
    }

    fn vector(&mut self, field: LayerField, len: usize, gguf: &str, checkpoint: &str) -> &mut Part {
        self.add(field, Role::Exact, &[len], gguf, checkpoint)
    }

    fn add(
        &mut self,
        field: LayerField,
        role: Role,
        shape: &[usize],
        gguf: &str,
        checkpoint: &str,
    ) -> &mut Part {
        let field = Field::Layer(self.index, field);
        self.parts.push(Part::new(field, role, shape, self.gguf(gguf), self.checkpoint(checkpoint)));
        self.parts.last_mut().expect("one was pushed")
    }

    fn gguf(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.index)
    }

    fn checkpoint(&self, name: &str) -> String {
        format!("model.layers.{}.{name}", self.index)
    }
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
