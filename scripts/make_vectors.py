#!/usr/bin/env python3
"""Make the reference vectors: tiny random checkpoints and what transformers computes with them.

    pip install torch transformers safetensors
    python scripts/make_vectors.py [NAME ...]

Every case becomes a folder NAME/ with config.json, model.safetensors (or shards and their index)
and expected.safetensors. The latter holds, for the prompt of the case and, prefixed with `one.`,
for a prompt of a single token:

    prompt_ids       [n]          i32
    logprobs         [n, vocab]   f32   row i: the distribution after prompt token i
    greedy           [24]         i32   the greedy continuation
    greedy_logprobs  [24, vocab]  f32   row i: the distribution greedy[i] was taken from
    hidden.L         [n, hidden]  f32   after layer L, before the final norm (cases `odd` only)

The oracle is transformers 5 on the CPU in float32, given the weights as stored: rounded to the
dtype of the case, FP8 blocks dequantised. Weights, prompts and so all files follow from the seeds;
a seed is taken only if no choice on the way, of a token or of an expert, is a close call.

scripts/make_gguf_vectors.py makes GGUF files of some of the cases.
"""

import argparse
import itertools
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

# Installed kernel packages would replace the reference arithmetic.
os.environ["USE_HUB_KERNELS"] = "0"
sys.modules.update({"fla": None, "causal_conv1d": None})

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

NEW_TOKENS = 24
MIN_TOKEN_MARGIN = 0.05  # in log-probability, best against second best
MIN_EXPERT_MARGIN = 0.001  # in router logits, last chosen against first left out
MIN_DISTINCT = 8  # different tokens in a greedy continuation
FP8_BLOCK = 128
FP8_MAX = torch.finfo(torch.float8_e4m3fn).max
FP8_WEIGHTS = re.compile(r"(_proj|in_proj_qkvz)\.weight$")
Q8_0_BLOCK = 32
Q8_0_MAX = 127
NO_NAME = "(?!)"


@dataclass
class Case:
    config: dict
    dtype: torch.dtype
    prompt: int
    model: str = "qwen3_next"
    float32: str = NO_NAME  # names stored as F32 whatever the dtype
    stacked: str = NO_NAME  # names of experts stored as one tensor of all
    fp8: bool = False
    q8_0: bool = False  # matrices are what Q8_0 holds exactly, and BF16 too
    wrapped: bool = False  # as the text part of a multimodal model, with a layer of multi-token prediction
    shards: int = 1
    hidden: bool = False


@dataclass
class Architecture:
    """How transformers and the configurations of its checkpoints name a kind of model."""

    name: str
    common: dict
    text: str = ""  # of the classes of the text part, where there are others
    plain_norms: bool = True  # by w, not by 1 + w

    def config(self, settings):
        return getattr(transformers, f"{self.name}{self.text}Config")(**settings)

    @property
    def causal_lm(self):
        return getattr(transformers, f"{self.name}ForCausalLM")


ARCHITECTURES = {
    "qwen2": Architecture(
        name="Qwen2",
        common=dict(
            architectures=["Qwen2ForCausalLM"],
            model_type="qwen2",
            hidden_act="silu",
            rms_norm_eps=1e-6,
            max_position_embeddings=1024,
            max_window_layers=2,
            sliding_window=8,
            use_sliding_window=False,
        ),
    ),
    "qwen3": Architecture(
        name="Qwen3",
        common=dict(
            architectures=["Qwen3ForCausalLM"],
            model_type="qwen3",
            attention_bias=False,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            max_position_embeddings=1024,
            max_window_layers=4,
            sliding_window=None,
            use_sliding_window=False,
        ),
    ),
    "qwen3_moe": Architecture(
        name="Qwen3Moe",
        common=dict(
            architectures=["Qwen3MoeForCausalLM"],
            model_type="qwen3_moe",
            attention_bias=False,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            max_position_embeddings=1024,
            sliding_window=None,
            use_sliding_window=False,
            tie_word_embeddings=False,
        ),
    ),
    "qwen3_5": Architecture(
        name="Qwen3_5",
        text="Text",
        plain_norms=False,
        common=dict(
            architectures=["Qwen3_5ForCausalLM"],
            model_type="qwen3_5_text",
            attn_output_gate=True,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            linear_conv_kernel_dim=4,
            max_position_embeddings=1024,
        ),
    ),
    "qwen3_5_moe": Architecture(
        name="Qwen3_5Moe",
        text="Text",
        plain_norms=False,
        common=dict(
            architectures=["Qwen3_5MoeForCausalLM"],
            model_type="qwen3_5_moe_text",
            attn_output_gate=True,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            linear_conv_kernel_dim=4,
            max_position_embeddings=1024,
        ),
    ),
    "qwen3_next": Architecture(
        name="Qwen3Next",
        plain_norms=False,
        common=dict(
            architectures=["Qwen3NextForCausalLM"],
            model_type="qwen3_next",
            hidden_act="silu",
            rms_norm_eps=1e-6,
            linear_conv_kernel_dim=4,
            max_position_embeddings=1024,
            norm_topk_prob=True,
            tie_word_embeddings=False,
        ),
    ),
}


