"""Sources on disk: in the order of their ids, any number of them in the same memory."""

import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpc.config import InputError
from cpc.data import pack as listing
from cpc.data.pack import Listing, common_folder, listed
from cpc.data.progress import stream
from cpc.data.shards import Source
from cpc.data.spool import Database, Spool

IDS = st.text(min_size=1, max_size=8).filter(lambda id: id == id.strip() and id.isprintable())


@given(st.lists(IDS, unique=True, max_size=40), st.integers(0, 45), st.integers(0, 45))
def test_a_listing_is_the_sorted_list_and_its_slices_are_those_of_the_list(ids: list[str], a: int, b: int) -> None:
    made = [Source(id, Path(f"in/{id}.wav"), "s", "c", "F", "dev", f"text of {id}", a, b or None) for id in ids]
    expected = sorted(made, key=lambda source: source.id)
    found = listed(iter(made))
    assert (list(found), len(found)) == (expected, len(expected))
    assert list(found[a:b]) == expected[a:b]
    assert list(found[a:][: b // 2]) == expected[a:][: b // 2]
    assert [found[place] for place in range(-len(ids), len(ids))] == expected * 2
    with pytest.raises(IndexError):
        found[len(ids)]


def test_names_that_are_not_utf_8_come_back(tmp_path: Path) -> None:
    odd = Source("a", tmp_path / "odd\udce4byte\n.wav", "s\udce4", text="line\nand\ttab")
    assert list(listed([odd])) == [odd]


def test_reading_goes_on_where_a_chunk_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_CHUNK", 3)
    made = [Source(f"{place:02d}", Path("x"), "s") for place in range(10)]
    assert list(listed(reversed(made))) == made
    assert list(listed(made)[2:9]) == made[2:9]


def test_the_common_folder_is_the_deepest_that_holds_every_file(tmp_path: Path) -> None:
    def common(*names: str) -> Path:
        return common_folder(Source(name, tmp_path / name, "s") for name in names)

    assert common("a/b/x.wav", "a/b/y.wav") == tmp_path / "a/b"
    assert common("a/b/x.wav", "a/bc/y.wav", "a/b/z.wav") == tmp_path / "a"
    assert common("a/b/x.wav", "y.wav") == tmp_path


def peak(work: int) -> int:
    """Bytes of Python's memory that listing and reading `work` sources takes at most."""

    def made() -> Iterator[Source]:
        for place in range(work):
            yield Source(f"{place * 7919 % work:06d}", Path("x"), "s", text="some words " * 20)

    tracemalloc.start()
    found = listed(made())
    assert sum(1 for _ in found) == work
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_number_of_sources() -> None:
    peak(100)
    few, many = peak(500), peak(5000)  # of which a list would take 2 MB
    assert many < few + 100_000


def test_no_room_for_temporary_files_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database("CREATE TABLE full (text TEXT)", "PRAGMA max_page_count=3")
    with pytest.raises(InputError, match=r"temporary files: .*\(database or disk is full\); set TMPDIR"):
        database.write("INSERT INTO full VALUES (?)", [("x" * 100_000,)])

    def unable(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", unable)
    with pytest.raises(InputError, match="unable to open"):
        Spool()


@given(st.dictionaries(st.text(st.characters(), max_size=5), st.lists(st.integers()), max_size=30))
def test_a_spool_is_a_dictionary_in_the_order_of_its_keys(given: dict[str, list[int]]) -> None:
    spool = Spool()
    for key, value in given.items():
        spool[key] = "overwritten"
        spool[key] = value
    assert list(spool.values()) == [given[key] for key in sorted(given)]
    assert len(spool) == len(given)
    assert all(key in spool and spool.get(key) == value for key, value in given.items())
    assert "not there" not in spool
    assert spool.get("not there") is None


def test_a_spool_of_more_than_a_chunk_and_odd_names() -> None:
    spool = Spool()
    for place in range(1000):
        spool[f"{place:03d}"] = place
    spool["odd\udce4byte"] = 1000
    assert list(spool.values()) == list(range(1001))


def test_a_stream_keeps_the_order_and_takes_little_ahead() -> None:
    taken = []

    def given() -> Iterator[int]:
        for place in range(100):
            taken.append(place)
            yield place

    for expected, square in enumerate(stream(lambda place: place**2, given(), workers=3)):
        assert square == expected**2
        assert len(taken) <= expected + 8
    assert taken == list(range(100))


def test_an_error_in_a_stream_comes_where_it_belongs() -> None:
    results = stream(lambda place: 1 // (3 - place), range(10), workers=2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_listing_cannot_be_read_backwards() -> None:
    found: Listing = listed([Source("a", Path("x"), "s")])
    with pytest.raises(ValueError, match="step 1"):
        found[::-1]
