"""How the files beside this one were made, each by its format's own library: python tests/data_prep/made/make.py

Made with datasets 5.2.0, lhotse 1.33.0 and webdataset 1.0.2, none of which the tests need. Three utterances of two
speakers, at 8 kHz: levels 0.1, 0.2 and 0.3 of full scale, which alternate in sign, for 1, 2 and 3 tenths of a second.
"""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
RATE = 8000
ROWS = [("u1", "ann", "F", "HELLO THERE", 1), ("u2", "ben", "M", "YES", 2), ("u3", "ann", "F", "GOOD BYE", 3)]


def wave(tenths: int) -> np.ndarray:
    """Tenths of a second at as many tenths of full scale."""
    return np.tile([0.1 * tenths, -0.1 * tenths], tenths * RATE // 20).astype(np.float32)


def flac(tenths: int) -> bytes:
    """The same as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, wave(tenths), RATE, format="FLAC")
    return file.getvalue()


def audio() -> None:
    """The files themselves: one of an utterance each, and one of all, for segments."""
    folder = HERE / "audio"
    folder.mkdir()
    for id, *_, tenths in ROWS:
        (folder / f"{id}.flac").write_bytes(flac(tenths))
    everything = np.concatenate([wave(row[-1]) for row in ROWS])
    soundfile.write(folder / "all.flac", everything, RATE)
    soundfile.write(folder / "all.wav", everything, RATE)  # of FLAC Lhotse makes a pipe in wav.scp


def huggingface() -> None:
    """A DatasetDict of two splits with embedded audio, a ClassLabel among its columns."""
    from datasets import Audio, ClassLabel, Dataset, DatasetDict

    def part(rows: list[tuple[str, str, str, str, int]]) -> Dataset:
        columns = {
            "audio": [str(HERE / "audio" / f"{row[0]}.flac") for row in rows],
            "speaker_id": [row[1] for row in rows],
            "gender": [row[2] for row in rows],
            "text": [row[3] for row in rows],
        }
        made = Dataset.from_dict(columns).cast_column("audio", Audio(sampling_rate=RATE))
        return made.cast_column("gender", ClassLabel(names=["F", "M"]))

    DatasetDict(train=part(ROWS[:2]), test=part(ROWS[2:])).save_to_disk(str(HERE / "huggingface"))


def webdataset() -> None:
    """A tar of FLAC and JSON, text for one sample in a file of its own."""
    from webdataset import TarWriter

    folder = HERE / "webdataset"
    folder.mkdir()
    with TarWriter(str(folder / "train-000000.tar"), mtime=0) as tar:
        for id, speaker, sex, text, tenths in ROWS:
            known = {"speaker": speaker, "gender": sex} | ({} if id == "u2" else {"text": text})
            tar.user = tar.group = "cpc"
            tar.write({"__key__": id, "flac": flac(tenths), "json": known} | ({"txt": text} if id == "u2" else {}))


def lhotse() -> None:
    """Manifests of one recording with three supervisions, and the same as a Kaldi data folder of Lhotse's export."""
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.kaldi import export_to_kaldi

    os.chdir(HERE)  # so that paths are relative
    recordings = RecordingSet.from_recordings([Recording.from_file("audio/all.flac", recording_id="all")])
    supervisions, start = [], 0.0
    for id, speaker, sex, text, tenths in ROWS:
        length = tenths / 10
        kwargs = {"speaker": speaker, "gender": sex, "text": text, "language": "English"}
        supervisions.append(SupervisionSegment(id, "all", round(start, 1), length, **kwargs))
        start += length
    (HERE / "lhotse").mkdir()
    recordings.to_file("lhotse/recordings.jsonl.gz")
    SupervisionSet.from_segments(supervisions).to_file("lhotse/supervisions.jsonl.gz")
    waves = RecordingSet.from_recordings([Recording.from_file("audio/all.wav", recording_id="all")])
    export_to_kaldi(waves, SupervisionSet.from_segments(supervisions), "kaldi")


if __name__ == "__main__":
    for name in ("audio", "huggingface", "webdataset", "lhotse", "kaldi"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    audio()
    huggingface()
    webdataset()
    lhotse()
