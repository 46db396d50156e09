"""A corpus, a checkpoint and a run that an older version made (0.1, before settings were renamed) still open.

They lie in tests/older/before; expected.npz holds z and c that the older version gave for the waveform below.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import cpc

BEFORE = Path(__file__).parent / "older" / "before"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A copy in the working folder, since the run names its corpus by a relative path."""
    shutil.copytree(BEFORE / "corpus", tmp_path / "corpus")
    shutil.copytree(BEFORE / "run", tmp_path / "runs" / "run")
    return tmp_path


def test_the_corpus_opens(here: Path) -> None:
    corpus = cpc.Corpus.open(here / "corpus")
    assert corpus.ids == [f"u{n}" for n in range(6)]
    assert corpus.labels("phones").inventory == ["SIL", "AA", "B"]
    assert len(corpus.waveform(0)) == 6400


def test_the_model_gives_what_it_gave(here: Path) -> None:
    wave = torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, (1, 1600)).astype(np.float32))
    with np.load(BEFORE / "expected.npz") as expected, torch.inference_mode():
        found = cpc.load(here / "runs" / "run")(wave)
        np.testing.assert_allclose(found.z.numpy(), expected["z"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.c.numpy(), expected["c"], rtol=1e-5, atol=1e-6)


def test_the_run_resumes(here: Path) -> None:
    run = cpc.resume(here / "runs" / "run", ["training.max_steps=6"], progress=False)
    assert (run.status, run.steps) == ("FINISHED", 6)
    assert np.isfinite(run.metrics["train/loss"])


def test_its_loss_is_diagnosed(here: Path) -> None:
    from cpc.evaluation.diagnostics import load_trained

    trained = load_trained(here / "runs" / "run")
    assert trained.windows.window_size == 4000
    assert trained.loss.prediction_steps == 2