CASES = {
    # Dimensions that are multiples of nothing, the head's absent; old rope spelling.
    "qwen2_odd": Case(
        model="qwen2",
        dtype=torch.float32,
        prompt=37,
        hidden=True,
        config=dict(
            vocab_size=67,
            hidden_size=42,
            intermediate_size=53,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            rope_theta=10000.0,
            rope_scaling=None,
            tie_word_embeddings=False,
        ),
    ),
    # No lm_head, in shards; a rope scaling that scales by 1.
    "qwen2_tied": Case(
        model="qwen2",
        dtype=torch.bfloat16,
        prompt=70,
        q8_0=True,
        shards=2,
        config=dict(
            vocab_size=71,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_theta=1000000.0,
            rope_scaling=dict(type="linear", factor=1.0),
            tie_word_embeddings=True,
        ),
    ),
    # Dimensions that are multiples of nothing, a head that is no part of the hidden dimension; new rope spelling.
    "qwen3_odd": Case(
        model="qwen3",
        dtype=torch.float32,
        prompt=41,
        hidden=True,
        config=dict(
            vocab_size=61,
            hidden_size=29,
            intermediate_size=47,
            num_hidden_layers=3,
            num_attention_heads=5,
            num_key_value_heads=1,
            head_dim=14,
            rope_parameters=dict(rope_theta=10000.0, rope_type="default"),
            tie_word_embeddings=False,
        ),
    ),
    # No lm_head; old rope spelling.
    "qwen3_tied": Case(
        model="qwen3",
        dtype=torch.bfloat16,
        prompt=80,
        q8_0=True,
        config=dict(
            vocab_size=73,
            hidden_size=32,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            rope_theta=1000000,
            rope_scaling=None,
            tie_word_embeddings=True,
        ),
    ),
    # Text only; key and value heads of different sizes, three value heads to a key head.
    "qwen3_5_odd": Case(
        model="qwen3_5",
        dtype=torch.float32,
        prompt=37,
        hidden=True,
        config=dict(
            vocab_size=53,
            hidden_size=31,
            intermediate_size=45,
            num_hidden_layers=4,
            layer_types=[f"{kind}_attention" for kind in ("linear", "full", "linear", "linear")],
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=14,
            rope_parameters=dict(rope_theta=10000.0, partial_rotary_factor=0.45, rope_type="default"),
            tie_word_embeddings=False,
            linear_num_key_heads=2,
            linear_num_value_heads=6,
            linear_key_head_dim=10,
            linear_value_head_dim=6,
        ),
    ),
    # Text only; as many value heads as key heads, the default layer pattern, tied by the absence of lm_head alone.
    "qwen3_5_text": Case(
        model="qwen3_5",
        dtype=torch.bfloat16,
        prompt=150,
        float32=r"A_log$|linear_attn\.norm",
        config=dict(
            vocab_size=48,
            hidden_size=40,
            intermediate_size=56,
            num_hidden_layers=4,
            full_attention_interval=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            partial_rotary_factor=0.25,
            rope_parameters=dict(
                mrope_section=[1, 1, 0], rope_theta=1000.0, partial_rotary_factor=0.25, rope_type="default"
            ),
            tie_word_embeddings=True,
            linear_num_key_heads=4,
            linear_num_value_heads=4,
            linear_key_head_dim=12,
            linear_value_head_dim=12,
        ),
    ),
    # The multimodal wrapper with what a reader of text ignores, in shards; three value heads to a key head.
    "qwen3_5": Case(
        model="qwen3_5",
        dtype=torch.bfloat16,
        prompt=75,
        float32=r"A_log$|linear_attn\.norm",
        q8_0=True,
        wrapped=True,
        shards=2,
        config=dict(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            full_attention_interval=4,
            layer_types=[f"{kind}_attention" for kind in ("linear", "linear", "linear", "full")],
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            rope_parameters=dict(
                mrope_interleaved=True,
                mrope_section=[2, 1, 1],
                partial_rotary_factor=0.25,
                rope_theta=10000000,
                rope_type="default",
            ),
            tie_word_embeddings=False,
            linear_num_key_heads=2,
            linear_num_value_heads=6,
            linear_key_head_dim=32,
            linear_value_head_dim=32,
            mamba_ssm_dtype="float32",
            mtp_num_hidden_layers=1,
        ),
    ),
    # Dimensions that are multiples of nothing, experts in all layers.
    "qwen3_moe_odd": Case(
        model="qwen3_moe",
        dtype=torch.float32,
        prompt=39,
        hidden=True,
        config=dict(
            vocab_size=59,
            hidden_size=29,
            intermediate_size=41,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=18,
            rope_theta=10000.0,
            rope_scaling=None,
            num_experts=7,
            num_experts_per_tok=3,
            moe_intermediate_size=11,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
        ),
    ),
    # Layers 0 and 2 are dense by decoder_sparse_step, layer 3 by mlp_only_layers; weights not renormalised by default.
    "qwen3_moe_dense": Case(
        model="qwen3_moe",
        dtype=torch.bfloat16,
        prompt=60,
        float32=r"norm\.weight$",
        config=dict(
            vocab_size=52,
            hidden_size=40,
            intermediate_size=58,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            rope_parameters=dict(rope_theta=1000000.0, rope_type="default"),
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=14,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
        ),
    ),
    # FP8 with ragged blocks in both directions, a weight and its scale in different shards; layer 0 is dense.
    "qwen3_moe_fp8": Case(
        model="qwen3_moe",
        dtype=torch.bfloat16,
        prompt=50,
        fp8=True,
        shards=2,
        config=dict(
            vocab_size=50,
            hidden_size=130,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=64,
            rope_theta=10000000,
            rope_scaling=None,
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=129,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[0],
            quantization_config=dict(
                quant_method="fp8",
                fmt="e4m3",
                activation_scheme="dynamic",
                weight_block_size=[FP8_BLOCK, FP8_BLOCK],
                modules_to_not_convert=["lm_head", "model.embed_tokens"],
            ),
        ),
    ),
    # What Q8_0 holds exactly.
    "qwen3_moe_q8_0": Case(
        model="qwen3_moe",
        dtype=torch.bfloat16,
        prompt=65,
        q8_0=True,
        config=dict(
            vocab_size=66,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_theta=10000000,
            rope_scaling=None,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
        ),
    ),
    # Text only, one matrix per expert, two value heads to a key head.
    "qwen3_5_moe_odd": Case(
        model="qwen3_5_moe",
        dtype=torch.float32,
        prompt=37,
        hidden=True,
        config=dict(
            vocab_size=51,
            hidden_size=27,
            num_hidden_layers=3,
            layer_types=[f"{kind}_attention" for kind in ("linear", "full", "linear")],
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=10,
            rope_parameters=dict(
                mrope_section=[1, 1, 0], rope_theta=10000.0, partial_rotary_factor=0.45, rope_type="default"
            ),
            tie_word_embeddings=False,
            linear_num_key_heads=3,
            linear_num_value_heads=6,
            linear_key_head_dim=10,
            linear_value_head_dim=10,
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=9,
            shared_expert_intermediate_size=13,
        ),
    ),
    # Text only; layer 1 has one matrix per expert, the others all in one, layer 2 only of the gates.
    "qwen3_5_moe_mixed": Case(
        model="qwen3_5_moe",
        dtype=torch.bfloat16,
        prompt=60,
        float32=r"A_log$|dt_bias$|norm\.weight$",
        stacked=r"layers\.(0|3)\.mlp\.experts|layers\.2\.mlp\.experts\.gate_up_proj",
        config=dict(
            vocab_size=48,
            hidden_size=32,
            num_hidden_layers=4,
            full_attention_interval=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_theta=1000.0,
            partial_rotary_factor=0.25,
            tie_word_embeddings=True,
            linear_num_key_heads=4,
            linear_num_value_heads=4,
            linear_key_head_dim=10,
            linear_value_head_dim=12,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=12,
            shared_expert_intermediate_size=16,
        ),
    ),
    # The multimodal wrapper as released: experts all in one tensor; two value heads to a key head.
    "qwen3_5_moe": Case(
        model="qwen3_5_moe",
        dtype=torch.bfloat16,
        prompt=75,
        float32=r"A_log$|linear_attn\.norm",
        stacked=r"mlp\.experts",
        q8_0=True,
        wrapped=True,
        shards=2,
        config=dict(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=4,
            full_attention_interval=4,
            layer_types=[f"{kind}_attention" for kind in ("linear", "linear", "linear", "full")],
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            rope_parameters=dict(
                mrope_interleaved=True,
                mrope_section=[2, 1, 1],
                partial_rotary_factor=0.25,
                rope_theta=10000000,
                rope_type="default",
            ),
            tie_word_embeddings=False,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=32,
            linear_value_head_dim=32,
            mamba_ssm_dtype="float32",
            mtp_num_hidden_layers=1,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=32,
        ),
    ),
    # Dimensions that are multiples of nothing; key and value heads of different sizes; old rope spelling.
    "odd": Case(
        dtype=torch.float32,
        prompt=37,
        hidden=True,
        config=dict(
            vocab_size=67,
            hidden_size=29,
            num_hidden_layers=4,
            full_attention_interval=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=14,
            rope_theta=10000.0,
            partial_rotary_factor=0.45,
            rope_scaling=None,
            linear_num_key_heads=3,
            linear_num_value_heads=3,
            linear_key_head_dim=10,
            linear_value_head_dim=6,
            num_experts=7,
            num_experts_per_tok=3,
            moe_intermediate_size=11,
            shared_expert_intermediate_size=13,
        ),
    ),
    # FP8 with ragged blocks in both directions, a weight and its scale in different shards; new rope spelling.
    "fp8": Case(
        dtype=torch.bfloat16,
        prompt=50,
        float32=r"A_log$|linear_attn\.norm|(down|o|out)_proj\.weight_scale_inv$",
        fp8=True,
        shards=2,
        config=dict(
            vocab_size=53,
            hidden_size=131,
            num_hidden_layers=2,
            full_attention_interval=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=40,
            rope_parameters=dict(rope_theta=5000000, partial_rotary_factor=0.25, rope_type="default"),
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=16,
            linear_value_head_dim=20,
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=133,
            shared_expert_intermediate_size=24,
            quantization_config=dict(
                quant_method="fp8",
                fmt="e4m3",
                activation_scheme="dynamic",
                weight_block_size=[FP8_BLOCK, FP8_BLOCK],
                modules_to_not_convert=["lm_head", "model.embed_tokens"],
            ),
        ),
    ),
    # No lm_head, expert weights not renormalised, the default layer pattern.
    "tied": Case(
        dtype=torch.bfloat16,
        prompt=45,
        config=dict(
            vocab_size=59,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_theta=10000000,
            partial_rotary_factor=0.25,
            rope_scaling=None,
            tie_word_embeddings=True,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            norm_topk_prob=False,
        ),
    ),
    # An irregular pattern beginning with full attention; four value heads and four query heads to a key head.
    "layer_types": Case(
        dtype=torch.float16,
        prompt=70,
        config=dict(
            vocab_size=61,
            hidden_size=36,
            num_hidden_layers=5,
            layer_types=[f"{kind}_attention" for kind in ("full", "linear", "linear", "full", "linear")],
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=12,
            rope_parameters=dict(rope_theta=1000.0, partial_rotary_factor=0.5, rope_type="default"),
            rms_norm_eps=1e-5,
            linear_num_key_heads=2,
            linear_num_value_heads=8,
            linear_key_head_dim=12,
            linear_value_head_dim=8,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=10,
            shared_expert_intermediate_size=12,
        ),
    ),
    # Several chunks of 64 tokens with a ragged tail, several KV blocks.
    "long": Case(
        dtype=torch.bfloat16,
        prompt=210,
        config=dict(
            vocab_size=48,
            hidden_size=32,
            num_hidden_layers=4,
            full_attention_interval=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_theta=100.0,
            partial_rotary_factor=0.5,
            rope_scaling=None,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=12,
            linear_value_head_dim=16,
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        ),
    ),
    # Layers 0 and 2 are dense by decoder_sparse_step, layer 3 by mlp_only_layers; RoPE over the whole head.
    "dense_mlp": Case(
        dtype=torch.bfloat16,
        prompt=33,
        float32=r"A_log$|dt_bias$|norm\.weight$",
        config=dict(
            vocab_size=40,
            hidden_size=24,
            intermediate_size=42,
            num_hidden_layers=4,
            layer_types=[f"{kind}_attention" for kind in ("linear", "full", "linear", "full")],
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=10,
            rope_theta=1000.0,
            partial_rotary_factor=1.0,
            rope_scaling=None,
            linear_num_key_heads=2,
            linear_num_value_heads=6,
            linear_key_head_dim=8,
            linear_value_head_dim=10,
            num_experts=4,
            num_experts_per_tok=1,
            moe_intermediate_size=14,
            shared_expert_intermediate_size=18,
        ),
    ),
}

