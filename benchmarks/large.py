"""Packed corpora of any size in seconds: a real manifest, splits and labels, over shards that hold only silence.

The shards are sparse files: a corpus of a million utterances and 3,300 hours takes 100 MB of disk.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpc.data import shards
from cpc.data.alignment import GROUP
from cpc.data.corpus import HEADER
from cpc.data.pack import SHARD_SAMPLES
from cpc.data.shards import ShardContents
from cpc.data.splits import write_split
from cpc.io import write_json

RATE = 16000
PHONES = 100  # intervals an utterance: twelve seconds of reading
WORDS = 2000  # different ones


def make(path: Path, utterances: int, first: int = 0, labels: bool = True) -> Path:
    """A corpus of utterances number `first` and on: 2 to 22 s each, 40 a chapter, 400 a speaker, 30 words of text."""
    lengths = np.random.default_rng([utterances, first]).integers(2 * RATE, 22 * RATE, utterances)
    made = list(_parts(lengths.tolist(), first))
    shards.write_manifest(path / "manifest.parquet", made)
    for shard, part in enumerate(made):
        file = shards.shard_path(path, shard)
        file.parent.mkdir(exist_ok=True)
        samples = part.rows[-1][-2] + part.rows[-1][-1]
        with file.open("wb") as empty:
            shards._write_header(empty, samples)
            empty.truncate(HEADER + 2 * samples)
    ids = [row[0] for part in made for row in part.rows]
    write_split(path, "tenth", ids[::10])
    if labels:
        _write_labels(path / "labels" / "phones.parquet", ids)
    info = {"format": shards.FORMAT, "sample_rate": RATE, "utterances": utterances, "samples": int(lengths.sum())}
    write_json(path / "corpus.json", info | {"skipped": 0, "digest": f"{utterances} from {first}", "plan": ""})
    return path


def _parts(lengths: list[int], first: int) -> Iterator[ShardContents]:
    generator = np.random.default_rng(first)
    words = np.array([f"WORD{number}" for number in range(WORDS)])
    rows: list[list[object]] = []
    offset, shard = 0, 0
    for number, length in zip(count(first), lengths, strict=False):
        if offset + length > SHARD_SAMPLES:
            yield ShardContents(rows, [], "")
            rows, offset, shard = [], 0, shard + 1
        speaker, chapter = f"{number // 400:05d}", f"{number // 40:06d}"
        text = " ".join(words[generator.integers(0, WORDS, 30)])
        id = f"{speaker}-{chapter}-{number:07d}"
        rows.append([id, speaker, chapter, "FM"[number // 400 % 2], "train", text, shard, offset, length])
        offset += length
    yield ShardContents(rows, [], "")


def _write_labels(path: Path, ids: list[str]) -> None:
    """Phone labels as `write_alignment` writes them, the same for each group of utterances: that takes no time."""
    path.parent.mkdir()
    generator = np.random.default_rng(0)
    edges = np.cumsum(generator.integers(3, 20, (GROUP, PHONES + 1)), axis=1) / 100
    seconds, labels = pa.list_(pa.float64()), pa.list_(pa.int16())
    schema = pa.schema({"id": pa.string(), "onset": seconds, "offset": seconds, "label": labels})
    columns = [edges[:, :-1], edges[:, 1:], generator.integers(0, 41, (GROUP, PHONES))]
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), field.type.value_type), PHONES).cast(field.type)
        for values, field in zip(columns, list(schema)[1:], strict=True)
    ]
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(ids), GROUP):
            group = pa.array(ids[start : start + GROUP])
            writer.write_table(pa.table([group, *(values[: len(group)] for values in lists)], schema=schema))
    inventory = [str(label) for label in range(41)]
    write_json(path.with_suffix(".json"), {"inventory": inventory, "source": "made up", "provenance": {}, "sha256": ""})
