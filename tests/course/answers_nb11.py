"""Answers to the exercises of notebook 11: wrong ones with words of the message, other right ones.

A wrong answer is the right one with a few words changed.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from emrrg_lib.language.prompt import prompt_ids

SCOPE = {"math": math, "torch": torch, "F": F, "nn": nn, "prompt_ids": prompt_ids}
AS_THEY_ARE = (1, 2, 3, 4)  # parts of the model: they give tensors

PATCHES = """
def answer(pixels, weight, bias):
    d, channels, P, _ = weight.shape
    B, _, H, W = pixels.shape
    cut = pixels.reshape(B, channels, H // P, P, W // P, P)
    patches = cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, channels * P * P)
    return patches @ weight.reshape(d, -1).T + bias
"""
SCAN = """
def answer(u, delta, A, B, C, D):
    repeat, step = u.shape[1] // B.shape[1], F.softplus(delta)
    B, C = (m.repeat_interleave(repeat, dim=1) for m in (B, C))
    h, outputs = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[-1]):
        written = (step[..., t] * u[..., t])[..., None] * B[..., t]
        h = torch.exp(step[..., t, None] * A) * h + written
        outputs.append((h * C[..., t]).sum(-1))
    return torch.stack(outputs, dim=-1) + D[:, None] * u
"""
LORA = """
class answer(nn.Module):
    def __init__(self, base, width, out, rows, r, scale=1.0):
        super().__init__()
        self.base, self.scale = base, scale
        self.pad = (rows[0], out - rows[1])
        self.lora_A = nn.Parameter(torch.randn(r, width) / math.sqrt(width))
        self.lora_B = nn.Parameter(torch.zeros(rows[1] - rows[0], r))

    def forward(self, x):
        update = x @ self.lora_A.T @ self.lora_B.T
        return self.base(x) + self.scale * F.pad(update, self.pad)