def published_shapes(case, config):
    """Name and shape of every tensor as published: most often one matrix per expert, where transformers fuses them."""
    fused = {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]}
    shapes = {}
    for name, weight in ARCHITECTURES[case.model].causal_lm(config).named_parameters():
        prefix, _, projection = name.partition(".experts.")
        if not projection or re.search(case.stacked, name):
            shapes[name] = weight.shape
            continue
        experts, rows, columns = weight.shape
        parts = fused[projection]
        for expert, part in itertools.product(range(experts), parts):
            shapes[f"{prefix}.experts.{expert}.{part}.weight"] = (rows // len(parts), columns)
    return shapes


def other_shapes(case, config, shapes):
    """Name and shape of what a reader of the text part ignores."""
    if not case.wrapped:
        return {}
    hidden = config.hidden_size
    others = {
        "model.visual.patch_embed.proj.weight": (8, 3, 2, 4, 4),
        "model.visual.blocks.0.norm1.weight": (8,),
        "model.visual.blocks.0.attn.qkv.weight": (24, 8),
        "model.visual.merger.linear_fc2.weight": (hidden, 8),
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.norm.weight": (hidden,),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
    }
    # Multi-token prediction has one layer like those with attention.
    layer = f"model.layers.{config.layer_types.index('full_attention')}."
    same = {name.replace(layer, "mtp.layers.0."): shape for name, shape in shapes.items() if name.startswith(layer)}
    return others | same


def draw(case, name, shape, random):
    """A random tensor under which every part of the model has a say in the logits."""
    uniform, normal = torch.rand(shape, generator=random), torch.randn(shape, generator=random)
    if name.endswith("A_log"):
        return uniform * 5 - 4  # from a memory of hundreds of tokens down to one of a few
    if name.endswith("dt_bias"):
        return uniform * 3 - 2
    if name.endswith("conv1d.weight"):
        return normal * 0.5
    if re.search(r"norm\w*\.weight$", name):
        return normal * 0.3 + (ARCHITECTURES[case.model].plain_norms or "linear_attn" in name)
    if name.endswith(".bias"):
        return normal * (0.2 if "v_proj" in name else 1)  # a constant in every value makes all tokens alike
    gains = {r"embed_tokens|lm_head": 3, r"mlp\.gate\.|in_proj_ba?\.|in_proj_a\.|down_proj": 2}
    gain = next((gain for pattern, gain in gains.items() if re.search(pattern, name)), 1)
    weight = normal * gain / shape[-1] ** 0.5
    return round_to_q8_0(weight) if case.q8_0 and shape[-1] % Q8_0_BLOCK == 0 else weight


def round_to_q8_0(weight):
    """Whole multiples, up to 127 and with a 127 among them, of one power of two in every block."""
    blocks = weight.unflatten(-1, (-1, Q8_0_BLOCK))
    greatest, at = blocks.abs().max(-1, keepdim=True)
    scale = (greatest / Q8_0_MAX).log2().ceil().exp2()
    whole = (blocks / scale).round()
    whole.scatter_(-1, at, blocks.gather(-1, at).sign() * Q8_0_MAX)
    return (whole * scale).flatten(-2)


def spread(blocks, shape):
    """One value per FP8 block -> one value per element."""
    rows, columns = shape
    return blocks.float().repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)[:rows, :columns]


