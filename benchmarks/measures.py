"""What the benchmarks of corpora measure with: CPU and wall clock, memory, processes of their own, Markdown tables."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; the first column to the left, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of all threads and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def memory(name: str) -> float:
    """MiB that the kernel counts for this process: VmRSS is now, VmHWM the most since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


def child(section: str, size: int, scratch: Path) -> dict[str, float]:
    """Run one measurement in a fresh process, which prints it as JSON."""
    command = [sys.executable, "-m", "benchmarks.corpus", "--child", f"{section}:{size}:{scratch}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
