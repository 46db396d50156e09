"""A learnt temperature and normaliser: what they start as, what they find, and where they change nothing."""

import math

import torch
from torch import Tensor

import cpc
from cpc.losses.contrast import Calibration
from cpc.losses.objectives import NCE, InfoNCE
from cpc.losses.scores import Dot
from cpc.models.cpc import Latents


def latents(dtype: torch.dtype = torch.float64) -> Latents:
    generator = torch.Generator().manual_seed(0)
    return Latents(*torch.randn(2, 3, 20, 6, generator=generator, dtype=dtype))


def loss(learnt: tuple[str, ...], objective: InfoNCE | NCE) -> cpc.CPCLoss:
    torch.manual_seed(0)
    made = cpc.CPCLoss(3, 6, 6, cpc.Uniform(num_negatives=8, cross_sequence_fraction=0.5), objective, learnable=learnt)  # type: ignore[arg-type]
    return made.double()


def value(criterion: cpc.CPCLoss) -> Tensor:
    return criterion(latents(), torch.Generator().manual_seed(1)).loss  # type: ignore[no-any-return]


def test_it_begins_as_nothing() -> None:
    for objective in (InfoNCE(), NCE()):
        torch.testing.assert_close(value(loss(("temperature", "normaliser"), objective)), value(loss((), objective)))


def test_a_learnt_temperature_is_the_fixed_one_of_the_same_size() -> None:
    criterion = loss(("temperature",), InfoNCE())
    assert criterion.calibration is not None
    assert criterion.calibration.log_scale is not None
    with torch.no_grad():
        criterion.calibration.log_scale.fill_(math.log(4.0))
    torch.testing.assert_close(value(criterion), value(loss((), InfoNCE(temperature=0.25))))
    assert criterion.calibration.metrics() == {"loss/temperature": 0.25}
    with torch.no_grad():
        criterion.calibration.log_scale.fill_(50.0)
    assert math.isclose(criterion.calibration.metrics()["loss/temperature"], 0.01)


def test_a_normaliser_shifts_nce_and_cancels_in_info_nce() -> None:
    shifted, plain = (loss(("normaliser",), NCE()), loss((), NCE(log_kq=1.5)))
    for criterion in (shifted, other := loss(("normaliser",), InfoNCE())):
        assert criterion.calibration is not None
        assert criterion.calibration.normaliser is not None
        with torch.no_grad():
            criterion.calibration.normaliser.fill_(1.5)
    torch.testing.assert_close(value(shifted), value(plain))
    torch.testing.assert_close(value(other), value(loss((), InfoNCE())))


def test_nce_finds_the_normaliser_of_a_density() -> None:
    """Data from N(0, 1), noise from N(0, 4); the score is −x²/2 less what should become ln √(2π)."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20_000, generator=generator)
    noise = 2 * torch.randn(20_000, 1, generator=generator)
    calibration = Calibration(["normaliser"])
    optimizer = torch.optim.LBFGS(calibration.parameters(), max_iter=50)

    def log_noise(x: Tensor) -> Tensor:
        return -(x**2) / 8 - math.log(2 * math.sqrt(2 * math.pi))

    def closure() -> Tensor:
        optimizer.zero_grad()
        terms = [calibration(-(x**2) / 2) - log_noise(x) for x in (data, noise)]
        total = NCE()(*terms).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert abs(calibration.metrics()["loss/normaliser"] - math.log(math.sqrt(2 * math.pi))) < 0.02


def test_old_checkpoints_have_no_calibration() -> None:
    assert not [name for name in loss((), InfoNCE()).state_dict() if "calibration" in name]
    assert isinstance(loss((), InfoNCE()).score, Dot)