def quantise(weight, scale_dtype, random):
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % FP8_BLOCK, 0, -rows % FP8_BLOCK))
    blocks = padded.unflatten(1, (-1, FP8_BLOCK)).unflatten(0, (-1, FP8_BLOCK))
    # Blocks of unlike magnitude, so that a scale applied to the wrong block shows.
    factor = 0.5 + 1.5 * torch.rand(blocks.shape[0], blocks.shape[2], generator=random)
    scale = (blocks.abs().amax((1, 3)) * factor / FP8_MAX).to(scale_dtype)
    weight = weight * spread(factor, weight.shape) / spread(scale, weight.shape)
    return weight.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def make_weights(case, shapes, random):
    def dtype_of(name):
        return torch.float32 if re.search(case.float32, name) else case.dtype

    stored = {}
    for name in sorted(shapes):
        weight = draw(case, name, shapes[name], random)
        if case.fp8 and FP8_WEIGHTS.search(name):
            scale_name = f"{name}_scale_inv"
            stored[name], stored[scale_name] = quantise(weight, dtype_of(scale_name), random)
        else:
            stored[name] = weight.to(dtype_of(name))
    if case.fp8 and case.model == "qwen3_next":
        stored["mtp.norm.weight"] = stored["model.norm.weight"].clone()  # to be ignored by the reader
    return stored


