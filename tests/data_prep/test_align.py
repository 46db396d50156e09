"""Forced alignment by the real aligner, on speech whose phones are known to the sample and on real speech."""

import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("pocketsphinx", reason="pocketsphinx, the forced aligner, is not installed")
pytest.importorskip("espeakng_loader", reason="espeakng-loader, the synthesiser, is not installed")

from benchmarks.agreement import Agreement, Phones, edits, match
from benchmarks.alignment import read_reference, synthesise
from cpc.audio.decode import decode, resample, to_int16, write_flac
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.io import write_text
from data_prep import align as job
from data_prep import espeak
from data_prep.align import align
from data_prep.aligner import FIRST_EDGE, HOP, PAUSE, PHONES, SAMPLE_RATE, Aligned, Aligner, AlignmentError
from data_prep.lexicon import pronounce, split_words
from data_prep.speakers import Utterance

Line = tuple[str, np.ndarray]  # what is said to be said, and the samples


@pytest.fixture(scope="module")
def spoken() -> list[tuple[Utterance, Phones]]:
    return synthesise(5, seed=0)


@pytest.fixture(scope="module")
def tool(spoken: list[tuple[Utterance, Phones]]) -> Aligner:
    words = {word for utterance, _ in spoken for word in split_words(utterance.text)}
    return Aligner({word: pronounce(word) for word in sorted(words)})


@pytest.fixture
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "FEWEST_SECONDS", 5)


def packed(folder: Path, lines: Sequence[Line]) -> Corpus:
    sources = []
    for number, (text, samples) in enumerate(lines):
        path = folder / "audio" / f"u{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_flac(path, samples)
        sources.append(Source(path.stem, path, "s", text=text))
    pack(sources, folder / "packed", workers=1, progress=False)
    return Corpus.open(folder / "packed")


@pytest.fixture(scope="module")
def whole(spoken: list[tuple[Utterance, Phones]], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus that was aligned by one process, in several chunks, left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "FEWEST_SECONDS", 5)
        corpus = packed(tmp_path_factory.mktemp("whole"), lines_of(spoken))
        assert len(job.cut(corpus)) > 2
        report = align(corpus, workers=1, progress=False)
    assert (report.tally.utterances, report.tally.failed, report.workers) == (len(spoken), 0, 1)
    assert report.fresh == report.tally.seconds == pytest.approx(corpus.samples.sum() / SAMPLE_RATE)
    assert report.real_time_factor > 0
    assert f"aligned {len(spoken)} of {len(spoken)} utterances" in report.lines()[0]
    return corpus


def lines_of(spoken: Sequence[tuple[Utterance, Phones]]) -> list[Line]:
    return [(utterance.text, utterance.samples) for utterance, _ in spoken]


def labels(corpus: Corpus) -> dict[str, bytes]:
    folder = corpus.path / "labels"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(corpus: Corpus, scheme: str = "phones") -> dict[str, tuple[str, str]]:
    lines = (corpus.path / "labels" / f"{scheme}.utterances.tsv").read_text().splitlines()
    assert lines[0] == "id\tscore\treason"
    return {id: (score, reason) for id, score, reason in (line.split("\t") for line in lines[1:])}


def phones_of(aligned: Aligned, samples: np.ndarray) -> Phones:
    onsets = [start / SAMPLE_RATE for start in aligned.phone_starts]
    return Phones([(PHONES[label],) for label in aligned.phones], onsets, len(samples) / SAMPLE_RATE)


def test_boundaries_are_where_espeak_put_them(spoken: list[tuple[Utterance, Phones]], tool: Aligner) -> None:
    agreement = Agreement()
    for utterance, truth in spoken:
        aligned = tool.align(utterance.samples, split_words(utterance.text))
        agreement.add(phones_of(aligned, utterance.samples), truth)
    errors = np.array(agreement.errors)
    # Half a frame: labels in time with frame starts (160·j) or ends would be 7.8 ms early or 17.8 ms late.
    assert abs(np.median(errors)) < 0.005
    assert np.mean(np.abs(errors) <= 0.02) > 0.75
    assert agreement.same / agreement.frames > 0.75
    assert len(errors) / agreement.boundaries > 0.85


def test_a_later_utterance_has_later_boundaries(spoken: list[tuple[Utterance, Phones]], tool: Aligner) -> None:
    utterance, _ = spoken[1]
    words, shift = split_words(utterance.text), 5 * HOP
    noise = np.random.default_rng(0).normal(0, 3, shift).astype(np.int16)
    near = tool.align(utterance.samples, words)
    far = tool.align(np.concatenate([noise, utterance.samples]), words)
    assert far.phones == near.phones
    moved = np.array(far.phone_starts[1:]) - np.array(near.phone_starts[1:])
    assert np.median(moved) == shift
    assert np.mean(np.abs(moved - shift) <= HOP) > 0.9


