"""Frames contrasted by their labels, or classified: the labels are those at their centres, and it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss

import cpc
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig, WindowSampler
from cpc.losses.supervised import ClassificationLoss, FrameLabels, SupervisedLoss
from cpc.models.checkpoint import read
from cpc.models.cpc import build
from cpc.seeding import torch_generator
from cpc.training.recipe import Recipe
from cpc.training.trainer import Trainer
from tests.tiny import SHORT, tiny

LOSS: dict[str, Any] = {"kind": "supervised", "labels": "turns", "each": 8, "projection": {"width": 16, "dim": 16}}


def recipe(corpus: Path, *overrides: str, loss: dict[str, Any] = LOSS) -> Recipe:
    return tiny(corpus, *overrides, loss=loss, optim={"lr": 1e-3, "warmup_steps": 5}, training=SHORT)


def test_labels_are_those_at_the_centres(tones: Path) -> None:
    corpus, model = Corpus.open(tones), build(recipe(tones).model)
    windows = WindowSampler(corpus, corpus.rows("pretrain"), WindowConfig(8000, 6), 0)
    found = FrameLabels(corpus, "turns").of(windows, 3, model)
    alignment = corpus.labels("turns")
    rows, starts = windows.draw(3)
    for row, start, own in zip(rows.tolist(), starts.tolist(), found.tolist(), strict=True):
        intervals = alignment.intervals(corpus.ids[row])
        for frame, label in enumerate(own):
            second = start / 16000 + model.frame_centres(len(own))[frame]
            inside = intervals.labels[(intervals.onsets <= second) & (second < intervals.offsets)].tolist()
            assert [label] == (inside or [-1])
    assert {-1, 0, 1, 2} == set(np.unique(found).tolist())  # a window may reach beyond the labels


def test_an_utterance_without_labels_has_none(tones: Path) -> None:
    corpus, model = Corpus.open(tones), build(recipe(tones).model)
    alignment = corpus.labels("turns")
    rows = np.array([row for row, id in enumerate(corpus.ids) if id not in alignment])
    windows = WindowSampler(corpus, rows, WindowConfig(800, 2), 0)
    assert (FrameLabels(corpus, "turns").of(windows, 0, model) == -1).all()


def test_the_loss_is_sup_con_of_the_drawn_frames(tones: Path) -> None:
    job = Trainer.start(recipe(tones))
    criterion = job.criterion
    assert isinstance(criterion, SupervisedLoss)
    for step, waveform in job.windows.batches(0, 1, job.device):
        batch = job.labelled(job.windows, step, waveform)
        assert batch.labels is not None
        found = criterion(job.model, waveform, batch.labels, torch_generator(job.device, 0, "x"))
        times = torch.randint(batch.labels.shape[1], (4, 8), generator=torch_generator(job.device, 0, "x"))
        c = job.model(waveform).c
        frames = torch.stack([c[w, t] for w in range(4) for t in times[w].tolist()])
        labels = torch.tensor([int(batch.labels[w, t]) for w in range(4) for t in times[w].tolist()])
        kept = labels >= 0
        vectors = criterion.projection(frames)[kept]
        temperature = criterion.config.score.temperature  # type: ignore[union-attr]
        expected = SupConLoss(temperature)(vectors, labels[kept])
        torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", ["turns", "speaker"])
def test_classification_is_the_cross_entropy_of_labelled_frames(tones: Path, labels: str) -> None:
    job = Trainer.start(recipe(tones, loss={"kind": "classification", "labels": labels}))
    criterion = job.criterion
    assert isinstance(criterion, ClassificationLoss)
    assert criterion.head.out_features == (3 if labels == "turns" else 6)
    _, waveform = next(iter(job.windows.batches(0, 1, job.device)))
    given = job.labelled(job.windows, 0, waveform).labels
    assert given is not None
    if labels == "speaker":
        corpus, (rows, _) = job.corpus, job.windows.draw(0)
        assert [f"s{n}" for n in given[:, 0].tolist()] == [corpus.speakers[row] for row in rows]
    found = criterion(job.model, waveform, given, torch_generator(job.device, 0, "x"))
    frames, expected, right = job.model(waveform).c, [], []
    for window, time in (given >= 0).nonzero().tolist():
        scores = (criterion.head.weight @ frames[window, time] + criterion.head.bias).log_softmax(0)
        expected.append(-scores[given[window, time]])
        right.append(float(scores.argmax() == given[window, time]))
    torch.testing.assert_close(found.loss, torch.stack(expected).mean())
    torch.testing.assert_close(found.accuracy, torch.tensor([np.mean(right)], dtype=torch.float32))
    assert found.ceiling == pytest.approx(np.log(criterion.head.out_features))


def test_nothing_is_learnt_from_a_batch_without_labels(tones: Path) -> None:
    job = Trainer.start(recipe(tones, loss={"kind": "classification", "labels": "turns"}))
    none = torch.full((4, job.model.frames(4000)), -1)
    found = job.criterion(job.model, torch.randn(4, 4000), none, torch_generator(job.device, 0, "x"))
    found.loss.backward()
    assert found.loss.item() == 0
    assert all(not p.grad.any() for p in job.parameters if p.grad is not None)


def test_a_classifier_is_trained_as_any_recipe(tones: Path, tmp_path: Path) -> None:
    settings = recipe(
        tones, "training.max_steps=40", "optim.lr=5e-3", loss={"kind": "classification", "labels": "speaker"}
    )
    run = cpc.train(settings, "run", tmp_path / "runs", progress=False)
    assert run.metrics["train/loss"] < run.metrics["train/ceiling"]
    assert cpc.load(run.path).hidden == 16


def test_a_resumed_run_has_the_same_weights(tones: Path, tmp_path: Path) -> None:
    whole = cpc.train(recipe(tones), "whole", tmp_path / "runs", progress=False)
    half = cpc.train(recipe(tones, "training.max_steps=3"), "half", tmp_path / "runs", progress=False)
    rest = cpc.resume(half.path, ["training.max_steps=6"], progress=False)
    (_, a), (_, b) = (read(run.path / "last.safetensors") for run in (whole, rest))
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def test_what_cannot_be_is_said_in_one_line(tones: Path) -> None:
    for overrides, message in (
        (["loss.each=0"], "loss.each=0"),
        (["data.window_size=100"], "data.window_size=100: too short for one frame of 465 samples"),
        (
            ["training.gradient_accumulation_steps=2"],
            "training.gradient_accumulation_steps=2: this loss contrasts the whole batch at once",
        ),
    ):
        with pytest.raises(InputError, match=message):
            Trainer.start(recipe(tones, *overrides))
    with pytest.raises(InputError, match="nowhere"):
        cpc.train(recipe(tones, "loss.labels=nowhere"), "n", tones.parent / "runs", progress=False)
