"""The recipe for one's own recordings, from a folder to features and a table."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

RECIPE = Path(__file__).parents[2] / "recipes/own/run.sh"


def run(work: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RECORDINGS"}
    environment |= {"WORK": str(work), "CUDA_VISIBLE_DEVICES": "", **settings}
    return subprocess.run([RECIPE], capture_output=True, text=True, check=False, env=environment, cwd=work)


def write(path: Path, hertz: float, seconds: float, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.001, len(time))
    wave = 0.3 * np.sin(2 * np.pi * hertz * (time + 0.1 * np.sin(3 * time))) * (time % 5 < 4) + noise
    soundfile.write(path, wave, rate)


def test_without_a_folder_it_says_what_to_name(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode != 0
    assert "name your folder of recordings" in done.stderr


@pytest.mark.slow
def test_one_speaker_gives_features(tmp_path: Path) -> None:
    write(tmp_path / "my recordings/day one/long.flac", 180, 70, 16000)
    write(tmp_path / "my recordings/day one/short.wav", 180, 3, 22050)
    train = "training.max_steps=2 training.device=cpu data.batch_size=4"
    done = run(tmp_path, RECORDINGS="my recordings", TRAIN=train, PACK="--longest 20")
    assert done.returncode == 0, done.stderr
    assert "1 files give" in done.stdout
    features = np.load(tmp_path / "features/own/day one/short.npy")
    assert features.shape == (300, 256)
    assert np.isfinite(features).all()
    again = run(tmp_path, RECORDINGS="my recordings", TRAIN=train, PACK="--longest 20")
    assert again.returncode == 0, again.stderr
    assert "already holds this corpus" in again.stdout


@pytest.mark.slow
def test_two_speakers_are_probed_and_compared(tmp_path: Path) -> None:
    for speaker, hertz in (("ann", 220), ("bob", 110)):
        for number in range(4):
            write(tmp_path / f"voices/{speaker}/{number}.wav", hertz, 2 + 0.1 * number, 16000)
    train = "training.max_steps=2 training.device=cpu data.batch_size=4"
    probe = "--device cpu --no-baselines"
    done = run(tmp_path, RECORDINGS=str(tmp_path / "voices"), TRAIN=train, PROBE=probe, NAME="duo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "features/duo/bob/3.npy").is_file()
    assert "speaker frame" in done.stdout
    assert (tmp_path / "runs/compare-own.csv").is_file()
