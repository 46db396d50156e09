"""Two processes equal one: losses, gradients and weights, whatever the negatives and however the batch is divided.

The two processes are started once (they speak by gloo) and do everything that the tests then look at.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from cpc.config import InputError
from cpc.device import device, precision
from cpc.distributed import Vote, World, gather, gather_all, start
from cpc.losses.cpc import Losses
from cpc.training.network import Batch
from cpc.training.recipe import Recipe
from cpc.training.trainer import Trainer
from tests.tiny import tiny

STEPS = 3
NEGATIVES = ("{kind: uniform, num_negatives: 16}", "{kind: all}", "{kind: within}", "{kind: hardest}")
AUGMENTED = "[{kind: coloured_noise, snr: [0, 5]}, {kind: synthetic_reverb, share: 0.5}, {kind: polarity_inversion}]"
RECIPES = {
    **{f"own-{n.split()[1].strip(',}')}": ("loss.group_size=2", f"loss.negatives={n}") for n in NEGATIVES},
    **{f"spans-{n.split()[1].strip(',}')}": ("loss.gather_distributed=true", f"loss.negatives={n}") for n in NEGATIVES},
    "clipped": ("loss.group_size=2", "optim.max_grad_norm=0.01"),
    "accumulated": ("loss.group_size=2", "training.gradient_accumulation_steps=2"),
    "accumulated-spans": (
        "loss.group_size=4",
        "loss.gather_distributed=true",
        "training.gradient_accumulation_steps=2",
    ),
    "own-window": ("loss.group_size=1", "loss.negatives={kind: all}", "loss.score={kind: cosine, centre: window}"),
    "labelled": ("loss.kind=supervised",),
    "classified": ("loss.kind=classification",),
    "triplets": ("loss.group_size=2", "loss.objective={kind: triplet}"),
    "augmented": ("loss.group_size=2", f"augment.past={AUGMENTED}", "augment.future=[{kind: gain}]"),
    "augmented-parts": ("loss.group_size=2", f"augment.past={AUGMENTED}", "training.gradient_accumulation_steps=2"),
    "simclr": ("loss.kind=instance", f"loss.views={{crop: 1600, augment: {AUGMENTED}}}"),
    "simcse": ("loss.kind=instance", "loss.views={crop: null, dropout: 0.2}"),
    "one-speaker": ("loss.gather_distributed=true", "data.same_speaker_batches=true"),
}

GRAPHS = ("own-uniform", "clipped", "accumulated", "own-window")  # each process has its own negatives


def recipe(corpus: Path, *overrides: str) -> Recipe:
    few: dict[str, Any] = {"loss": {"prediction_steps": 3, "negatives": {"num_negatives": 16}}}
    if "loss.kind=supervised" in overrides:
        few["loss"] = {"kind": "supervised", "labels": "turns", "each": 4, "projection": {"width": 8, "dim": 8}}
    if "loss.kind=classification" in overrides:
        few["loss"] = {"kind": "classification", "labels": "turns"}
    if "loss.kind=instance" in overrides:
        few["loss"] = {"kind": "instance", "projection": {"width": 8, "dim": 8}}
    overrides = ("training.device=cpu", "training.validate_batches=1", *overrides)
    return tiny(corpus, *overrides, window_size=2400, batch_size=8, **few)


def learn(corpus: Path, overrides: tuple[str, ...], world: World) -> dict[str, Any]:
    """A few steps, and what became of them: the losses of each, the last gradients, the weights, the validation."""
    job = Trainer.start(recipe(corpus, *overrides), world)
    job.model.train()
    losses = []
    for step, waveform in job.windows.batches(0, STEPS, job.device):
        given, norm = job.update(step, waveform)
        numbers = torch.cat([given.loss[None], given.per_step, given.accuracy, given.bound]).detach()
        losses.append(torch.cat([world.mean(numbers), norm[None]]))
    gradients = [p.grad.clone() for p in job.parameters if p.grad is not None]
    weights = [p.detach() for p in job.parameters]
    valid = {k: v for k, v in job.validate().items() if k.startswith("valid")}
    return {"losses": losses, "gradients": gradients, "weights": weights, "valid": valid, "ceiling": given.ceiling}


@contextmanager
def as_graph() -> Iterator[None]:
    """Training as with a CUDA graph: each process works alone, and gradients are averaged after it. No GPU is needed
    for that part; what a graph would launch is launched plainly."""
    home = sys.modules[Trainer.__module__]

    def plain(work: Callable[[Batch], Losses], *_: Any) -> Callable[[Batch], Losses]:
        return work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "uses_graph", lambda *_: True)
        patch.setattr(home, "Graph", plain)
        yield


def speak(world: World) -> dict[str, Any]:
    """What the parts of `cpc.distributed` give on this process."""
    x = torch.arange(3.0).requires_grad_() if world.first else torch.arange(3.0, 6.0).requires_grad_()
    everything = gather(x, 2)
    (everything * torch.arange(6.0) * (1 + world.rank)).sum().backward()

    def fail() -> None:
        raise InputError("mended=no: must be; mend it")

    try:
        world.agreed(fail)
        heard = ""
    except InputError as error:
        heard = str(error)
    vote = Vote(world)
    asked = [False, not world.first, False]  # the second process asks at the second step
    return {
        "gathered": everything.detach(),
        "labels": gather_all(torch.tensor([world.rank])),
        "gradient": x.grad,
        "agreed": world.agreed(lambda: f"by {world.rank}"),
        "heard": heard,
        "votes": [vote.cast(wish) for wish in asked],
    }


def join(rank: int, size: int, port: int) -> AbstractContextManager[World]:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    return start("cpu")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def process(rank: int, port: int, corpus: Path, out: Path) -> None:
    with join(rank, 2, port) as world:
        found = {name: learn(corpus, overrides, world) for name, overrides in RECIPES.items()}
        with as_graph():
            found |= {f"graph-{name}": learn(corpus, RECIPES[name], world) for name in GRAPHS}
        torch.save({"rank": world.rank, "size": world.size, "spoken": speak(world), **found}, out / f"{rank}.pt")


@pytest.fixture(scope="module")
def two(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("two")
    mp.spawn(process, (free_port(), tones, out), 2)
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture
def alone() -> Iterator[World]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield World(torch.device("cpu"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_equal_one(name: str, two: list[dict[str, Any]], tones: Path, alone: World) -> None:
    """To rounding in float32. Gradients are evaluated against the largest: the smallest are sums that cancel."""
    one = learn(tones, RECIPES[name], alone)
    ours, theirs = two[0][name], two[1][name]
    assert all(torch.equal(a, b) for a, b in zip(ours["weights"], theirs["weights"], strict=True))
    torch.testing.assert_close(ours["losses"], one["losses"], rtol=2e-6, atol=2e-6, equal_nan=True)
    assert ours["valid"] == pytest.approx(one["valid"], abs=2e-6, nan_ok=True)
    assert ours["ceiling"] == pytest.approx(one["ceiling"], nan_ok=True)
    scale = max(float(g.abs().max()) for g in one["gradients"])
    for a, b in zip(ours["gradients"], one["gradients"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_averaged_after_a_graph_are_those_of_ddp(name: str, two: list[dict[str, Any]]) -> None:
    """Bit for bit: with two processes there is one order to add in."""
    for found in two:
        graph, plain = found[f"graph-{name}"], found[name]
        for part in ("losses", "gradients", "weights"):
            assert all(
                torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(graph[part], plain[part], strict=True)
            )
        assert graph["valid"] == plain["valid"]


def test_accumulating_equals_one_large_batch(tones: Path, alone: World) -> None:
    whole = learn(tones, ("loss.group_size=2",), alone)
    for micro in (2, 4):
        parts = learn(tones, ("loss.group_size=2", f"training.gradient_accumulation_steps={micro}"), alone)
        torch.testing.assert_close(parts["losses"], whole["losses"], rtol=2e-6, atol=2e-6, equal_nan=True)
        assert parts["valid"] == pytest.approx(whole["valid"], abs=2e-6)
        scale = max(float(g.abs().max()) for g in whole["gradients"])
        for a, b in zip(parts["gradients"], whole["gradients"], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=3e-6 * scale)


def stop_and_resume(rank: int, port: int, corpus: Path, out: Path) -> None:
    """Six steps in one go, and three and three: the weights of both."""
    with join(rank, 4, port) as world:
        settings = recipe(corpus, "loss.group_size=2")
        whole = Trainer.start(settings, world)
        advance(whole, 3)
        whole.save(out / "three.safetensors")
        advance(whole, 6)
        resumed = Trainer.start(settings, world)
        resumed.restore(out / "three.safetensors")
        advance(resumed, 6)
        torch.save([[p.detach() for p in job.parameters] for job in (whole, resumed)], out / f"{rank}.pt")


def advance(job: Trainer, stop: int) -> None:
    for step, waveform in job.windows.batches(job.step, stop, job.device):
        job.update(step, waveform)


@pytest.mark.slow
def test_four_processes_resume_bit_for_bit(tones: Path, tmp_path: Path) -> None:
    """Sums of more than two terms depend on their order, which must not depend on where a run began."""
    mp.spawn(stop_and_resume, (free_port(), tones, tmp_path), 4)
    for rank in range(4):
        whole, resumed = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_gathering_sums_gradients_over_those_who_used_them(two: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(two):
        assert (found["rank"], found["size"]) == (rank, 2)
        spoken = found["spoken"]
        assert spoken["gathered"].tolist() == [0, 1, 2, 3, 4, 5]
        assert spoken["labels"].tolist() == [0, 1]
        assert spoken["gradient"].tolist() == [3 * (3 * rank + i) for i in range(3)]  # 1 × from rank 0, 2 × from rank 1


def test_the_first_decides_and_all_stop_one_step_after_one_was_asked(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["spoken"]["agreed"] == "by 0"
        assert found["spoken"]["heard"] == "mended=no: must be; mend it"
        assert found["spoken"]["votes"] == [False, False, True]


def test_a_world_of_one_does_nothing(alone: World) -> None:
    x = torch.randn(3)
    assert alone.mean(x) is x
    assert gather_all(x) is x
    assert alone.agreed(lambda: 7) == 7
    assert [Vote(alone).cast(asked) for asked in (False, True)] == [False, True]


@pytest.mark.parametrize(
    ("size", "overrides", "message"),
    [
        (3, (), r"data.batch_size=8: must be a multiple of 3 processes; give 9, for example"),
        (
            2,
            ("training.gradient_accumulation_steps=3",),
            r"data.batch_size=8: must be a multiple of 2 processes × 3 micro-batches .*12",
        ),
        (
            2,
            (),
            r"loss.group_size=8: .* 2 processes leave 4 of 8 windows each; set loss.gather_distributed=true or "
            r"loss.group_size=4, or",
        ),
        (
            1,
            ("training.gradient_accumulation_steps=2",),
            r"loss.group_size=8: .*2 micro-batches .* leave 4 of 8 .*; set loss.group_size=4, or",
        ),
        (
            4,
            ("loss.group_size=3", "data.batch_size=16", "loss.gather_distributed=true"),
            r"loss.group_size=3: .*; set loss.group_size=2, or",
        ),
        (
            2,
            ("loss.group_size=2", "model.encoder.norm=batch"),
            r"model.encoder.norm=batch: would normalise each of 2 proc",
        ),
    ],
)
def test_a_division_that_would_change_results_is_refused(
    tones: Path, size: int, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Trainer.start(recipe(tones, *overrides), World(torch.device("cpu"), 0, size))


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match=r"device=gpu: not a device"):
        device("gpu")
    with pytest.raises(InputError, match=r"^precision=tf32: only GPUs have it, not cpu"):
        precision("tf32", torch.device("cpu"))
    assert precision("fp32", torch.device("cpu")) == "fp32"
