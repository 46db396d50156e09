"""Features of audio files on disk: `cpc embed`.

Short files share padded batches, long ones go through in pieces with the state carried over; either way the result is
what the file gives alone, in one piece.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from cpc.config import InputError
from cpc.corpus.listing import check_shard
from cpc.device import Precision
from cpc.device import device as find_device
from cpc.device import precision as exact_precision
from cpc.evaluation.embedding.batches import evaluating
from cpc.evaluation.embedding.formats import FORMATS, Format, npy_name, part_name
from cpc.evaluation.embedding.job import Job, LayerName
from cpc.evaluation.embedding.ledger import Ledger
from cpc.evaluation.embedding.listing import listed
from cpc.model import CPC, load

# Samples of a batch; longer files go through in pieces. 33 s at 16 kHz keep a 512-channel encoder within about 1 GiB,
# each of the batches that a CPU computes at once.
BATCH_SAMPLES = {"cpu": 1 << 19, "cuda": 1 << 22}


class Embedded(NamedTuple):
    """What OUT holds after a call: files with features, `new` of them by this call, and files skipped.

    `notes` is the number of files that were read though the length in their header is wrong.
    """

    ledger: Ledger
    source: Path
    files: int
    new: int
    skips: int
    notes: int = 0

    @property
    def written(self) -> list[Path]:
        """The .npy of each file, or the parts or shards of them all."""
        format, out = self.ledger.format, self.ledger.out
        if format == "npy":
            return [out / npy_name(row[0]) for _, record in self.ledger.records() for row in record.rows]
        return [out / part_name(format, number) for number, _ in self.ledger.records()]

    @property
    def skipped(self) -> list[tuple[Path, str]]:
        """Files without features, and why."""
        return [(self.source / path, why) for _, record in self.ledger.records() for path, why in record.skipped]


def embed(
    model: CPC | str | Path,
    source: str | Path,
    out: str | Path,
    layer: LayerName = "c",
    *,
    format: Format = "npy",
    precision: Precision = "fp32",
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    batch_samples: int | None = None,
    progress: bool = False,
) -> Embedded:
    """Write the features of every audio file of `source` (a file or a folder with its subfolders) to the folder `out`.

    `model` is a model, a run folder or a checkpoint. `format` is npy (OUT/…/STEM.npy for each file, float32 frames ×
    dim), parquet (a data set in OUT/features: id, path, start, frames, dim, features as frames × dim in a row) or
    numpy-shards (OUT/features/*.npy, with OUT/index.parquet: id, path, shard, offset, frames).

    Files of similar length share batches of at most `batch_samples` samples; padding adds less than an eighth to a file
    of at least 1024 samples. Files longer than a batch go through in pieces, in constant memory. Memory does not depend
    on the number of files either; a CPU computes as many batches at once as torch has threads, 8 at most. A call that
    was killed goes on when it is made again, and ends with the same bytes: blocks of at most 512 files and 64 MiB of
    audio are complete or done again. With `shard` (i, n) every n-th block is done, from the i-th on; all shards, into
    one folder, give the bytes of one call without. A file that cannot be decoded or is too short for one frame is
    listed with the reason in OUT/skipped.tsv, and one that is read though the length in its header is wrong in
    OUT/notes.tsv.

    Raises:
        InputError: `source` has no audio or two files of one name, or `out` holds features of another kind.
    """
    chosen = load(model, find_device()) if isinstance(model, str | Path) else model
    _check(format, layer, shard)
    kind = next(chosen.parameters()).device
    listing = listed(Path(source))
    with ExitStack() as stack:
        ledger = Ledger(Path(out), format)
        exact = exact_precision(precision, kind)
        job = Job(chosen, layer, exact, ledger, listing, shard, workers or os.cpu_count() or 1)
        stack.enter_context(ledger.lock(f"{shard[0]}-of-{shard[1]}"))
        with ledger.lock("tables", wait=True):
            ledger.claim(job.settings, listing.digest)
        stack.enter_context(evaluating(chosen))
        new = job.run(batch_samples or BATCH_SAMPLES.get(kind.type, 1 << 20), progress)
        ledger.finish()
        counts = [[len(column) for column in record] for _, record in ledger.records()]
        files, skips, notes = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
        return Embedded(ledger, listing.root, files, new, skips, notes)


def _check(format: str, layer: str, shard: tuple[int, int]) -> None:
    if format not in FORMATS:
        raise InputError(f"format={format}: must be one of {', '.join(FORMATS)}")
    if layer not in ("z", "c"):
        raise InputError(f"layer={layer}: must be z or c")
    check_shard(*shard)
