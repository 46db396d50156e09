"""Reading a packed corpus: rows, splits, windows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cpc.data.corpus as corpus_module
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import write_split

Make = Callable[[int], list[Source]]


@pytest.fixture
def corpus(tmp_path: Path, sources: Make) -> Corpus:
    pack(sources(20), tmp_path / "out", shard_samples=3000, progress=False)
    write_split(tmp_path / "out", "phone_train", ["u03", "u01"])
    return Corpus.open(tmp_path / "out")


def test_columns_are_those_of_the_sources(corpus: Corpus, samples_of: Callable[[int], np.ndarray]) -> None:
    assert len(corpus) == 20
    assert corpus.name == "out"
    assert corpus.sample_rate == 16000
    assert corpus.speakers == [f"s{place % 3}" for place in range(20)]
    assert corpus.chapters == [str(place // 6) for place in range(20)]
    assert set(corpus.sexes) == {"F"}
    assert set(corpus.subsets) == {"dev"}
    assert corpus.texts[7] == "text 7"
    assert corpus.samples.tolist() == [len(samples_of(place)) for place in range(20)]


def test_the_digest_tells_corpora_apart(tmp_path: Path, corpus: Corpus, sources: Make) -> None:
    made = sources(20)
    audio = made[0].path.read_bytes()
    made[0].path.write_bytes(audio[:-2] + bytes([audio[-2] ^ 1, audio[-1]]))  # one bit of one sample
    pack(made, tmp_path / "other", shard_samples=3000, progress=False)
    assert Corpus.open(tmp_path / "other").digest != corpus.digest


def test_a_waveform_is_a_read_only_view_of_the_memory_map(
    corpus: Corpus, samples_of: Callable[[int], np.ndarray]
) -> None:
    view = corpus.waveform(4, 10, 90)
    assert np.array_equal(view, samples_of(4)[10:90])
    assert np.shares_memory(view, corpus.waveform(4))
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="within 0"):
        corpus.waveform(4, 0, len(samples_of(4)) + 1)


def test_gather_fills_a_batch_of_windows(corpus: Corpus, samples_of: Callable[[int], np.ndarray]) -> None:
    rows, starts = np.array([3, 19, 0, 3]), np.array([0, 7, 100, 55])
    out = np.zeros((4, 200), np.int16)
    corpus.gather(rows, starts, 200, out)
    for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
        assert np.array_equal(out[place], samples_of(row)[start : start + 200])


def test_windows_never_run_into_the_next_utterance(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="stop="):
        corpus.gather(np.array([3]), np.array([corpus.samples[3] - 199]), 200, np.zeros((1, 200), np.int16))


def test_few_shards_are_open_at_once(
    corpus: Corpus, samples_of: Callable[[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "MOST_OPEN", 2)
    small = Corpus.open(corpus.path)
    for row in [*range(20), *range(19, -1, -1)]:
        assert np.array_equal(small.waveform(row), samples_of(row))
    assert small._map.cache_info().currsize == 2


def test_rows_by_id_split_file_and_sequence(tmp_path: Path, corpus: Corpus) -> None:
    assert [corpus.row(id) for id in corpus.ids] == list(range(20))
    assert corpus.rows("phone_train").tolist() == [3, 1]
    assert corpus.rows(["u07", "u00"]).tolist() == [7, 0]
    (tmp_path / "mine").write_bytes(b"u02\r\n\n u05")  # no extension, no last newline
    assert corpus.rows(str(tmp_path / "mine")).tolist() == [2, 5]
    assert corpus.rows(tmp_path / "mine").tolist() == [2, 5]
    assert corpus.splits() == ["phone_train"]


def test_an_unknown_split_names_the_nearest(corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"did you mean phone_train\?"):
        corpus.rows("phone_trian")
    with pytest.raises(InputError, match=r"\(splits: phone_train\)"):
        corpus.rows("xyz")


def test_unknown_ids_are_counted_and_shown(tmp_path: Path, corpus: Corpus) -> None:
    (tmp_path / "bad.txt").write_text("u01\nghost1\nghost2\n")
    with pytest.raises(InputError, match=r"2 of 3 ids are not in .*ghost1, ghost2"):
        corpus.rows(str(tmp_path / "bad.txt"))
    with pytest.raises(InputError, match="id=u99"):
        corpus.row("u99")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no ids"):
        corpus.rows(str(tmp_path / "empty.txt"))


def test_what_is_no_corpus_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.json is missing.*cpc data folder"):
        Corpus.open(tmp_path)


def test_missing_labels_are_named(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="labels=words"):
        corpus.labels("words")
