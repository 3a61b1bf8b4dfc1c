"""This model against transformers."""

import torch
from torch.nn import functional as F

from checkpoint import load_checkpoint, write_checkpoint
from model import Starter
from vocabulary import TOKENS


def check(args):
    """Logits of this model against transformers in float32, on random weights or a checkpoint."""
    from transformers import AutoModelForCausalLM
    torch.manual_seed(1)
    saved = args.work / "checkpoint.pt"
    model = load_checkpoint(saved) if saved.exists() else Starter()
    if not saved.exists():
        for p in model.small.values():
            p.data += torch.randn_like(p) * 0.1
        model.embed.data *= 10
    model.dtype = torch.float32
    write_checkpoint(model, args.work / "check", fp8=False)
    reference = AutoModelForCausalLM.from_pretrained(args.work / "check", dtype=torch.float32).eval()
    ids = torch.randint(0, TOKENS, (2, 200))
    with torch.no_grad():
        theirs = reference(ids).logits
        ours = F.linear(model(ids)[0], model.embed)
    difference = (ours - theirs).abs().max().item()
    print(f"largest logit {theirs.abs().max():.3f}, largest difference {difference:.2e}")
    assert difference < 1e-3 * max(1, theirs.abs().max().item())
