"""Work is described once: every engine does each block once, and tells of every item."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpc.config import InputError
from cpc.data.engine import Engine, Threads, Tick, Work, Worker, check_engine
from cpc.data.progress import Progress
from cpc.io import WRITER, atomic, remove_temporary, write_text
from data_prep.processes import Processes


def squares() -> Worker[int, int]:
    """A worker that squares numbers, and knows one that it cannot."""

    def work(blocks: Iterator[int], tick: Tick) -> Iterator[int]:
        for block in blocks:
            if block < 0:
                raise InputError(f"block={block}: must be positive; give another")
            tick(16000 * block, failed=block == 3)
            yield block * block

    return work


def work(blocks: list[int], opened: Callable[[], Worker[int, int]] = squares) -> Work[int, int]:
    return Work("squaring", blocks, opened, len(blocks), 16000, "numbers")


ENGINES = [Threads(), Threads(3), Processes(1), Processes(2)]


@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_every_block_is_done_once(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(engine.run(work(list(range(20))), progress=False)) == [n * n for n in range(20)]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_an_error_of_a_worker_is_the_callers(engine: Engine) -> None:
    with pytest.raises(InputError, match="block=-1: must be positive"):
        list(engine.run(work([1, -1, 2]), progress=False))


def test_blocks_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def blocks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    for engine in (Threads(), Processes(1)):
        taken.clear()
        results = engine.run(Work("x", blocks(), squares, 100, 16000), progress=False)
        assert next(results) == 0
        assert len(taken) <= 2
        results.close()  # type: ignore[attr-defined]


def test_other_threads_end_at_their_next_item_after_an_error() -> None:
    ticks: list[int] = []
    failed = threading.Event()

    def opened() -> Worker[int, int]:
        def endless(blocks: Iterator[int], tick: Tick) -> Iterator[int]:
            for block in blocks:
                if block == 1:
                    failed.set()
                    raise InputError("block=1: no")
                while True:
                    failed.wait()
                    time.sleep(0.01)
                    ticks.append(block)
                    tick()
            yield 0

        return endless

    with pytest.raises(InputError, match="block=1"):
        list(Threads(2).run(work([0, 1], opened), progress=False))
    time.sleep(0.1)
    before = len(ticks)
    time.sleep(0.1)
    assert len(ticks) == before


def test_progress_says_items_hours_speed_what_is_left_and_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cpc.data.progress.PLAIN_EVERY", 0.0)
    list(Threads().run(work([1, 3600, 3])))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("squaring: 1 of 3 numbers, 0.0 h of audio, ")
    assert "× real time" in lines[2]
    assert lines[2].endswith(", 1 failed, 0 s left")
    assert Progress("x", 2, 16000, False).failed == 0


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("spark", {}, "engine=spark: must be one of local, ray"),
        ("local", {"address": "a:1"}, "address=a:1: belongs to --engine ray; add that, or drop --address"),
        ("local", {"gpus": 1.0}, "gpus=1.0: belongs to --engine ray"),
    ],
)
def test_options_of_a_cluster_need_one(name: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_engine(name, given)
    check_engine("ray", given)


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a" / "b.json"
    monkeypatch.setenv(WRITER, "worker-here-1")
    with atomic(file) as first:
        first.write(b"the sa")
        monkeypatch.setenv(WRITER, "worker-there-2")
        write_text(file, "the same")
        first.write(b"me")
    assert file.read_text() == "the same"
    (file.parent / "c.npy.worker-there-2.tmp").write_bytes(b"half")  # as a kill leaves it
    remove_temporary(tmp_path)
    assert [path.name for path in file.parent.iterdir()] == ["b.json"]
    assert os.environ[WRITER] == "worker-there-2"