def test_an_utterance_does_not_depend_on_those_before(spoken: list[tuple[Utterance, Phones]], tool: Aligner) -> None:
    def run(order: Sequence[int], by: Aligner) -> dict[int, Aligned]:
        return {n: by.align(spoken[n][0].samples, split_words(spoken[n][0].text)) for n in order}

    assert run(range(3), tool) == run([2, 0, 1], Aligner(tool.lexicon))


def test_an_utterance_that_failed_leaves_no_trace(spoken: list[tuple[Utterance, Phones]], tool: Aligner) -> None:
    samples, words = spoken[0][0].samples, split_words(spoken[0][0].text)
    before = tool.align(samples, words)
    for impossible in (samples[:300], samples[:4000], np.ones(4 * SAMPLE_RATE, np.int16)):
        with pytest.raises(AlignmentError):
            tool.align(impossible, words * 3)
        assert tool.align(samples, words) == before


def test_the_right_words_score_higher_than_others(spoken: list[tuple[Utterance, Phones]], tool: Aligner) -> None:
    for (utterance, _), (other, _) in pairwise(spoken[:3]):
        right = tool.align(utterance.samples, split_words(utterance.text)).score
        try:
            wrong = tool.align(utterance.samples, split_words(other.text)).score
        except AlignmentError:
            continue  # lower than any score
        assert wrong < right - 0.5
    assert right < 0


def test_labels_cover_the_audio_with_phones_in_words(whole: Corpus) -> None:
    corpus = whole
    phones, words = corpus.labels("phones"), corpus.labels("words")
    assert phones.inventory == list(PHONES)
    assert PAUSE in words.inventory
    for row, id in enumerate(corpus.ids):
        for found in (phones.intervals(id), words.intervals(id)):
            assert found.onsets[0] == 0
            assert found.offsets[-1] == corpus.samples[row] / SAMPLE_RATE
            assert np.array_equal(found.onsets[1:], found.offsets[:-1])
            # Boundaries lie between the centres of two frames, and no phone is shorter than three of them.
            frames = (found.onsets[1:] * SAMPLE_RATE - FIRST_EDGE) / HOP
            assert frames == pytest.approx(np.round(frames), abs=1e-6)
            assert np.all(np.diff(np.round(frames)) >= 3)
        inside = words.intervals(id)
        assert set(inside.onsets) <= set(phones.intervals(id).onsets)
        named = [words.inventory[label] for label in inside.labels]
        assert [name for name in named if name != PAUSE] == split_words(corpus.texts[row])
    assert all(score and not reason for score, reason in table(corpus).values())


def test_provenance_says_how_the_labels_came_about(spoken: list[tuple[Utterance, Phones]], tmp_path: Path) -> None:
    corpus = packed(tmp_path, lines_of(spoken[:1]))
    align(corpus, scheme="forced", workers=1, progress=False)
    assert "PocketSphinx" in corpus.labels("forced").source
    provenance = corpus.labels("forced_words").provenance
    assert provenance == corpus.labels("forced").provenance
    assert provenance["kind"] == "alignment"
    assert provenance["corpus"] == corpus.digest
    assert provenance["tool"].startswith("pocketsphinx ")
    assert "eSpeak NG" in provenance["g2p"]
    assert len(provenance["sha256"]) == 64


def test_words_without_an_entry_are_pronounced(spoken: list[tuple[Utterance, Phones]], tmp_path: Path) -> None:
    text = "The wugs of Zorblington walked at 7."
    speech = espeak.speak(text, espeak.Voice("en-us+m3"))
    samples = to_int16(resample(speech.samples.astype(np.float32) / 32768, espeak.SAMPLE_RATE, SAMPLE_RATE))
    corpus = packed(tmp_path, [(text, samples)])
    align(corpus, workers=1, progress=False)
    rows = (corpus.path / "labels/phones.lexicon.tsv").read_text().splitlines()
    assert rows[0] == "word\tphones"
    assert [row.split("\t")[0] for row in rows[1:]] == ["7", "wugs", "zorblington"]
    assert "7\tS EH V AH N" in rows
    found, words = corpus.labels().intervals("u0"), corpus.labels("words")
    said = words.intervals("u0")
    place = said.labels.tolist().index(words.inventory.index("7"))
    inside = (found.onsets >= said.onsets[place]) & (found.onsets < said.offsets[place])
    assert [PHONES[label] for label in found.labels[inside]] == ["S", "EH", "V", "AH", "N"]


