"""Where a CUDA graph is refused. That it trains as plain launches do is in test_cuda.py."""

from pathlib import Path

import pytest
import torch

from cpc.config import InputError
from cpc.distributed import World
from cpc.training.cuda_graph import graph_obstacle, uses_graph
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
        ("training.gradient_accumulation_steps=2", "adds gradients up"),
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
        ("training.gradient_accumulation_steps=2", GPU, "adds gradients up"),
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
