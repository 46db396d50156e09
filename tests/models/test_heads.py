"""Every kind of heads: causal in c, one prediction a step, equal to a loop over the steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cpc
from cpc.config import PRESETS, InputError, validate
from cpc.losses.cpc import CPCLoss, CPCLossConfig
from cpc.losses.negatives import Uniform
from cpc.models.cpc import Latents, build
from cpc.models.heads import (
    AnyHeadsConfig,
    BilinearConfig,
    Convolution,
    ConvolutionConfig,
    FeedForward,
    FeedForwardConfig,
    TransformerHeadsConfig,
    build_heads,
)

STEPS, HIDDEN, DIM = 3, 8, 5
HEADS = [
    BilinearConfig(),
    FeedForwardConfig(width=64),  # enough that no anchor has only dead units
    ConvolutionConfig(kernel=1),
    ConvolutionConfig(kernel=4),
    TransformerHeadsConfig(heads=2, width=16, span=5),
    TransformerHeadsConfig(heads=4, width=16),
]
every = pytest.mark.parametrize("config", HEADS, ids=str)


def reach(config: AnyHeadsConfig) -> int:
    match config:
        case ConvolutionConfig():
            return config.kernel
        case TransformerHeadsConfig():
            return config.span
        case _:
            return 1


@every
@pytest.mark.parametrize("dim", [DIM, HIDDEN])
def test_predictions_depend_on_exactly_the_past(config: AnyHeadsConfig, dim: int) -> None:
    torch.manual_seed(0)
    heads = build_heads(config, STEPS, HIDDEN, dim).double().eval()
    c = torch.randn(1, 9, HIDDEN, dtype=torch.float64, requires_grad=True)
    predictions = heads(c)
    assert predictions.shape == (STEPS, 1, 9, dim)
    weigh = torch.randn(dim, dtype=torch.float64)
    for k in range(STEPS):
        for t in range(9):
            gradient = torch.autograd.grad((predictions[k, 0, t] * weigh).sum(), c, retain_graph=True)[0][0]
            assert (gradient.abs().sum(-1) > 0).tolist() == [t - reach(config) < s <= t for s in range(9)]


@every
def test_steps_have_weights_of_their_own(config: AnyHeadsConfig) -> None:
    torch.manual_seed(1)
    heads = build_heads(config, STEPS, HIDDEN, DIM).eval()
    found = heads(torch.randn(2, 6, HIDDEN))
    assert not any(torch.allclose(found[i], found[j]) for i in range(STEPS) for j in range(i))


@every
def test_every_kind_trains_in_the_loss(config: AnyHeadsConfig) -> None:
    torch.manual_seed(2)
    loss = CPCLoss(STEPS, DIM, HIDDEN, Uniform(6), heads=config)
    latents = Latents(torch.randn(4, 12, DIM), torch.randn(4, 12, HIDDEN))
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        value = loss(latents, torch.Generator().manual_seed(0)).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in loss.parameters())


def test_feed_forward_equals_a_network_a_step() -> None:
    torch.manual_seed(3)
    heads, c = FeedForward(STEPS, HIDDEN, DIM, width=7), torch.randn(2, 6, HIDDEN)
    found = heads(c)
    for k in range(STEPS):
        inner = F.linear(c, heads.inner.weight[7 * k : 7 * k + 7], heads.inner.bias[7 * k : 7 * k + 7])
        torch.testing.assert_close(found[k], F.linear(inner.relu(), heads.weight[k].T, heads.bias[k, 0]))


def test_convolution_equals_sums_over_the_kernel() -> None:
    torch.manual_seed(4)
    heads, c = Convolution(STEPS, HIDDEN, DIM, kernel=4), torch.randn(2, 6, HIDDEN)
    found = heads(c)
    weight, bias = heads.conv.weight.view(STEPS, DIM, HIDDEN, 4), heads.conv.bias.view(STEPS, DIM)
    for k in range(STEPS):
        for t in range(6):
            expected = sum(c[:, t - 3 + tap] @ weight[k, :, :, tap].T for tap in range(4) if t - 3 + tap >= 0) + bias[k]
            torch.testing.assert_close(found[k, :, t], expected)


def test_parameters_are_counted_from_the_formulas() -> None:
    """Rivière's head: four matrices, a vector for each of 116 distances, two norms, 256 → 2048 → 256."""

    def count(config: AnyHeadsConfig, dim: int = 256) -> int:
        return sum(p.numel() for p in build_heads(config, 12, 256, dim).parameters())

    assert count(BilinearConfig(), 512) == 12 * 256 * 512
    assert count(FeedForwardConfig()) == 12 * 2 * (256**2 + 256)
    assert count(ConvolutionConfig(8)) == 12 * (8 * 256**2 + 256)
    head = 4 * 256**2 + 32 * 116 + 4 * 256 + 2 * 256 * 2048 + 2048 + 256
    assert count(TransformerHeadsConfig()) == 12 * head
    assert count(TransformerHeadsConfig(), 512) == 12 * (head + 256 * 512)


def test_preset_riviere_is_the_papers() -> None:
    """The model has the 1.84 M parameters that SUPERB lists for "modified CPC"."""
    recipe = cpc.load_config(PRESETS / "riviere.yaml", ["data.corpus=x"])
    parameters = sum(p.numel() for p in build(recipe.model).parameters())
    assert parameters == 256 * (10 + 256 * (8 + 4 + 4 + 4) + 5 + 2 * 5) + 4 * 256 * (256 + 256 + 2) == 1_843_456
    assert recipe.loss.heads == TransformerHeadsConfig(heads=8, width=2048, span=116, dropout=0.1)
    assert recipe.loss.score.scale == 1 / 256
    assert recipe.loss.negatives == Uniform(128, cross_sequence_fraction=7 / 8)
    assert (recipe.data.batch_size, recipe.data.window_size, recipe.data.same_speaker_batches) == (8, 20480, True)
    assert (recipe.optim.lr, recipe.optim.betas) == (2e-4, (0.9, 0.999))
    assert (
        build(recipe.model).frames(recipe.data.window_size) - recipe.loss.prediction_steps == 116
    )  # the span of a head


def test_settings_without_heads_are_matrices_under_their_old_name() -> None:
    config = validate(CPCLossConfig, {"prediction_steps": 4})
    assert config.heads == BilinearConfig()
    loss = CPCLoss.build(config, DIM, HIDDEN)
    assert list(loss.state_dict()) == ["heads.weight"]
    torch.manual_seed(5)
    weight = nn.Parameter(torch.empty(4, DIM, HIDDEN).uniform_(-(HIDDEN**-0.5), HIDDEN**-0.5))
    torch.manual_seed(5)
    assert torch.equal(CPCLoss.build(config, DIM, HIDDEN).heads.weight, weight)


def test_heads_must_divide_the_dimension() -> None:
    with pytest.raises(
        InputError, match=r"loss\.heads\.heads=3: must divide the dimension of c, model.context.hidden=8"
    ):
        build_heads(TransformerHeadsConfig(heads=3), STEPS, HIDDEN, DIM)
