"""Where a CUDA graph is refused. That it trains as plain launches do is in test_cuda.py."""

from pathlib import Path

import pytest
import torch

from cpc.config import InputError
from cpc.distributed import World
from cpc.training.cuda_graph import check_graph
from tests.tiny import tiny

GPU = World(torch.device("cuda"))


def test_a_processor_has_none(tones: Path) -> None:
    with pytest.raises(
        InputError, match=r"^training.cuda_graph=true: only GPUs have CUDA graphs, not cpu; give false$"
    ):
        check_graph(tiny(tones), World(torch.device("cpu")))


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("training.gradient_accumulation_steps=2", "adds gradients up"),
        ("loss={kind: instance}", "loss.kind=cpc"),
    ],
)
def test_what_a_graph_cannot_repeat_is_refused(tones: Path, override: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        check_graph(tiny(tones, override), GPU)


def test_several_processes_have_none(tones: Path) -> None:
    with pytest.raises(InputError, match="2 processes exchange gradients"):
        check_graph(tiny(tones), World(torch.device("cuda"), rank=0, size=2))


def test_a_plain_loss_on_a_gpu_may(tones: Path) -> None:
    check_graph(tiny(tones), GPU)
