"""Training by several processes, within a budget of wall clock."""

import math
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from model import HIDDEN, HeadLoss, Starter, fuse
from pack import CONTEXT_WEIGHT, WANTED


def orthogonalise(g):
    """Newton-Schulz iteration on a batch of square matrices."""
    x = g.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315) @ x
    return x.float()


class Run:
    """Parameters, gradients and optimizer state in flat shared memory: every worker computes the
    gradient of its own windows and then updates its own share of the parameters."""
    MUON, ADAM = 0.012, 3e-3

    def __init__(self, world):
        torch.manual_seed(0)
        model = Starter()
        flat = nn.utils.parameters_to_vector(model.parameters()).detach()
        self.flat = flat.clone().share_memory_()
        self.grads = torch.zeros(world, len(flat)).share_memory_()
        self.momentum = torch.zeros(len(flat)).share_memory_()
        self.square = torch.zeros(len(flat) - model.bank.numel()).share_memory_()
        self.clock = torch.zeros(2, dtype=torch.float64).share_memory_()
        self.scores = torch.zeros(world, 2, dtype=torch.float64).share_memory_()
        self.world, self.bank = world, model.bank.numel()
        self.barrier = torch.multiprocessing.get_context("spawn").Barrier(world)

    def bind(self, model, rank):
        """Make the model's parameters and gradients views of the shared memory."""
        start = 0
        for p in model.parameters():
            view = slice(start, start + p.numel())
            p.data = self.flat[view].view_as(p)
            p.grad = self.grads[rank, view].view_as(p)
            start += p.numel()

    def share(self, rank, first, last, unit):
        count = (last - first) // unit
        return slice(first + count * rank // self.world * unit, first + count * (rank + 1) // self.world * unit)

    @torch.no_grad()
    def update(self, rank, step, rate):
        mine = self.share(rank, 0, self.bank, HIDDEN * HIDDEN)
        gradient, momentum, weight = self.grads[:, mine].mean(0), self.momentum[mine], self.flat[mine]
        momentum.lerp_(gradient, 0.05)
        direction = orthogonalise(gradient.lerp(momentum, 0.95).view(-1, HIDDEN, HIDDEN))
        weight.mul_(1 - 0.1 * self.MUON * rate).add_(direction.flatten(), alpha=-self.MUON * rate)

        mine = self.share(rank, self.bank, len(self.flat), 1)
        gradient, momentum, weight = self.grads[:, mine].mean(0), self.momentum[mine], self.flat[mine]
        square = self.square[mine.start - self.bank:mine.stop - self.bank]
        momentum.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.02)
        scale = (square / (1 - 0.98 ** step)).sqrt_().add_(1e-10)
        weight.addcdiv_(momentum, scale, value=-self.ADAM * rate / (1 - 0.9 ** step))

    def state(self):
        return {"flat": self.flat, "momentum": self.momentum, "square": self.square}


def rate_at(step, progress):
    """Warm-up, a plateau, then linear decay to nearly nothing at the end of the budget."""
    return min(1.0, step / 100, max(0.01, (1 - progress) / 0.6))


@torch.no_grad()
def bits_per_byte(model, rows, token_bytes):
    nats = size = 0
    for row in rows:
        ids = torch.from_numpy(row.astype(np.int64))
        hidden, _ = model(ids[None, :-1])
        logits = F.linear(hidden[0], model.embed.to(model.dtype)).float()
        nats += F.cross_entropy(logits, ids[1:], reduction="sum").item()
        size += int(token_bytes[row[1:]].sum())
    return nats / math.log(2), size


def worker(rank, shared, args):
    """One of the processes that train together; the first keeps the clock, the log and the checkpoint."""
    torch.set_num_threads(1)
    fuse.enabled = not args.eager
    model = Starter()
    shared.bind(model, rank)
    sets = {name: np.load(args.work / f"{name}.npy", mmap_mode="r") for name in ("main", "final", "validation")}
    token_bytes = np.load(args.work / "token_bytes.npy")
    saved = args.work / "checkpoint.pt"
    step, cursor, tokens, before = 0, {"main": 0, "final": 0}, 0, 0.0
    if args.resume:
        kept = torch.load(saved)
        step, cursor, tokens, before = (kept[name] for name in ("step", "cursor", "tokens", "elapsed"))
    log = open(args.work / "log.txt", "a") if rank == 0 else None

    def report(text):
        if rank == 0:
            print(time.strftime("%H:%M:%S"), text, file=log, flush=True)

    start = saved_at = validated_at = logged_at = time.time()
    logged_tokens, loss_sum, loss_count = tokens, 0.0, 0
    while True:
        if rank == 0:
            now = time.time()
            shared.clock[0] = (before + now - start) / (args.hours * 3600)
            shared.clock[1] = now - validated_at
        shared.barrier.wait()
        progress, since = shared.clock.tolist()
        finished = progress >= 1 or args.steps and step >= args.steps
        name = "final" if progress > args.final_from else "main"
        if since > 300 or finished:
            rows = sets["validation"][rank::shared.world]
            shared.scores[rank] = torch.tensor(bits_per_byte(model, rows, token_bytes))
            shared.barrier.wait()
            bits, size = shared.scores.sum(0).tolist()
            report(f"step {step} validation {bits / size:.4f} bits per byte")
            validated_at = time.time()
        if rank == 0 and (finished or time.time() - saved_at > 400) and shared.flat.isfinite().all():
            partial = saved.with_suffix(".partial")
            torch.save(shared.state() | {"step": step, "cursor": cursor, "tokens": tokens,
                                         "elapsed": before + time.time() - start}, partial)
            partial.replace(saved)
            saved_at = time.time()
        if finished:
            return

        width = sets[name].shape[1]
        count = max(1, args.batch // width // shared.world)
        first = (cursor[name] + rank * count) % (len(sets[name]) - count)
        cursor[name] += count * shared.world
        stored = torch.from_numpy(sets[name][first:first + count].astype(np.int64))
        ids = stored % WANTED
        context = 1.0 if name == "main" else CONTEXT_WEIGHT
        importance = torch.where(stored[:, 1:] >= WANTED, 1.0, context).flatten()
        hidden, auxiliary = model(ids[:, :-1])
        loss = HeadLoss.apply(hidden.reshape(-1, HIDDEN), model.embed.to(model.dtype), ids[:, 1:].flatten(), importance)
        (loss + auxiliary).backward()
        shared.barrier.wait()
        step += 1
        tokens += count * shared.world * width
        shared.update(rank, step, rate_at(step, progress))
        shared.barrier.wait()
        shared.grads[rank].zero_()
        loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
        if step % 20 == 0:
            speed = (tokens - logged_tokens) / (time.time() - logged_at)
            report(f"step {step} {tokens / 1e6:.2f} M tokens loss {loss_sum / loss_count:.4f} {name} "
                   f"aux {auxiliary.item():.4f} progress {progress:.3f} {speed:.0f} tokens/s")
            logged_tokens, logged_at, loss_sum, loss_count = tokens, time.time(), 0.0, 0


def train(args):
    """Train for a budget of wall-clock time; the learning rate follows the share of it used."""
    # Workers share the cores with whatever else runs, so waiting threads must not spin.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    shared = Run(args.workers)
    if args.resume:
        kept = torch.load(args.work / "checkpoint.pt")
        for name, tensor in shared.state().items():
            tensor.copy_(kept[name])
    torch.multiprocessing.spawn(worker, (shared, args), nprocs=args.workers)
