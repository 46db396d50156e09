"""Slow, obvious oracles: loops and gathered vectors, written from the papers' formulas."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cpc.models.cpc import Latents


def latents(weights: dict[str, Tensor], waveform: Tensor, strides: Sequence[int], padding: Sequence[int]) -> Latents:
    """z and c from the weights of a model with channel norm and a GRU of one layer, in the plainest operations."""
    x = waveform[:, None]  # (batch, channel, time), as the paper draws it
    for number, (stride, pad) in enumerate(zip(strides, padding, strict=True)):
        kernel, bias = (weights[f"encoder.convs.{number}.{name}"] for name in ("weight", "bias"))
        gain, shift = (weights[f"encoder.norms.{number}.{name}"] for name in ("weight", "bias"))
        x = F.conv1d(x, kernel[:, :, 0], bias, stride, pad)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = (gain[:, None] * x + shift[:, None]).clamp(min=0)
    z = x.transpose(1, 2)
    h, steps = torch.zeros(len(z), weights["context.rnn.weight_hh_l0"].shape[1], dtype=z.dtype), []
    for t in range(z.shape[1]):
        v = z[:, t] @ weights["context.rnn.weight_ih_l0"].T + weights["context.rnn.bias_ih_l0"]
        w = h @ weights["context.rnn.weight_hh_l0"].T + weights["context.rnn.bias_hh_l0"]
        (vr, vu, vn), (wr, wu, wn) = v.chunk(3, 1), w.chunk(3, 1)
        update = (vu + wu).sigmoid()
        h = (1 - update) * (vn + (vr + wr).sigmoid() * wn).tanh() + update * h
        steps.append(h)
    return Latents(z, torch.stack(steps, dim=1))


def info_nce(positive: float | Tensor, negatives: list[Tensor]) -> Tensor:
    """−log( e^p / (e^p + Σ e^n) ), term by term (van den Oord 2018, eq. 4)."""
    positive = torch.as_tensor(positive)
    total = positive.exp()
    for negative in negatives:
        total = total + negative.exp()
    return -(positive.exp() / total).log()


def cpc_losses(
    z: Tensor, c: Tensor, weight: Tensor, drawn: dict[tuple[int, int], Tensor], group: int, scale: float
) -> list[Tensor]:
    """The loss of each step k for z (batch, frame, dim), c (batch, frame, hidden), weight (step, dim, hidden).

    `drawn[k, start]` holds the flat keys (anchor, negative) of the group of `group` sequences that begins at
    sequence `start`; key s · frames + t is frame t of its sequence s.
    """
    batch, frames, _ = z.shape
    steps = len(weight)
    losses = []
    for k in range(1, steps + 1):
        terms = []
        for start in range(0, batch, group):
            keys = [z[start + s, t] for s in range(group) for t in range(frames)]
            row = 0
            for s in range(group):
                for t in range(frames - steps):
                    prediction = weight[k - 1] @ c[start + s, t]
                    positive = scale * torch.dot(prediction, z[start + s, t + k])
                    negatives = [scale * torch.dot(prediction, keys[i]) for i in drawn[k, start][row].tolist()]
                    terms.append(info_nce(positive, negatives))
                    row += 1
        losses.append(torch.stack(terms).mean())
    return losses


def centred_cosine_losses(
    z: Tensor, c: Tensor, weight: Tensor, group: int, temperature: float, centre: str
) -> list[Tensor]:
    """The loss of each step k with every other frame of the group as a negative, by cosines with centred keys."""
    batch, frames, _ = z.shape
    steps, losses = len(weight), []
    for k in range(1, steps + 1):
        terms = []
        for start in range(0, batch, group):
            own = [torch.stack([z[start + s, t] for t in range(frames)]) for s in range(group)]
            whole = torch.cat(own).mean(0)
            mean = {"window": lambda s, own=own: own[s].mean(0), "group": lambda s, whole=whole: whole}[centre]
            keys = [[own[s][t] - mean(s) for t in range(frames)] for s in range(group)]

            def score(a: Tensor, b: Tensor) -> Tensor:
                return torch.dot(a, b) / (a.norm() * b.norm()) / temperature

            for s in range(group):
                for t in range(frames - steps):
                    prediction = weight[k - 1] @ c[start + s, t]
                    others = [keys[r][u] for r in range(group) for u in range(frames) if (r, u) != (s, t + k)]
                    terms.append(
                        info_nce(score(prediction, keys[s][t + k]), [score(prediction, key) for key in others])
                    )
        losses.append(torch.stack(terms).mean())
    return losses


def chance(negatives: int) -> float:
    """The loss of a score that knows nothing: one of 1 + M at random."""
    return math.log(1 + negatives)


def gathered_criterion(
    z: Tensor, c: Tensor, weight: Tensor, negatives: int, generator: torch.Generator, shared: bool = False
) -> Tensor:
    """The usual criterion of public CPC code: gather negative vectors, expand, multiply. Loss: mean over k.

    Negatives are drawn over the whole batch, as is usual: for every step of its own, or one set `shared` by all steps
    (as Rivière et al. 2020 do, which saves time and makes the steps' losses dependent).
    """
    batch, frames, dim = z.shape
    steps = len(weight)
    anchors = frames - steps
    flat = z.reshape(-1, dim)

    def gather() -> Tensor:
        shape = (batch, anchors, negatives)
        index = torch.randint(0, len(flat), shape, generator=generator, device=z.device)
        return flat[index]  # (batch, anchor, negative, dim)

    others, losses = gather(), []
    for k in range(1, steps + 1):
        if k > 1 and not shared:
            others = gather()
        predicted = c[:, :anchors] @ weight[k - 1].T
        keys = torch.cat([z[:, k : k + anchors, None], others], dim=2)  # (batch, anchor, 1 + negative, dim)
        scores = (predicted[:, :, None] * keys).sum(-1)
        target = torch.zeros(batch * anchors, dtype=torch.long, device=z.device)
        losses.append(torch.nn.functional.cross_entropy(scores.flatten(0, 1), target))
    return torch.stack(losses).mean()


# --- CPC_audio's forward pass (cpc/model.py, cpc/transformers.py there), stated again from its formulas.


def cpc_audio_forward(weights: dict[str, Tensor], waveform: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """z and c (batch, frame, dim) of tensors under CPC_audio's names; `kind` is GRU, LSTM or transformer."""
    x = waveform[:, None]
    for i, (stride, padding) in enumerate(zip((5, 4, 2, 2, 2), (3, 2, 1, 1, 1), strict=True)):
        x = torch.nn.functional.conv1d(
            x, weights[f"gEncoder.conv{i}.weight"], weights[f"gEncoder.conv{i}.bias"], stride, padding
        )
        gain, shift = (weights.get(f"gEncoder.batchNorm{i}.{part}") for part in ("weight", "bias"))
        if gain is not None and gain.ndim == 3:  # their channel norm: the unbiased variance over channels
            centred = x - x.sum(1, keepdim=True) / x.shape[1]
            variance = centred.square().sum(1, keepdim=True) / (x.shape[1] - 1)
            x = centred / (variance + 1e-5).sqrt() * gain + shift
        elif gain is not None:  # batch norm in evaluation
            mean, variance = (weights[f"gEncoder.batchNorm{i}.running_{part}"] for part in ("mean", "var"))
            x = (x - mean[:, None]) / (variance + 1e-5).sqrt()[:, None] * gain[:, None] + shift[:, None]
        x = x.clamp_min(0)
    z = x.transpose(1, 2)
    if kind == "transformer":
        return z, _cpc_audio_transformer(weights, z)
    layers, sequence = sum("weight_hh" in name for name in weights), z
    for layer in range(layers):
        v, w, b, d = (weights[f"gAR.baseNet.{n}_l{layer}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = cell = torch.zeros(len(z), w.shape[1])
        states = []
        for t in range(z.shape[1]):
            given, kept = sequence[:, t] @ v.T + b, h @ w.T + d
            if kind == "GRU":
                (r, u, n), (hr, hu, hn) = given.chunk(3, 1), kept.chunk(3, 1)
                u = (u + hu).sigmoid()
                h = (1 - u) * (n + (r + hr).sigmoid() * hn).tanh() + u * h
            else:
                i, f, g, o = (given + kept).chunk(4, 1)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                h = o.sigmoid() * cell.tanh()
            states.append(h)
        sequence = torch.stack(states, 1)
    return z, sequence


def _cpc_audio_transformer(weights: dict[str, Tensor], x: Tensor, prefix: str = "gAR.0.", heads: int = 8) -> Tensor:
    """Causal attention with a learnt vector for each distance; a key d frames ago has column S − 1 − d."""

    def part(name: str) -> Tensor:
        return weights[prefix + name]

    relative = part("multihead.Att.Krelpos")
    size, span = relative.shape
    out = torch.zeros_like(x)
    q, k, v = (x @ part(f"multihead.{name}.weight").T for name in ("Wq", "Wk", "Wv"))
    for b in range(len(x)):
        for t in range(x.shape[1]):
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                query = q[b, t, own]
                scores = torch.stack(
                    [(query @ k[b, s, own] + query @ relative[:, span - 1 - (t - s)]) / size**0.5 for s in range(t + 1)]
                )
                out[b, t, own] = scores.softmax(0) @ v[b, : t + 1, own]

    def norm(y: Tensor, name: str) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * part(f"{name}.weight") + part(
            f"{name}.bias"
        )

    y = norm(x + out @ part("multihead.Wo.weight").T, "ln_multihead")
    inner = (y @ part("ffnetwork.lin1.weight").T + part("ffnetwork.lin1.bias")).clamp_min(0)
    return norm(y + inner @ part("ffnetwork.lin2.weight").T + part("ffnetwork.lin2.bias"), "ln_ffnetwork")


def cpc_audio_predictions(criterion: dict[str, Tensor], c: Tensor, kind: str) -> Tensor:
    """Predictions (step, batch, anchor, dim) of CPC_audio's heads (cpc/criterion/criterion.py): linear, ffd, conv8."""
    prefix, found = "wPrediction.predictors.", []
    for k in range(len({name.split(".")[2] for name in criterion})):
        if kind == "linear":
            found.append(c @ criterion[f"{prefix}{k}.weight"].T)
        elif kind == "ffd":  # their layers multiply what they give by √(2 / inputs)
            y = c
            for layer in ("lin1", "lin2"):
                w, b = (criterion[f"{prefix}{k}.{layer}.module.{part}"] for part in ("weight", "bias"))
                y = (y @ w.T + b) * (2 / w.shape[1]) ** 0.5
                y = y.clamp_min(0) if layer == "lin1" else y
            found.append(y)
        elif kind == "conv8":
            w, b = (criterion[f"{prefix}{k}.module.module.{part}"] for part in ("weight", "bias"))
            padded = torch.cat([torch.zeros(len(c), w.shape[2] - 1, c.shape[2]), c], 1).transpose(1, 2)
            made = torch.nn.functional.conv1d(padded, w, b) * (2 / (w.shape[1] * w.shape[2])) ** 0.5
            found.append(made.transpose(1, 2))
        else:
            parts = {name.removeprefix(f"{prefix}{k}."): value for name, value in criterion.items()}
            found.append(_cpc_audio_transformer(parts, c, "0."))
    return torch.stack(found)


def cheapest_alignment(costs: Sequence[Sequence[float]]) -> tuple[float, tuple[int, ...]]:
    """Of all ways to match M predictions (rows) to K frames (columns) in order, each to at least one: the cheapest.

    A way is where each prediction but the first begins; all are tried.
    """
    predictions, frames = len(costs), len(costs[0])
    found = []
    for starts in itertools.combinations(range(1, frames), predictions - 1):
        way = tuple(sum(frame >= start for start in starts) for frame in range(frames))
        found.append((sum(costs[m][frame] for frame, m in enumerate(way)), way))
    return min(found)
