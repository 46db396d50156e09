"""Discrete units: k-means and its oracle, purity, PNMI and bit rate by hand, files, and the command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.features import FrameTable
from cpc.evaluation.units import Codebook, UnitsConfig, bits_per_second, deduplicated, discover, purity
from cpc.tracking.mlflow import connect
from tests.evaluation.trained import save_untrained


def table(frames: torch.Tensor) -> FrameTable:
    return FrameTable(frames, np.array([0, len(frames)]))


def test_clusters_that_are_apart_are_found_and_a_frame_gets_the_nearest() -> None:
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    own = torch.arange(3).repeat_interleave(200)
    frames = centres[own] + torch.randn(600, 2, generator=g) * 0.3
    book = Codebook.fit(table(frames), "c", 3)
    units = book(frames)
    for cluster in range(3):
        assert len(set(units[own.numpy() == cluster].tolist())) == 1
    assert len(set(units.tolist())) == 3
    nearest = torch.cdist(frames, book.centres).argmin(1).numpy()
    assert np.array_equal(units, nearest)
    assert len(book(frames[:0])) == 0
    assert torch.equal(Codebook.fit(table(frames), "c", 3).centres, book.centres)  # the seed says all


def test_a_codebook_comes_back_and_nothing_else_does(tmp_path: Path) -> None:
    book = Codebook("z+c", torch.randn(4, 3))
    book.save(tmp_path / "b.safetensors")
    again = Codebook.open(tmp_path / "b.safetensors")
    assert again.layer == "z+c"
    assert torch.equal(again.centres, book.centres)
    (tmp_path / "text").write_text("no")
    for name in ("text", "none"):
        with pytest.raises(InputError, match="not a codebook"):
            Codebook.open(tmp_path / name)
    with pytest.raises(InputError, match="k=5: must lie between 2 and 4"):
        Codebook.fit(table(torch.randn(4, 2)), "c", 5)


def test_purities_by_hand() -> None:
    #                unit 0: A A B, unit 1: B, unit 2: C, and one frame without a phone
    phones = np.array([0, 0, 1, 1, 2, -1])
    units = np.array([0, 0, 0, 1, 2, 1])
    found = purity(phones, units, 3, 3)
    assert found.phone == pytest.approx(4 / 5)  # A in unit 0, B in 1, C in 2; the B in unit 0 is wrong
    assert found.cluster == pytest.approx(4 / 5)  # both A, one of two B, C
    shared = mutual_info_score(phones[:5], units[:5])
    assert found.pnmi == pytest.approx(shared / (-2 * 0.4 * math.log(0.4) - 0.2 * math.log(0.2)))
    one = purity(phones, phones.clip(0), 3, 3)
    assert (one.phone, one.cluster, one.pnmi) == (1.0, 1.0, pytest.approx(1.0))
    assert purity(phones, np.zeros(6, np.int64), 3, 3).pnmi == pytest.approx(0.0)
    with pytest.raises(InputError, match="no frame"):
        purity(np.full(3, -1), np.zeros(3, np.int64), 2, 2)


def test_the_bit_rate_by_hand() -> None:
    units = [np.array([0, 0, 1, 1, 0]), np.array([2])]
    assert [deduplicated(each).tolist() for each in units] == [[0, 1, 0], [2]]
    short = [deduplicated(each) for each in units]
    entropy = 0.5 * 1 + 2 * 0.25 * 2  # bits of shares ½, ¼, ¼
    assert bits_per_second(short, 2.0) == pytest.approx(4 * entropy / 2)
    assert bits_per_second([np.zeros(7, np.int64)], 1.0) == 0.0
    assert bits_per_second([], 1.0) == 0.0


@pytest.fixture
def run(chords: Corpus) -> Path:
    return save_untrained(chords.path, Path("runs") / "one", tracked=True)


def test_units_of_a_corpus_are_written_judged_and_recorded(chords: Corpus, run: Path) -> None:
    asked = UnitsConfig(k=8, progress=False)
    result, folder = discover(run, chords.path, asked)
    assert folder == run / "units" / "c-8"
    lines = dict(line.split("\t") for line in (folder / "units.txt").read_text().splitlines())
    assert sorted(lines) == chords.ids
    short = dict(line.split("\t") for line in (folder / "units-deduplicated.txt").read_text().splitlines())
    for id, text in lines.items():
        units = np.array([int(unit) for unit in text.split(",")]) if text else np.zeros(0, np.int64)
        assert (units < 8).all()
        assert short[id] == ",".join(map(str, deduplicated(units).tolist()))
    assert 0 < result.pnmi <= 1
    assert result.phone_purity >= 1 / len(chords.labels().inventory)
    assert result.bits_per_second < result.units_per_second * 3 + 1e-9  # log2 8 bits a unit at most
    assert json.loads((folder / "result.json").read_text())["pnmi"] == result.pnmi
    found = connect(run.parent).search_runs(["1"])[0].data.metrics
    assert found[f"{result.metric_name}/pnmi"] == result.pnmi
    again, _ = discover(
        run, chords.path, UnitsConfig(k=8, codebook=folder / "codebook.safetensors", out=Path("other"), progress=False)
    )
    assert (Path("other") / "units.txt").read_bytes() == (folder / "units.txt").read_bytes()
    assert again.pnmi == result.pnmi
    with pytest.raises(InputError, match="is of layer c; give --layer c"):
        discover(run, chords.path, UnitsConfig(layer="z", codebook=folder / "codebook.safetensors", progress=False))


def test_the_command_prints_a_table_and_refuses_in_one_line(chords: Corpus, run: Path) -> None:
    def cpc(*words: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "cpc", *map(str, words)], capture_output=True, text=True, check=False
        )

    done = cpc("units", run, chords.path, "--k", 5, "--layer", "z", "--split", "phone_test")
    assert done.returncode == 0, done.stderr
    assert "PNMI" in done.stdout
    assert len((run / "units/z-5/units.txt").read_text().splitlines()) == len(chords.rows("phone_test"))
    done = cpc("units", run, chords.path, "--layer", "z", "--codebook", run / "units/z-5/codebook.safetensors")
    assert done.returncode == 0, done.stderr
    assert len((run / "units/z-5/units.txt").read_text().splitlines()) == len(chords)  # of the codebook's k, not of --k
    Codebook("z", torch.zeros(4, 3)).save(Path("other.safetensors"))
    (run / "file").touch()
    assert cpc("export", run, "new/folder/x.onnx", "--to", "onnx").returncode == 0
    done = cpc("export", run, run / "file" / "x.pt2")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"{run / 'file'}: cannot be used (File exists); name another place" in done.stderr
    for words, said in (
        (("units", run, chords.path, "--k", 10**9), "must lie between 2 and"),
        (("units", run, chords.path, "--layer", "c9"), "is not a layer"),
        (("units", run, chords.path, "--train", "nope"), "no such split"),
        (("units", "nowhere", chords.path), "no such file or folder"),
        (("convert", "nowhere.pt", "out"), "no such file"),
        (("units", run, chords.path, "--codebook", run / "units/z-5/codebook.safetensors"), "give --layer z"),
        (("units", run, chords.path, "--layer", "z", "--codebook", "other.safetensors"), "it is of another model"),
        (("export", "nowhere", "out.onnx", "--to", "onnx"), "no such file or folder"),
    ):
        done = cpc(*words)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert said in done.stderr
