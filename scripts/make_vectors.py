#!/usr/bin/env python3
"""Make the reference vectors: tiny random Qwen3-Next checkpoints and what transformers computes with them.

    pip install torch transformers safetensors
    python scripts/make_vectors.py [NAME ...]

Every case becomes a folder NAME/ with config.json, model.safetensors (or shards and their index)
and expected.safetensors. The latter holds, for the prompt of the case and, prefixed with `one.`,
for a prompt of a single token:

    prompt_ids       [n]          i32
    logprobs         [n, vocab]   f32   row i: the distribution after prompt token i
    greedy           [24]         i32   the greedy continuation
    greedy_logprobs  [24, vocab]  f32   row i: the distribution greedy[i] was taken from
    hidden.L         [n, hidden]  f32   after layer L, before the final norm (case `odd` only)

The oracle is transformers 5 on the CPU in float32, given the weights as stored: rounded to the
dtype of the case, FP8 blocks dequantised. Weights, prompts and so all files follow from the seeds;
a seed is taken only if no choice on the way, of a token or of an expert, is a close call.
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
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

NEW_TOKENS = 24
MIN_TOKEN_MARGIN = 0.05  # in log-probability, best against second best
MIN_EXPERT_MARGIN = 0.001  # in router logits, last chosen against first left out
MIN_DISTINCT = 8  # different tokens in a greedy continuation
FP8_BLOCK = 128
FP8_MAX = torch.finfo(torch.float8_e4m3fn).max
FP8_WEIGHTS = re.compile(r"(_proj|in_proj_qkvz)\.weight$")


@dataclass
class Case:
    config: dict
    dtype: torch.dtype
    prompt: int
    float32: str = "(?!)"  # names stored as F32 whatever the dtype
    fp8: bool = False
    shards: int = 1
    hidden: bool = False


CASES = {
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

COMMON = dict(
    architectures=["Qwen3NextForCausalLM"],
    model_type="qwen3_next",
    hidden_act="silu",
    rms_norm_eps=1e-6,
    linear_conv_kernel_dim=4,
    max_position_embeddings=1024,
    norm_topk_prob=True,
    tie_word_embeddings=False,
)


def published_shapes(config):
    """Name and shape of every tensor as published: one matrix per expert, where transformers fuses them."""
    fused = {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]}
    shapes = {}
    for name, weight in Qwen3NextForCausalLM(config).named_parameters():
        prefix, _, projection = name.partition(".experts.")
        if not projection:
            shapes[name] = weight.shape
            continue
        experts, rows, columns = weight.shape
        parts = fused[projection]
        for expert, part in itertools.product(range(experts), parts):
            shapes[f"{prefix}.experts.{expert}.{part}.weight"] = (rows // len(parts), columns)
    return shapes


def draw(name, shape, random):
    """A random tensor under which every part of the model has a say in the logits."""
    uniform, normal = torch.rand(shape, generator=random), torch.randn(shape, generator=random)
    if name.endswith("A_log"):
        return uniform * 5 - 4  # from a memory of hundreds of tokens down to one of a few
    if name.endswith("dt_bias"):
        return uniform * 3 - 2
    if name.endswith("conv1d.weight"):
        return normal * 0.5
    if name.endswith("norm.weight"):
        return normal * 0.3 + ("linear_attn" in name)
    gains = {r"embed_tokens|lm_head": 3, r"mlp\.gate\.|in_proj_ba|down_proj": 2}
    gain = next((gain for pattern, gain in gains.items() if re.search(pattern, name)), 1)
    return normal * gain / shape[-1] ** 0.5


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
        weight = draw(name, shapes[name], random)
        if case.fp8 and FP8_WEIGHTS.search(name):
            scale_name = f"{name}_scale_inv"
            stored[name], stored[scale_name] = quantise(weight, dtype_of(scale_name), random)
        else:
            stored[name] = weight.to(dtype_of(name))
    if case.fp8:
        stored["mtp.norm.weight"] = stored["model.norm.weight"].clone()  # to be ignored by the reader
    return stored


def load(config, stored):
    weights = {name: weight.float() for name, weight in stored.items() if not name.endswith("_scale_inv")}
    for name in weights:
        if f"{name}_scale_inv" in stored:
            weights[name] *= spread(stored[f"{name}_scale_inv"], weights[name].shape)
    model, report = Qwen3NextForCausalLM.from_pretrained(
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
    chosen = torch.cat(router_logits).topk(model.config.num_experts_per_tok + 1).values
    token_margin = (best.values[:, 0] - best.values[:, 1]).min().item() if agrees else 0.0
    expert_margin = (chosen[:, -2] - chosen[:, -1]).min().item()

    tensors = dict(
        prompt_ids=prompt.int(),
        logprobs=logprobs[:n],
        greedy=greedy.int(),
        greedy_logprobs=logprobs[n - 1 :],
    )
    return tensors, hidden, token_margin, expert_margin


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
    published = {**COMMON, "dtype": str(case.dtype).removeprefix("torch."), **case.config}
    config = Qwen3NextConfig(**{key: value for key, value in published.items() if key != "quantization_config"})
    shapes = published_shapes(config)

    for seed in itertools.count():
        random = torch.Generator().manual_seed(seed)
        stored = make_weights(case, shapes, random)
        model = load(config, stored)
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
        if (
            min(token_margins) > MIN_TOKEN_MARGIN
            and min(expert_margins) > MIN_EXPERT_MARGIN
            and min(distinct) >= MIN_DISTINCT
        ):
            break

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, published, stored, case.shards)
    save_file(expected, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    deviation = expected["logprobs"].std(-1).mean()
    print(
        f"{name:12} {size:8} bytes  seed {seed:3}  token margin {min(token_margins):.3f}  "
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
