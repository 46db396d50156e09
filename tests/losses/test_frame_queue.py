"""A queue of frames: past frames are negatives of every anchor, and what the queue holds is exact."""

from pathlib import Path

import pytest
import torch

import cpc
from cpc.losses.cpc import FrameQueueConfig
from cpc.losses.sharding import BatchShard
from cpc.models.checkpoint import read
from cpc.models.cpc import Latents
from cpc.models.encoder import EncoderConfig
from cpc.training.job import Trainer
from cpc.training.recipe import Recipe
from tests.tiny import SHORT, tiny

BATCH, FRAMES, DIM, STEPS = 3, 12, 5, 2


def latents(seed: int = 0, batch: int = BATCH) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return Latents(*torch.randn(2, batch, FRAMES, DIM, generator=generator, dtype=torch.float64))


def made(queue: FrameQueueConfig | None, group: int = 8) -> cpc.CPCLoss:
    torch.manual_seed(0)
    return cpc.CPCLoss(
        STEPS, DIM, DIM, cpc.Uniform(num_negatives=4, cross_sequence_fraction=0.0), group_size=group, queue=queue
    ).double()


def numbers(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_empty_queue_changes_nothing_and_a_full_one_adds_its_frames_to_every_sum() -> None:
    plain, queued = made(None), made(FrameQueueConfig(size=7, each=2))
    first = queued(latents(0), numbers())
    torch.testing.assert_close(first.loss, plain(latents(0), numbers()).loss)
    queued.follow(cpc.build(cpc.ModelConfig(encoder=EncoderConfig(channels=4))))
    held = (queued.queue().keys + latents(1).z.mean((0, 1))).double()  # type: ignore[misc]
    assert len(held) == 6  # two frames of each of three sequences
    own = latents(0).z.flatten(0, 1)
    moved = own - own.mean(0) + latents(1).z.mean((0, 1))  # all frames move together while an encoder learns
    assert all((moved - frame).abs().amax(1).min() < 1e-6 for frame in held)
    later = queued(latents(1), numbers()).loss
    assert later.item() > plain(latents(1), numbers()).loss.item()
    with torch.no_grad():
        expected = _by_hand(plain, latents(1), held)
    torch.testing.assert_close(later, expected)


def _by_hand(plain: cpc.CPCLoss, given: Latents, held: torch.Tensor) -> torch.Tensor:
    """The mean of −log( e^p / (e^p + Σ e^n + Σ e^held) ) from the losses without the queue, anchor by anchor."""
    losses = []
    generator = numbers()
    z, c = given
    for k in range(1, STEPS + 1):
        predicted = torch.einsum("bah,dh->bad", c[:, : FRAMES - STEPS], plain.heads.weight[k - 1])  # type: ignore[index]
        found = plain._contrast(predicted, z, k, BATCH, BatchShard(), generator)
        scores = (predicted * z[:, k : k + FRAMES - STEPS]).sum(-1).flatten()
        inside = torch.logaddexp(found.loss.flatten() + scores, (predicted @ held.T).flatten(0, 1).logsumexp(-1))
        losses.append((inside - scores).mean())
    return torch.stack(losses).mean()


def test_frames_learn_from_the_batch_alone_and_predictions_from_all() -> None:
    """Else all frames of the batch move away from those of the queue, which cannot follow."""
    plain, queued = made(None), made(FrameQueueConfig(size=6, each=2))
    queued(latents(0), numbers())
    queued.follow(cpc.build(cpc.ModelConfig(encoder=EncoderConfig(channels=4))))
    held = (queued.queue().keys + latents(1).z.mean((0, 1))).double()  # type: ignore[misc]
    ours, alone, whole = (Latents(*(t.requires_grad_() for t in latents(1))) for _ in range(3))
    queued(ours, numbers()).loss.backward()
    plain(alone, numbers()).loss.backward()
    _by_hand(plain, whole, held).backward()
    torch.testing.assert_close(ours.z.grad, alone.z.grad)
    torch.testing.assert_close(ours.c.grad, whole.c.grad)
    assert not torch.allclose(ours.c.grad, alone.c.grad, atol=1e-3)  # type: ignore[arg-type]


def test_without_a_generator_it_is_drawn_once_all_the_same() -> None:
    queued = made(FrameQueueConfig(size=6, each=2))
    queued(latents(0), numbers())
    queued.follow(cpc.build(cpc.ModelConfig(encoder=EncoderConfig(channels=4))))
    torch.manual_seed(3)
    one = queued(latents(1)).loss
    torch.manual_seed(3)
    assert torch.equal(queued(latents(1)).loss, one)


def test_the_bound_is_not_claimed() -> None:
    assert made(None).bounds_information
    assert not made(FrameQueueConfig()).bounds_information


def test_shares_pick_what_the_whole_batch_picks() -> None:
    whole = latents(0, batch=4)
    queued = made(FrameQueueConfig(size=16, each=3), group=2)
    everything = queued._some(whole.z, BatchShard(), numbers())
    parts = [queued._some(whole.z[2 * part : 2 * part + 2], BatchShard(part, 2), numbers()) for part in range(2)]
    assert torch.equal(torch.cat(parts), everything)


def recipe(corpus: Path, *overrides: str) -> Recipe:
    loss = {"prediction_steps": 4, "negatives": {"num_negatives": 16}, "queue": {"size": 40, "each": 4}}
    return tiny(corpus, *overrides, loss=loss, optim={"warmup_steps": 2}, training=SHORT)


def test_a_resumed_run_has_the_same_weights_and_queue(tones: Path, tmp_path: Path) -> None:
    whole = cpc.train(recipe(tones), "whole", tmp_path / "runs", progress=False)
    half = cpc.train(recipe(tones, "training.max_steps=3"), "half", tmp_path / "runs", progress=False)
    rest = cpc.resume(half.path, ["training.max_steps=6"], progress=False)
    (_, a), (_, b) = (read(run.path / "last.safetensors") for run in (whole, rest))
    assert int(a["loss.queue.count"]) == 6 * 4 * 4
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("training", [True, False])
def test_only_training_fills_it(tones: Path, training: bool) -> None:
    job = Trainer.start(recipe(tones))
    job.train(training)
    for number, waveform in job.windows.batches(0, 1, job.device):
        job.losses(job.labelled(job.windows, number, waveform), numbers())
    job.criterion.follow(job.model)
    assert job.criterion.queue is not None
    assert int(job.criterion.queue.count) == (16 if training else 0)
