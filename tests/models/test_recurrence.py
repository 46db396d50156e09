"""Our gradient of a GRU is torch's."""

import pytest
import torch
from torch import Tensor, nn

from cpc.models.context import GRUConfig, Recurrent
from cpc.models.gru import gru


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_value_and_gradient_are_torchs(layers: int, batch: int, frames: int) -> None:
    torch.manual_seed(0)
    rnn = nn.GRU(5, 6, layers, batch_first=True).double()
    z = torch.randn(batch, frames, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(batch, frames, 6, dtype=torch.float64)
    ours, theirs = gru(rnn, z), rnn(z)[0]
    assert torch.equal(ours, theirs)
    for found, expected in zip(_gradients(ours, weights, rnn, z), _gradients(theirs, weights, rnn, z), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_in_half_precision_it_is_as_near_to_float32_as_torchs() -> None:
    torch.manual_seed(0)
    rnn = nn.GRU(16, 32, batch_first=True)
    z, weights = torch.randn(4, 50, 16, requires_grad=True), torch.randn(4, 50, 32)
    exact = _gradients(rnn(z)[0], weights, rnn, z)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = gru(rnn, z), rnn(z.bfloat16())[0]
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
    errors = [
        sum((a - b).norm() / b.norm() for a, b in zip(_gradients(c, weights, rnn, z), exact, strict=True))
        for c in (ours, theirs)
    ]
    assert errors[0] < 1.2 * errors[1]


def test_a_state_is_gone_on_from_and_only_the_gradient_is_ours() -> None:
    """Without a gradient to come, torch's GRU runs; frames in two pieces equal the whole."""
    context = Recurrent(GRUConfig(hidden=6, layers=2), 5)
    z = torch.randn(3, 8, 5)
    trained = context(z)
    with torch.no_grad():
        first, state = context.step(z[:, :3])
        rest, _ = context.step(z[:, 3:], state)
        torch.testing.assert_close(torch.cat([first, rest], dim=1), trained)
        assert torch.equal(context(z), trained)


def _gradients(c: Tensor, weights: Tensor, rnn: nn.GRU, z: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((c.to(weights.dtype) * weights).sum(), [z, *rnn.parameters()])
