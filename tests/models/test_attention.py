"""Attention against loops over queries and keys, and the layer against PyTorch's own."""

import math

import pytest
import torch
from torch import Tensor, nn

from cpc.models.attention import CausalAttention, TransformerLayer

DIM, HEADS = 12, 3


def attention(span: int, dropout: float = 0.0) -> CausalAttention:
    torch.manual_seed(0)
    return CausalAttention(DIM, HEADS, span, dropout).double()


def slow(module: CausalAttention, x: Tensor) -> Tensor:
    """Σ_j softmax_j((q_i·k_j + q_i·r_{i−j}) / √size) v_j over the span, one product at a time."""
    size = DIM // HEADS
    query, key, value = (part(x).view(*x.shape[:2], HEADS, size) for part in (module.query, module.key, module.value))
    out = torch.zeros_like(query)
    for b in range(len(x)):
        for h in range(HEADS):
            for i in range(x.shape[1]):
                seen = range(max(0, i - module.span + 1), i + 1)
                q = query[b, i, h]
                scores = [(q @ key[b, j, h] + q @ module.positions[:, i - j]) / math.sqrt(size) for j in seen]
                shares = torch.stack(scores).softmax(0)
                out[b, i, h] = torch.stack([s * value[b, j, h] for s, j in zip(shares, seen, strict=True)]).sum(0)
    return module.out(out.flatten(2))


@pytest.mark.parametrize(("frames", "span"), [(1, 4), (5, 8), (8, 8), (11, 4), (9, 1), (13, 5)])
def test_equals_the_loops(frames: int, span: int) -> None:
    module = attention(span)
    x = torch.randn(2, frames, DIM, dtype=torch.float64, requires_grad=True)
    weigh = torch.randn(2, frames, DIM, dtype=torch.float64)
    fast, plain = module(x)[0], slow(module, x)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    inputs = [x, *module.parameters()]
    for a, b in zip(
        torch.autograd.grad((fast * weigh).sum(), inputs),
        torch.autograd.grad((plain * weigh).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("cuts", [[1] * 11, [4, 7], [6, 1, 4], [11]])
def test_pieces_in_turn_equal_the_whole(cuts: list[int]) -> None:
    module = attention(span=4)
    x = torch.randn(2, 11, DIM, dtype=torch.float64)
    past, found = None, []
    for piece in x.split(cuts, dim=1):
        y, past = module(piece, past)
        found.append(y)
        assert past[0].shape[2] == past[1].shape[2] <= 3  # span − 1 frames are all that is kept
    torch.testing.assert_close(torch.cat(found, dim=1), module(x)[0], rtol=1e-10, atol=1e-10)


def test_dropout_acts_in_training_only() -> None:
    module = attention(span=8, dropout=0.5)
    x = torch.randn(1, 8, DIM, dtype=torch.float64)
    assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    torch.testing.assert_close(module(x)[0], slow(module, x))


def test_layer_is_torchs_where_positions_and_biases_are_zero() -> None:
    """nn.TransformerEncoderLayer has no positions, and biases in the attention: set both to 0."""
    torch.manual_seed(1)
    ours = TransformerLayer(DIM, HEADS, width=20, span=16, dropout=0.0).eval()
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, 20, dropout=0.0, batch_first=True).eval()
    attended = ours.attention
    with torch.no_grad():
        attended.positions.zero_()
        theirs.self_attn.in_proj_bias.zero_()
        theirs.self_attn.out_proj.bias.zero_()
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([attended.query.weight, attended.key.weight, attended.value.weight])
        )
        theirs.self_attn.out_proj.weight.copy_(attended.out.weight)
        for norm in (ours.attention_norm, ours.feed_forward_norm):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
    theirs.norm2.load_state_dict(ours.feed_forward_norm.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    x = torch.randn(2, 9, DIM)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    torch.testing.assert_close(ours(x)[0], theirs(x, src_mask=mask, is_causal=True), rtol=1e-5, atol=1e-5)


def test_bf16_autocast_is_close() -> None:
    module = attention(span=8).float().eval()
    x = torch.randn(2, 20, DIM)
    full = module(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(x)[0]
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.03)
