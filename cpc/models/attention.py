"""Causal self-attention over a bounded past with learnt relative positions, and the transformer layer made of it.

The layer is the one that Rivière et al. 2020 (section 3) put in the place of W_k: normalisation after each residual,
no biases in the attention, and a learnt vector for each distance that queries are compared with (Shaw et al. 2018,
section 3.2). Frame t attends to t − span + 1 … t, so that sequences may be of any length, memory grows linearly with
it, and a stream needs no more than the last span − 1 keys and values.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Past = tuple[Float[Tensor, "batch head _past size"], Float[Tensor, "batch head _past size"]]


class CausalAttention(nn.Module):
    """Attention of each frame to itself and to the `span` − 1 frames before it.

    Shape:
        x (batch, frame, dim), the keys and values that earlier frames left → the same shape, and what to keep.
    """

    def __init__(self, dim: int, heads: int, span: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.span, self.dropout = heads, span, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.positions = nn.Parameter(torch.empty(dim // heads, span))  # column d: a key d frames ago
        bound = 1 / math.sqrt(dim // heads)
        nn.init.uniform_(self.positions, -bound, bound)

    def forward(
        self, x: Float[Tensor, "batch frame dim"], past: Past | None = None
    ) -> tuple[Float[Tensor, "batch frame dim"], Past]:
        query, key, value = (
            rearrange(part(x), "b t (h d) -> b h t d", h=self.heads) for part in (self.query, self.key, self.value)
        )
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        before = key.shape[2] - query.shape[2]
        found = []
        for start in range(0, query.shape[2], self.span):  # a block of queries needs at most 2 · span − 1 keys
            block = query[:, :, start : start + self.span]
            keys = slice(max(0, before + start - self.span + 1), before + start + block.shape[2])
            found.append(self._attend(block, key[:, :, keys], value[:, :, keys]))
        kept = slice(max(0, key.shape[2] - self.span + 1), None)
        attended = rearrange(torch.cat(found, dim=2), "b h t d -> b t (h d)")
        return self.out(attended), (key[:, :, kept], value[:, :, kept])

    def _attend(
        self,
        query: Float[Tensor, "batch head frame size"],
        key: Float[Tensor, "batch head key size"],
        value: Float[Tensor, "batch head key size"],
    ) -> Float[Tensor, "batch head frame size"]:
        """Softmax((q·k + q·r) / √size) v, for queries that belong to the last keys."""
        frames, keys = query.shape[2], key.shape[2]
        bias = self._relative(query, keys) / math.sqrt(query.shape[3])
        row = torch.arange(frames, device=query.device)[:, None] + keys - frames
        distance = row - torch.arange(keys, device=query.device)
        bias = bias.masked_fill((distance < 0) | (distance >= self.span), -math.inf)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)

    def _relative(
        self, query: Float[Tensor, "batch head frame size"], keys: int
    ) -> Float[Tensor, "batch head frame {keys}"]:
        """q_i · r_{i−j} for every query i and key j; what stands where j lies outside the span has no meaning.

        The products are made for each distance, greatest first, and row i then moves left by frames − 1 − i, which a
        column of padding and a change of shape do without an index (Dai et al. 2019, appendix B).
        """
        known = min(keys, self.span)
        products = F.pad(query @ self.positions[:, :known].flip(1), (keys - known + 1, 0))
        batch, heads, frames, _ = products.shape
        return products.reshape(batch, heads, keys + 1, frames)[:, :, 1:].reshape(batch, heads, frames, keys)


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward network of `width` units a frame, each added to its input and normalised.

    Shape:
        x (batch, frame, dim), the keys and values that earlier frames left → the same shape, and what to keep.
    """

    def __init__(self, dim: int, heads: int, width: int, span: int, dropout: float) -> None:
        super().__init__()
        self.attention = CausalAttention(dim, heads, span, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, dim))
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch frame dim"], past: Past | None = None
    ) -> tuple[Float[Tensor, "batch frame dim"], Past]:
        attended, kept = self.attention(x, past)
        y = self.attention_norm(x + attended)
        return self.feed_forward_norm(y + self.feed_forward(y)), kept
