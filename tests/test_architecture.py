"""The house: imports point only downwards, without a circle; light imports stay light; a long file has its reason."""

import ast
import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cpc
import data_prep
from cpc.audio.integrity import Undecodable
from cpc.io import DiskFull

ROOT = Path(__file__).parents[1]
# One number a subpackage (or module at the top): a file imports what has the same number or a smaller one.
LAYERS = {
    "cpc.config": 0,
    "cpc.seeding": 0,
    "cpc.version": 0,
    "cpc.device": 0,
    "cpc.distributed": 0,
    "cpc.io": 0,
    "cpc.plotting": 1,
    "cpc.audio": 1,
    "cpc.data": 2,
    "cpc.augment": 2,
    "cpc.models": 3,
    "cpc.losses": 4,
    "cpc.tracking": 5,
    "cpc.training": 6,
    "cpc.evaluation": 6,
    "cpc.scale": 7,
    "cpc.cli": 8,
    "cpc.__main__": 8,
    "cpc.__init__": 8,
}
APART = {"cpc.training", "cpc.evaluation"}  # of the same number, and neither imports the other
LONG = {  # files of more than 500 lines, and why they are one room
}
HEAVY = ("mlflow", "librosa", "pandas", "sklearn", "matplotlib")
FILES = sorted((ROOT / "cpc").rglob("*.py"))
PREPARATION = sorted((ROOT / "data_prep").glob("*.py"))


def room(module: str) -> str:
    """cpc.training.run is in the room cpc.training."""
    return ".".join(module.split(".")[:2]) if module != "cpc" else "cpc.__init__"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path, at_the_top: bool = False) -> set[str]:
    """Modules of cpc that a file imports, anywhere in it or where it is loaded."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if at_the_top else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cpc":
            found |= {
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "cpc"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    module = name_of(path)
    own = room(module)
    for target in imported(path):
        other = room(target)
        if own in (other, "cpc.__init__"):
            continue
        assert LAYERS[other] <= LAYERS[own], f"{module} ({LAYERS[own]}) imports {target} ({LAYERS[other]})"
        assert {own, other} != APART, f"{module} imports {target}"


def test_no_circle_of_imports() -> None:
    graph = {name: imported(path, at_the_top=True) - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, set())):
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_import_cpc_is_light() -> None:
    names = "cpc.CPCLoss, cpc.read_audio, cpc.train, cpc.load, cpc.embed, cpc.Corpus"
    code = f"import sys, cpc; {names}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "absent"), [("abx.run", "probes"), ("verification", "probes"), ("verification", "abx")]
)
def test_an_evaluation_does_not_load_another(module: str, absent: str) -> None:
    code = (
        f"import sys, cpc.evaluation.{module}; print(any(m.startswith('cpc.evaluation.{absent}') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_package_is_installed() -> None:
    """data_prep goes into the wheel as cpc.data_prep, so the packages are listed by name."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "cpc").rglob("__init__.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"cpc.data_prep"}


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


@pytest.mark.parametrize("path", [*FILES, *PREPARATION], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_say_what_they_are_for_and_a_long_one_has_a_reason(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a file begins by saying what it is for"
    assert len(text.splitlines()) <= 500 or str(path.relative_to(ROOT)) in LONG
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), "raise, with argument, value, rule and remedy"


def own_exceptions() -> list[type[BaseException]]:
    """Every class of exception that a module of ours defines."""
    names = (m.name for p in (cpc, data_prep) for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}."))
    apart = ("cpc.__main__", "cpc.models.hf")  # the command itself, and what needs the extra hf
    modules = [importlib.import_module(name) for name in names if name not in apart and name != "data_prep.__main__"]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    own = (c for c in found if issubclass(c, BaseException) and c.__module__.split(".")[0] in ("cpc", "data_prep"))
    return sorted(own, key=lambda c: c.__qualname__)


def test_every_exception_comes_back_from_another_process() -> None:
    # What others are made of is their message.
    examples: dict[type, tuple[object, ...]] = {Undecodable: ("a/b.wav", "empty: no samples"), DiskFull: ("a/b",)}
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
