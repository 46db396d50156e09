"""The command that gives a corpus labels: one source, its options, and one clear line for every mistake."""

import gzip
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from data_prep import labels as command
from data_prep.aligner import PHONES
from data_prep.console import run
from data_prep.metadata import describe
from tests.packed import content, invoke, lines, make_corpus, refusal

IDS = ("14-200-0000", "14-200-0001", "22-7-0000")
COUNT = 98  # labels of one second in the paper's file: 1 + (16000 − 400) // 160
SHORT_GRID = 'ooTextFile short\n"TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1\n1\n0\n1\n"{}"\n'
call = partial(invoke, command.app)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path, dict.fromkeys(IDS, 1.0))


def numbers(count: int = COUNT) -> str:
    return " ".join(str(place % 3) for place in range(count))


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    (tmp_path / "phones.txt").write_text("SIL\nAA\nB\n")
    file = tmp_path / "converted_aligned_phones.txt"
    file.write_text(lines(f"{id} {numbers()}" for id in IDS)[:-1])  # without its last newline
    return file


def test_the_papers_file_is_taken_plain_and_packed(corpus: Corpus, paper: Path) -> None:
    output = call(corpus.path, "--cpc", paper)
    assert "3 of 3 utterances labelled, 0 unknown ids skipped, 3 classes, label 0 centred at sample 200" in output
    plain = content(corpus.path / "labels")
    held = corpus.labels()
    assert held.inventory == ["SIL", "AA", "B"]
    # Label j is centred at sample 160 j + 200.
    centres = (160 * np.arange(COUNT) + 200) / 16000
    assert held.frames(IDS[1], centres).tolist() == [place % 3 for place in range(COUNT)]
    packed = paper.with_name("labels.txt.gz")
    packed.write_bytes(gzip.compress(paper.read_bytes(), mtime=0))
    call(corpus.path, "--cpc", packed, "--scheme", "again")
    assert content(corpus.path / "labels")["again.parquet"] == plain["phones.parquet"]


def test_its_provenance_is_kept(corpus: Corpus, paper: Path) -> None:
    call(corpus.path, "--cpc", paper, "--first-centre", 205)
    found = corpus.labels()
    digest = subprocess.run(["sha256sum", paper], capture_output=True, text=True, check=True).stdout.split()[0]
    assert found.source == paper.name
    assert found.provenance["sha256"] == digest
    assert found.provenance["first_centre"] == 205
    assert found.provenance["reader"].startswith("cpc ")


def test_without_names_classes_are_numbers(corpus: Corpus, paper: Path) -> None:
    paper.with_name("phones.txt").unlink()
    call(corpus.path, "--cpc", paper)
    assert corpus.labels().inventory == ["0", "1", "2"]


def test_textgrids_and_phn_and_alignments_are_reached(corpus: Corpus, tmp_path: Path) -> None:
    for id in IDS:
        (tmp_path / "grids").mkdir(exist_ok=True)
        (tmp_path / "grids" / f"{id}.TextGrid").write_text(SHORT_GRID.format("ə"))
        (tmp_path / f"{id}.PHN").write_text("0 16000 h#\n")
    call(corpus.path, "--textgrid", tmp_path / "grids", "--phone-set", "as-is", "--scheme", "mfa", "--workers", 2)
    assert corpus.labels("mfa").inventory == ["ə"]
    call(corpus.path, "--phn", tmp_path)
    assert corpus.labels("phones61").intervals(IDS[0]).offsets.tolist() == [1.0]


def test_phn_files_are_looked_for_beside_the_audio(corpus: Corpus, tmp_path: Path) -> None:
    assert "does not know where its audio lay; name the folder" in refusal(call, corpus.path, "--phn")
    (corpus.path / "origin.json").write_text(json.dumps({"audio": str(tmp_path / "gone")}))
    assert "no longer at" in refusal(call, corpus.path, "--phn")
    (corpus.path / "origin.json").write_text(json.dumps({"audio": str(tmp_path / "corpus-audio")}))
    for id in IDS:
        (tmp_path / "corpus-audio" / f"{id}.PHN").write_text("0 16000 h#\n")
    assert "phones61: 3 of 3" in call(corpus.path, "--phn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --cpc FILE, --textgrid FOLDER, --phn and --align, not none"),
        (["--phn", "--align"], "not --phn and --align"),
        (["--cpc", "absent.txt"], "--cpc=absent.txt: no such file"),
        (["--textgrid", "absent"], "folder=absent: no such folder"),
        (["--textgrid", "."], "holds no .TextGrid file"),
        (["--phn", "empty"], "folder=empty: holds no .phn file"),
        (["folder", "--align"], "FOLDER: belongs to --phn"),
        (["--align", "--first-centre", "80"], "--first-centre: belongs to --cpc"),
        (["--align", "--phone-set", "as-is"], "--phone-set: belongs to --textgrid"),
        (["--phn", ".", "--shard", "1/2"], "--shard: belongs to --align"),
        (["--align", "--shard", "3/2"], "shard=3/2: must be I/N"),
        (["--phn", ".", "--scheme", "a/b"], "scheme='a/b': must be letters"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    corpus: Corpus, arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    before = content(corpus.path)
    assert message in refusal(call, corpus.path, *arguments)
    assert content(corpus.path) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"14-200-0000 {numbers()}\n14-200-0001 0 AA\n", r"line 2 \(14-200-0001\): labels must be whole numbers"),
        (
            f"14-200-0000 {numbers()}\n22-7-0000 {numbers()[:-1]}7\n",
            r"id=22-7-0000: label 0 or 7: labels must lie in 0..2",
        ),
        (f"14-200-0000 {numbers()}\n14-200-0000 {numbers()}\n", "id=14-200-0000: has labels twice"),
        (f"14-200-0000 {numbers(50)}\n14-200-0001 {numbers(50)}\n", "none of the 2 utterances fits its audio"),
        ("", "none of its 0 ids is in"),
        (f"5-5-5 {numbers()}\n", "none of its 1 ids is in"),
    ],
)
def test_a_broken_file_of_the_paper_loses_nothing(corpus: Corpus, paper: Path, text: str, message: str) -> None:
    call(corpus.path, "--cpc", paper)
    before = content(corpus.path)
    paper.write_text(text)
    with pytest.raises(InputError, match=message):
        call(corpus.path, "--cpc", paper)
    assert content(corpus.path) == before


