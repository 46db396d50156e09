"""Where a CUDA graph is refused. That it trains as plain launches do is in test_cuda.py."""

from pathlib import Path

import pytest
import torch

from cpc.config import InputError
from cpc.distributed import World
from cpc.training.cuda_graph import compile_obstacle, compiles, graph_obstacle, uses_graph
from tests.tiny import tiny

GPU = World(torch.device("cuda"))
ON = "training.cuda_graph=true"


def test_a_processor_has_none(tones: Path) -> None:
    with pytest.raises(
        InputError, match=r"^training.cuda_graph=true: only GPUs have CUDA graphs, not cpu; give auto or false$"
    ):
        uses_graph(tiny(tones, ON), World(torch.device("cpu")))


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("loss={kind: instance}", "loss.kind=cpc"),
    ],
)
def test_what_a_graph_cannot_repeat_is_refused(tones: Path, override: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        uses_graph(tiny(tones, override, ON), GPU)


def test_several_processes_have_none(tones: Path) -> None:
    with pytest.raises(InputError, match="2 processes exchange gradients"):
        uses_graph(tiny(tones, ON), World(torch.device("cuda"), rank=0, size=2))


@pytest.mark.parametrize("asked", ["true", "auto"])
def test_a_plain_loss_on_a_gpu_is_one(tones: Path, asked: str) -> None:
    assert uses_graph(tiny(tones, f"training.cuda_graph={asked}"), GPU)
    assert not uses_graph(tiny(tones, "training.cuda_graph=false"), GPU)


@pytest.mark.parametrize(
    ("override", "world", "reason"),
    [
        ("seed=0", World(torch.device("cpu")), "only GPUs"),
        ("seed=0", World(torch.device("cuda"), rank=0, size=2), "2 processes"),
        ("training.gradient_accumulation_steps=2", GPU, "micro-batches"),
        ("loss={kind: instance}", GPU, "loss.kind=cpc"),
        ("loss.heads={kind: transformer}", GPU, "dropout"),
    ],
)
def test_by_itself_it_is_off_where_it_cannot_be_and_says_why(
    tones: Path, override: str, world: World, reason: str
) -> None:
    recipe = tiny(tones, override)
    assert recipe.training.cuda_graph == "auto"
    assert not uses_graph(recipe, world)
    assert reason in graph_obstacle(recipe, world)


def test_micro_batches_are_one_where_it_is_asked_for(tones: Path) -> None:
    assert uses_graph(tiny(tones, "training.gradient_accumulation_steps=2", ON), GPU)


LONG = "training.max_steps=2000000000"


@pytest.mark.parametrize(
    ("override", "world", "reason"),
    [
        (LONG, World(torch.device("cpu")), "not on cpu"),
        ("training.max_steps=10", GPU, "hours of windows are trained on"),
    ],
)
def test_compiling_is_off_where_it_does_not_repay_itself(tones: Path, override: str, world: World, reason: str) -> None:
    recipe = tiny(tones, override)
    assert recipe.training.compile == "auto"
    assert not compiles(recipe, world)
    assert reason in compile_obstacle(recipe, world)
    assert compiles(tiny(tones, override, "training.compile=true"), world)


def test_a_long_run_on_a_gpu_compiles_if_its_tools_are_there(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert compiles(tiny(tones, LONG), GPU)
    assert not compiles(tiny(tones, LONG, "training.compile=false"), GPU)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "C compiler" in compile_obstacle(tiny(tones, LONG), GPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "triton" in compile_obstacle(tiny(tones, LONG), GPU)
