"""The checkpoint in the published layout, written and read."""

import json

import torch
from torch import nn
from torch.nn import functional as F

from model import (
    CONFIG, EXPERTS, HEADS, HEAD_DIM, HIDDEN, KEY_HEADS, LAYERS, STATE, Starter, VALUE_HEADS, is_attention,
)


def quantise(weight):
    """FP8 e4m3 with one BF16 scale per 128 x 128 block, as `w = fp8 * scale`."""
    rows, columns = weight.shape
    blocks = F.pad(weight, (0, -columns % 128, 0, -rows % 128))
    blocks = blocks.view(blocks.shape[0] // 128, 128, -1, 128)
    scale = (blocks.abs().amax((1, 3)) / 448).clamp_min(1e-12).bfloat16()
    exact = (blocks / scale.float()[:, None, :, None]).clamp(-448, 448)
    return exact.view(rows + -rows % 128, -1)[:rows, :columns].to(torch.float8_e4m3fn).contiguous(), scale


def dequantise(weight, scale):
    scale = scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
    return weight.float() * scale[:weight.shape[0], :weight.shape[1]]


def state_dict(model):
    """The model under the published tensor names and row orders, in float32."""
    model.dtype, kept = torch.float32, model.dtype
    state = {"model.embed_tokens.weight": model.embed.detach(), "model.norm.weight": model.small["norm"].detach()}

    def interleave(groups, *parts):
        """Rows [part0|part1|..] per group out of parts that hold all groups each."""
        split = [part.view(groups, -1, part.shape[-1]) for part in parts]
        return torch.cat(split, 1).reshape(-1, parts[0].shape[-1])

    with torch.no_grad():
        for layer, (flat, gate_up, down) in enumerate(model.matrices()):
            w = lambda name: model.small[f"{layer}_{name}"].detach()
            new = {"input_layernorm.weight": w("input_norm"), "post_attention_layernorm.weight": w("post_norm"),
                   "mlp.gate.weight": w("router"), "mlp.shared_expert_gate.weight": w("shared_gate")}
            if is_attention(layer):
                k, v = flat[1].chunk(2)
                new |= {"self_attn.q_proj.weight": interleave(HEADS, *flat[0].chunk(2)),
                        "self_attn.k_proj.weight": k, "self_attn.v_proj.weight": v,
                        "self_attn.o_proj.weight": flat[2],
                        "self_attn.q_norm.weight": w("q_norm"), "self_attn.k_norm.weight": w("k_norm")}
            else:
                keys = KEY_HEADS * STATE
                new |= {"linear_attn.in_proj_qkvz.weight":
                        interleave(KEY_HEADS, *flat[0].split((keys, keys, HIDDEN, HIDDEN))),
                        "linear_attn.in_proj_ba.weight": interleave(KEY_HEADS, *w("ba").chunk(2)),
                        "linear_attn.conv1d.weight": w("conv").unsqueeze(1),
                        "linear_attn.out_proj.weight": flat[1], "linear_attn.norm.weight": w("norm"),
                        "linear_attn.A_log": w("a_log"), "linear_attn.dt_bias": w("dt_bias")}
            names = [("mlp.shared_expert", flat[-2], flat[-1])]
            names += [(f"mlp.experts.{e}", gate_up[e], down[e]) for e in range(EXPERTS)]
            for name, gate_up_e, down_e in names:
                gate, up = gate_up_e.chunk(2)
                new |= {f"{name}.gate_proj.weight": gate, f"{name}.up_proj.weight": up,
                        f"{name}.down_proj.weight": down_e}
            state |= {f"model.layers.{layer}.{name}": tensor.clone() for name, tensor in new.items()}
    model.dtype = kept
    return state


# What the published FP8 checkpoint leaves unquantised.
KEPT_MODULES = ("embed_tokens", "mlp.gate.", "shared_expert_gate", "in_proj_ba", "conv1d")
KEPT = (*KEPT_MODULES, "norm", "A_log", "dt_bias")


# The order it was trained in; it was never shown other files.
PROMPT_PROFILE = {"order": "spm", "context_tokens_max": 0}


def write_checkpoint(model, folder, fp8=True):
    from safetensors.torch import save_file
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = {**CONFIG, "fimd.prompt_profile": PROMPT_PROFILE}, {}
    for name, tensor in state_dict(model).items():
        if not fp8:
            tensors[name] = tensor
        elif any(part in name for part in KEPT):
            tensors[name] = tensor if name.endswith(("A_log", "dt_bias")) else tensor.bfloat16()
        else:
            tensors[name], tensors[name + "_scale_inv"] = quantise(tensor)
    if fp8:
        kept = sorted(name.removesuffix(".weight") for name in tensors if any(part in name for part in KEPT_MODULES))
        config["quantization_config"] = {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", *kept]}
    else:
        config["dtype"] = "float32"
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, {"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_checkpoint(path):
    """The model of a training checkpoint."""
    model = Starter()
    nn.utils.vector_to_parameters(torch.load(path)["flat"], model.parameters())
    return model


def export(args):
    """Write the FP8 checkpoint and the tokenizer."""
    model = load_checkpoint(args.work / "checkpoint.pt")
    write_checkpoint(model, args.out)
    (args.out / "tokenizer.json").write_bytes((args.work / "tokenizer.json").read_bytes())
    print(f"{sum(f.stat().st_size for f in args.out.iterdir()) / 2**20:.1f} MiB")


def read_checkpoint(folder):
    """A model from an exported folder: FP8 weights dequantised, rows back in this script's order."""
    from safetensors.torch import load_file
    tensors = load_file(folder / "model.safetensors")
    model = Starter(torch.float32)
    bank = []

    def read(name):
        weight = tensors[name]
        scale = tensors.get(name + "_scale_inv")
        return dequantise(weight, scale) if scale is not None else weight.float()

    def separate(weight, groups, *sizes):
        """The inverse of `interleave`, stacked part after part."""
        parts = weight.view(groups, -1, weight.shape[-1]).split(sizes, 1)
        return torch.cat([part.reshape(-1, weight.shape[-1]) for part in parts])

    for layer in range(LAYERS):
        at = lambda name: read(f"model.layers.{layer}.{name}")
        values = VALUE_HEADS // KEY_HEADS
        new = {"input_norm": at("input_layernorm.weight"), "post_norm": at("post_attention_layernorm.weight"),
               "router": at("mlp.gate.weight"), "shared_gate": at("mlp.shared_expert_gate.weight")}
        if is_attention(layer):
            bank += [separate(at("self_attn.q_proj.weight"), HEADS, HEAD_DIM, HEAD_DIM),
                     at("self_attn.k_proj.weight"), at("self_attn.v_proj.weight"), at("self_attn.o_proj.weight")]
            new |= {"q_norm": at("self_attn.q_norm.weight"), "k_norm": at("self_attn.k_norm.weight")}
        else:
            bank += [separate(at("linear_attn.in_proj_qkvz.weight"), KEY_HEADS,
                              STATE, STATE, values * STATE, values * STATE), at("linear_attn.out_proj.weight")]
            new |= {"ba": separate(at("linear_attn.in_proj_ba.weight"), KEY_HEADS, values, values),
                    "conv": at("linear_attn.conv1d.weight").squeeze(1), "norm": at("linear_attn.norm.weight"),
                    "a_log": at("linear_attn.A_log"), "dt_bias": at("linear_attn.dt_bias")}
        expert = lambda name, part: at(f"mlp.{name}.{part}_proj.weight")
        bank += [expert("shared_expert", part) for part in ("gate", "up", "down")]
        bank += [expert(f"experts.{e}", part) for e in range(EXPERTS) for part in ("gate", "up")]
        bank += [expert(f"experts.{e}", "down") for e in range(EXPERTS)]
        for name, tensor in new.items():
            model.small[f"{layer}_{name}"].data = tensor
    model.small["norm"].data = read("model.norm.weight")
    model.embed.data = read("model.embed_tokens.weight")
    model.bank.data = torch.cat(bank).view_as(model.bank)
    return model
