"""Where a CUDA graph is refused. That it trains as plain launches do is in test_cuda.py."""

from pathlib import Path

import pytest
import torch

from cpc.config import InputError
from cpc.distributed import World
from cpc.losses.cpc import Losses
from cpc.training.cuda_graph import WARM_UP, Graph, compile_obstacle, compiles, graph_obstacle, uses_graph
from cpc.training.network import Batch
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


def test_several_processes_have_one_unless_their_losses_need_each_other(tones: Path) -> None:
    two = World(torch.device("cuda"), rank=0, size=2)
    assert uses_graph(tiny(tones), two)
    with pytest.raises(InputError, match="gather_distributed has processes exchange frames"):
        uses_graph(tiny(tones, "loss.gather_distributed=true", ON), two)


def no_memory() -> None:
    raise RuntimeError("out of memory\nand where")


@pytest.mark.parametrize("required", [False, True])
def test_what_cannot_be_captured_is_launched_plainly_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    losses = Losses(*(torch.tensor(0.0) for _ in range(4)), ceiling=0.0)

    def work(batch: Batch) -> Losses:
        loss = (weight * batch.past).sum()
        loss.backward()
        return losses._replace(loss=loss.detach())

    graph = Graph(work, [weight], [], required)
    monkeypatch.setattr(graph, "_beside", work)  # a stream of its own needs a GPU
    monkeypatch.setattr("torch.cuda.CUDAGraph", no_memory)
    batch = Batch(torch.tensor([1.0, 2.0]))
    for _ in range(WARM_UP):
        weight.grad = None
        assert graph(batch).loss == 3
    weight.grad = None
    if required:
        with pytest.raises(RuntimeError, match="out of memory"):
            graph(batch)
        return
    with pytest.warns(UserWarning, match="^plain launches, not a CUDA graph: out of memory$"):
        assert graph(batch).loss == 3
    assert weight.grad.tolist() == [1, 2]
    weight.grad = None
    assert graph(batch).loss == 3


@pytest.mark.parametrize("asked", ["true", "auto"])
def test_a_plain_loss_on_a_gpu_is_one(tones: Path, asked: str) -> None:
    assert uses_graph(tiny(tones, f"training.cuda_graph={asked}"), GPU)
    assert not uses_graph(tiny(tones, "training.cuda_graph=false"), GPU)


@pytest.mark.parametrize(
    ("override", "world", "reason"),
    [
        ("seed=0", World(torch.device("cpu")), "only GPUs"),
        ("loss.gather_distributed=true", World(torch.device("cuda"), rank=0, size=2), "exchange frames"),
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


def test_micro_batches_are_one(tones: Path) -> None:
    assert uses_graph(tiny(tones, "training.gradient_accumulation_steps=2"), GPU)


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
