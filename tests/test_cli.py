"""The command line: bad input gives clear lines and exit status 2, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packed import make_corpus


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "cpc", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "cpc: RECIPE: must be given first"),
        (["train", "optim.lr=1"], "cpc: RECIPE: must be given first"),
        (["train", "nowhere.yaml"], "cpc: recipe nowhere.yaml: no such file; give a YAML file or one of the presets"),
        (["train", "small", "data.corpus=nowhere"], "cpc: corpus=nowhere: not a packed corpus"),
        (["train", "small", "data.corpus=x", "optim.lrr=1"], "no such key; did you mean optim.lr?"),
        (["train", "--resume", "nowhere"], "cpc: resume=nowhere: holds no config.yaml"),
        (["probe", "phone", "nowhere", "data"], "cpc: run=nowhere: not the folder of a run"),
        (["probe", "speaker", "r", "d", "--folds", "3"], "cpc: folds=3: speaker has no such choice"),
        (["probe", "sequence", "r", "d", "--classifier", "mlp"], "cpc: classifier=mlp: sequence has no such choice"),
        (["sweep", "nowhere.yaml"], "cpc: sweep=nowhere.yaml: no such file"),
        (["embed", "nowhere", "in", "out"], "cpc: nowhere: no such file or folder"),
        (["compare", "nothing"], "cpc: experiment=nothing: not in"),
        (["embed", "x", "y", "z", "--shard", "3/2"], "cpc: shard=3/2: must be I/N with 1 <= I <= N"),
        (["embed", "x", "y", "z", "--device", "tpu9"], "cpc: device=tpu9: not a device"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], message: str) -> None:
    done = cli(*words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_wrong_setting_is_named_on_a_line_of_its_own() -> None:
    done = cli("train", "small", "data.corpus=x", "loss.prediction_steps=0", "windows.size=3")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("cpc: command line: ") for line in lines)


def test_version() -> None:
    assert cli("--version").stdout.startswith("cpc 0.")


def test_pictures_are_drawn_under_a_notebook_whose_backend_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path, {"a-1-1": 1.0})
    monkeypatch.setenv("MPLBACKEND", "module://nowhere.backend_inline")
    done = cli("corpus", str(tmp_path / "corpus"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "corpus" / "overview.png").is_file()


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    cli("train", "small", "data.corpus=nowhere")
    assert not (tmp_path / "runs").exists()


def test_config_prints_settings_and_names_the_sections_where_nothing_begins_so() -> None:
    done = cli("config", "optim")
    assert done.returncode == 0
    assert "optim.lr" in done.stdout
    assert "the highest learning rate" in done.stdout
    assert "loss.score" not in done.stdout
    assert "augment.future.snr" in cli("config", "augment.future").stdout
    wrong = cli("config", "optimiser")
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == (
        "cpc: prefix=optimiser: no setting begins so; give one of data, experiment, seed, model, loss, augment, optim, "
        "training, or a longer one"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sequence"], "max_frames=5000: sequence has no such choice (only phone, speaker); drop --max-frames"),
        (["phone", "--classifier", "mlp"], "max_frames=5000: is for classifier=linear, not mlp; drop --max-frames"),
    ],
)
def test_frames_are_capped_for_linear_probes_of_frames_alone(words: list[str], said: str) -> None:
    done = cli("probe", words[0], "nowhere", "nowhere", "--max-frames", "5000", *words[1:])
    assert (done.returncode, done.stderr.strip()) == (2, f"cpc: {said}")
