"""recipes/librispeech/run.sh on a tiny LibriSpeech: killed −9 in every stage and started again, it ends the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cpc.data.corpus import Corpus
from data_prep.download import Catalogue
from tests.openslr import entry, make_librispeech, serve, tar_folder, write_catalogue

RECIPES = Path(__file__).parents[2] / "recipes"
RUN = RECIPES / "librispeech" / "run.sh"
STEPS = 40
TINY = f"""
training.max_steps={STEPS} training.checkpoint_every=5 training.validate_every=20 training.validate_batches=1
training.precision=fp32 training.device=cpu data.batch_size=4 data.window_size=8000 loss.prediction_steps=4
model.encoder.channels=16 model.context.hidden=16
"""
PATIENCE = 600  # seconds for a stage to be reached, on a busy machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def openslr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A loopback server of one archive, dev-clean: 6 speakers, 3 chapters each; its catalogue as a file.

    BOOKS.TXT, last in the archive, is long and random, and the line slow, so that fetching and unpacking take a while.
    """
    root = tmp_path_factory.mktemp("openslr")
    top = make_librispeech(root, {"dev-clean": 6}, hours=0.06)
    (top / "BOOKS.TXT").write_text(random.Random(0).randbytes(15_000_000).hex())
    body = tar_folder(root, "dev-clean")
    with serve({"12/dev-clean.tar.gz": body}, rate=2e7) as served:
        catalogue = Catalogue({"dev-clean": entry("12/dev-clean.tar.gz", body)}, (served.url,))
        yield write_catalogue(root / "own.json", catalogue)


