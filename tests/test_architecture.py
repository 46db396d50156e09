"""The house: imports point only downwards, light imports stay light, files and functions stay small."""

import ast
import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import cpc
import data_prep
from cpc.audio import Undecodable

ROOT = Path(__file__).parents[1]
LAYERS = {
    "cpc.config": 0,
    "cpc.seeding": 0,
    "cpc.version": 0,
    "cpc.device": 0,
    "cpc.distributed": 0,
    "cpc.damage": 0,
    "cpc.files": 0,
    "cpc.style": 0,
    "cpc.spread": 1,
    "cpc.audio": 1,
    "cpc.waveform": 1,
    "cpc.corpus": 1,
    "cpc.contrast": 1,
    "cpc.augment": 2,
    "cpc.nn": 2,
    "cpc.model": 3,
    "cpc.objective": 3,
    "cpc.utterance": 3,
    "cpc.labelled": 3,
    "cpc.grouping": 3,
    "cpc.streaming": 3,
    "cpc.windows": 3,
    "cpc.tracking": 3,
    "cpc.curves": 3,
    "cpc.training": 4,
    "cpc.evaluation": 4,
    "cpc.served": 5,
    "cpc.sweep": 5,
    "cpc.cli": 5,
    "cpc.__main__": 5,
    "cpc.__init__": 5,
}
HEAVY = ("mlflow", "librosa", "pandas", "sklearn", "matplotlib")
FILES = sorted((ROOT / "cpc").rglob("*.py"))


def room(module: str) -> str:
    """cpc.training.loop is in the room cpc.training."""
    return ".".join(module.split(".")[:2]) if module != "cpc" else "cpc.__init__"


def imported(path: Path) -> set[str]:
    """Modules of cpc that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cpc":
            found |= {f"cpc.{a.name}" for a in node.names} if node.module == "cpc" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "cpc"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = room(module.removesuffix(".__init__") if module != "cpc.__init__" else module)
    for target in imported(path):
        other = room(target)
        if own in (other, "cpc.__init__"):
            continue
        assert LAYERS[other] <= LAYERS[own], f"{module} ({LAYERS[own]}) imports {target} ({LAYERS[other]})"
        assert {own, other} != {"cpc.training", "cpc.evaluation"}, f"{module} imports {target}"


def test_import_cpc_is_light() -> None:
    names = "cpc.CPCLoss, cpc.read_audio, cpc.train, cpc.load, cpc.embed, cpc.Corpus"
    code = f"import sys, cpc; {names}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nsys.argv = ['cpc', '--help']\nimport cpc.cli\ntry: cpc.cli.main()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: cpc" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_data_preparation_needs_no_torch() -> None:
    code = "import sys, data_prep.folder, data_prep.labels, data_prep.splits; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "data_prep").glob("*.py"))], ids=lambda p: p.name)
def test_files_say_what_they_are_for_and_stay_small(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file begins by saying what it is for"
    assert len(path.read_text().splitlines()) <= 270
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or 0) - node.lineno
            assert size <= 60, f"{node.name} has {size} lines"
        assert not isinstance(node, ast.Assert), "raise, with argument, value, rule and remedy"


def own_exceptions() -> list[type[BaseException]]:
    """Every class of exception that a module of ours defines."""
    names = (m.name for p in (cpc, data_prep) for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}."))
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    own = (c for c in found if issubclass(c, BaseException) and c.__module__.split(".")[0] in ("cpc", "data_prep"))
    return sorted(own, key=lambda c: c.__qualname__)


def test_every_exception_comes_back_from_another_process() -> None:
    examples = {Undecodable: ("a/b.wav", "empty: no samples")}  # what others are made of is their message
    own = own_exceptions()
    assert {c.__name__ for c in own} >= {"InputError", "Undecodable", "NotFinite", "AlignmentError", "Unavailable"}
    for kind in own:
        assert kind in examples or "__init__" not in vars(kind), f"{kind}: give an example of its arguments"
        made = kind(*examples.get(kind, ("width=3: must be even; give 4",)))
        made.add_note("on the way")
        for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert type(again) is kind
            assert str(again) == str(made)
            assert vars(again) == vars(made)
