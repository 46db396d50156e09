"""Libri-Light: voice activity becomes utterances, to the sample; only what has no usable .json is left out."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from cpc.config import InputError
from cpc.data.corpus import Corpus
from data_prep import librilight
from data_prep.cutting import Rules
from data_prep.librilight import join
from tests.packed import invoke

RATE = 16000
call = partial(invoke, librilight.app)


def write(
    folder: Path, stem: str, activity: Any, seconds: float = 20, speaker: Any = None, seed: int = 0
) -> np.ndarray:
    """One chapter: noise, and its .json as puts_json.py of Libri-Light writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-9000, 9000, round(seconds * RATE)).astype(np.int16)
    soundfile.write(folder / f"{stem}.flac", samples, RATE)
    info = {
        "speaker": folder.parent.name if speaker is None else speaker,
        "book_meta": {"id": "319", "title": "History of Holland"},
        "snr": 5.391,
        "voice_activity": activity,
    }
    (folder / f"{stem}.json").write_text(json.dumps(info, indent=1))
    return samples


@pytest.fixture
def lights(tmp_path: Path) -> Path:
    return tmp_path / "librilight"


def test_voice_activity_becomes_utterances_to_the_sample(lights: Path, tmp_path: Path) -> None:
    activity = [[0.4, 3.2], [3.6, 6.08], [6.4, 9.0], [9.2, 9.84], [12.0, 13.0], [13.5, 19.84]]
    samples = write(lights / "small/960/holland_01", "holland_01_64kb", activity)
    other = write(lights / "small/22/poems", "poems_01", [[0.0, 5.0]], seed=1, speaker="0022")
    output = call("small", "--from", lights, "--out", tmp_path / "data", "--longest", 10, "--trim", 1)
    assert "small: 2 files, 3 utterances" in output
    assert "skipped 0 files" in output
    corpus = Corpus.open(tmp_path / "data/librilight-small")
    # 0.4 to 9.84 is 9.44 s; the pause of 2.16 s after it is longer than one second.
    assert corpus.ids == [
        "22-poems-poems_01-00000000-00000500",
        "960-holland_01-holland_01_64kb-00000040-00000984",
        "960-holland_01-holland_01_64kb-00001200-00001984",
    ]
    assert corpus.speakers == ["0022", "960", "960"]
    assert corpus.chapters == ["poems", "holland_01", "holland_01"]
    assert corpus.subsets == ["small"] * 3
    assert np.array_equal(corpus.waveform(0), other[: 5 * RATE])
    assert np.array_equal(corpus.waveform(1), samples[round(0.4 * RATE) : round(9.84 * RATE)])
    assert np.array_equal(corpus.waveform(2), samples[12 * RATE : round(19.84 * RATE)])
    again = call("small", "--from", lights, "--out", tmp_path / "data", "--longest", 10, "--trim", 1)
    assert "already holds this corpus" in again


