"""Audio and corpora at URLs, and bytes within files: read where they lie, and never mistaken for damaged ones."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from cpc.audio.decode import decode, find_audio, probe
from cpc.audio.integrity import Undecodable
from cpc.audio.location import Member, Remote, is_remote, locate, locator
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.embed.embed import embed
from cpc.models.context import GRUConfig
from cpc.models.cpc import ModelConfig, build
from cpc.models.encoder import EncoderConfig
from data_prep import containers, folder
from data_prep.splits import app as splits
from tests.packed import content, invoke, make_corpus, refusal

RATE = 16000


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, pages of it included, and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A URL, and the folder that is served there."""
    root = tmp_path / "served"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty place in fsspec's file system in memory, where nothing is a local path."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def tone(path: Path, seconds: float, level: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.sin(np.arange(round(seconds * RATE)) / 20), RATE)


def upload(source: Path, url: str) -> None:
    for name, data in content(source).items():
        fsspec.filesystem("memory").pipe_file(f"{url}/{name}", data)


@pytest.mark.parametrize("text", ["s3://b/k/a.flac", "memory://a.flac", "https://host/x/a.flac"])
def test_a_url_is_a_path_and_keeps_its_text(text: str) -> None:
    path = Remote(text)
    assert (str(path), path.as_posix(), path.name, path.suffix) == (text, text, "a.flac", ".flac")
    assert str(path.parent / "b" / "c.wav") == text.removesuffix("a.flac") + "b/c.wav"
    assert (path.parent / "d" / "e.wav").relative_to(path.parent).as_posix() == "d/e.wav"
    assert (path.absolute(), path.resolve()) == (path, path)


def test_what_was_written_down_is_found_again(tmp_path: Path) -> None:
    for path in (tmp_path / "a.flac", locate("memory://bucket/a.flac"), locate(Path("memory://bucket/a.flac"))):
        assert locate(locator(path)) == path
        assert type(locate(locator(path))) is type(path)
        member = Member.of(path, "d/x::y.flac", 7, 40)
        again = locate(locator(member))
        assert isinstance(again, Member)
        assert (again.container, again.member, again.offset, again.size) == (path, "d/x::y.flac", 7, 40)
        assert is_remote(again) == isinstance(path, Remote)
    assert not is_remote(locate("C:/a.flac"))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_bytes_decode_as_the_file_does(tmp_path: Path, bucket: str, suffix: str) -> None:
    tone(tmp_path / f"a{suffix}", 0.7)
    whole = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / "box").write_bytes(b"before" + whole + b"after")
    fsspec.filesystem("memory").pipe_file(f"{bucket}/a{suffix}", whole)
    fsspec.filesystem("memory").pipe_file(f"{bucket}/box", b"before" + whole + b"after")
    local = decode(tmp_path / f"a{suffix}")
    for path in (
        locate(f"{bucket}/a{suffix}"),
        Member.of(tmp_path / "box", f"a{suffix}", 6, len(whole)),
        Member.of(locate(f"{bucket}/box"), f"a{suffix}", 6, len(whole)),
    ):
        np.testing.assert_array_equal(decode(path), local)
        np.testing.assert_array_equal(decode(path, start=3000, stop=5000), local[3000:5000])
        assert probe(path).samples == probe(tmp_path / f"a{suffix}").samples
        assert path.stat().st_size == len(whole)


def test_a_header_that_leaves_its_length_open(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 0.5)
    whole = bytearray((tmp_path / "a.wav").read_bytes())
    whole[40:44] = b"\xff" * 4
    (tmp_path / "box").write_bytes(bytes(100) + bytes(whole))
    np.testing.assert_array_equal(
        decode(Member.of(tmp_path / "box", "a.wav", 100, len(whole))), decode(tmp_path / "a.wav")
    )


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    assert locate(f"file://{tmp_path}/a.flac") == locate(Path(f"file://{tmp_path}/a.flac")) == tmp_path / "a.flac"


def test_what_is_wrong_with_remote_audio(bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"{bucket}/bad.flac", b"no audio")
    with pytest.raises(Undecodable, match="cannot be decoded"):
        decode(f"{bucket}/bad.flac")
    with pytest.raises(Undecodable, match="no such file"):
        decode(f"{bucket}/gone.flac")
    fsspec.filesystem("memory").pipe_file(f"{bucket}/notes/a.txt", b"no audio")
    assert "holds no audio" in refusal(find_audio, f"{bucket}/notes")
    assert "no such file or folder" in refusal(find_audio, f"{bucket}/nowhere")
    assert "Protocol not known: nothing" in refusal(locate, "nothing://a/b")
    with pytest.raises(InputError, match="cannot be opened for writing"):
        locate(f"{bucket}/x").open("w")


