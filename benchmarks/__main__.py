"""Run the benchmarks and write what they print into benchmarks/tables.md, each between its own two markers.

    python -m benchmarks [SECTION …]        # what `make bench` does; without names: all of them
    python -m benchmarks --again [SECTION …]    # whether the ratios in the tables repeat; the tables stay

A section that fails leaves its old table and is named at the end, with exit code 1. A section that is done is written
at once: a run that is stopped keeps what it has measured.
"""

import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.measures import markdown
from benchmarks.repeat import BOUND, HEAD, changes, summary, tables
from cpc.config import InputError
from cpc.device import device_name
from cpc.io import write_text
from data_prep.console import run

app = typer.Typer(add_completion=False)

TABLES = Path(__file__).parent / "tables.md"
SPEECH = Path("data/speech")
DEMO = Path("runs/demo")  # what `make demo` trains
# Section → the arguments of `python -m`. Those that need packed real speech or a GPU are skipped where there is none.
SECTIONS = {
    "step": "benchmarks.step",
    "kept": "benchmarks.step --keep-memory",
    "used": "benchmarks.used",
    "used-bf16": "benchmarks.used --bf16",
    "parts": "benchmarks.parts",
    "parts-small": "benchmarks.parts --preset small",
    "neighbour": "benchmarks.neighbour --precision bf16",
    "scaling": "benchmarks.scaling",
    "allocator": "benchmarks.allocator",
    "augment": "benchmarks.augment",
    "packing": "benchmarks.corpus --only packing",
    "packing-memory": "benchmarks.corpus --only memory",
    "opening": "benchmarks.corpus --only opening",
    "probing": "benchmarks.probing",
    "probing-run": f"benchmarks.probing --run {DEMO} --corpus data/demo",
    "embed": "benchmarks.embed",
    "export": "benchmarks.export",
    "start-up": "benchmarks.endurance --only start",
    "endurance": "benchmarks.endurance --only memory",
    "abx": f"benchmarks.abx {SPEECH} --split libri-devclean",
    "gpu": "benchmarks.gpu",
}
AGAIN = "again"  # the section of what was measured again


def markers(section: str) -> tuple[str, str]:
    """The lines between which its output stands."""
    return f"<!-- begin {section} -->", f"<!-- end {section} -->"


def insert(page: str, section: str, command: str, output: str) -> str:
    """The page with the command and its output between the markers of the section."""
    begin, end = markers(section)
    if begin not in page or end not in page:
        raise InputError(f"{TABLES}: lacks the lines {begin} and {end}; put them where the table of {section} belongs")
    head = "" if f"Python {platform.python_version()}" in output else f"{circumstances()}\n\n"  # some say it themselves
    shown = f"{begin}\n\n    python -m {command}\n\n{head}{fenced(output)}\n\n{end}"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: shown, page, count=1, flags=re.DOTALL)


def body(page: str, section: str) -> str:
    """What stands between the markers of a section."""
    begin, end = markers(section)
    return page.partition(begin)[2].partition(end)[0]


def repeated(page: str, section: str, old: str, new: str) -> str:
    """The page with the section's row among those of the ratios that were measured again."""
    rows = {row[0]: row for table in tables(body(page, AGAIN)) for row in table[1:]}
    rows[section] = [section, *summary(changes(old, new))]
    table = markdown(HEAD, [rows[name] for name in SECTIONS if name in rows])
    return insert(page, AGAIN, "benchmarks --again", table)


def circumstances() -> str:
    """The day, the processor and the versions."""
    versions = [f"{name} {version(name)}" for name in ("torch", "numpy", "pyarrow")]
    machine = f"{device_name(torch.device('cpu'))}; Python {platform.python_version()}"
    return ", ".join([f"{time.strftime('%Y-%m-%d', time.gmtime())}; {machine}", *versions])


def fenced(output: str) -> str:
    """Drawn tables between fences; Markdown as it is."""
    return f"```text\n{output.strip()}\n```" if "━" in output else output.strip()


def measured(command: str) -> str | None:
    """What a benchmark prints; None if it fails, and then its complaint goes to stderr."""
    done = subprocess.run([sys.executable, "-m", *command.split()], stdout=subprocess.PIPE, text=True, check=False)
    return None if done.returncode else done.stdout


def missing(command: str) -> str:
    """What this machine lacks for a benchmark; empty if nothing."""
    for folder in (SPEECH, DEMO):
        if str(folder) in command and not folder.is_dir():
            return str(folder)
    return "GPU" if command == SECTIONS["gpu"] and not torch.cuda.is_available() else ""


@app.command()
def main(
    sections: Annotated[list[str] | None, typer.Argument(help="Which. Default: all.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Keep the tables; write how far their ratios moved.")] = False,
) -> None:
    """Run sections and write their tables into benchmarks/tables.md."""
    unknown = [name for name in sections or () if name not in SECTIONS]
    if unknown:
        raise InputError(f"section={unknown[0]}: must be one of {', '.join(SECTIONS)}")
    failed = []
    for section in sections or SECTIONS:
        command = SECTIONS[section]
        if lacking := missing(command):
            typer.echo(f"{section}: skipped: there is no {lacking}")
            continue
        begun = time.perf_counter()
        output = measured(command)
        typer.echo(f"{section}: {'failed' if output is None else 'measured'}, {time.perf_counter() - begun:.0f} s")
        if output is None:
            failed.append(section)
        elif again:
            old = body(TABLES.read_text(), section)
            for change in (each for each in changes(old, output) if each.relative > BOUND):
                typer.echo(f"  {change.where}: {change.before:g}, now {change.after:g}")
            write_text(TABLES, repeated(TABLES.read_text(), section, old, output))
        else:
            write_text(TABLES, insert(TABLES.read_text(), section, command, output))
    if failed:
        raise InputError(f"sections {', '.join(failed)}: failed, see above; their old tables stand")


if __name__ == "__main__":
    run(app)
