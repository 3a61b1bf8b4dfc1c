//! A table in the making: the parts that architectures share, with the names that llama.cpp and transformers give
//! them. Names stand in this order, without the `.weight` that most have.

use std::iter::once;
use std::ops::Range;

use super::part::{Arrangement, Change, Field, LayerField as F, Part, Role, Rows, Source, expert_name};
use crate::compute::{AttentionShape, DeltaShape};
use crate::model::config::{Config, LayerShape, MoeShape};

/// All tensors of a model, in the order of a GGUF file. `layer` adds those of a layer.
pub(super) fn build(config: &Config, layer: impl Fn(&mut Layer, &LayerShape)) -> Vec<Part> {
    let (vocab, hidden, root) = (config.vocab, config.hidden, config.checkpoint_root);
    let norm = if config.architecture.is_hybrid() { Change::AddOne } else { Change::None };
    let table = [vocab, hidden];
    let mut parts = Vec::new();
    let role = if config.tied { Role::Head } else { Role::Embedding };
    let embedding = format!("{root}.embed_tokens.weight");
    add(&mut parts, Field::Embedding, role, ["token_embd.weight", &embedding], &table);
    for (index, shape) in config.layers.iter().enumerate() {
        layer(&mut Layer { index, hidden, root, norm, parts: &mut parts }, shape);
    }
    let names = ["output_norm.weight", &format!("{root}.norm.weight")];
    add(&mut parts, Field::OutputNorm, Role::Exact, names, &[hidden]).changed(norm);
    if !config.tied {
        add(&mut parts, Field::Head, Role::Head, ["output.weight", "lm_head.weight"], &table);
    }
    parts
}

/// A layer whose parts are added one by one.
pub(super) struct Layer<'a> {
    index: usize,
    pub hidden: usize,
    root: &'static str,
    /// How checkpoints store norms.
    norm: Change,
    parts: &'a mut Vec<Part>,
}