"""
HYBRID = """
class answer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, head_dim, norm):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.k_proj = nn.Linear(hidden, kv_heads * head_dim)
        self.v_proj = nn.Linear(hidden, kv_heads * head_dim)
        self.gate_proj = nn.Linear(heads * head_dim, 1)
        self.warm_up = nn.Parameter(torch.zeros(1))
        self._norm = (norm,)

    def forward(self, S, query, visual, visual_mask=None, text_mask=None, *_):
        V, split = self._norm[0](visual), (self.kv_heads, self.head_dim)
        K, V = (p(V).unflatten(-1, split).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        repeat = self.heads // self.kv_heads
        K, V = (m.repeat_interleave(repeat, dim=1) for m in (K, V))
        scores = query @ K.mT / math.sqrt(self.head_dim)
        if visual_mask is not None:
            scores = scores.masked_fill(~visual_mask[:, None, None], -math.inf)
        X = (scores.softmax(-1) @ V).transpose(1, 2).flatten(2)
        gate = torch.tanh(self.gate_proj(S)) * torch.tanh(self.warm_up)
        if text_mask is not None:
            gate = gate * text_mask[..., None]
        return S + X * gate
"""
TRAINING = """
def answer(
    model, make_batch, count, steps, size, rate, gate_rate, factor, seed
):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = []
    for name, p in named:
        gate = "gate_proj" in name or "warm_up" in name
        decay = 0.01 if p.dim() > 1 else 0.0
        top = gate_rate if gate else rate
        groups.append({"params": [p], "lr": top, "top": top, "weight_decay": decay})
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    batches, losses, epoch = [], [], 0
    for step in range(steps):
        if not batches:
            draw = torch.Generator().manual_seed(seed + epoch)
            batches = torch.randperm(count, generator=draw).split(size)
            batches, epoch = [batch.tolist() for batch in batches], epoch + 1
        optimiser.zero_grad()
        loss = model(**make_batch(batches.pop(0)))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        for group in optimiser.param_groups:
            group["lr"] = group["top"] * factor(step)
        optimiser.step()
        losses.append(loss.item())
    return losses
"""
REPORT = """
@torch.no_grad()
def answer(model, pixels):
    tokenizer, data = model.tokenizer, model.settings.data
    prompt = prompt_ids(tokenizer, data.prompt, model.settings.llm.image_in_prompt)
    states, mask = model.encode(pixels[None])
    written = []
    while len(written) < model.settings.generation.max_new_tokens:
        ids = torch.tensor([prompt + written])
        inputs = model.llm_inputs(ids, torch.ones_like(ids), states, mask)
        logits = model.llm(**inputs, use_cache=False).logits
        best = int(logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        written.append(best)
    return tokenizer.decode(written, skip_special_tokens=True).strip()
"""


def changed(code, *pairs):
    """The code with each first text replaced by the second."""
    for old, new in pairs:
        assert old in code, old
        code = code.replace(old, new)
    return code


WRONG = [
    (1, changed(PATCHES, (" + bias", "")), "the bias is missing"),
    (1, changed(PATCHES, ("0, 2, 4, 1, 3, 5", "0, 4, 2, 1, 3, 5")), "column by column"),
    (1, changed(PATCHES, ("0, 2, 4, 1, 3, 5", "0, 2, 4, 1, 5, 3")), "inside a patch are exchanged"),
    (1, changed(PATCHES, ("0, 2, 4, 1, 3, 5", "0, 2, 4, 3, 5, 1")), "each number is patch"),
    (1, changed(PATCHES, ("+ bias", "+ bias).mT"), ("return patches", "return (patches")), "Shape"),
    (
        1,
        changed(PATCHES, ("+ bias", "+ bias).detach().numpy()"), ("return patches", "return (patches")),
        "gives a tensor",
    ),
    (1, changed(PATCHES, ("    B, _", "    pixels -= 0.1\n    B, _")), "The pixels have changed"),
    (2, changed(SCAN, (" + D[:, None] * u", "")), "D · u is missing"),
    (2, changed(SCAN, ("F.softplus(delta)", "delta")), "softplus comes first"),
    (2, changed(SCAN, ("] * A)", "] * -A)")), "the state grows"),
    (2, changed(SCAN, ("(step[..., t] * u[..., t])", "u[..., t]")), "Δ is missing"),
    (2, changed(SCAN, ("for m in (B, C)", "for m in (C, B)")), "B and C are exchanged"),
    (
        2,
        changed(SCAN, ("m.repeat_interleave(repeat, dim=1)", "m.repeat(1, repeat, 1, 1)")),
        "repeat_interleave",
    ),
    (
        2,
        changed(
            SCAN,
            ("        outputs.append((h * C[..., t]).sum(-1))\n", ""),
            ("        written", "        outputs.append((h * C[..., t]).sum(-1))\n        written"),
        ),
        "before this token is written",
    ),
    (
        2,
        changed(
            SCAN,
            ("range(u.shape[-1])", "reversed(range(u.shape[-1]))"),
            ("stack(outputs,", "stack(outputs[::-1],"),
        ),
        "it runs backwards",
    ),
    (2, changed(SCAN, ("h = torch.exp", "h = h.detach(); h = torch.exp")), "Gradient of"),
    (
        2,
        changed(SCAN, ("return torch.stack", "u, D = u.detach(), D.detach()\n    return torch.stack")),
        "no gradient reaches D",
    ),
    (
        2,
        changed(SCAN, ("* u[..., t])[..., None] * B[..., t]", "* u[..., t])[..., None] * B[..., 0]")),
        "each of its own token",
    ),
    (3, changed(LORA, ("torch.zeros(", "torch.randn(")), "B starts at 0"),
    (3, changed(LORA, ("torch.randn(", "torch.zeros(")), "A starts random"),
    (3, changed(LORA, ("self.scale * F", "F")), "the scale is missing"),
    (3, changed(LORA, ("self.base(x) + ", "")), "it is the base's output"),
    (3, changed(LORA, ("(rows[0], out - rows[1])", "(0, out - rows[1] + rows[0])")), "on other rows"),
    (
        3,
        changed(
            LORA,
            (
                "nn.Parameter(torch.randn(r, width) / math.sqrt(width))",
                "torch.randn(r, width) / math.sqrt(width)",
            ),
        ),
        "nn.Parameters",
    ),
    (
        3,
        changed(
            LORA,
            ("torch.zeros(rows[1] - rows[0], r)", "torch.zeros(out, r)"),
            ("self.pad = ", "self.no = "),
            ("F.pad(update, self.pad)", "update"),
        ),
        "rows of the block alone",
    ),
    (
        3,
        changed(
            LORA,
            (
                "self.base, self.scale = base, scale",
                "self.base, self.scale = base, scale\n        base.requires_grad_(True)",
            ),
        ),
        "the base stays frozen",
    ),
    (
        3,
        changed(LORA, ("update = x", "update = x.detach()"), ("self.lora_A.T", "self.lora_A.detach().T")),
        "no gradient reaches",
    ),
    (4, changed(HYBRID, ("self._norm[0](visual)", "visual")), "the layer's norm first"),
    (4, changed(HYBRID, (" / math.sqrt(self.head_dim)", "")), "divided by √head_dim"),
    (4, changed(HYBRID, ("m.repeat_interleave(repeat, dim=1)", "m.repeat(1, repeat, 1, 1)")), "i // (heads"),
    (4, changed(HYBRID, ("torch.tanh(self.warm_up)", "self.warm_up")), "tanh(α), not α"),
    (4, changed(HYBRID, ("torch.tanh(self.gate_proj(S))", "self.gate_proj(S)")), "tanh(w_g"),
    (4, changed(HYBRID, ("torch.tanh(self.gate_proj(S))", "torch.sigmoid(self.gate_proj(S))")), "differs"),
    (4, changed(HYBRID, ("return S + X", "return X")), "X′ is added to S"),
    (4, changed(HYBRID, ("if visual_mask is not None", "if False")), "visual_mask is not used"),
    (4, changed(HYBRID, ("if text_mask is not None", "if False")), "text_mask is not used"),
    (4, changed(HYBRID, ("~visual_mask", "visual_mask")), "no weight at all"),
    (
        4,
        changed(HYBRID, ("~visual_mask[:, None, None], -math.inf", "~visual_mask[:, None, None], 0.0")),
        "“visual_mask”",
    ),
    (4, changed(HYBRID, ("return S + X * gate", "S += X * gate\n        return S")), "S has changed"),
    (5, changed(TRAINING, ("top = gate_rate if gate else rate", "top = rate")), "has its own rate"),
    (5, changed(TRAINING, ("top = gate_rate if gate else rate", "top = gate_rate")), "everything has"),
    (5, changed(TRAINING, ('"gate_proj" in name or ', "")), "gate_proj belongs to the gate"),
    (5, changed(TRAINING, (' or "warm_up" in name', "")), "warm_up belongs to the gate"),
    (
        5,
        changed(TRAINING, ("0.01 if p.dim() > 1 else", "0.01 if p.dim() > 1 and not gate else")),
        "the gate's matrix decays too",
    ),
    (5, changed(TRAINING, ("nn.utils.clip_grad_norm_([p for _, p in named], 1.0)", "pass")), "clipped to 1"),
    (5, changed(TRAINING, (" * factor(step)", "")), "multiplied by factor"),
    (5, changed(TRAINING, ("factor(step)", "factor(step + 1)")), "of another step"),
    (5, changed(TRAINING, ("seed + epoch", "seed")), "a new permutation"),
    (5, changed(TRAINING, (", betas=(0.9, 0.98)", "")), "torch's betas"),
    (5, changed(TRAINING, ("0.01 if p.dim() > 1 else 0.0", "0.01")), "vectors decay too"),
    (5, changed(TRAINING, ("0.01 if p.dim() > 1 else 0.0", "0.0")), "matrices decay"),
    (5, changed(TRAINING, ("return losses", "")), "Nothing is returned"),
    (
        5,
        changed(TRAINING, ("losses.append(loss.item())", "losses.append(loss.item() * size)")),
        "returned losses are not",
    ),
    (
        6,
        changed(REPORT, ("written, skip_special_tokens=True", "prompt + written, skip_special_tokens=True")),
        "the prompt is in the report",
    ),
    (6, changed(REPORT, (".argmax()", ".argmin()")), "from letter 1"),
    (6, changed(REPORT, ("logits[0, -1]", "logits[0, -2]")), "the likeliest token"),
    (6, changed(REPORT, ("return tokenizer", "return written or tokenizer")), "A text is expected"),
    (6, changed(REPORT, ("model.encode(pixels", "model.encode(0 * pixels")), "Study"),
    (6, changed(REPORT, ("max_new_tokens:", "max_new_tokens // 8:")), "expected '"),
    (1, changed(PATCHES, ("+ bias", "+ bias.detach()")), "no gradient reaches bias"),
    (1, changed(PATCHES, ("W // P, P)", "H // P, P)")), "raised RuntimeError"),
    (
        3,
        changed(LORA, ("return self.base(x)", "return self.base(x).detach()")),
        "Stage “one around the other”",
    ),
    (4, changed(HYBRID, ("X * gate", "X.detach() * gate")), "no gradient reaches query"),
    (
        5,
        changed(
            TRAINING,
            ("named = [(n, p) for n, p in model", "named = [(n, p) for n, p in model.requires_grad_()"),
        ),
        "was frozen trains now",
    ),
    (
        6,
        "def answer(model, pixels):\n    return model.generate(pixels[None], num_beams=1)[0]",
        "calls model.generate",
    ),
]

ALSO_RIGHT = [
    (
        1,
        """
def answer(pixels, weight, bias):
    return F.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).mT
""",
    ),
    (
        1,
        """
def answer(pixels, weight, bias):
    P, rows = weight.shape[-1], []
    for r in range(0, pixels.shape[2], P):
        for c in range(0, pixels.shape[3], P):
            cut = pixels[:, :, r : r + P, c : c + P].flatten(1)
            rows.append(F.linear(cut, weight.flatten(1), bias))
    return torch.stack(rows, dim=1)
""",
    ),
    (
        1,
        """
def answer(pixels, weight, bias):
    P = weight.shape[-1]
    return F.linear(F.unfold(pixels, P, stride=P).mT, weight.flatten(1), bias)
""",
    ),
    (
        2,
        """
def answer(u, delta, A, B, C, D):
    G, channels = B.shape[1], u.shape[1]
    group = torch.arange(channels) // (channels // G)
    B, C, step = B[:, group], C[:, group], torch.log1p(torch.exp(delta))
    h, y = torch.zeros(len(u), channels, A.shape[1], dtype=u.dtype), []
    for t in range(u.shape[2]):
        h = h * torch.exp(step[:, :, t : t + 1] * A) + step[:, :, t : t + 1] * u[:, :, t : t + 1] * B[..., t]
        y.append(torch.einsum("bcn,bcn->bc", h, C[..., t]) + D * u[:, :, t])
    return torch.stack(y, -1)
""",
    ),
    (
        2,
        """
def answer(u, delta, A, B, C, D):
    parts = []
    G = B.shape[1]
    d = u.shape[1] // G
    for g in range(G):
        rows = slice(g * d, (g + 1) * d)
        step = F.softplus(delta[:, rows])
        decay = torch.exp(torch.einsum("bcl,cn->bcnl", step, A[rows]))
        new = torch.einsum("bcl,bnl->bcnl", step * u[:, rows], B[:, g])
        state, y = 0, []
        for t in range(u.shape[-1]):
            state = decay[..., t] * state + new[..., t]
            y.append(torch.einsum("bcn,bn->bc", state, C[:, g, :, t]))
        parts.append(torch.stack(y, -1) + u[:, rows] * D[rows, None])
    return torch.cat(parts, dim=1)
""",
    ),
    (
        3,
        """
class answer(nn.Module):
    def __init__(self, base, width, out, rows, r, scale=1.0):
        super().__init__()
        self.base, self.rows, self.scale = base, rows, scale
        self.lora_A = nn.Parameter(torch.empty(r, width))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.lora_B = nn.Parameter(torch.zeros(rows[1] - rows[0], r))

    def forward(self, x):
        y = self.base(x).clone()
        y[..., self.rows[0] : self.rows[1]] += self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)
        return y
