"""Hugging Face datasets, WebDataset's tars, Lhotse's and Kaldi's lists, as their own libraries wrote them."""

import io
import json
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cpc.audio.decode import decode, to_int16
from cpc.data.corpus import Corpus
from data_prep import containers, manifests
from tests.packed import invoke, refusal

MADE = Path(__file__).parent / "made"  # made/make.py says how
call = partial(invoke, containers.app)


def check(out: Path, chapters: str = "", exact: bool = True) -> Corpus:
    """The three utterances of made/make.py: levels of 0.1, 0.2 and 0.3 for as many tenths of a second."""
    corpus = Corpus.open(out)
    assert corpus.ids == ["u1", "u2", "u3"]
    assert corpus.speakers == ["ann", "ben", "ann"]
    assert corpus.sexes == ["F", "M", "F"]
    assert corpus.texts == ["HELLO THERE", "YES", "GOOD BYE"]
    assert corpus.chapters == [chapters] * 3
    assert corpus.samples.tolist() == [1600, 3200, 4800]  # at 16 kHz
    for row, id in enumerate(corpus.ids):
        wave = to_int16(decode(MADE / "audio" / f"{id}.flac"))
        np.testing.assert_allclose(corpus.waveform(row), wave, atol=0 if exact else 1)  # all.wav was rounded otherwise
    return corpus