def start(work: Path, catalogue: Path, script: Path = RUN, recipe: str = "dev-clean") -> "subprocess.Popen[bytes]":
    """The recipe in a process group of its own, in the folder `work`."""
    own = {"WORK": str(work), "FETCH": f"--catalogue {catalogue}", "TRAIN": " ".join(TINY.split())}
    own |= {"RECIPE": recipe, "PROBE": "--device cpu", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    own["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    work.mkdir(exist_ok=True)
    with (work / "log.txt").open("a") as log:
        return subprocess.Popen([script], env=os.environ | own, stdout=log, stderr=log, start_new_session=True)


def finish(work: Path, catalogue: Path, script: Path = RUN, recipe: str = "dev-clean") -> str:
    """Run the recipe to its end; all that it has printed."""
    process = start(work, catalogue, script, recipe)
    try:
        code = process.wait(2 * PATIENCE)
    finally:
        kill(process)
    log = (work / "log.txt").read_text()
    assert code == 0, log[-3000:]
    assert "Traceback" not in log
    return log


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End the whole process group at once, as a power cut would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


Test = Callable[[Path], bool]


def fetching(work: Path) -> bool:
    part = work / "data/archives/dev-clean.tar.gz.part"
    return part.is_file() and part.stat().st_size > 100_000


def unpacking(work: Path) -> bool:
    return (work / "data/LibriSpeech/.dev-clean.tmp/LibriSpeech/BOOKS.TXT").is_file()


def packing(work: Path) -> bool:
    return (work / "data/dev-clean/packing/plan.json").is_file()


def aligning(work: Path) -> bool:
    return (work / "data/dev-clean/labels/phones.parts").is_dir()


def training(work: Path) -> bool:
    return (work / "runs/librispeech-dev-clean/last.safetensors").is_file()


def probing(work: Path) -> bool:
    return any((work / "runs/librispeech-dev-clean/probes").glob("phone-*.json"))


# Stage: what shows that it has begun, and that it is over.
STAGES: dict[str, tuple[Test, Test]] = {
    "fetch": (fetching, lambda work: (work / "data/archives/dev-clean.tar.gz").is_file()),
    "unpack": (unpacking, lambda work: (work / "data/LibriSpeech/dev-clean").is_dir()),
    "pack": (packing, lambda work: (work / "data/dev-clean/corpus.json").is_file()),
    "align": (aligning, lambda work: (work / "data/dev-clean/labels/phones.json").is_file()),
    "train": (training, lambda work: state(work)["status"] == "FINISHED"),
    "probe": (probing, lambda work: (work / "runs/compare-librispeech.csv").is_file()),
}


def state(work: Path) -> dict[str, object]:
    return dict(json.loads((work / "runs/librispeech-dev-clean/run.json").read_text()))


def interrupt(work: Path, catalogue: Path, stage: str) -> None:
    """Start the recipe and kill it −9 once `stage` has begun and before it is over."""
    begun, over = STAGES[stage]
    process = start(work, catalogue)
    try:
        end = time.monotonic() + PATIENCE
        while not begun(work):
            assert process.poll() is None, f"{stage}: ended too early: {(work / 'log.txt').read_text()[-3000:]}"
            assert time.monotonic() < end, f"{stage}: never began"
            time.sleep(0.001)
    finally:
        kill(process)
    assert not over(work), f"{stage}: was over before it could be killed"


def content(work: Path) -> dict[str, bytes]:
    """Every file of data/ but locks."""
    files = {path.relative_to(work).as_posix(): path for path in (work / "data").rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if path.suffix != ".lock"}


def results(work: Path) -> dict[str, object]:
    probes = work / "runs/librispeech-dev-clean/probes"
    return {path.name: json.loads(path.read_text()) for path in probes.glob("*.json")}


def test_killed_in_every_stage_it_ends_as_if_left_alone(openslr: Path, tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(alone, openslr)
    for stage in STAGES:
        interrupt(killed, openslr, stage)
    finish(killed, openslr)

    one, other = content(alone), content(killed)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    expected = {"manifest.parquet", "shards/00000.npy", "labels/phones.parquet", "splits/utterance_train.txt"}
    assert {f"data/dev-clean/{name}" for name in expected} <= one.keys()

    weights = [load_file(work / "runs/librispeech-dev-clean/last.safetensors") for work in (alone, killed)]
    assert any(name.startswith("optim.") for name in weights[0])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert state(alone)["step"] == state(killed)["step"] == STEPS
    assert state(killed)["status"] == "FINISHED"

    evaluated = {"phone-utterance_test", "speaker_frame-chapter_test", "speaker_utterance-utterance_test"}
    assert {f"{task}-cpc_{layer}.json" for task in evaluated for layer in "zc"} <= results(alone).keys()
    assert results(alone) == results(killed)
    tables = [(work / "runs/compare-librispeech.csv").read_text() for work in (alone, killed)]
    assert tables[0] == tables[1]


SEVERAL = {
    "960": (RUN, {"train-clean-100": 4, "train-clean-360": 2, "train-other-500": 2}, "librispeech"),
    "mini": (
        RECIPES / "mini-librispeech" / "run.sh",
        {"train-clean-5": 4, "dev-clean-2": 3},
        "mini-librispeech",
    ),
}


@pytest.mark.parametrize("recipe", SEVERAL)
def test_recipes_of_several_subsets_train_on_all_of_them(tmp_path: Path, recipe: str) -> None:
    script, subsets, experiment = SEVERAL[recipe]
    top = make_librispeech(tmp_path, subsets, hours=0.06)
    files = {f"12/{subset}.tar.gz": tar_folder(tmp_path, subset) for subset in subsets}
    with serve(files) as served:
        archives = {subset: entry(path, files[path]) for subset, path in zip(subsets, files, strict=True)}
        own = write_catalogue(tmp_path / "own.json", Catalogue(archives, (served.url,)))
        log = finish(tmp_path / "work", own, script, recipe)
    assert len(served.log) == len(subsets)
    corpus = Corpus.open([tmp_path / "work" / "data" / subset for subset in subsets])
    assert corpus.ids == sorted(path.stem for path in top.rglob("*.flac"))
    assert (tmp_path / "work" / "runs" / f"compare-{experiment}.csv").is_file()
    assert "CPC c" in log


def test_a_wrong_recipe_is_one_line_before_anything_is_fetched(tmp_path: Path) -> None:
    done = subprocess.run(
        [RUN], env=os.environ | {"RECIPE": "99", "WORK": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: RECIPE=99: must be dev-clean, 100, 360 or 960\n"
    assert list(tmp_path.iterdir()) == []
