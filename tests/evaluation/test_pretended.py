"""Probes, ABX, embeddings and streams on a GPU that is none: nothing meets a tensor of the CPU, and numbers stay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpc
from cpc.audio.mfcc import MFCC39
from cpc.data.corpus import Corpus
from cpc.evaluation.abx.items import aligned_material, corpus_banks
from cpc.evaluation.abx.task import ABXTask as Comparison
from cpc.evaluation.abx.task import abx
from cpc.evaluation.features import Layer
from cpc.evaluation.probes.probe import probe
from cpc.evaluation.probes.protocol import ProbeProtocol
from cpc.evaluation.results import ProbeTask
from tests.evaluation.trained import save_untrained
from tests.pretend import GPU, Pretend, install

FIXED = ProbeProtocol(l2=(1e-3,))


@pytest.fixture
def run(chords: Corpus, tmp_path: Path) -> Path:
    return save_untrained(chords.path, tmp_path / "runs" / "first")


@pytest.fixture
def on_both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[torch.device], Any]], tuple[Any, Any]]:
    """What work gives on the CPU, and on the GPU."""

    def results(work: Callable[[torch.device], Any]) -> tuple[Any, Any]:
        found = work(torch.device("cpu"))
        install(monkeypatch, bf16=False)
        with Pretend():
            return found, work(GPU)

    return results


Both = Callable[[Callable[[torch.device], Any]], tuple[Any, Any]]


@pytest.mark.parametrize("task", ["phone", "speaker_frame", "speaker_utterance"])
def test_probes(task: ProbeTask, run: Path, chords: Corpus, on_both: Both) -> None:
    name = task.partition("_")[0]

    def work(device: torch.device) -> list[float]:
        layers = [Layer(cpc.load(run, device), "c"), MFCC39().to(device)]
        splits = f"{name}_train", f"{name}_test"
        return [probe(x, chords, *splits, task, protocol=FIXED, device=str(device)).accuracy for x in layers]

    here, there = on_both(work)
    assert there == pytest.approx(here, abs=5e-3)


def test_abx(run: Path, chords: Corpus, on_both: Both) -> None:
    material = aligned_material(chords, "phone")

    def work(device: torch.device) -> float:
        (bank,) = corpus_banks([Layer(cpc.load(run, device), "c")], chords, material.rows, device=str(device))
        return abx(bank, material.items, Comparison("within", "any"), device=str(device)).error

    here, there = on_both(work)
    assert there == pytest.approx(here, abs=1e-3)


@pytest.mark.parametrize("format", ["npy", "numpy-shards"])
def test_embeddings(format: Any, run: Path, chords: Corpus, tmp_path: Path, on_both: Both) -> None:
    def work(device: torch.device) -> list[np.ndarray]:
        out = tmp_path / device.type
        cpc.embed(cpc.load(run, device), chords.path.parent, out, format=format, batch_samples=60_000)
        return [np.load(path) for path in sorted(out.rglob("*.npy"))]

    here, there = on_both(work)
    assert len(here) == len(there) > 0
    for own, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, own, atol=1e-5)


def test_streams(run: Path, on_both: Both) -> None:
    wave = torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))

    def work(device: torch.device) -> torch.Tensor:
        stream = cpc.stream(cpc.load(run, device))
        with torch.inference_mode():  # which a wrapped tensor cannot enter
            parts = [stream(chunk) for chunk in wave.split(1700, dim=1)]
            return torch.cat([part.c.cpu() for part in [*parts, stream.close()]], dim=1)

    here, there = on_both(work)
    torch.testing.assert_close(there, here)
