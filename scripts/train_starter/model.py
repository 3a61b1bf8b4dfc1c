"""The model: a miniature Qwen3-Next, written for training on CPUs."""

import math

import torch
from torch import nn
from torch.nn import functional as F

HIDDEN = 256
CONFIG = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
    "full_attention_interval": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 64,
    "max_position_embeddings": 8192,
    "mlp_only_layers": [],
    "moe_intermediate_size": 256,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 100000.0,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 256,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 8192,
}
LAYERS, EXPERTS, TOP_K = CONFIG["num_hidden_layers"], CONFIG["num_experts"], CONFIG["num_experts_per_tok"]
HEADS, KV_HEADS, HEAD_DIM = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], CONFIG["head_dim"]
KEY_HEADS, VALUE_HEADS = CONFIG["linear_num_key_heads"], CONFIG["linear_num_value_heads"]
STATE = CONFIG["linear_key_head_dim"]
ROTARY = int(HEAD_DIM * CONFIG["partial_rotary_factor"])
EPS = CONFIG["rms_norm_eps"]
CHUNK = 64  # of the delta rule


def is_attention(layer):
    return (layer + 1) % CONFIG["full_attention_interval"] == 0


def fuse(function):
    """One kernel for an elementwise function while training; plain PyTorch, the same but slower, elsewhere."""
    compiled = torch.compile(function, dynamic=False)
    return lambda *inputs: (compiled if fuse.enabled else function)(*inputs)


fuse.enabled = False


@fuse
def rms_norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * (1 + weight)