impl Layer<'_> {
    pub(super) fn mixer_norm(&mut self) {
        self.norm(F::MixerNorm, ["attn_norm", "input_layernorm"], self.hidden);
    }

    /// Queries, with their gates where they have some, keys and values; GGUF files may have them in one tensor.
    pub(super) fn query_key_value(&mut self, shape: &AttentionShape) {
        let (hidden, [query, kv]) = (self.hidden, query_and_kv(shape));
        let (fused, all) = (self.gguf("attn_qkv.weight"), [query + 2 * kv, hidden]);
        let [key, value, end] = [query, query + kv, query + 2 * kv];
        for (field, role, names, rows) in [
            (F::Query, Role::Trunk, ["attn_q", "self_attn.q_proj"], 0..key),
            (F::Key, Role::Trunk, ["attn_k", "self_attn.k_proj"], key..value),
            (F::Value, Role::TrunkSensitive, ["attn_v", "self_attn.v_proj"], value..end),
        ] {
            self.matrix(field, role, names, [rows.len(), hidden]).fused(&fused, &all, once(rows));
        }
    }

    pub(super) fn query_key_value_bias(&mut self, shape: &AttentionShape) {
        let [query, kv] = query_and_kv(shape);
        let (fused, all) = (self.gguf("attn_qkv.bias"), [query + 2 * kv]);
        for (field, names, len, start) in [
            (F::QueryBias, ["attn_q.bias", "self_attn.q_proj.bias"], query, 0),
            (F::KeyBias, ["attn_k.bias", "self_attn.k_proj.bias"], kv, query),
            (F::ValueBias, ["attn_v.bias", "self_attn.v_proj.bias"], kv, query + kv),
        ] {
            // In rows as long as the part: there are as many query heads as KV heads, or a multiple.
            self.vector(field, names, len).fused(&fused, &all, once(start / len..start / len + 1));
        }
    }

    /// Attention with norms of queries and keys.
    pub(super) fn normed_attention(&mut self, shape: &AttentionShape) {
        self.query_key_value(shape);
        self.norm(F::QueryNorm, ["attn_q_norm", "self_attn.q_norm"], shape.head_dim);
        self.norm(F::KeyNorm, ["attn_k_norm", "self_attn.k_norm"], shape.head_dim);
        self.attention_output(shape);
    }

    pub(super) fn attention_output(&mut self, shape: &AttentionShape) {
        let output = [self.hidden, shape.heads * shape.head_dim];
        self.matrix(F::AttentionOutput, Role::Trunk, ["attn_output", "self_attn.o_proj"], output);
    }

    /// Everything of DeltaNet after its projections but `ssm_out`. Where value heads are tiled, checkpoints have them
    /// in another order: `order` of them.
    pub(super) fn delta_rule(&mut self, shape: &DeltaShape, order: Option<&HeadOrder>) {
        let (channels, heads) = (shape.channels(), shape.value_heads);
        let conv = self.matrix(
            F::DeltaConv,
            Role::Exact,
            ["ssm_conv1d", "linear_attn.conv1d"],
            [channels, shape.conv_kernel],
        );
        let stored = [channels, 1, shape.conv_kernel];
        conv.checkpoint_shape(&stored).arranged(Arrangement::Transposed);
        if let Some(order) = order {
            conv.checkpoint_rows(&stored, order.channels(shape));
        }
        let dt_bias = self.vector(F::DeltaDtBias, ["ssm_dt.bias", "linear_attn.dt_bias"], heads);
        dt_bias.checkpoint[0].columns = order.map_or_else(Vec::new, |order| order.blocks(1));
        let decay = self.vector(F::DeltaDecay, ["ssm_a", "linear_attn.A_log"], heads);
        decay.changed(Change::NegativeExp);
        decay.checkpoint[0].columns = order.map_or_else(Vec::new, |order| order.blocks(1));
        self.vector(F::DeltaNorm, ["ssm_norm.weight", "linear_attn.norm.weight"], shape.value_dim);
    }

    pub(super) fn delta_output(&mut self, shape: &DeltaShape) -> &mut Part {
        let output = [self.hidden, shape.value_heads * shape.value_dim];
        self.matrix(F::DeltaOutput, Role::Trunk, ["ssm_out", "linear_attn.out_proj"], output)
    }

    /// The norm before the feed-forward block, whose name in GGUF files differs.
    pub(super) fn ffn_norm(&mut self, gguf: &str) {
        self.norm(F::FfnNorm, [gguf, "post_attention_layernorm"], self.hidden);
    }

    pub(super) fn dense(&mut self, width: usize) {
        self.block(["", "mlp"], width);
    }

    /// A dense layer of an architecture for which GGUF has no such layers.
    pub(super) fn dense_without_gguf(&mut self, width: usize) {
        let block = self.parts.len();
        self.dense(width);
        self.parts[block..].iter_mut().for_each(|part| part.gguf.clear());
    }

    /// Experts, and the shared one where there is one.
    pub(super) fn moe(&mut self, shape: &MoeShape) {
        let (hidden, experts, width) = (self.hidden, shape.experts, shape.width);
        let (wide, narrow) = ([experts, width, hidden], [experts, hidden, width]);
        let both = [experts, 2 * width, hidden];
        let half = |half| grouped_rows(experts, &[width; 2], &[half]);
        let fused = self.gguf("ffn_gate_up_exps.weight");
        let stacked = self.checkpoint("mlp.experts.gate_up_proj");
        let stacked_down = self.checkpoint("mlp.experts.down_proj");

        self.matrix(F::Router, Role::Exact, ["ffn_gate_inp", "mlp.gate"], [experts, hidden]);
        for (i, field, names) in [
            (0, F::ExpertsGate, ["ffn_gate_exps", "gate_proj"]),
            (1, F::ExpertsUp, ["ffn_up_exps", "up_proj"]),
        ] {
            self.experts(field, Role::Experts, names, wide).fused(&fused, &both, half(i)).checkpoint_fused(
                &stacked,
                &both,
                half(i),
            );
        }
        self.experts(F::ExpertsDown, Role::ExpertsDown, ["ffn_down_exps", "down_proj"], narrow)
            .checkpoint_fused(&stacked_down, &narrow, once(0..experts * hidden));
        if let Some(width) = shape.shared_width {
            self.shared_expert(width);
        }
    }

    fn shared_expert(&mut self, width: usize) {
        let (names, hidden) = (["ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"], self.hidden);
        self.vector(F::SharedExpertGate, names, hidden).checkpoint_shape(&[1, hidden]);
        self.block(["_shexp", "mlp.shared_expert"], width);
    }

    /// A feed-forward block that every token visits.
    fn block(&mut self, [suffix, stored]: [&str; 2], width: usize) {
        let (wide, narrow) = ([width, self.hidden], [self.hidden, width]);
        for (field, role, name, shape) in [
            (F::SharedGate, Role::Trunk, "gate", wide),
            (F::SharedUp, Role::Trunk, "up", wide),
            (F::SharedDown, Role::TrunkSensitive, "down", narrow),
        ] {
            let names = [&*format!("ffn_{name}{suffix}"), &format!("{stored}.{name}_proj")];
            self.matrix(field, role, names, shape);
        }
    }

    /// Most checkpoints keep experts one by one.
    fn experts(&mut self, field: F, role: Role, [gguf, stored]: [&str; 2], shape: [usize; 3]) -> &mut Part {
        let [experts, rows, cols] = shape;
        let name = |e| self.checkpoint(&format!("mlp.experts.{e}.{stored}.weight"));
        let tensors = (0..experts).map(|e| Rows::new(&name(e), &[rows, cols], once(0..rows))).collect();
        let part = self.add(field, role, [&format!("{gguf}.weight"), stored], &shape);
        part.checkpoint = vec![Source { tensors, ..part.checkpoint.remove(0) }];
        let stacked = part.gguf[0].tensors[0].tensor.clone();
        let own = (0..experts)
            .map(|e| Rows::new(&expert_name(&stacked, e), &[rows, cols], once(0..rows)))
            .collect();
        part.gguf.push(Source { tensors: own, ..Source::whole(&stacked, &shape) });
        part
    }

    pub(super) fn matrix(&mut self, field: F, role: Role, names: [&str; 2], shape: [usize; 2]) -> &mut Part {
        let [gguf, stored] = names.map(|name| format!("{name}.weight"));
        self.add(field, role, [&gguf, &stored], &shape)
    }

    fn norm(&mut self, field: F, names: [&str; 2], len: usize) {
        let ([gguf, stored], change) = (names.map(|name| format!("{name}.weight")), self.norm);
        self.vector(field, [&gguf, &stored], len).changed(change);
    }

    /// With its whole names.
    fn vector(&mut self, field: F, names: [&str; 2], len: usize) -> &mut Part {
        self.add(field, Role::Exact, names, &[len])
    }

    fn add(&mut self, field: F, role: Role, [gguf, stored]: [&str; 2], shape: &[usize]) -> &mut Part {
        let (gguf, stored) = (self.gguf(gguf), self.checkpoint(stored));
        add(self.parts, Field::Layer(self.index, field), role, [&gguf, &stored], shape)
    }

    pub(super) fn gguf(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.index)
    }

    fn checkpoint(&self, name: &str) -> String {
        format!("{}.layers.{}.{name}", self.root, self.index)
    }
}