def load(case, config, stored):
    weights = {name: weight.float() for name, weight in stored.items() if not name.endswith("_scale_inv")}
    for name in weights:
        if f"{name}_scale_inv" in stored:
            weights[name] *= spread(stored[f"{name}_scale_inv"], weights[name].shape)
    model, report = ARCHITECTURES[case.model].causal_lm.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(report.values()), report
    return model.eval()


def watch(modules, pick):
    """Collect what `pick` takes from the output of each module in the next forward pass."""
    seen = []
    hooks = [module.register_forward_hook(lambda _, __, output: seen.append(pick(output))) for module in modules]
    return seen, hooks


def expect(model, prompt):
    """The expected tensors, the hidden states after each layer, and the closest calls on the way."""
    n = len(prompt)
    greedy = model.generate(prompt[None], max_new_tokens=NEW_TOKENS, do_sample=False)[0, n:]

    routers = [module for name, module in model.named_modules() if re.search(r"mlp\.gate$", name)]
    hidden, hooks = watch(model.model.layers, lambda output: output[0, :n])
    router_logits, more_hooks = watch(routers, lambda output: output[0])
    logits = model(torch.cat([prompt, greedy[:-1]])[None], use_cache=False).logits[0]
    for hook in hooks + more_hooks:
        hook.remove()

    logprobs = logits.log_softmax(-1)
    best = logprobs[n - 1 :].topk(2)
    # generate() steps token by token and this pass works in chunks: they check each other.
    agrees = torch.equal(best.indices[:, 0], greedy)
    token_margin = (best.values[:, 0] - best.values[:, 1]).min().item() if agrees else 0.0
    expert_margin = float("inf")
    if routers:
        chosen = torch.cat(router_logits).topk(model.config.num_experts_per_tok + 1).values
        expert_margin = (chosen[:, -2] - chosen[:, -1]).min().item()

    tensors = dict(
        prompt_ids=prompt.int(),
        logprobs=logprobs[:n],
        greedy=greedy.int(),
        greedy_logprobs=logprobs[n - 1 :],
    )
    return tensors, hidden, token_margin, expert_margin


