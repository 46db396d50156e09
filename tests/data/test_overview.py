"""What `cpc corpus` says: counts that can be checked by hand, and a picture that is one."""

import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cpc.cli.embed import corpus as command
from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import write_split
from cpc.data.summary import Overview, class_seconds, draw, render
from tests.packed import content, make_corpus

PNG = b"\x89PNG\r\n\x1a\n"
SECONDS = {"a-1-0": 0.5, "a-1-1": 1.0, "a-2-0": 1.5, "b-1-0": 0.25, "c--0": 2.0}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    corpus = make_corpus(tmp_path, SECONDS)
    write_split(corpus.path, "some", ["a-1-0", "b-1-0"])
    rows = [
        AlignedRow("a-1-0", np.array([0.0, 0.2, 0.3]), np.array([0.2, 0.3, 0.5]), np.array([1, 0, 1])),
        AlignedRow("b-1-0", np.array([0.0]), np.array([0.25]), np.array([0])),
    ]
    write_alignment(corpus.path, "phones", rows, ["AH", "SIL", "ZH"], "by hand [or so]")
    return corpus


def text(corpus: Corpus) -> str:
    console = Console(width=160, file=StringIO())
    console.print(render(Overview(corpus)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(corpus: Corpus, first: str) -> list[str]:
    """The row of a table that begins with `first`."""
    (row,) = [line for line in text(corpus).splitlines() if line.startswith(f"│ {first} ")]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_the_numbers_are_those_of_the_corpus(corpus: Corpus) -> None:
    overview = Overview(corpus)
    assert overview.seconds.tolist() == list(SECONDS.values())
    assert overview.whole == (5, pytest.approx(5.25), 3, 3)  # c's chapter is not known
    assert overview.speaker_hours == pytest.approx({"a": 3 / 3600, "c": 2 / 3600, "b": 0.25 / 3600})
    assert list(overview.speaker_hours) == ["a", "c", "b"]
    assert overview.subsets == {"dev": overview.whole}
    assert overview.splits == {"some": (2, pytest.approx(0.75), 2, 2)}
    assert overview.schemes == {"phones": (2, 3, "by hand [or so]")}
    assert overview.broken == []


def test_speakers_are_counted_by_sex_once_each(tmp_path: Path, corpus: Corpus) -> None:
    audio = tmp_path / "corpus-audio"
    sexes = {"a-1-0": ("x", "F"), "a-1-1": ("x", "F"), "a-2-0": ("y", "M"), "b-1-0": ("z", "F"), "c--0": ("w", "")}
    sources = [Source(id, audio / f"{id}.wav", speaker, sex=sex) for id, (speaker, sex) in sexes.items()]
    pack(sources, tmp_path / "sexes", workers=1, progress=False)
    assert Overview(Corpus.open(tmp_path / "sexes")).sexes == {"F": 2, "M": 1, "unknown": 1}
    assert "1 of unknown sex" in cells(Corpus.open(tmp_path / "sexes"), "speakers")[1]


def test_class_shares_are_of_time(corpus: Corpus) -> None:
    assert class_seconds(corpus, "phones") == pytest.approx({"SIL": 0.4, "AH": 0.35, "ZH": 0.0})
    assert list(class_seconds(corpus, "phones")) == ["SIL", "AH", "ZH"]


def test_the_table_tells_all_of_it(corpus: Corpus) -> None:
    assert cells(corpus, "utterances")[1] == "5"
    assert cells(corpus, "duration")[1] == "0.25 s shortest, 1.00 s median, 2.00 s longest"
    assert cells(corpus, "speakers")[1].startswith("3 (")
    assert cells(corpus, "sample rate")[1] == "16000 Hz"
    assert cells(corpus, "digest")[1] == corpus.digest
    assert cells(corpus, "skipped files")[1] == "0"
    assert cells(corpus, "transcripts")[1] == "0 utterances"
    assert cells(corpus, "some") == ["some", "2", "0.00", "2", "2"]
    assert cells(corpus, "phones") == ["phones", "2", "40.0%", "3", "by hand [or so]"]


def test_skipped_files_are_counted_by_reason(tmp_path: Path, corpus: Corpus) -> None:
    sources = [Source("good", tmp_path / "corpus-audio" / "a-1-0.wav", "")]
    for number in range(3):
        (tmp_path / f"bad{number}.wav").write_bytes(b"" if number < 2 else b"noise")
        sources.append(Source(f"bad{number}", tmp_path / f"bad{number}.wav", ""))
    pack(sources, tmp_path / "some", workers=1, progress=False)
    corpus = Corpus.open(tmp_path / "some")
    assert list(Overview(corpus).skipped.values()) == [2, 1]
    assert cells(corpus, "skipped files")[1].startswith("3 (2 × empty: 0 bytes; 1 × cannot be decoded")


def test_what_is_broken_is_said_beside_the_rest(corpus: Corpus) -> None:
    write_split(corpus.path, "ghosts", ["nobody"])
    (corpus.path / "labels" / "torn.json").write_text("{")
    (corpus.path / "labels" / "torn.parquet").write_bytes(b"")
    overview = Overview(corpus)
    assert [line.split(":")[0] for line in overview.broken] == ["split=ghosts", "labels=torn"]
    assert set(overview.splits) == {"some"}
    assert set(overview.schemes) == {"phones"}


def test_the_picture_is_drawn_and_always_the_same(corpus: Corpus, tmp_path: Path) -> None:
    drawn = [draw(Overview(corpus), tmp_path / name).read_bytes() for name in ("one.png", "two.png")]
    assert drawn[0].startswith(PNG)
    assert drawn[0] == drawn[1]
    without = draw(Overview(make_corpus(tmp_path, SECONDS, "bare")), tmp_path / "bare.png")
    assert size(without)[1] < size(tmp_path / "one.png")[1]  # no labels: one row of plots less
    assert size(without)[0] == size(tmp_path / "one.png")[0]


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the PNG's header."""
    header = path.read_bytes()[16:24]
    return int.from_bytes(header[:4]), int.from_bytes(header[4:])


def test_many_classes_are_cut_to_the_most_frequent(corpus: Corpus, tmp_path: Path) -> None:
    names = [f"word ${number} of some length" for number in range(300)]
    times = np.linspace(0, 0.5, 301)
    write_alignment(corpus.path, "words", [AlignedRow("a-1-0", times[:-1], times[1:], np.arange(300))], names, "here")
    assert draw(Overview(corpus), tmp_path / "words.png", "words").read_bytes().startswith(PNG)


def test_an_unequal_and_a_nameless_corpus_are_drawn(corpus: Corpus, tmp_path: Path) -> None:
    seconds = {"a-1-0": 20.0} | {f"s{number}-1-0": 0.05 for number in range(20)}
    assert draw(Overview(make_corpus(tmp_path, seconds, "unequal")), tmp_path / "u.png").is_file()
    audio = tmp_path / "corpus-audio"
    sources = [replace(Source(id, audio / f"{id}.wav", ""), chapter="") for id in SECONDS]
    pack(sources, tmp_path / "nameless", workers=1, progress=False)
    overview = Overview(Corpus.open(tmp_path / "nameless"))
    assert list(overview.speaker_hours) == ["unknown"]
    assert draw(overview, tmp_path / "n.png").is_file()


def test_an_empty_corpus_has_a_table_and_no_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"")
    pack([Source("bad", tmp_path / "bad.wav", "")], tmp_path / "empty", workers=1, progress=False)
    corpus = Corpus.open(tmp_path / "empty")
    assert cells(corpus, "utterances")[1] == "0"
    with pytest.raises(InputError, match="holds no utterances"):
        draw(Overview(corpus), tmp_path / "x.png")


@pytest.mark.parametrize(("scheme", "name", "message"), [("word", "x.png", "labels=word"), (None, "", "out=")])
def test_what_cannot_be_drawn_is_one_line(
    corpus: Corpus, tmp_path: Path, scheme: str | None, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        draw(Overview(corpus), tmp_path / name, scheme)


def test_the_command_prints_and_draws(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(corpus.path)
    command(corpus.path, tmp_path / "mine.png", "phones")
    output = capsys.readouterr().out
    assert f"picture: {tmp_path / 'mine.png'}" in output
    assert "by hand [or so]" in output
    assert (tmp_path / "mine.png").read_bytes().startswith(PNG)
    assert content(corpus.path) == before


def test_the_picture_in_the_corpus_is_no_part_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path, SECONDS)
    command(corpus.path)
    assert f"picture: {corpus.path / 'overview.png'}" in capsys.readouterr().out
    again = make_corpus(tmp_path, SECONDS)  # packs the same audio to the same place: it is still this corpus
    assert again.digest == corpus.digest
    assert (corpus.path / "overview.png").is_file()


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "cpc", "corpus", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"cpc: corpus={tmp_path}: not a packed corpus")
    assert done.stderr.count("\n") == 1


@pytest.mark.speech
def test_the_real_corpus_if_it_is_packed() -> None:
    packed = Path(__file__).parents[2] / "data" / "speech"
    if not (packed / "corpus.json").is_file():
        pytest.skip("data/speech is not packed")
    overview = Overview(Corpus.open(packed))
    assert overview.whole.utterances == 4497
    assert overview.whole.speakers == sum(overview.sexes.values()) == 399
    assert sum(extent.utterances for extent in overview.subsets.values()) == 4497
    assert overview.whole.seconds / 3600 == pytest.approx(7.93, abs=0.005)