@fuse
def swiglu(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


@fuse
def causal_conv_silu(x, weight):
    """x [B, T, channels], weight [channels, kernel]."""
    length, kernel = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    y = sum(padded[:, tap:tap + length] * weight[:, tap] for tap in range(kernel))
    return F.silu(y)


@fuse
def rotate(x, cos, sin):
    """NeoX rotary embedding on the first ROTARY dimensions of x [B, T, heads, dim]."""
    half = ROTARY // 2
    a, b, rest = x[..., :half], x[..., half:ROTARY], x[..., ROTARY:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


@fuse
def gate_output(x, gate):
    return x * torch.sigmoid(gate)


@fuse
def gated_norm(x, weight, z):
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight
    return x * F.silu(z.float())


@fuse
def delta_inputs(q, k, v, b, a, a_log, dt_bias):
    """Everything elementwise before the chunk products; inputs are [B, T, heads, dim]."""
    batch, length = q.shape[:2]

    def chunked(x):
        return x.reshape(batch, length // CHUNK, CHUNK, *x.shape[2:]).movedim((1, 3), (0, 2)).contiguous()
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q.float(), k.float()))
    beta = torch.sigmoid(b.float())
    decay = -a_log.exp() * F.softplus(a.float() + dt_bias)
    total = chunked(decay).cumsum(-1)
    return chunked(q * STATE ** -0.5), chunked(k), chunked(v), chunked(beta), total


@fuse
def delta_masks(kk, qk, beta, total):
    """Decayed A (strictly lower) and attention inside a chunk, per value head."""
    repeat = VALUE_HEADS // KEY_HEADS
    kk, qk = kk.float().repeat_interleave(repeat, 2), qk.float().repeat_interleave(repeat, 2)
    row = torch.arange(CHUNK)
    below, lower = row[:, None] > row, row[:, None] >= row
    decay = torch.where(lower, total.unsqueeze(-1) - total.unsqueeze(-2), -1e9).exp()
    return torch.where(below, -beta.unsqueeze(-1) * kk * decay, 0), qk * decay


@fuse
def delta_scaled(q, k, v, beta, total):
    repeat = VALUE_HEADS // KEY_HEADS
    q, k = q.repeat_interleave(repeat, 2), k.repeat_interleave(repeat, 2)
    grown, left = total.exp().unsqueeze(-1), (total[..., -1:] - total).exp().unsqueeze(-1)
    beta = beta.unsqueeze(-1)
    return v * beta, k * beta * grown, q * grown, k * left


class Inverse(torch.autograd.Function):
    """(I - A)^-1 of strictly lower A, by substitution: squaring A would overflow on repeated keys."""

    @staticmethod
    def forward(ctx, a):
        one = torch.eye(CHUNK)
        inverse = torch.linalg.solve_triangular(one - a, one.expand_as(a), upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx, grad):
        inverse, = ctx.saved_tensors
        return inverse.mT @ grad @ inverse.mT


class Permute(torch.autograd.Function):
    """Row gather by a permutation, whose gradient is a gather too."""

    @staticmethod
    def forward(ctx, x, order, back):
        ctx.save_for_backward(order, back)
        return x[order]

    @staticmethod
    def backward(ctx, grad):
        order, back = ctx.saved_tensors
        return grad[back], None, None


class Grouped(torch.autograd.Function):
    """Rows of x sorted by expert, each group times its own matrix [out, in]."""

    @staticmethod
    def forward(ctx, x, weights, bounds):
        y = x.new_empty(len(x), weights.shape[1])
        for weight, (start, end) in zip(weights, bounds):
            torch.mm(x[start:end], weight.T, out=y[start:end])
        ctx.save_for_backward(x, weights)
        ctx.bounds = bounds
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weights = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.empty_like(weights)
        for index, (start, end) in enumerate(ctx.bounds):
            torch.mm(grad[start:end], weights[index], out=dx[start:end])
            torch.mm(grad[start:end].T, x[start:end], out=dw[index])
        return dx, dw, None


class HeadLoss(torch.autograd.Function):
    """Cross-entropy plus z-loss over the vocabulary, chunked so that the logits stay in cache."""
    ROWS, Z = 512, 1e-4

    @staticmethod
    def forward(ctx, x, weight, target, importance):
        dx, dw = torch.empty_like(x), torch.zeros(weight.shape)
        nll, importance = 0.0, importance / importance.sum()
        for start in range(0, len(x), HeadLoss.ROWS):
            rows = slice(start, start + HeadLoss.ROWS)
            grad, loss = softmax_gradient(x[rows] @ weight.T, target[rows, None], importance[rows, None])
            nll = nll + loss
            dx[rows] = grad @ weight
            dw += grad.T @ x[rows]
        ctx.save_for_backward(dx, dw)
        return nll

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.saved_tensors
        return dx * grad, dw * grad, None, None


def softmax_gradient(logits, target, importance):
    """The gradient in place of the logits, and the summed loss. The z-loss keeps logits far from overflow."""
    hit = logits.gather(1, target).float()
    p, log_z = scaled_softmax(logits, importance)
    p.scatter_add_(1, target, -importance.to(p.dtype))
    return p, ((log_z - hit) * importance).sum()


@fuse
def scaled_softmax(logits, importance):
    e = logits.float().exp()
    total = e.sum(-1, keepdim=True)
    log_z = total.log()
    return (e * (importance * (1 + 2 * HeadLoss.Z * log_z) / total)).to(logits.dtype), log_z


class Starter(nn.Module):
    """Every quantisable matrix is made of 256 x 256 blocks of one bank, so that Muon is one batched
    product. Rows are kept ungrouped ([q|k|v|z], [b|a], [query|gate]); `export` regroups them."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        self.dtype, self.sizes = dtype, []
        for layer in range(LAYERS):
            self.sizes += [2, 1, 1] if is_attention(layer) else [3, 1]
            self.sizes += [2, 1, 2 * EXPERTS, EXPERTS]
        self.bank = nn.Parameter(torch.randn(sum(self.sizes), HIDDEN, HIDDEN) * 0.5 * HIDDEN ** -0.5)
        self.embed = nn.Parameter(torch.randn(CONFIG["vocab_size"], HIDDEN) * 0.02)
        self.small = nn.ParameterDict()
        for layer in range(LAYERS):
            new = {"input_norm": torch.zeros(HIDDEN), "post_norm": torch.zeros(HIDDEN),
                   "router": torch.randn(EXPERTS, HIDDEN) * 0.02, "shared_gate": torch.zeros(1, HIDDEN)}
            if is_attention(layer):
                new |= {"q_norm": torch.zeros(HEAD_DIM), "k_norm": torch.zeros(HEAD_DIM)}
            else:
                step = torch.exp(torch.empty(VALUE_HEADS).uniform_(math.log(1e-3), math.log(1e-1)))
                new |= {"conv": torch.rand(2 * HIDDEN, CONFIG["linear_conv_kernel_dim"]) - 0.5,
                        "ba": torch.randn(2 * VALUE_HEADS, HIDDEN) * 0.02, "norm": torch.ones(STATE),
                        "a_log": torch.empty(VALUE_HEADS).uniform_(1, 16).log(),
                        "dt_bias": step + torch.log(-torch.expm1(-step))}
            for name, x in new.items():
                self.small[f"{layer}_{name}"] = nn.Parameter(x)
        self.small["norm"] = nn.Parameter(torch.zeros(HIDDEN))

    def matrices(self):
        """Per layer: the mixer's and the shared expert's [rows, 256] matrices, then the experts'
        gate and up [E, 512, 256], then their down [E, 256, 256]."""
        parts = iter(self.bank.to(self.dtype).split(self.sizes))
        for layer in range(LAYERS):
            flat = [next(parts).reshape(-1, HIDDEN) for _ in range(3 if is_attention(layer) else 2)]
            flat += [next(parts).reshape(-1, HIDDEN) for _ in range(2)]
            yield flat, next(parts).view(EXPERTS, 2 * HIDDEN, HIDDEN), next(parts)

    def forward(self, ids):
        """Final hidden states [B, T, hidden] of ids [B, T] and the router's auxiliary loss."""
        length = ids.shape[1]
        padded = -(-length // CHUNK) * CHUNK
        ids = F.pad(ids, (0, padded - length))
        angle = torch.arange(padded)[:, None] * (
            CONFIG["rope_theta"] ** (-torch.arange(0, ROTARY, 2) / ROTARY))
        turn = angle.cos()[:, None], angle.sin()[:, None]
        x = F.embedding(ids, self.embed)
        auxiliary = 0
        for layer, (flat, gate_up, down) in enumerate(self.matrices()):
            w = lambda name: self.small[f"{layer}_{name}"]
            h = rms_norm(x, w("input_norm")).to(self.dtype)
            x = x + (self.attention(h, w, flat, turn) if is_attention(layer) else self.delta(h, w, flat))
            h = rms_norm(x, w("post_norm")).to(self.dtype)
            y, loss = self.experts(h.view(-1, HIDDEN), w, flat[-2:], gate_up, down)
            x, auxiliary = x + y.view_as(x), auxiliary + loss
        return rms_norm(x, self.small["norm"]).to(self.dtype)[:, :length], auxiliary

    def attention(self, x, w, flat, turn):
        batch, length, _ = x.shape
        q, gate = F.linear(x, flat[0]).chunk(2, -1)
        k, v = F.linear(x, flat[1]).chunk(2, -1)
        heads = lambda y: y.reshape(batch, length, -1, HEAD_DIM)
        q = rotate(rms_norm(heads(q), w("q_norm")), *turn).to(self.dtype)
        k = rotate(rms_norm(heads(k), w("k_norm")), *turn).to(self.dtype)
        repeat = lambda y: y.transpose(1, 2).repeat_interleave(HEADS // KV_HEADS, 1)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), repeat(k), repeat(heads(v)), is_causal=True)
        y = gate_output(y.transpose(1, 2).reshape(batch, length, -1), gate)
        return F.linear(y, flat[2])

    def delta(self, x, w, flat):
        batch, length, _ = x.shape
        qkv, z = F.linear(x, flat[0]).split((2 * HIDDEN, HIDDEN), -1)
        b, a = F.linear(x, w("ba").to(self.dtype)).chunk(2, -1)
        qkv = causal_conv_silu(qkv, w("conv").to(self.dtype))
        q, k, v = qkv.split((KEY_HEADS * STATE, KEY_HEADS * STATE, VALUE_HEADS * STATE), -1)
        heads = lambda y: y.reshape(batch, length, -1, STATE)
        q, k, v, beta, total = delta_inputs(heads(q), heads(k), heads(v), b, a, w("a_log"), w("dt_bias"))
        low = lambda y: y.to(self.dtype)
        q, k = low(q), low(k)
        strict, inside = delta_masks(k @ k.mT, q @ k.mT, beta, total)
        v, k_in, q_in, k_out = map(low, delta_scaled(q, k, v, beta, total))
        inverse, inside = low(Inverse.apply(strict)), low(inside)
        u, carry = inverse @ v, inverse @ k_in
        last = total[..., -1, None, None].exp()
        state = x.new_zeros(batch, VALUE_HEADS, STATE, STATE, dtype=torch.float32)
        outputs = []
        pieces = zip(*(y.unbind() for y in (u, carry, q_in, inside, k_out, last)))
        for u_n, carry_n, q_n, inside_n, k_n, last_n in pieces:
            kept = low(state)
            fresh = u_n - carry_n @ kept
            outputs.append(q_n @ kept + inside_n @ fresh)
            state = state * last_n + k_n.mT @ fresh
        y = torch.stack(outputs).permute(1, 0, 3, 2, 4)
        y = gated_norm(y.reshape(batch, length, -1, STATE), w("norm"), heads(z)).to(self.dtype)
        return F.linear(y.reshape(batch, length, -1), flat[1])

    def experts(self, x, w, shared, gate_up, down):
        logits = F.linear(x.float(), w("router"))
        p = logits.softmax(-1)
        top, chosen = p.topk(TOP_K, -1)
        top = top / top.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        back = order.argsort()
        counts = chosen.flatten().bincount(minlength=EXPERTS)
        ends = counts.cumsum(0).tolist()
        bounds = list(zip([0] + ends, ends))
        balance = EXPERTS * (counts / chosen.numel() * p.mean(0)).sum()
        auxiliary = 0.01 * balance + 1e-3 * logits.logsumexp(-1).square().mean()
        rows = Permute.apply(x.repeat_interleave(TOP_K, 0), order, back)
        y = Grouped.apply(swiglu(Grouped.apply(rows, gate_up, bounds)), down, bounds)
        y = Permute.apply(y, back, order).view(-1, TOP_K, HIDDEN)
        gate = torch.sigmoid(F.linear(x, w("shared_gate").to(self.dtype)))
        z = F.linear(swiglu(F.linear(x, shared[0])), shared[1])
        return mix(y, top, z, gate), auxiliary


@fuse
def mix(y, top, z, gate):
    return (y * top.unsqueeze(-1)).sum(1) + z * gate