def wrap(case, published, stored):
    """The text model inside the configuration and under the names of a multimodal one."""
    name, tied = ARCHITECTURES[case.model].name, published["tie_word_embeddings"]
    config = dict(
        architectures=[f"{name}ForConditionalGeneration"],
        image_token_id=published["vocab_size"] - 2,
        model_type=case.model,
        text_config={key: value for key, value in published.items() if key != "architectures"},
        tie_word_embeddings=tied,
        video_token_id=published["vocab_size"] - 1,
        vision_config=dict(
            model_type=case.model, depth=1, hidden_size=8, num_heads=2, out_hidden_size=published["hidden_size"]
        ),
    )
    names = {name: re.sub(r"^model\.(?!visual\.)", "model.language_model.", name) for name in stored}
    return config, {names[name]: weight for name, weight in stored.items()}


def save_model(folder, config, stored, shards):
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if shards == 1:
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
        return
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = dict(zip(sorted(stored), itertools.cycle(files)))
    for file in files:
        part = {name: stored[name] for name, home in weight_map.items() if home == file}
        save_file(part, folder / file, {"format": "pt"})
    size = sum(weight.nbytes for weight in stored.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(name, case, out):
    architecture = ARCHITECTURES[case.model]
    published = {**architecture.common, "dtype": str(case.dtype).removeprefix("torch."), **case.config}
    config = architecture.config({key: value for key, value in published.items() if key != "quantization_config"})
    shapes = published_shapes(case, config)

    for seed in itertools.count():
        random = torch.Generator().manual_seed(seed)
        stored = make_weights(case, shapes, random)
        model = load(case, config, stored)
        expected, token_margins, expert_margins, distinct = {}, [], [], []
        for prefix, length in (("", case.prompt), ("one.", 1)):
            prompt = torch.randint(config.vocab_size, (length,), generator=random)
            tensors, hidden, token_margin, expert_margin = expect(model, prompt)
            expected |= {prefix + key: tensor.clone() for key, tensor in tensors.items()}
            if case.hidden:
                expected |= {f"{prefix}hidden.{layer}": state.clone() for layer, state in enumerate(hidden)}
            token_margins.append(token_margin)
            expert_margins.append(expert_margin)
            distinct.append(len(tensors["greedy"].unique()))
            if not (
                token_margin > MIN_TOKEN_MARGIN and expert_margin > MIN_EXPERT_MARGIN and distinct[-1] >= MIN_DISTINCT
            ):
                break
        else:
            break

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    if case.wrapped:
        stored |= make_weights(case, other_shapes(case, config, shapes), torch.Generator().manual_seed(0))
        published, stored = wrap(case, published, stored)
    save_model(folder, published, stored, case.shards)
    save_file(expected, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    deviation = expected["logprobs"].std(-1).mean()
    print(
        f"{name:16} {size:8} bytes  seed {seed:3}  token margin {min(token_margins):.3f}  "
        f"expert margin {min(expert_margins):.4f}  logit deviation {deviation:.2f}  distinct {distinct}",
        flush=True,
    )


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"cases to make (default: all of {', '.join(CASES)})")
    parser.add_argument("--out", type=Path, default=root / "tests/data/vectors", help="folder to write to")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")

    torch.set_num_threads(1)  # sums keep their order
    torch.set_grad_enabled(False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in arguments.names or CASES:
        make(name, CASES[name], arguments.out)


if __name__ == "__main__":
    main()