""",
    ),
    (
        3,
        """
class answer(nn.Module):
    def __init__(self, base, width, out, rows, r, scale=1.0):
        super().__init__()
        self.base, self.rows, self.out, self.scale = base, rows, out, scale
        self.lora_A = nn.Parameter(0.02 * torch.randn(r, width))
        self.lora_B = nn.Parameter(torch.zeros(rows[1] - rows[0], r))

    def forward(self, x):
        above = x.new_zeros(self.rows[0], x.shape[-1])
        below = x.new_zeros(self.out - self.rows[1], x.shape[-1])
        delta = torch.cat([above, self.scale * self.lora_B @ self.lora_A, below])
        return self.base(x) + x @ delta.T
""",
    ),
    (
        4,
        changed(
            HYBRID,
            ("        scores = query @ K.mT / math.sqrt(self.head_dim)\n", ""),
            (
                "        if visual_mask is not None:\n"
                "            scores = scores.masked_fill(~visual_mask[:, None, None], -math.inf)\n",
                "        mask = None if visual_mask is None else visual_mask[:, None, None]\n",
            ),
            ("(scores.softmax(-1) @ V)", "F.scaled_dot_product_attention(query, K, V, attn_mask=mask)"),
        ),
    ),
    (
        4,
        changed(
            HYBRID,
            (
                "        gate = torch.tanh",
                "        gate = torch.where(torch.ones_like(S[..., :1], "
                "dtype=torch.bool) if text_mask is None else text_mask[..., None], torch.tanh",
            ),
            ("torch.tanh(self.warm_up)\n", "torch.tanh(self.warm_up), 0.0)\n"),
            ("        if text_mask is not None:\n            gate = gate * text_mask[..., None]\n", ""),
        ),
    ),
    (
        5,
        """