@pytest.mark.parametrize("names", ["SIL\nAA 0\n", "SIL x\n", ""])
def test_a_broken_list_of_names_is_said(corpus: Corpus, paper: Path, names: str) -> None:
    paper.with_name("phones.txt").write_text(names)
    with pytest.raises(InputError, match=r"phones\.txt: lines must be|label 0 or 2: labels must lie"):
        call(corpus.path, "--cpc", paper)


def test_a_part_is_taken_on_request(corpus: Corpus, paper: Path) -> None:
    paper.write_text(lines([f"{IDS[0]} {numbers()}", f"{IDS[1]} {numbers(50)}", f"{IDS[2]} {numbers(50)}"]))
    assert "2 of 3 utterances do not fit" in refusal(call, corpus.path, "--cpc", paper)
    assert "1 of 3 utterances labelled" in call(corpus.path, "--cpc", paper, "--partial")


def test_a_refusal_while_packing_says_how_to_go_on(corpus: Corpus, paper: Path) -> None:
    command.take_phones(corpus, paper, 200)
    assert len(corpus.labels()) == 3
    paper.write_text(f"5-5-5 {numbers()}\n")
    message = refusal(command.take_phones, corpus, paper, 200)
    assert "none of its 1 ids is in" in message
    assert message.endswith(f"take them in later: cpc data labels {corpus.path} --cpc {paper}")
    assert len(corpus.labels()) == 3


def test_what_is_no_corpus_is_said(tmp_path: Path) -> None:
    assert "not a packed corpus" in refusal(call, tmp_path, "--phn", tmp_path)


def test_the_shell_sees_one_line_and_exit_code_2(
    corpus: Corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["labels", str(corpus.path)])
    with pytest.raises(SystemExit) as exit:
        run(command.app)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: labels: give exactly one")
    assert error.count("\n") == 1


@pytest.mark.speech
@pytest.mark.slow
def test_an_alignment_is_one_of_the_sources(speech: Path, tmp_path: Path) -> None:
    chapter = speech / "audio/libri-devclean/1272/128104"
    sources = list(describe(sorted(chapter.glob("*.mp3"))[:2], chapter))
    pack(sources, tmp_path / "few", workers=1, progress=False)
    assert "aligned 2 of 2 utterances" in call(tmp_path / "few", "--align", "--workers", 1, "--scheme", "mine")
    assert Corpus.open(tmp_path / "few").labels("mine").inventory == list(PHONES)


@pytest.mark.speech
@pytest.mark.slow
def test_the_real_labels_come_back_frame_by_frame(speech: Path, tmp_path: Path) -> None:
    with gzip.open(speech / "meta/converted_aligned_phones.txt.gz", "rt") as file:
        rows = {
            id: np.array(words, int) for id, *words in (line.split() for _, line in zip(range(40), file, strict=False))
        }
    corpus = make_corpus(tmp_path, {id: len(labels) / 100 for id, labels in rows.items()})
    (tmp_path / "phones.txt").write_text((speech / "meta/phones.txt").read_text())
    some = lines(f"{id} {' '.join(map(str, labels))}" for id, labels in rows.items())
    (tmp_path / "some.txt").write_text(some)
    call(corpus.path, "--cpc", tmp_path / "some.txt", "--first-centre", 205)
    for id, expected in rows.items():
        centres = (160 * np.arange(len(expected)) + 205) / 16000
        inside = centres < len(expected) / 100
        assert corpus.labels().frames(id, centres)[inside].tolist() == expected[inside].tolist()
