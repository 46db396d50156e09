"""The main job end to end, as `make demo` does it, on a tiny embedded corpus: from synthesis to embedding."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cpc

RECIPE = Path(__file__).parents[1] / "recipes" / "demo" / "cpc.yaml"


def cli(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cpc", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_prep.synthetic import make

    folder = tmp_path_factory.mktemp("home")
    make(folder / "data" / "demo", speakers=6, hours=0.05)
    return folder


def test_from_audio_to_a_compared_experiment(home: Path) -> None:
    tiny = ["training.max_steps=30", "training.validate_every=15", "training.validate_batches=2", "data.batch_size=4"]
    tiny += ["model.encoder.channels=32", "model.context.hidden=32", "training.precision=fp32"]
    assert "finished at step 30" in cli(home, "train", str(RECIPE), *tiny, "--name", "demo")
    phones = cli(home, "probe", "phone", "runs/demo", "data/demo")
    for features in ("MFCC", "log-mel", "random z", "random c", "CPC z", "CPC c"):
        assert features in phones
    speakers = cli(home, "probe", "speaker", "runs/demo", "data/demo")
    assert "speaker frame" in speakers
    assert "speaker utterance" in speakers
    again = cli(home, "probe", "phone", "runs/demo", "data/demo")
    assert again == phones  # same seed, same numbers; the baselines come from the cache

    table = cli(home, "compare", "demo")
    rows = [line for line in table.splitlines() if "[" in line]
    assert len(rows) == 6
    assert (home / "runs" / "compare-demo.png").stat().st_size > 10_000
    assert (home / "runs" / "compare-demo.csv").exists()
    assert "make ui" in table

    said = cli(home, "embed", "runs/demo", "data/demo/audio", "out", "--layer", "z")
    written = sorted((home / "out").rglob("*.npy"))
    corpus = cpc.Corpus.open(home / "data" / "demo")
    assert f"{len(written)} files written" in said
    assert sorted(path.stem for path in written) == corpus.ids
    frames = np.load(written[0])
    assert frames.shape == (
        cpc.load(home / "runs" / "demo").frames(int(corpus.samples[corpus.row(written[0].stem)])),
        32,
    )
