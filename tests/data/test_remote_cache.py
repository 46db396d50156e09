"""The local copy of a corpus at a URL stays within CPC_CACHE_SIZE, and nothing that is being read leaves it."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from cpc.config import InputError
from cpc.data import remote
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source

SAMPLES = 16000
SHARD = 128 + 2 * SAMPLES


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A corpus of eight shards, an utterance in each, in fsspec's memory."""
    rng = np.random.default_rng(0)
    sources = []
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", rng.integers(-9000, 9000, SAMPLES).astype(np.int16), 16000)
        sources.append(Source(str(number), tmp_path / f"{number}.wav", "s"))
    pack(sources, tmp_path / "packed", shard_samples=SAMPLES, progress=False)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "packed"), "/cached/corpus", recursive=True)
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_EVERY", 0.0)
    return "memory://cached/corpus"


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.stem for path in (tmp_path / "cache").rglob("*.npy"))


def window(corpus: Corpus, row: int) -> np.ndarray:
    out = np.zeros((1, 100), np.int16)
    corpus.gather(np.array([row]), np.array([7]), 100, out)
    return out[0]


def test_the_cache_is_bounded_and_what_was_read_longest_ago_goes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPC_CACHE_SIZE", str(3 * SHARD))
    local, corpus = Corpus.open(tmp_path / "packed"), Corpus.open(url)
    for row in range(3):
        assert np.array_equal(window(corpus, row), window(local, row))
    window(corpus, 0)  # so that 1 is the one that was read longest ago
    window(corpus, 3)
    assert kept(tmp_path) == ["00000", "00002", "00003"]
    for row in [*range(8), *range(8)]:
        assert np.array_equal(window(corpus, row), window(local, row))
        assert len(kept(tmp_path)) <= 3


def test_what_is_mapped_is_not_evicted(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPC_CACHE_SIZE", str(2 * SHARD))
    monkeypatch.setattr(remote, "_SHARD_BYTES", SHARD)
    local, corpus = Corpus.open(tmp_path / "packed"), Corpus.open(url)
    held = corpus.waveform(5)
    for row in range(5):
        assert np.array_equal(corpus.waveform(row), local.waveform(row))
        assert "00005" in kept(tmp_path)
        assert len(kept(tmp_path)) <= 3  # what is held, what is mapped last, and the one that is being fetched
    assert np.array_equal(held, local.waveform(5))
    del held
    for row in (6, 7, 0):
        window(corpus, row)
    assert "00005" not in kept(tmp_path)
    assert len(kept(tmp_path)) <= 2


def test_without_a_bound_everything_stays(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPC_CACHE_SIZE", raising=False)
    corpus = Corpus.open(url)
    for row in range(8):
        window(corpus, row)
    assert len(kept(tmp_path)) == 8


@pytest.mark.parametrize(("text", "bytes_of"), [("5", 5), ("2kB", 2000), ("1.5 GB", 15 * 10**8), ("3T", 3 * 10**12)])
def test_sizes(text: str, bytes_of: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPC_CACHE_SIZE", text)
    assert remote.cache_size() == bytes_of


def test_a_bound_that_makes_no_sense_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPC_CACHE_SIZE", "lots")
    with pytest.raises(InputError, match="CPC_CACHE_SIZE=lots: must be a number of bytes such as 200GB"):
        Corpus.open(url)
    monkeypatch.setenv("CPC_CACHE_SIZE", "100")
    with pytest.raises(InputError, match=r"CPC_CACHE_SIZE=100: the shard 00000\.npy alone has"):
        Corpus.open(url).waveform(0)
