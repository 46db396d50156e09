"""Unpacking: the subset whole or not at all, and nothing that a hostile archive asks for."""

import random
import signal
import tarfile
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from cpc.config import InputError
from data_prep.download import claimed
from data_prep.unpack import unpack
from tests.openslr import tarball

GOOD = {
    "LibriSpeech/LICENSE.TXT": b"CC BY 4.0",
    "LibriSpeech/SPEAKERS.TXT": b"14 | F | dev-clean | 1.00 | A | B\n",
    "LibriSpeech/dev-clean/14/200/14-200-0000.flac": b"flac",
    "LibriSpeech/dev-clean/14/200/14-200.trans.txt": b"14-200-0000 HELLO\n",
}


def content(root: Path) -> dict[str, bytes]:
    """Every file below `root` but the locks."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if path.suffix != ".lock"}


def write(folder: Path, archive: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "dev-clean.tar.gz").write_bytes(archive)
    return folder / "dev-clean.tar.gz"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "data" / "LibriSpeech"


def test_the_archive_s_layout_comes_out(tmp_path: Path, into: Path) -> None:
    members = {f"./{name}": body for name, body in GOOD.items()} | {"LibriSpeech/other/1/2/x.flac": b"not asked for"}
    assert unpack(write(tmp_path, tarball(members)), "dev-clean", into, progress=False) == into / "dev-clean"
    assert content(into.parent) == GOOD
    assert not (into / ".dev-clean.tmp").exists()


def test_a_subset_that_is_there_is_left_alone(tmp_path: Path, into: Path) -> None:
    archive = write(tmp_path, tarball(GOOD))
    unpack(archive, "dev-clean", into, progress=False)
    archive.unlink()
    unpack(archive, "dev-clean", into, progress=False)
    assert content(into.parent) == GOOD


def test_texts_that_differ_between_archives_stay_with_their_subset(tmp_path: Path, into: Path) -> None:
    unpack(write(tmp_path, tarball(GOOD)), "dev-clean", into, progress=False)
    other = {name.replace("dev-clean", "dev-other"): body for name, body in GOOD.items()}
    other["LibriSpeech/SPEAKERS.TXT"] = b"15 | M | dev-other | 1.00 | C\n"
    unpack(write(tmp_path, tarball(other)), "dev-other", into, progress=False)
    assert (into / "SPEAKERS.TXT").read_bytes() == GOOD["LibriSpeech/SPEAKERS.TXT"]
    assert (into / "dev-other" / "SPEAKERS.TXT").read_bytes() == other["LibriSpeech/SPEAKERS.TXT"]
    assert not (into / "dev-other" / "LICENSE.TXT").exists(), "an equal text is not kept twice"


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


INSIDE = "LibriSpeech/dev-clean/14/200/x"
HOSTILE = {
    "climbs": (info("LibriSpeech/dev-clean/../../../escape"), r"'LibriSpeech/dev-clean/../../../escape' is a path"),
    "climbs at once": (info("../escape"), r"'../escape' is a path outside the target"),
    "absolute": (info("/escape"), r"/escape' is a path outside the target"),
    "elsewhere": (info("escape"), r"'escape' is not below LibriSpeech/"),
    "symlink": (info(INSIDE, tarfile.SYMTYPE, "/etc/passwd"), r"x' is a symbolic link"),
    "hard link": (info(INSIDE, tarfile.LNKTYPE, "LibriSpeech/LICENSE.TXT"), r"x' is a hard link"),
    "device": (info(INSIDE, tarfile.CHRTYPE), r"x' is a device"),
    "block device": (info(INSIDE, tarfile.BLKTYPE), r"x' is a device"),
    "pipe": (info(INSIDE, tarfile.FIFOTYPE), r"x' is a named pipe"),
}


@pytest.mark.parametrize("place", [0, len(GOOD)])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(tmp_path: Path, into: Path, name: str, place: int) -> None:
    member, message = HOSTILE[name]
    if name == "absolute":
        member = info(str(tmp_path / "escape"))
    members = [(tarfile.TarInfo(good), body) for good, body in GOOD.items()]
    members.insert(place, (member, b"" if member.type != tarfile.REGTYPE else b"gotcha"))
    into.mkdir(parents=True)
    (into / "SPEAKERS.TXT").write_bytes(b"mine")
    archive = write(tmp_path / "archives", tarball(members))
    before = content(tmp_path)
    with pytest.raises(InputError, match=rf"^archive={archive}: its member .*{message}.*; only plain files"):
        unpack(archive, "dev-clean", into, progress=False)
    assert content(tmp_path) == before, "what was there stays, nothing is added"
    assert [path for path in into.rglob("*") if path.suffix != ".lock"] == [into / "SPEAKERS.TXT"]


def noisy() -> dict[str, bytes]:
    """Members that do not compress, so that a cut falls into their data."""
    noise = random.Random(0)
    return GOOD | {f"LibriSpeech/dev-clean/14/200/{place}.flac": noise.randbytes(5000) for place in range(9)}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.99, "footer"])
def test_a_truncated_archive_leaves_no_subset(tmp_path: Path, into: Path, share: float | str) -> None:
    whole = tarball(noisy())
    archive = write(tmp_path, whole[: -4 if share == "footer" else int(share * len(whole))])
    with pytest.raises(InputError, match=r"dev-clean.tar.gz: damaged or cut short \(.+\); nothing of it was kept"):
        unpack(archive, "dev-clean", into, progress=False)
    assert content(into) == {}
    write(tmp_path, whole)
    assert len(content(unpack(archive, "dev-clean", into, progress=False))) == 11


def test_a_flipped_bit_is_found_by_gzip_s_own_checksum(tmp_path: Path, into: Path) -> None:
    body = bytearray(tarball(noisy()))
    body[len(body) // 2] ^= 1
    with pytest.raises(InputError, match="damaged or cut short"):
        unpack(write(tmp_path, bytes(body)), "dev-clean", into, progress=False)
    assert content(into) == {}


@pytest.mark.parametrize("body", [b"not an archive at all", b"<html>404</html>"])
def test_what_is_no_archive_is_said(tmp_path: Path, into: Path, body: bytes) -> None:
    with pytest.raises(InputError, match=r"damaged or cut short \(Not a gzipped file"):
        unpack(write(tmp_path, body), "dev-clean", into, progress=False)


def test_the_archive_of_another_subset_is_said(tmp_path: Path, into: Path) -> None:
    with pytest.raises(InputError, match=r"holds no subset, not LibriSpeech/dev-other; is it the archive of another"):
        unpack(write(tmp_path, tarball(GOOD)), "dev-other", into, progress=False)
    assert content(into) == {}


def test_a_folder_that_cannot_be_written(tmp_path: Path, into: Path) -> None:
    into.mkdir(parents=True)
    (into / ".dev-clean.tmp").write_bytes(b"a file in the way")
    with pytest.raises(InputError, match=r"cannot be written \(.+\); fix that"):
        unpack(write(tmp_path, tarball(GOOD)), "dev-clean", into, progress=False)


def test_two_processes_do_not_unpack_one_subset(tmp_path: Path, into: Path) -> None:
    into.mkdir(parents=True)
    with claimed(into / ".dev-clean.lock"), pytest.raises(InputError, match="another process is at work"):
        unpack(write(tmp_path, tarball(GOOD)), "dev-clean", into, progress=False)


def test_killed_while_unpacking_leaves_no_half_subset(tmp_path: Path, into: Path) -> None:
    """Killed −9 as soon as it has begun: the subset's name does not exist, and the next run makes it whole."""
    members = GOOD | {f"LibriSpeech/dev-clean/14/200/{place:05d}.flac": b"x" for place in range(4000)}
    archive = write(tmp_path, tarball(members))
    process = get_context("fork").Process(target=unpack, args=(archive, "dev-clean", into), kwargs={"progress": False})
    process.start()
    try:
        while not (into / ".dev-clean.tmp" / "LibriSpeech" / "dev-clean").exists():
            assert process.is_alive(), "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (into / "dev-clean").exists()
    unpack(archive, "dev-clean", into, progress=False)
    assert content(into.parent) == members
    assert not (into / ".dev-clean.tmp").exists()