def test_files_without_usable_json_are_listed_and_nothing_else_is_lost(lights: Path, tmp_path: Path) -> None:
    book = lights / "medium/14/book"
    for stem in ("bad", "empty", "good", "keys", "late", "missing", "mute", "order", "pairs", "times"):
        write(book, stem, [[1.0, 4.0]], 5)
    (book / "bad.json").write_text('{"speaker": "14", "voice_act')
    (book / "empty.json").write_text("")
    (book / "keys.json").write_text('{"speaker": "14"}')
    (book / "missing.json").unlink()
    write(book, "late", [[1.0, 4.0], [4.5, 7.0]], 5)
    write(book, "mute", [], 5)
    write(book, "order", [[3.0, 4.0], [1.0, 2.0]], 5)
    write(book, "pairs", [1.0, 4.0], 5)
    write(book, "times", [[float("nan"), 4.0]], 5)
    write(book, "nobody", [[1.0, 4.0]], 5, speaker=" ")
    write(book, "rounded", [[1.0, 5.06]], 5)  # the last frame of 80 ms ends after the audio
    write(book, "broken", [[1.0, 4.0]], 5)
    (book / "broken.flac").write_bytes(b"")
    output = call("medium", "--from", lights, "--out", tmp_path / "data")
    out = tmp_path / "data/librilight-medium"
    corpus = Corpus.open(out)
    assert corpus.ids == ["14-book-good-00000100-00000400", "14-book-rounded-00000100-00000500"]
    assert corpus.samples.tolist() == [3 * RATE, 4 * RATE]
    reasons = dict(line.split("\t") for line in (out / "left_out.tsv").read_text().splitlines()[1:])
    assert "skipped 10 files without usable .json" in output
    expected = {
        "bad": ".json is broken: Unterminated string",
        "empty": ".json is broken: Expecting value",
        "keys": ".json has no 'voice_activity'",
        "late": "voice activity ends at 7.00 s, the audio at 5.00 s: they do not belong together",
        "missing": "no .json beside it",
        "mute": ".json has no voice activity",
        "nobody": ".json names no speaker",
        "order": ".json is broken: voice_activity must be [onset, offset] pairs in order of time",
        "pairs": ".json is broken: cannot unpack non-iterable float",
        "times": ".json is broken: voice_activity must be",
    }
    assert {path.removeprefix("14/book/").removesuffix(".flac") for path in reasons} == set(expected)
    for stem, reason in expected.items():
        assert reasons[f"14/book/{stem}.flac"].startswith(reason)
    assert (out / "skipped.tsv").read_text().splitlines()[1:] == ["broken.flac\tempty: 0 bytes"]


def test_none_usable_and_no_such_subset_are_one_clear_error(lights: Path, tmp_path: Path) -> None:
    write(lights / "small/1/a", "x", [])
    with pytest.raises(InputError, match=r"none of the 1 files has usable \.json \(\.json has no voice activity"):
        call("small", "--from", lights, "--out", tmp_path / "data")
    with pytest.raises(InputError, match=r"subset=large: .*librilight has no such folder; unpack large\.tar"):
        call("large", "--from", lights, "--out", tmp_path / "data")


def test_a_subset_is_found_by_its_own_folder_too(lights: Path, tmp_path: Path) -> None:
    write(lights / "small/1/a", "x", [[0, 2]])
    for place, source in enumerate((lights, lights / "small")):
        call("small", "--from", source, "--out", tmp_path / str(place))
        assert len(Corpus.open(tmp_path / str(place) / "librilight-small")) == 1
    call(lights / "small", "--from", tmp_path, "--out", tmp_path / "2")
    assert len(Corpus.open(tmp_path / "2" / "librilight-small")) == 1


def test_shards_together_are_the_whole(lights: Path, tmp_path: Path) -> None:
    for speaker in range(4):
        write(lights / f"small/{speaker}/a", "x", [[0, 2], [4, 5]], 6, seed=speaker)
    parts = []
    for i in (1, 2):
        call("small", "--from", lights, "--out", tmp_path / f"part{i}", "--shard", f"{i}/2")
        parts += Corpus.open(tmp_path / f"part{i}/librilight-small").ids
    call("small", "--from", lights, "--out", tmp_path / "whole")
    assert parts == Corpus.open(tmp_path / "whole/librilight-small").ids


PAUSES = st.lists(st.tuples(st.floats(0, 3), st.floats(0.08, 40)), min_size=1, max_size=30)


@given(PAUSES, st.floats(2, 60), st.floats(0.2, 3))
def test_joining_keeps_all_voice_in_order_and_breaks_only_where_it_must(
    steps: list[tuple[float, float]], longest: float, trim: float
) -> None:
    activity, time = [], 0.0
    for pause, voice in steps:
        activity.append((time + pause, time + pause + voice))
        time = activity[-1][1]
    joined = join(activity, Rules(longest, trim))
    assert {on for on, _ in joined} <= {on for on, _ in activity}
    assert [pair for on, off in joined for pair in activity if on <= pair[0] and pair[1] <= off] == activity
    for on, off in joined:
        assert off - on <= longest or (on, off) in activity
    for (on, off), (after, end) in pairwise(joined):
        first = next(stop for start, stop in activity if start == after)
        assert after - off > trim or first - on > longest
        assert end > off
