"""The catalogue: which archives LibriSpeech and Mini LibriSpeech consist of, their checksums, and who serves them.

Checksums are those of OpenSLR's own md5sum.txt (resources 12 and 31) as several independent projects quote them;
sizes in bytes agree between TensorFlow Datasets, Kaldi's recipes and others. Hours: Panayotov et al. 2015, table 1;
those of Mini LibriSpeech follow from the size of its archives at 63.5 MB an hour.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from cpc.config import STRICT, InputError, load

SLACK = 1.02  # an unpacked file takes whole disk blocks; FLAC itself is hardly smaller inside an archive
PACKED = 3600 * 16000 * 2  # bytes of int16 samples at 16 kHz an hour
_BLOCK = 1 << 20  # bytes read at a time


def _is_path(text: str) -> str:
    if not re.fullmatch(r"(\w[\w.-]*/)*\w[\w.-]*\.(tar\.gz|tgz)", text):
        raise ValueError("must be a path below the mirror's address that ends in .tar.gz, such as 12/dev-clean.tar.gz")
    return text


def _is_checksum(text: str) -> str:
    if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", text):
        raise ValueError("must be md5: and 32, or sha256: and 64 hexadecimal digits in lower case")
    return text


@dataclass(frozen=True, config=STRICT)
class Archive:
    """One subset's .tar.gz: where it lies below a mirror's address, its size in bytes and its checksum.

    `hours` of audio and the number of `utterances` are 0 where nobody knows them.
    """

    path: Annotated[str, AfterValidator(_is_path)]
    size: Annotated[int, Field(gt=0)]
    checksum: Annotated[str, AfterValidator(_is_checksum)]
    hours: Annotated[float, Field(ge=0)] = 0.0
    utterances: Annotated[int, Field(ge=0)] = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def unpacked(self) -> int:
        """Bytes on disk of the files inside, about."""
        return round(SLACK * self.size)

    @property
    def packed(self) -> int:
        """Bytes of the packed corpus, about; for unknown hours twice the archive, as FLAC halves speech."""
        return round(self.hours * PACKED) or 2 * self.size


@dataclass(frozen=True, config=STRICT)
class Catalogue:
    """Archives by the name of their subset, and the addresses of the mirrors, in the order in which they are asked."""

    archives: dict[str, Archive]
    mirrors: tuple[str, ...] = ()

    def choose(self, subsets: Sequence[str]) -> dict[str, Archive]:
        """The archives of these subsets, each once. Raises InputError with the nearest name for an unknown one."""
        for subset in subsets:
            if subset not in self.archives:
                near = difflib.get_close_matches(subset, self.archives, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InputError(f"subset={subset}: no such subset{hint} (subsets: {', '.join(self.archives)})")
        return {subset: self.archives[subset] for subset in subsets}


def read_catalogue(path: Path) -> Catalogue:
    """A catalogue of your own from JSON (or YAML): `{"archives": {NAME: {path, size, checksum}}, "mirrors": […]}`.

    Raises InputError for a missing file, and one that names file, key, value and rule for everything wrong in it.
    """
    if not path.is_file():
        raise InputError(f"catalogue={path}: no such file; name a JSON file with archives and mirrors")
    catalogue = load(Catalogue, path.absolute())
    for subset in catalogue.archives:
        if not re.fullmatch(r"\w[\w.-]*", subset):
            raise InputError(f"{path}: archives.{subset}: a subset is a folder's name: letters, digits, dots, - and _")
    return catalogue


def measure(file: Path, algorithm: str) -> str:
    """The checksum of a file as `ALGORITHM:hexadecimal`."""
    sha = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    return f"{algorithm}:{sha.hexdigest()}"


def wrong_checksum(file: Path, archive: Archive) -> str | None:
    """The checksum that `file` has instead of the archive's; None if it is the right one."""
    got = measure(file, archive.checksum.partition(":")[0])
    return None if got == archive.checksum else got


def _archive(resource: int, subset: str, size: int, md5: str, hours: float, utterances: int) -> Archive:
    return Archive(f"{resource}/{subset}.tar.gz", size, f"md5:{md5}", hours, utterances)


# OpenSLR's own address, then its mirrors in the USA, Europe and China.
MIRRORS = (
    "https://www.openslr.org/resources",
    "https://openslr.trmal.net/resources",
    "https://openslr.elda.org/resources",
    "https://openslr.magicdatatech.com/resources",
)
_ROWS = (
    (12, "dev-clean", 337926286, "42e2234ba48799c1f50f24a7926300a1", 5.4, 2703),
    (12, "dev-other", 314305928, "c8d0bcc9cca99d4f8b62fcc847357931", 5.3, 2864),
    (12, "test-clean", 346663984, "32fa31d27d2e1cad72775fee3f4849a9", 5.4, 2620),
    (12, "test-other", 328757843, "fb5a50374b501bb3bac4815ee91d3135", 5.1, 2939),
    (12, "train-clean-100", 6387309499, "2a93770f6d5c6c964bc36631d331a522", 100.6, 28539),
    (12, "train-clean-360", 23049477885, "c0e676e450a7ff2f54aeade5171606fa", 363.6, 104014),
    (12, "train-other-500", 30593501606, "d1a0fd59409feb2c614ce4d30c387708", 496.7, 148688),
    (31, "dev-clean-2", 126046265, "6d7ab67ac6a1d2c993d050e16d61080d", 2.0, 1089),
    (31, "train-clean-5", 332954390, "5df7d4e78065366204ca6845bb08f490", 5.2, 1519),
)
LIBRISPEECH = Catalogue({row[1]: _archive(*row) for row in _ROWS}, MIRRORS)
