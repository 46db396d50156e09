"""What the loss says: its anchors are the loss's own, chance is chance, and what surprises lies where it should."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

import cpc
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig
from cpc.evaluation.diagnostics import TrainedCPC, anchors, horizon, load_trained, surprise
from cpc.evaluation.plots.loss import draw_horizon
from cpc.losses.cpc import CPCLoss
from cpc.losses.negatives import All, Negatives, Uniform, Within
from cpc.losses.objectives import NCE, InfoNCE, Objective, Triplet
from cpc.losses.scores import Cosine
from cpc.models.cpc import Latents
from tests.evaluation.trained import save_untrained


@pytest.fixture(scope="module")
def run(chords: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(chords.path, tmp_path_factory.mktemp("run"))


def latents(batch: int, frames: int, dim: int = 6) -> Latents:
    generator = torch.Generator().manual_seed(0)
    return Latents(*(torch.randn(batch, frames, dim, generator=generator) for _ in range(2)))


@pytest.mark.parametrize(("batch", "group"), [(4, 8), (5, 4), (6, 3)])
def test_anchors_are_what_the_loss_takes_the_mean_of(batch: int, group: int) -> None:
    loss = CPCLoss(3, 6, 6, Uniform(num_negatives=9, cross_sequence_fraction=0.5), group_size=group)
    given = latents(batch, 12)
    expected = loss(given, torch.Generator().manual_seed(1))
    found = anchors(loss, given, torch.Generator().manual_seed(1))
    assert found.loss.shape == (3, batch, 9)
    torch.testing.assert_close(found.loss.mean((1, 2)), expected.per_step)
    torch.testing.assert_close(found.correct.float().mean((1, 2)), expected.accuracy)


def test_anchors_know_what_is_learnt_of_the_scores() -> None:
    """Figures show the loss that was trained."""
    negatives = Uniform(num_negatives=9, cross_sequence_fraction=0.5)
    loss = CPCLoss(3, 6, 6, negatives, score=Cosine(0.1), learnable=["temperature"])
    with torch.no_grad():
        for parameter in loss.calibration.parameters():
            parameter.add_(1.0)
    expected = loss(latents(4, 12), torch.Generator().manual_seed(1))
    found = anchors(loss, latents(4, 12), torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.loss.mean((1, 2)), expected.per_step)


def test_standing_still_is_predicted_perfectly_where_the_signal_stands_still() -> None:
    """One direction a sequence: z_t is z_{t+k}. All negatives come from other sequences, which point elsewhere."""
    loss = CPCLoss(3, 6, 6, Uniform(num_negatives=9, cross_sequence_fraction=1.0))
    z = torch.eye(6)[:, None].expand(6, 12, 6)
    assert anchors(loss, Latents(z, z), still=True).correct.all()


@pytest.mark.parametrize("negatives", [Within(), All(), Uniform(num_negatives=64, cross_sequence_fraction=0.0)])
def test_a_frame_is_no_negative_of_itself(negatives: Negatives) -> None:
    """A signal that turns slowly: of all other frames the next one is nearest, ahead only, and itself nearer still."""
    angle = torch.arange(20.0).square() * 0.003 + torch.arange(20.0) * 0.01
    z = torch.stack([angle.flip(0).cos(), angle.flip(0).sin()], dim=1)[None]  # ever slower: what is ahead is nearer
    loss = CPCLoss(1, 2, 2, negatives, group_size=1)
    assert anchors(loss, Latents(z, z), still=True).correct.all()


def test_the_heads_of_a_run_come_back(run: Path) -> None:
    trained = load_trained(run)
    settings = cpc.load_config(str(run / "config.yaml"))
    assert trained.loss.prediction_steps == settings.loss.prediction_steps
    assert trained.windows == WindowConfig(
        **{f: getattr(settings.data, f) for f in ("window_size", "batch_size", "same_speaker_batches")}
    )
    weights = cpc.models.checkpoint.read_checkpoint(run / "last.safetensors")[1]
    assert all(torch.equal(weights[f"loss.{name}"], value) for name, value in trained.loss.state_dict().items())


def test_without_information_everything_is_at_chance(run: Path, chords: Corpus) -> None:
    """Heads that are all zero score everything alike: the loss is ln(1 + M), and no positive is above a negative."""
    trained = load_trained(run)
    with torch.no_grad():
        for parameter in trained.loss.parameters():
            parameter.zero_()
    found = horizon(trained, chords, chords.rows("phone_test"), batches=2)
    np.testing.assert_allclose(found.loss, math.log(17), rtol=1e-6)
    np.testing.assert_array_equal(found.accuracy, 0)
    assert (found.ceiling, found.chance) == pytest.approx((math.log(17), 1 / 17))
    over_time = surprise(trained, chords, int(chords.rows("phone_test")[0]), chords.rows("phone_train"), draws=2)
    np.testing.assert_allclose(over_time[np.isfinite(over_time)], math.log(17), rtol=1e-6)


@pytest.mark.parametrize(("objective", "bounded"), [(InfoNCE(), True), (NCE(), False), (Triplet(), False)])
def test_a_bound_is_there_only_where_the_loss_gives_one(
    run: Path, chords: Corpus, tmp_path: Path, objective: Objective, bounded: bool
) -> None:
    trained = load_trained(run)
    trained.loss.objective = objective
    found = horizon(trained, chords, chords.rows("phone_test"), batches=1)
    assert math.isnan(found.ceiling) != bounded
    assert found.chance == pytest.approx(1 / 17)
    drawn: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "set", lambda axes, **given: drawn.append(given.get("title", "")))
        draw_horizon({"a": found}, tmp_path / "horizon.png")
    assert any("lower bound" in title for title in drawn) == bounded


def test_horizon_has_an_interval_and_is_the_same_again(run: Path, chords: Corpus) -> None:
    trained, rows = load_trained(run), chords.rows("phone_test")
    found, again = (horizon(trained, chords, rows, batches=3, seed=1) for _ in range(2))
    assert found.accuracy.shape == (4,)
    assert np.all((found.low <= found.accuracy) & (found.accuracy <= found.high))
    np.testing.assert_array_equal(found.accuracy, again.accuracy)
    np.testing.assert_array_equal(found.still, again.still)
    assert found.hop_ms == 10
    assert 1 < found.utterances <= 12


def test_surprise_has_a_value_for_every_frame_that_something_precedes(run: Path, chords: Corpus) -> None:
    trained, row = load_trained(run), int(chords.rows("phone_test")[0])
    found = surprise(trained, chords, row, chords.rows("phone_train"), draws=2)
    frames = trained.model.frames(int(chords.samples[row]))
    assert found.shape == (4, frames)
    for k in range(1, 5):
        known = np.flatnonzero(np.isfinite(found[k - 1]))
        np.testing.assert_array_equal(known, np.arange(k, frames - 4 + k))


def test_what_surprises_within_a_window_does_not_depend_on_other_utterances(run: Path, chords: Corpus) -> None:
    """With negatives of the own window, and its own mean taken from the keys, others have no part in it."""
    trained, row = load_trained(run), int(chords.rows("phone_test")[0])
    trained.loss.negatives, trained.loss.score = Within(), Cosine(0.1, centre="window")
    found = []
    for group in (1, 3):
        trained.loss.group_size = group
        found.append(surprise(trained, chords, row, chords.rows("phone_train"), draws=1))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    alone = Latents(*(part[None] for part in _frames(trained, chords, row)))
    np.testing.assert_allclose(
        np.nanmean(found[0], axis=1), anchors(trained.loss, alone).loss.mean((1, 2)).detach().numpy(), rtol=1e-4
    )


def _frames(trained: TrainedCPC, corpus: Corpus, row: int) -> Latents:
    audio = torch.from_numpy(np.array(corpus.waveform(row)))[None].float() / 32768
    return Latents(*(part[0] for part in trained.model(audio)))


def test_an_utterance_without_frames_cannot_surprise(run: Path, chords: Corpus) -> None:
    short = chords.row("s0-c0-silent")
    with pytest.raises((InputError, ValueError), match=r"none can be predicted|too short for one frame"):
        surprise(load_trained(run), chords, short, chords.rows("phone_train"))
