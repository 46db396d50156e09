"""Listings: the files that `find_audio` finds, sorted without holding them all, in blocks that depend on them alone."""

import tracemalloc
from pathlib import Path

import pytest

from cpc.audio.decode import find_audio
from cpc.config import InputError
from cpc.evaluation.embed import inputs as module
from cpc.evaluation.embed.inputs import File, listed

NAMES = ("b/2.flac", "b/10.wav", "a.wav", "b.c.wav", "b/d/e.MP3", "z z.ogg", ".hidden.wav", "b/.no/x.wav", "text.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    (tmp_path / "audio" / "b" / "loop").symlink_to(tmp_path / "audio")
    (tmp_path / "audio" / "gone.wav").symlink_to(tmp_path / "nowhere")
    return tmp_path / "audio"


@pytest.mark.parametrize("chunk", [1, 3, 512])
def test_the_files_that_are_found_sorted_by_id(folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    listing = listed(folder)
    files = [file for _, block in listing.blocks() for file in block]
    assert listing.files == len(files)
    assert sorted(folder / file.path for file in files) == sorted(find_audio(folder))
    assert [file.id for file in files] == sorted(file.id for file in files)
    assert File("b.c", "b.c.wav", NAMES.index("b.c.wav")) in files
    assert File("gone", "gone.wav", -1) in files


def test_one_file_and_none(folder: Path, tmp_path: Path) -> None:
    listing = listed(folder / "b" / "2.flac")
    assert (listing.root, list(listing.blocks())) == (folder / "b", [(0, [File("2", "2.flac", 0)])])
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "holds no audio"), (tmp_path / "nowhere", "no such file or folder")):
        with pytest.raises(InputError, match=message):
            listed(path)


def test_two_files_of_one_id_are_refused(folder: Path) -> None:
    (folder / "b" / "2.wav").touch()
    with pytest.raises(InputError, match=r"id=b/2: two files would share it: .*2.flac and .*2.wav; rename"):
        listed(folder)


def test_blocks_are_bounded_and_shares_are_a_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [3, 3, 3, 3, 3, 10, 1, 1, 8, 2, 2]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:02d}.wav").write_bytes(b"x" * size)
    monkeypatch.setattr(module, "BLOCK_FILES", 4)
    monkeypatch.setattr(module, "BLOCK_BYTES", 9)
    listing = listed(tmp_path)
    blocks = [[file.size for file in block] for _, block in listing.blocks()]
    shares = [list(listing.blocks(first, 3)) for first in (1, 2, 3)]
    together = sorted(pair for share in shares for pair in share)
    assert together == list(listing.blocks())
    # By hand: at most 4 files and 9 bytes, a larger file alone, in order.
    assert blocks == [[3, 3, 3], [3, 3], [10], [1, 1], [8], [2, 2]]


def test_memory_does_not_depend_on_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []
    # The first round counts for nothing: names of files go into Python's table of strings, which may grow by megabytes
    # at any one of them, depending on what else the process has seen.
    for count in (5_000, 1_000, 5_000):
        found = [number * 7919 % count for number in range(count)]  # in no order
        monkeypatch.setattr(module, "walk_audio", lambda root, found=found: (root / f"{n:06d}.wav" for n in found))
        tracemalloc.start()
        listing = listed(tmp_path)
        assert sum(len(block) for _, block in listing.blocks()) == listing.files == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 4_000 * 50  # all files at once would take 300 bytes each


def test_the_digest_covers_paths_and_sizes(folder: Path) -> None:
    digests = []
    for _ in range(3):
        digests.append(listed(folder).digest)
        if len(digests) == 2:
            (folder / "a.wav").write_bytes(b"longer than before")
    assert digests[0] == digests[1] != digests[2]