def test_a_transfer_that_fails_is_no_damaged_file(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tone(tmp_path / "a" / "x.wav", 0.2)
    upload(tmp_path / "a", bucket)
    memory, calls = fsspec.filesystem("memory"), []
    real = memory.cat_file

    def flaky(*arguments: object, **options: object) -> bytes:
        calls.append(arguments)
        if len(calls) < 3:
            raise ConnectionError("reset by peer")
        return bytes(real(*arguments, **options))

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(memory, "cat_file", flaky)
    assert len(decode(f"{bucket}/x.wav")) == 3200
    assert len(calls) == 3
    monkeypatch.setattr(memory, "cat_file", lambda *_, **__: calls.clear() or flaky())
    with pytest.raises(InputError, match=r"cannot be fetched \(reset by peer\)") as caught:
        decode(f"{bucket}/x.wav")
    assert not isinstance(caught.value, Undecodable)


def test_a_folder_at_a_url_is_packed_as_the_local_one(tmp_path: Path, served: tuple[str, Path]) -> None:
    url, root = served
    for name, seconds in (
        ("ann/one.wav", 0.5),
        ("ann/two.flac", 0.3),
        ("ben/deep/er/three.ogg", 0.4),
        (".no/x.wav", 1),
    ):
        tone(root / "audio" / name, seconds)
    local = invoke(folder.app, root / "audio", "--out", tmp_path / "local", "--trim", "3")
    remote = invoke(folder.app, f"{url}/audio", "--out", tmp_path / "remote", "--trim", "3")
    assert "found 3 audio files" in local
    assert "found 3 audio files" in remote
    one, other = Corpus.open(tmp_path / "local"), Corpus.open(tmp_path / "remote")
    assert one.ids == other.ids == ["ann-one", "ann-two", "ben-deep-er-three"]
    assert one.speakers == other.speakers == ["ann", "ann", "er"]
    assert one.digest == other.digest


def test_features_of_audio_at_a_url(tmp_path: Path, served: tuple[str, Path]) -> None:
    url, root = served
    for name, seconds in (("a.wav", 0.5), ("b/c.flac", 0.3)):
        tone(root / "audio" / name, seconds)
    (root / "audio" / "bad.wav").write_bytes(b"no audio")
    model = build(ModelConfig(EncoderConfig(channels=8, norm="channel"), GRUConfig(hidden=6)))
    for source, out in ((root / "audio", "local"), (f"{url}/audio", "remote")):
        done = embed(model, source, tmp_path / out)
        assert (done.files, done.skips) == (2, 1)
    local, remote = content(tmp_path / "local"), content(tmp_path / "remote")
    assert local["b/c.npy"] == remote["b/c.npy"]
    assert local["a.npy"] == remote["a.npy"]


def test_a_tar_at_a_url(tmp_path: Path, served: tuple[str, Path]) -> None:
    url, root = served
    made = Path(__file__).parents[1] / "data_prep" / "made" / "webdataset" / "train-000000.tar"
    (root / "t.tar").write_bytes(made.read_bytes())
    invoke(containers.app, "webdataset", f"{url}/t.tar", "--out", tmp_path / "remote")
    invoke(containers.app, "webdataset", root / "t.tar", "--out", tmp_path / "local")
    assert Corpus.open(tmp_path / "remote").digest == Corpus.open(tmp_path / "local").digest
    assert "no such file" in refusal(invoke, containers.app, "webdataset", f"{url}/gone.tar", "--out", tmp_path / "no")


def test_a_corpus_at_a_url(tmp_path: Path, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, root = served
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "cache"))
    local = make_corpus(root, {"a-1-1": 1.0, "b-1-1": 2.0, "b-1-2": 0.5})
    invoke(splits, root / "corpus", "--by", "speaker", "--name", "speaker", "--share", "0.5")
    remote = Corpus.open(f"{url}/corpus")
    assert (remote.ids, remote.splits(), remote.digest) == (
        local.ids,
        Corpus.open(root / "corpus").splits(),
        local.digest,
    )
    assert remote.name == "corpus"
    shard = remote.shard_path(0)
    assert not shard.exists()  # nothing has been read yet
    out = np.empty((1, 1000), np.int16)
    remote.gather(np.array([1]), np.array([500]), 1000, out)
    np.testing.assert_array_equal(out[0], local.waveform(1, 500, 1500))
    assert shard.read_bytes() == (root / "corpus" / "shards" / "00000.npy").read_bytes()
    again = Corpus.open(Path(f"{url}/corpus"))  # as a command line gives it
    np.testing.assert_array_equal(again.waveform(0), local.waveform(0))
    assert "is only read from there" in refusal(
        invoke, splits, f"{url}/corpus", "--by", "speaker", "--name", "s", "--share", "0.5"
    )


def test_a_corpus_that_is_cut_short_there(
    tmp_path: Path, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = served
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "cache"))
    make_corpus(root, {"a-1-1": 1.0})
    assert "corpus.json is missing" in refusal(Corpus.open, f"{url}/nothing")
    (root / "other").mkdir()
    (root / "other" / "corpus.json").write_text("[]")
    assert "is no description of a packed corpus" in refusal(Corpus.open, f"{url}/other")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert "cannot be fetched" in refusal(Corpus.open, "http://127.0.0.1:9/corpus")
    shard = root / "corpus" / "shards" / "00000.npy"
    shard.write_bytes(shard.read_bytes()[:-2])
    corpus = Corpus.open(f"{url}/corpus")
    assert "00000.npy is cut short there" in refusal(corpus.waveform, 0)
    shard.unlink()
    assert "00000.npy is missing there" in refusal(corpus.waveform, 0)