@pytest.fixture(autouse=True)
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that break a file break a copy of it."""
    shutil.copytree(MADE, tmp_path / "made")
    monkeypatch.setitem(globals(), "MADE", tmp_path / "made")


def test_a_saved_dataset(tmp_path: Path) -> None:
    output = call("huggingface", MADE / "huggingface", "--out", tmp_path / "out")
    corpus = check(tmp_path / "out")
    assert corpus.rows("train").tolist() == [0, 1]
    assert corpus.rows("test").tolist() == [2]
    assert "split train: 2 of 2 utterances" in output
    # One split of it is a dataset, whose rows can be numbered instead.
    call("huggingface", MADE / "huggingface" / "train", "--out", tmp_path / "rows", "--id", "row", "--speaker", "text")
    alone = Corpus.open(tmp_path / "rows")
    assert (alone.ids, alone.speakers) == (["train-00000000", "train-00000001"], ["HELLO THERE", "YES"])


def save(folder: Path, table: pa.Table, features: dict[str, object]) -> Path:
    """A dataset as save_to_disk writes one, of any table."""
    folder.mkdir()
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder


AUDIO = {"audio": {"_type": "Audio"}}


def test_audio_by_path_and_in_several_batches(tmp_path: Path) -> None:
    files = [MADE / "audio" / f"u{n}.flac" for n in (1, 2, 3)]
    rows = [
        {"bytes": file.read_bytes() if n != 1 else None, "path": str(file) if n else file.name}
        for n, file in enumerate(files)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"audio": pa.array(rows, kind), "speaker": ["ann", "ben", "ann"], "sex": ["f", "male", "F"]}
    columns |= {"sentence": ["HELLO THERE", "YES", "GOOD BYE"]}
    folder = save(tmp_path / "ds", pa.table(columns), AUDIO | {name: {} for name in columns if name != "audio"})
    call("huggingface", folder, "--out", tmp_path / "out")
    assert check(tmp_path / "out").subsets == ["ds"] * 3
    assert (tmp_path / "out" / "skipped.tsv").read_text() == "path\treason\n"


def test_folders_of_one_name_are_one_split(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "train").mkdir(parents=True)
        with tarfile.open(tmp_path / place / "train" / "x.tar", "w") as tar:
            tar.add(MADE / "audio" / "u1.flac", f"{place}.flac")
    call("webdataset", tmp_path / "a" / "train", tmp_path / "b" / "train", "--out", tmp_path / "out")
    assert Corpus.open(tmp_path / "out").rows("train").tolist() == [0, 1]


def test_bad_datasets_are_one_line(tmp_path: Path) -> None:
    def said(folder: Path, *options: object) -> str:
        return refusal(call, "huggingface", folder, "--out", tmp_path / "out", *options)

    good = MADE / "huggingface" / "train"
    assert "is no saved dataset" in said(tmp_path / "nothing")
    assert "speaker=nobody: no such column" in said(good, "--speaker", "nobody")
    assert "audio=text: is Value" in said(good, "--audio", "text")
    assert "has 0 columns of type Audio" in said(save(tmp_path / "none", pa.table({"text": ["a"]}), {"text": {}}))
    floats = save(tmp_path / "floats", pa.table({"audio": [[0.5]]}), AUDIO)
    assert "must be a struct of bytes and path" in said(floats)
    empty = [{"bytes": None, "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert "has neither bytes nor a path" in said(
        save(tmp_path / "empty", pa.table({"audio": pa.array(empty, kind)}), AUDIO)
    )
    arrow = next(good.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:700])
    assert "is no whole Arrow file" in said(good)
    (good / "state.json").write_text('{"_data_files": [{"filename": "../../secret.arrow"}]}')
    assert "must name Arrow files beside it" in said(good)
    (MADE / "huggingface" / "dataset_dict.json").write_text('{"splits": ["../train"]}')
    assert "must be a list of folder names" in said(MADE / "huggingface")
    assert not (tmp_path / "out").exists()


def test_a_compressed_table_is_refused(tmp_path: Path) -> None:
    content = (MADE / "audio" / "u1.flac").read_bytes()
    table = pa.table({"audio": [{"bytes": content * 40, "path": "u1.flac"}]})
    folder = save(tmp_path / "ds", table, AUDIO)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(folder / "data.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    assert "without compression" in refusal(call, "huggingface", folder, "--out", tmp_path / "out")


def test_tars_of_webdataset(tmp_path: Path) -> None:
    tar = MADE / "webdataset" / "train-000000.tar"
    call("webdataset", tar, "--out", tmp_path / "out")
    check(tmp_path / "out")
    output = call("webdataset", MADE / "webdataset", "--out", tmp_path / "folder")
    assert check(tmp_path / "folder").rows("webdataset").tolist() == [0, 1, 2]
    assert "split webdataset: 3 of 3 utterances" in output


def test_names_in_a_tar(tmp_path: Path) -> None:
    """Folders are part of an id, several audio files of a sample are utterances of it, the rest is passed over."""
    content = (MADE / "audio" / "u1.flac").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, held in (
            ("./d1/s.left.flac", content), ("./d1/s.right.flac", content), ("./d1/s.spk", b"eve\n"),
            ("./d1/s.png", b"?"), ("d2/s.flac", content), ("../../etc/x.flac", content), ("bad.flac", b"no audio"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    call("webdataset", tmp_path / "a.tar", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["..-..-etc-x", "d1-s-left", "d1-s-right", "d2-s"]
    assert corpus.speakers == ["", "eve", "eve", ""]
    skipped = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()[1]
    assert skipped.startswith("bad.flac\tcannot be decoded")


def test_bad_tars_are_one_line(tmp_path: Path) -> None:
    def said(tar: Path) -> str:
        return refusal(call, "webdataset", tar, "--out", tmp_path / "out")

    assert "no such file" in said(tmp_path / "none.tar")
    (tmp_path / "empty").mkdir()
    assert "the folder holds no .tar" in said(tmp_path / "empty")
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz") as tar:
        tar.add(MADE / "audio" / "u1.flac", "u1.flac")
    assert "gunzip it" in said(tmp_path / "z.tar.gz")
    with tarfile.open(tmp_path / "j.tar", "w") as tar:
        tar.add(MADE / "audio" / "u1.flac", "u1.flac")
        tar.add(MADE / "audio" / "u1.flac", "u1.json")
    assert "u1.json: is no JSON" in said(tmp_path / "j.tar")
    assert not (tmp_path / "out").exists()


def test_lists_as_lhotse_writes_them(tmp_path: Path) -> None:
    lhotse = [MADE / "lhotse" / f"{name}.jsonl.gz" for name in ("recordings", "supervisions")]
    invoke(manifests.app, "lhotse", *lhotse, "--root", MADE, "--out", tmp_path / "lhotse")
    check(tmp_path / "lhotse", chapters="all")
    invoke(manifests.app, "kaldi", MADE / "kaldi", "--root", MADE, "--out", tmp_path / "kaldi")
    assert check(tmp_path / "kaldi", exact=False).rows("kaldi").tolist() == [0, 1, 2]