/// Which value head of a checkpoint each value head of a GGUF file is.
pub(super) struct HeadOrder(Vec<usize>);

impl HeadOrder {
    /// The order where it differs.
    pub(super) fn of(shape: &DeltaShape) -> Option<Self> {
        let repeat = shape.value_heads / shape.key_heads;
        let stored = |head: usize| head % shape.key_heads * repeat + head / shape.key_heads;
        let differs = shape.tiled && repeat > 1 && shape.key_heads > 1;
        differs.then(|| Self((0..shape.value_heads).map(stored).collect()))
    }

    /// The rows or columns of value heads, `size` for each.
    pub(super) fn blocks(&self, size: usize) -> Vec<Range<usize>> {
        self.0.iter().map(|head| head * size..(head + 1) * size).collect()
    }

    /// The rows of the channels of the convolution.
    pub(super) fn channels(&self, shape: &DeltaShape) -> Vec<Range<usize>> {
        let keys = 2 * shape.key_heads * shape.key_dim;
        let values = self.blocks(shape.value_dim).into_iter();
        once(0..keys).chain(values.map(|rows| keys + rows.start..keys + rows.end)).collect()
    }
}

/// Rows of the projections of queries, and of keys or values.
fn query_and_kv(shape: &AttentionShape) -> [usize; 2] {
    [shape.heads * shape.query_width(), shape.kv_heads * shape.head_dim]
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
pub(super) fn grouped_rows(groups: usize, widths: &[usize], kinds: &[usize]) -> Vec<Range<usize>> {
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

    #[test]
    fn tiled_heads_come_from_groups() {
        let shape =
            DeltaShape { key_heads: 2, value_heads: 6, key_dim: 1, value_dim: 10, ..DeltaShape::default() };
        assert!(HeadOrder::of(&shape).is_none());
        let tiled = DeltaShape { tiled: true, ..shape };
        let order = HeadOrder::of(&tiled).unwrap();
        // Key head 0 has the heads 0, 1, 2 of a checkpoint and 0, 2, 4 of a GGUF file.
        assert_eq!(order.0, [0, 3, 1, 4, 2, 5]);
        assert_eq!(order.channels(&tiled)[..3], [0..4, 4..14, 34..44]);
        for key_head in 0..2 {
            let stored: Vec<usize> = tiled.value_heads_of(key_head).map(|head| order.0[head]).collect();
            assert_eq!(stored, shape.value_heads_of(key_head).collect::<Vec<_>>());
        }
    }
}