def answer(model, make_batch, count, steps, size, rate, gate_rate, factor, seed):
    def is_gate(name):
        return "gate_proj" in name or "warm_up" in name
    kinds = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            kinds.setdefault((is_gate(name), p.dim() > 1), []).append(p)
    groups = [
        {"params": ps, "lr": gate_rate if gate else rate, "weight_decay": 0.01 if matrix else 0.0}
        for (gate, matrix), ps in kinds.items()
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    per, losses = math.ceil(count / size), torch.zeros(steps)
    for step in range(steps):
        epoch, place = divmod(step, per)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        loss = model(**make_batch(order[place * size : (place + 1) * size]))["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses[step] = loss.detach()
    return losses
""",
    ),
    (
        5,
        changed(
            TRAINING,
            ("losses.append(loss.item())", "losses.append(loss.detach())"),
            ("[batch.tolist() for batch in batches]", "list(batches)"),
        ),
    ),
    (
        6,
        changed(
            REPORT,
            (
                "tokenizer.decode(written, skip_special_tokens=True).strip()",
                "[tokenizer.decode(torch.tensor(written))]",
            ),
        ),
    ),
    (
        6,
        """
def answer(model, pixels):
    with torch.inference_mode():
        head = prompt_ids(model.tokenizer, model.settings.data.prompt)
        states, mask = model.encode(pixels, torch.ones(1, len(pixels), dtype=torch.bool))
        ids = torch.tensor([head])
        for _ in range(model.settings.generation.max_new_tokens):
            inputs = model.llm_inputs(ids, torch.ones_like(ids), states, mask)
            new = model.llm(**inputs).logits[:, -1].log_softmax(-1).topk(1).indices
            if new.item() == model.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, new], dim=1)
    return model.tokenizer.decode(ids[0, len(head) :])
""",
    ),
]
