"""Every context network: causal, of the right size, the same in pieces as in one, and the same as before `kind`."""

from itertools import pairwise

import pytest
import torch

from cpc.config import InputError, validate
from cpc.models.context import AnyContextConfig, GRUConfig, LSTMConfig, TransformerConfig, build_context
from cpc.models.cpc import ModelConfig, build

DIM, HIDDEN = 5, 8
CONTEXTS = [
    GRUConfig(HIDDEN),
    GRUConfig(HIDDEN, layers=3),
    GRUConfig(HIDDEN, norm="layer"),
    GRUConfig(HIDDEN, layers=2, norm="layer"),
    LSTMConfig(HIDDEN),
    LSTMConfig(HIDDEN, layers=3, norm="layer"),
    LSTMConfig(HIDDEN, layers=2),
    TransformerConfig(HIDDEN, heads=2, width=16, span=32),
    TransformerConfig(HIDDEN, layers=3, heads=4, width=16, span=3),
]
every = pytest.mark.parametrize("config", CONTEXTS, ids=lambda c: f"{c.kind}-{c.layers}-{getattr(c, 'norm', '')}")


def reach(config: AnyContextConfig) -> int:
    """How many frames c_t depends on, as far as the configuration bounds it."""
    return config.layers * (config.span - 1) + 1 if isinstance(config, TransformerConfig) else 10**9


@every
def test_c_depends_on_exactly_the_past(config: AnyContextConfig) -> None:
    torch.manual_seed(0)
    context = build_context(config, DIM).double().eval()
    z = torch.randn(1, 10, DIM, dtype=torch.float64, requires_grad=True)
    c = context(z)
    assert c.shape == (1, 10, HIDDEN)
    weigh = torch.randn(HIDDEN, dtype=torch.float64)
    for t in range(10):
        gradient = torch.autograd.grad((c[0, t] * weigh).sum(), z, retain_graph=True)[0][0].abs().sum(-1)
        seen = [t - reach(config) < s <= t for s in range(10)]
        assert (gradient > 0).tolist() == seen


@every
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [12]])
def test_pieces_in_turn_equal_the_whole(config: AnyContextConfig, cuts: list[int]) -> None:
    torch.manual_seed(1)
    context = build_context(config, DIM).double().eval()
    z = torch.randn(3, 12, DIM, dtype=torch.float64)
    state, found = None, []
    for piece in z.split(cuts, dim=1):
        c, state = context.step(piece, state)
        assert all(isinstance(part, torch.Tensor) for part in state)
        found.append(c)
    torch.testing.assert_close(torch.cat(found, dim=1), context(z), rtol=1e-10, atol=1e-10)


@every
def test_layers_below_stack_up_to_c(config: AnyContextConfig) -> None:
    torch.manual_seed(2)
    context = build_context(config, DIM).eval()
    z = torch.randn(2, 6, DIM)
    layers = [context.layer_output(z, count) for count in range(1, context.depth + 1)]
    assert context.depth == config.layers
    torch.testing.assert_close(layers[-1], context(z))
    assert all(layer.shape == (2, 6, HIDDEN) for layer in layers)
    assert not any(torch.allclose(a, b) for a, b in pairwise(layers))


@every
def test_batch_order_is_kept(config: AnyContextConfig) -> None:
    context = build_context(config, DIM).double().eval()
    z, order = torch.randn(3, 7, DIM, dtype=torch.float64), torch.tensor([2, 0, 1])
    torch.testing.assert_close(context(z)[order], context(z[order]), rtol=1e-10, atol=1e-10)


def test_parameters_are_counted_from_the_formulas() -> None:
    def count(config: AnyContextConfig, dim: int) -> int:
        return sum(p.numel() for p in build_context(config, dim).parameters())

    assert count(LSTMConfig(256), 256) == 4 * 256 * (256 + 256 + 2)
    assert count(LSTMConfig(256, layers=2), 512) == 4 * 256 * (512 + 256 + 2) + 4 * 256 * (256 + 256 + 2)
    layer = 4 * 256**2 + 32 * 128 + 2 * 256 * 2048 + 2048 + 256 + 4 * 256
    assert count(TransformerConfig(256, layers=2), 256) == 2 * layer
    assert count(TransformerConfig(256), 512) == layer + 512 * 256


def test_settings_without_a_kind_are_a_gru_with_the_weights_it_had() -> None:
    """Recipes and checkpoints from before `kind` give {hidden, layers} alone; names of weights must not move."""
    config = validate(ModelConfig, {"encoder": {"channels": 8}, "context": {"hidden": 6, "layers": 2}})
    assert config.context == GRUConfig(hidden=6, layers=2)
    names = [name for name in build(config).state_dict() if name.startswith("context.")]
    parts = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert names == [f"context.rnn.{part}_l{layer}" for layer in (0, 1) for part in parts]
    torch.manual_seed(3)
    ours, z = build_context(GRUConfig(6, 2), DIM), torch.randn(2, 7, DIM)
    torch.manual_seed(3)
    plain = torch.nn.GRU(DIM, 6, 2, batch_first=True)
    assert torch.equal(ours(z), plain(z)[0])


def test_mistakes_are_told_in_one_line() -> None:
    with pytest.raises(InputError, match="hidden=10 must be a multiple of heads=8"):
        validate(ModelConfig, {"context": {"kind": "transformer", "hidden": 10}})
    with pytest.raises(InputError, match=r"context=.*'kind'.*'gru', 'lstm', 'transformer'"):
        validate(ModelConfig, {"context": {"kind": "ltsm"}})


@pytest.mark.parametrize("config", [GRUConfig(HIDDEN), LSTMConfig(HIDDEN)], ids=lambda c: c.kind)
def test_steps_are_exact_on_a_cpu_where_nothing_is_learnt(config: AnyContextConfig) -> None:
    """In bfloat16 the steps of a few sequences take longer than in float32; while training, autocast decides."""
    context = build_context(config, DIM)
    z = torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        learning = context(z)
        with torch.no_grad():
            evaluated, lower = context(z), context.layer_output(z, 1)
    with torch.no_grad():
        expected = context(z.float())
    assert learning.dtype == torch.bfloat16
    assert torch.equal(evaluated, expected)
    assert torch.equal(lower, expected)
