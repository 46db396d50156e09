"""Utterance-level contrast: its settings are the methods that they are named after, and its state is exact."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cpc
from cpc.config import InputError
from cpc.losses.instance import InstanceConfig, InstanceLoss, QueueConfig, ViewsConfig
from cpc.losses.objectives import PairMargin, Triplet
from cpc.losses.scores import Cosine, NegativeDistance
from cpc.models.context import GRUConfig
from cpc.models.cpc import CPC, ModelConfig, build
from cpc.models.encoder import EncoderConfig
from cpc.models.pooling import ProjectionConfig
from cpc.seeding import torch_generator
from cpc.training.recipe import Recipe
from cpc.training.trainer import Trainer
from tests.tiny import SHORT, tiny

SAME = ViewsConfig(crop=None)  # both views are the window itself
SPEAKERS = torch.tensor([3, 1, 3, 1, 2, 3])


@pytest.fixture(scope="module")
def model() -> CPC:
    encoder = EncoderConfig(channels=8, norm="channel")
    return build(ModelConfig(encoder=encoder, context=GRUConfig(hidden=8)), seed=0)


def windows(seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(len(SPEAKERS), 3200, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator(torch.device("cpu"), seed)


def config(**changes: object) -> InstanceConfig:
    plain = InstanceConfig(views=SAME, projection=ProjectionConfig(layers=0))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_two_views_are_nt_xent(model: CPC) -> None:
    found = InstanceLoss(config(), model)(model, windows(), torch.arange(6), generator())
    pooled = model(windows()).c.mean(1)
    torch.testing.assert_close(found.loss, cpc.nt_xent(pooled, pooled, temperature=0.1))
    assert found.accuracy.tolist() == [1.0]  # the same window twice


@pytest.mark.parametrize("method", ["sup_con", "triplet", "pair_margin"])
def test_speakers_give_the_supervised_losses(model: CPC, method: str) -> None:
    pooled = model(windows()).c.mean(1).repeat(2, 1)
    labels = SPEAKERS.repeat(2)
    given, expected = {
        "sup_con": (config(score=Cosine(temperature=0.2)), cpc.sup_con(pooled, labels, temperature=0.2)),
        "triplet": (
            config(score=NegativeDistance(squared=True), objective=Triplet(margin=0.5)),
            _triplets(pooled, labels, 0.5),
        ),
        "pair_margin": (
            config(score=NegativeDistance(), objective=PairMargin(margin=0.8)),
            cpc.pair_margin(pooled, labels, margin=0.8),
        ),
    }[method]
    found = InstanceLoss(given, model)(model, windows(), SPEAKERS, generator())
    torch.testing.assert_close(found.loss, expected, atol=2e-4, rtol=1e-3)  # distances near 0 in float32


def _triplets(vectors: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over anchors, over their positives, over the negatives within the margin."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    losses = []
    for a in range(len(unit)):
        own = []
        for p in range(len(unit)):
            if p == a or labels[p] != labels[a]:
                continue
            gaps = [
                margin + (unit[a] - unit[p]).square().sum() - (unit[a] - unit[n]).square().sum()
                for n in range(len(unit))
                if labels[n] != labels[a]
            ]
            active = [gap for gap in gaps if gap > 0]
            own.append(sum(active, start=torch.zeros(())) / max(1, len(active)))
        losses.append(torch.stack(own).mean())
    return torch.stack(losses).mean()


def test_a_queue_scores_past_keys_and_takes_new_ones_when_it_follows(model: CPC) -> None:
    loss = InstanceLoss(config(queue=QueueConfig(size=8, momentum=1.0)), model)
    first, second = windows(0), windows(1)
    pooled = [model(wave).c.mean(1).detach() for wave in (first, second)]
    labels = [torch.arange(6), torch.arange(6) + 6]
    alone = loss(model, first, labels[0], generator())
    torch.testing.assert_close(alone.loss, cpc.info_nce(pooled[0], pooled[0], temperature=0.1))
    assert loss.queue is not None
    assert len(loss.queue().keys) == 0
    loss.on_step_end(model)
    torch.testing.assert_close(loss.queue().keys, pooled[0])
    later = loss(model, second, labels[1], generator())
    scores = Cosine(0.1)(pooled[1][None], torch.cat([pooled[1], pooled[0]])[None])[0]
    torch.testing.assert_close(later.loss, torch.nn.functional.cross_entropy(scores, torch.arange(6)))
    loss.on_step_end(model)
    assert loss.queue().labels.tolist() == [8, 9, 10, 11, 4, 5, 6, 7]  # of twelve keys the newest eight


def test_keys_of_a_slow_copy_carry_no_gradient_and_the_copy_follows(model: CPC) -> None:
    own = build(model.config, seed=1)
    loss = InstanceLoss(config(queue=QueueConfig(size=8, momentum=0.75)), own)
    assert loss.momentum is not None
    slow = dict(loss.momentum.network[0].named_parameters())  # type: ignore[index]
    before = {name: parameter.clone() for name, parameter in slow.items()}
    assert not any(parameter.requires_grad for parameter in slow.values())
    loss(own, windows(), torch.arange(6), generator()).loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(1.0)
    loss.on_step_end(own)
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(slow[name], 0.75 * before[name] + 0.25 * parameter.detach())


def test_crops_and_dropout_make_views_differ_and_evaluation_has_no_dropout(model: CPC) -> None:
    for views in (ViewsConfig(crop=1600), ViewsConfig(crop=None, dropout=0.3)):
        loss = InstanceLoss(config(views=views), model)
        torch.manual_seed(0)
        assert float(loss(model, windows(), torch.arange(6), generator()).loss.detach()) > 1e-3
    loss.eval()
    still = loss(model, windows(), torch.arange(6), generator()).loss
    plain = InstanceLoss(config(), model)(model, windows(), torch.arange(6), generator()).loss
    torch.testing.assert_close(still, plain)


def recipe(corpus: Path, *overrides: str, **loss: object) -> Recipe:
    utterance = {"kind": "instance", "views": {"crop": 6400}, "projection": {"width": 16, "dim": 16}, **loss}
    optim = {"lr": 1e-3, "warmup_steps": 5}
    return tiny(corpus, *overrides, window_size=12800, batch_size=8, loss=utterance, training=SHORT, optim=optim)


def state(run: cpc.Run) -> bytes:
    return run.checkpoint.with_name("last.safetensors").read_bytes()


def test_a_resumed_run_has_the_same_weights_slow_copy_and_queue(tones: Path, tmp_path: Path) -> None:
    from cpc.models.checkpoint import read

    moco = {"queue": {"size": 20, "momentum": 0.9}, "views": {"crop": 6400, "dropout": 0.1}}
    whole = cpc.train(recipe(tones, **moco), "whole", tmp_path / "runs", progress=False)
    half = cpc.train(recipe(tones, "training.max_steps=3", **moco), "half", tmp_path / "runs", progress=False)
    rest = cpc.resume(half.path, ["training.max_steps=6"], progress=False)
    (_, a), (_, b) = (read(run.path / "last.safetensors") for run in (whole, rest))
    assert a.keys() == b.keys()
    assert any("queue.keys" in name for name in a)
    assert any("momentum.network" in name for name in a)
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
    assert isinstance(cpc.load(rest.path), CPC)


def test_it_learns_to_tell_speakers(tones: Path) -> None:
    job = Trainer.start(recipe(tones, "training.max_steps=40", positives="speaker"))
    accuracy = []
    for step, waveform in job.windows.batches(0, 40, job.device):
        losses, _ = job.update(step, waveform)
        accuracy.append((float(losses.loss), float(losses.accuracy[0])))
    early, late = (torch.tensor(part).mean(0) for part in (accuracy[:8], accuracy[-8:]))
    assert late[0] < early[0] - 0.3
    assert late[1] > early[1]


def test_what_cannot_be_is_said_in_one_line(tones: Path) -> None:
    for overrides, message in (
        (["loss.views.crop=20000"], "loss.views.crop=20000: is longer than data.window_size=12800"),
        (["loss.views.crop=100"], "loss.views.crop=100: too short for one frame of 465 samples"),
        (
            ["training.gradient_accumulation_steps=2"],
            "training.gradient_accumulation_steps=2: this loss contrasts the whole batch at once",
        ),
        (["loss.positives=phone"], "loss.positives=phone"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer.start(recipe(tones, *overrides))