def test_what_cannot_be_aligned_is_listed_and_the_rest_is_kept(
    spoken: list[tuple[Utterance, Phones]], tmp_path: Path
) -> None:
    (text, samples), (other, _) = lines_of(spoken[:2])
    silence = np.zeros(SAMPLE_RATE, np.int16)
    long = np.tile(samples, 1 + 121 * SAMPLE_RATE // len(samples))
    lines = [(text, samples), ("", samples), ("?!", samples), ("<unk> Привет you", samples), (text, samples[:4000]),
             (text, silence), (text, long), (other, samples[: len(samples) // 2])]  # fmt: skip
    corpus = packed(tmp_path, lines)
    report = align(corpus, workers=1, progress=False)
    reasons = {id: reason for id, (_, reason) in table(corpus).items()}
    assert reasons["u0"] == ""
    assert reasons["u1"] == reasons["u2"] == "no transcript"
    assert reasons["u3"] == "words that cannot be pronounced: <unk>, привет"
    assert reasons["u4"].startswith("too short: ")
    assert reasons["u5"] == "empty audio: every sample is 0"
    assert reasons["u6"].startswith("too long: ")
    assert reasons["u7"].startswith(("the aligner did not reach the end", "too short"))
    assert all((score == "") == bool(reasons[id]) for id, (score, _) in table(corpus).items())
    assert corpus.labels().ids.to_pylist() == corpus.labels("words").ids.to_pylist() == ["u0"]
    assert report.tally.failed == 7
    assert report.tally.reasons["no transcript"] == 2
    assert "without labels: 7 utterances: no transcript (2)" in "\n".join(report.lines())
    alone = packed(tmp_path / "alone", [(text, samples)])
    align(alone, workers=1, progress=False)
    assert np.array_equal(alone.labels().intervals("u0").onsets, corpus.labels().intervals("u0").onsets)


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(
    spoken: list[tuple[Utterance, Phones]], whole: Corpus, tmp_path: Path, many_chunks: None
) -> None:
    corpus = packed(tmp_path, lines_of(spoken))
    assert align(corpus, workers=2, progress=False).workers == 2
    assert labels(corpus) == labels(whole)


def test_shards_together_are_the_whole(
    spoken: list[tuple[Utterance, Phones]], whole: Corpus, tmp_path: Path, many_chunks: None
) -> None:
    corpus = packed(tmp_path, lines_of(spoken))
    first = align(corpus, workers=1, shard=(1, 2), progress=False)
    assert first.left == len(job.cut(corpus)) // 2
    assert "the last of them joins all" in first.lines()[-1]
    with pytest.raises(InputError, match="no such labels"):
        corpus.labels()
    again = align(corpus, workers=1, shard=(1, 2), progress=False)
    assert (again.fresh, again.tally) == (0, first.tally)
    last = align(corpus, workers=1, shard=(2, 2), progress=False)
    assert last.left == 0
    assert last.tally == align(whole, workers=1, progress=False).tally
    assert labels(corpus) == labels(whole)
    assert sorted(labels(whole)) == sorted(
        ["phones.json", "phones.parquet", "words.json", "words.parquet", "phones.utterances.tsv", "phones.lexicon.tsv"]
    )


def test_running_again_does_nothing_and_other_audio_starts_anew(
    spoken: list[tuple[Utterance, Phones]], tmp_path: Path
) -> None:
    corpus = packed(tmp_path, lines_of(spoken[:1]))
    first = align(corpus, workers=1, progress=False)
    before = labels(corpus)
    again = align(corpus, workers=1, progress=False)
    assert (again.fresh, again.tally) == (0, first.tally)
    assert "nothing to do" in again.lines()[1]
    other = packed(tmp_path / "other", lines_of(spoken[1:2]))
    write_text(other.path / "labels/phones.parts/plan.json", "{}")
    (other.path / "labels/phones.parts/000000.parquet").write_bytes(b"of another corpus")
    align(other, workers=1, progress=False)
    assert labels(corpus) == before
    assert labels(other).keys() == before.keys()


@pytest.mark.slow
def test_killed_and_started_again_ends_with_the_same_bytes(
    spoken: list[tuple[Utterance, Phones]], whole: Corpus, tmp_path: Path, many_chunks: None
) -> None:
    killed = packed(tmp_path, lines_of(spoken))
    code = "import data_prep.align as a; from cpc.data.corpus import Corpus; a.FEWEST_SECONDS = 5\n"
    code += f"a.align(Corpus.open({str(killed.path)!r}), workers=2, progress=False)"
    running = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    parts = killed.path / "labels" / "phones.parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = psutil.Process(running.pid).children(recursive=True)
    assert children
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == [], "processes that outlive a killed parent"
    assert 0 < len(list(parts.glob("*.parquet"))) < len(job.cut(killed))
    report = align(killed, workers=1, progress=False)
    assert report.fresh < killed.samples.sum() / SAMPLE_RATE
    assert labels(killed) == labels(whole)


def test_two_processes_do_not_do_the_same_shard(spoken: list[tuple[Utterance, Phones]], tmp_path: Path) -> None:
    corpus = packed(tmp_path, lines_of(spoken[:1]))
    report = align(corpus, workers=1, shard=(2, 2), progress=False)  # of one chunk: nothing
    assert (report.left, report.chunks, report.tally.utterances) == (1, 1, 0)
    with job._claimed(report.job, "1-2"), pytest.raises(InputError, match="another process is aligning"):
        align(corpus, workers=1, shard=(1, 2), progress=False)
    assert align(corpus, workers=1, shard=(1, 2), progress=False).left == 0


@pytest.mark.parametrize("text", ["", " "])
def test_a_corpus_without_transcripts_is_a_mistake(tmp_path: Path, text: str, tones: Path) -> None:
    corpus = packed(tmp_path, [(text, np.ones(SAMPLE_RATE, np.int16))])
    with pytest.raises(InputError, match=r"no transcripts.*trans\.txt.*--table"):
        align(corpus, workers=1, progress=False)
    assert not (corpus.path / "labels").exists()


def test_a_corpus_of_which_nothing_can_be_aligned_is_a_mistake(tmp_path: Path) -> None:
    corpus = packed(tmp_path, [("hello there", np.zeros(SAMPLE_RATE, np.int16))])
    with pytest.raises(InputError, match=r"nothing could be aligned: empty audio \(1\).*utterances\.tsv"):
        align(corpus, workers=1, progress=False)
    assert table(corpus) == {"u0": ("", "empty audio: every sample is 0")}
    with pytest.raises(InputError, match="no such labels"):
        corpus.labels()


def test_other_mistakes_are_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = packed(tmp_path, [("hello there", np.ones(SAMPLE_RATE, np.int16))])
    with pytest.raises(InputError, match="scheme"):
        align(corpus, scheme="../phones", progress=False)
    with pytest.raises(InputError, match="workers=0: must be at least 1"):
        align(corpus, workers=0, progress=False)
    with pytest.raises(InputError, match="shard=3/2"):
        align(corpus, shard=(3, 2), progress=False)
    write_text(corpus.path / "labels", "a file where a folder has to be")
    with pytest.raises(InputError, match="labels cannot be written"):
        align(corpus, workers=1, progress=False)
    (corpus.path / "labels").unlink()
    corpus.sample_rate = 8000
    with pytest.raises(InputError, match=r"at 16000 Hz, this is at 8000 Hz"):
        align(corpus, progress=False)
    corpus.sample_rate = SAMPLE_RATE
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(InputError, match=r"needs PocketSphinx.*pip install pocketsphinx"):
        align(corpus, progress=False)
    assert not (corpus.path / "labels").exists()


def test_real_speech_agrees_with_the_supplied_alignment(speech: Path) -> None:
    reference = read_reference(speech / "meta" / "alignments.jsonl.gz")
    rows = [line.split("\t") for line in (speech / "meta" / "utterances.tsv").read_text().splitlines()]
    column = {name: place for place, name in enumerate(rows[0])}
    agreement, subsets = Agreement(), set()
    for row in rows[1::600]:
        id, text = row[column["id"]], row[column["text"]]
        samples = to_int16(decode(speech / row[column["path"]], SAMPLE_RATE))
        words = split_words(text)
        aligned = Aligner({word: pronounce(word) for word in words}).align(samples, words)
        agreement.add(phones_of(aligned, samples), reference[id])
        subsets.add(row[column["subset"]])
    assert len(subsets) >= 3
    assert agreement.same / agreement.frames >= 0.9


def test_the_measures_themselves() -> None:
    assert match(["SIL", "K", "AE", "T"], ["SIL", "K", "AH", "T", "S"]) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert match(["K", "AE", "T"], ["K", "T"]) == [(0, 0), (2, 1)]
    assert [edits("abc", word) for word in ("abc", "ac", "xbc", "abcd", "")] == [0, 1, 1, 1, 3]
    truth = Phones([("SIL",), ("AA", "R"), ("T",)], [0.0, 0.1, 0.2], 0.3)
    agreement = Agreement()
    agreement.add(Phones([("SIL",), ("AA",), ("R",), ("T",)], [0.0, 0.115, 0.15, 0.235], 0.3), truth)
    # Frames look at 12.8 ms + 10 ms · j: 29 of them lie in 0.3 s; two up to 0.115 s and four up to 0.235 s differ.
    assert (agreement.frames, agreement.frames - agreement.same) == (29, 6)
    assert agreement.boundaries == 2
    assert agreement.errors == pytest.approx([0.015, 0.035])
