"""Work spread over processes: in order, with its errors, and without orphans."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cpc.config import InputError
from data_prep.processes import cores, spread


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    assert list(spread(math.sqrt, [float(n * n) for n in range(20)], workers, chunksize=3)) == list(range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_work_arrive(workers: int) -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(spread(math.sqrt, [1.0, -1.0], workers))


def test_a_killed_process_is_a_clear_mistake() -> None:
    with pytest.raises(InputError, match=r"workers=2: one of them was killed.*run the same again"):
        list(spread(os._exit, [1], 2))


def test_there_is_at_least_one_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("how", ["kill", "leave"])
def test_no_process_outlives_its_parent(how: str) -> None:
    """After kill −9 of the parent, and where its consumer stops listening while tasks run."""
    code = "import time; from data_prep.processes import spread\nresults = spread(time.sleep, [0, 600, 600], 2)\n"
    code += "print(next(results), flush=True)\n" + ("results.close()" if how == "leave" else "next(results)")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout and parent.stdout.readline() == b"None\n"
    children = psutil.Process(parent.pid).children(recursive=True) if how == "kill" else []
    if how == "kill":
        assert len(children) >= 2
        parent.kill()
    begun = time.monotonic()
    assert parent.wait(timeout=30) == (-9 if how == "kill" else 0)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert time.monotonic() - begun < 30
