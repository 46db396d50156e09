"""The command that merges packed corpora: what it says, and what it says of mistakes."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import write_split
from data_prep import folder
from data_prep import merge as command
from data_prep.console import run
from tests.packed import invoke

SECOND = 16000
call = partial(invoke, command.app)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two parts of two seconds and three; the second has a broken file beside them, and no labels."""
    made = []
    for part, names in (("one", ("a", "c")), ("two", ("b", "d", "e", "broken"))):
        sources = [Source(name, tmp_path / part / f"{name}.wav", part) for name in names]
        for seed, source in enumerate(sources):
            source.path.parent.mkdir(exist_ok=True)
            soundfile.write(source.path, np.random.default_rng(seed).integers(-99, 99, SECOND).astype(np.int16), SECOND)
        if names[-1] == "broken":
            sources[-1].path.write_bytes(b"no audio")
        made.append(tmp_path / f"packed {part}")
        pack(sources, made[-1], progress=False)
        write_split(made[-1], "train", [names[1], names[0]])
    write_alignment(
        made[0], "phones", [AlignedRow("a", np.array([0.0]), np.array([1.0]), np.array([0]))], ["SIL"], "me"
    )
    return made


def test_it_says_what_it_did_and_that_nothing_is_left_to_do(tmp_path: Path, parts: list[Path]) -> None:
    out = tmp_path / "out"
    (parts[0] / "notes").touch()
    said = call(*parts, "--out", out).splitlines()
    assert said[0].startswith(f"merged 2 corpora: 5 utterances, 0.00 h into {out} in ")
    assert said[1:] == [
        "shards: 2, 2 linked to the parts, 0 copied",
        "split train: 4 ids",
        f"labels phones: 1 of 5 utterances; no such labels in {parts[1]}",
        f"left in the parts: {parts[0] / 'notes'}",
        f"skipped when the parts were packed: 1 files: see {out / 'skipped.tsv'}",
    ]
    corpus = Corpus.open(out)
    assert corpus.ids == ["a", "b", "c", "d", "e"]
    assert corpus.speakers == ["one", "two", "one", "two", "two"]
    assert corpus.rows("train").tolist() == [0, 1, 2, 3]
    again = call(*parts[::-1], "--out", out)
    assert again == f"{out} already holds these 2 corpora: 5 utterances, 0.00 h: nothing to merge\n"


def test_shards_of_a_folder_merged_are_the_folder(tmp_path: Path) -> None:
    """`--shard i/n` of the packing command, with labels and splits beside the audio, against packing all at once."""
    ids = [f"{speaker}-{chapter}-{number:04d}" for speaker in (14, 22) for chapter in (7, 20) for number in range(3)]
    for seed, id in enumerate(ids):
        path = tmp_path / "audio/dev" / Path(*id.split("-")[:2]) / f"{id}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(-99, 99, SECOND + 160 * seed).astype(np.int16)
        soundfile.write(path, noise, SECOND)
        with (path.parent / f"{id.rpartition('-')[0]}.trans.txt").open("a") as file:
            file.write(f"{id} NOISE NUMBER {seed}\n")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("".join(f"{id}\n" for id in sorted(ids)[::2]))
    labels = (" ".join(str(label % 3) for label in range(98 + seed)) for seed in range(len(ids)))
    lines = [f"{id} {label}\n" for id, label in zip(ids, labels, strict=True)]
    (tmp_path / "converted_aligned_phones.txt").write_text("".join(lines))
    (tmp_path / "phones.txt").write_text("SIL\nAA\nB\n")
    for shard in ("1/1", "1/3", "2/3", "3/3"):
        arguments = [str(tmp_path / "audio"), "--out", str(tmp_path / shard.replace("/", "-")), "--shard", shard]
        done = CliRunner().invoke(folder.app, arguments)
        assert done.exit_code == 0, (done.output, done.exception)
    call(*(tmp_path / f"{i}-3" for i in (3, 1, 2)), "--out", tmp_path / "out")
    whole, merged = Corpus.open(tmp_path / "1-1"), Corpus.open(tmp_path / "out")
    assert whole.ids == sorted(ids)
    for column in ("id", "speaker", "chapter", "sex", "subset", "text"):
        assert merged.column(column).equals(whole.column(column))
    for row in range(len(ids)):
        assert np.array_equal(merged.waveform(row), whole.waveform(row))
    for name in ("labels/phones.parquet", "splits/train.txt"):
        assert (merged.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert merged.labels().inventory == ["SIL", "AA", "B"]


def test_copies_on_request(tmp_path: Path, parts: list[Path]) -> None:
    assert "shards: 2, 0 linked to the parts, 2 copied" in call(*parts, "--out", tmp_path / "out", "--copy")


def test_a_clash_loses_nothing(tmp_path: Path, parts: list[Path]) -> None:
    pack([Source("c", tmp_path / "two" / "b.wav", "x")], tmp_path / "packed three", progress=False)
    with pytest.raises(InputError, match=r"1 ids clash, for example c in .*packed one and .*packed three; an id must"):
        call(*parts, tmp_path / "packed three", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert all(len(Corpus.open(part)) for part in parts)


def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["merge", str(tmp_path / "absent"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit:
        run(command.app)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: corpus=")
    assert error.count("\n") == 1


def test_python_m_works_without_a_terminal(tmp_path: Path, parts: list[Path]) -> None:
    line = [sys.executable, "-m", "data_prep.merge", *map(str, parts), "--out", str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "merged 2 corpora" in done.stdout
    assert done.stderr == ""
