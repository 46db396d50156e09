"""What the site does not hold twice: pages that live elsewhere in the repository, and pages made from the code.

A link to a file of the repository leads to its page where it has one; to one that has none only its text stays. A
link to a file that is not there is a warning, which `mkdocs build --strict` refuses; so is a public name without a
docstring.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import posixpath
import re
import typing
from enum import Enum
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.cpc")

ROOT = Path(__file__).parents[1]
# File of the repository → page of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
    "benchmarks/README.md": "speed.md",
    "benchmarks/tables.md": "tables.md",
    **{
        path.relative_to(ROOT).as_posix(): f"recipes/{path.parent.name}.md"
        for path in sorted((ROOT / "recipes").glob("*/README.md"))
    },
}
ORIGIN = {page: source for source, page in PAGES.items() if source != "README.md"}
LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for page, source in ORIGIN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page, make in {
        "reference/cli.md": command_line,
        "reference/configuration.md": configuration,
        "reference/python.md": python,
        "reference/licences.md": licences,
    }.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to where their targets are on the site."""
    here = page.file.src_uri
    origin = ORIGIN.get(here, f"docs/{here}")
    parts, last = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [_relink(markdown[last : fence.start()], here, origin), fence[0]]
        last = fence.end()
    return "".join([*parts, _relink(markdown[last:], here, origin)])


def _relink(text: str, here: str, origin: str) -> str:
    def new(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        path, hash, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        source = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if not (ROOT / source).exists():
            if source.startswith("docs/"):  # a page that is made, or a file of docs/ that mkdocs looks for itself
                return found[0]
            log.warning("%s: links to %s, which is not in the repository", origin, source)
        page = PAGES.get(source, source.removeprefix("docs/") if source.startswith("docs/") else "")
        if not page or page.endswith(("pictures.py", "hooks.py")):
            return words
        return f"{mark}[{words}]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{hash}{anchor})"

    return LINK.sub(new, text)


# --- Pages made from the code


def command_line() -> str:
    """Every verb with its arguments and options, from the parsers themselves."""
    import typer

    from cpc.cli import app
    from cpc.cli.data import HOMES, VERBS

    page = ["# Command line", "", "Made from the parsers. `cpc VERB --help` says the same.", ""]
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        page += [*_command(f"cpc {name}", command)]
    package = "data_prep" if importlib.util.find_spec("data_prep") else "cpc.data_prep"  # a checkout, or installed
    for verb in VERBS:
        module = importlib.import_module(f"{package}.{HOMES.get(verb, verb)}")
        found: Any = typer.main.get_command(module.app)
        command = found.commands[verb] if hasattr(found, "commands") else found
        if verb == "align":
            page += ["## `cpc data align`", "", "`cpc data labels --align`.", ""]
            continue
        page += _command(f"cpc data {verb}", command)
    return "\n".join(page)


def _command(name: str, command: Any) -> list[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    words = " ".join(str(each.metavar or each.name).replace("\\[", "[") for each in arguments)
    text = inspect.cleandoc(command.help or "")
    lines = [f"## `{name}`", "", f"    {name} {words}", "", text, ""]
    rows = [(f"`{each.metavar or each.name}`", _help(each), "") for each in arguments]
    rows += [(f"`{', '.join((*each.opts, *each.secondary_opts))}`", _help(each), _default(each)) for each in options]
    if rows:
        lines += ["| | | default |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return lines


def _help(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split()).replace("|", "\\|").replace("\\[", "[")
    kind = parameter.type_descriptor.annotation
    choices = list(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else []
    if inspect.isclass(kind) and issubclass(kind, Enum):
        choices = [str(member.value) for member in kind]
    return f"{text} One of `{'`, `'.join(choices)}`." if choices else text


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or callable(value) or str(value).startswith("Sentinel"):
        return "required" if getattr(parameter, "required", False) else ""
    return f"`{getattr(value, 'value', value)}`"


def configuration() -> str:
    """Every setting, from the schema."""
    from cpc.config import describe
    from cpc.training.recipe import Recipe

    page = ["# Configuration", ""]
    page += ["Every key of a recipe, from the schema; `cpc config PREFIX` prints them. In YAML the dots are levels,"]
    page += ["on the command line it is `key=value`. `augment.future` and `loss.views.augment` take what"]
    page += ["`augment.past` takes.", ""]
    section = None
    for key in describe(Recipe):
        if key.name.startswith(("augment.future.", "loss.views.augment.")):
            continue
        head = key.name.split(".")[0]
        if head != section:
            page += ["", f"## {head}", "", "| key | of kind | type | default | meaning |", "|---|---|---|---|---|"]
            section = head
        cells = (f"`{key.name}`", key.within, key.type, f"`{key.default}`" if key.default else "", key.meaning)
        page.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(page)


SECTIONS = {
    "Train and load": ("load_config", "train", "resume", "Run", "load", "build", "ModelConfig", "Recipe"),
    "Models": ("CPC", "Latents", "stream", "Stream"),
    "Audio, corpora, features": ("read_audio", "Corpus", "embed"),
    "The loss and its parts": (
        "CPCLoss", "Losses", "Dot", "Cosine", "NegativeDistance", "Uniform", "All", "Within", "Hardest", "SemiHard",
        "InfoNCE", "NCE", "Triplet", "PairMargin",
    ),
    "Losses on plain tensors": ("info_nce", "nce", "nt_xent", "sup_con", "triplet", "triplet_of", "pair_margin"),
    "Errors": ("InputError",),
}  # fmt: skip


def python() -> str:
    """The public names, by what they are for; each needs a docstring."""
    import cpc

    listed = {name for names in SECTIONS.values() for name in names}
    for name in sorted(set(cpc.__all__) - listed - {"__version__"}):
        log.warning("docs/hooks.py: cpc.%s has no section in the reference of Python", name)
    page = ["# Python", "", "The public names of `cpc`.", ""]
    for title, names in SECTIONS.items():
        page += [f"## {title}", ""]
        for name in names:
            value = getattr(cpc, name)
            if not inspect.getdoc(value):
                log.warning("cpc.%s has no docstring", name)
            page += [f"::: {value.__module__}.{value.__qualname__}", ""]
    return "\n".join(page)


COPYLEFT = re.compile(r"GPL|MPL", re.IGNORECASE)


def licences() -> str:
    """What is installed with `cpc`, and under which licence, as each package says of itself."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = ["# Licences", "", (ROOT / "docs" / "licences.txt").read_text(encoding="utf-8"), ""]
    page += ["| package | version | licence |", "|---|---|---|"]
    known = {name.lower() for names in packages_distributions().values() for name in names}
    for requirement in sorted(project["dependencies"], key=str.lower):
        name = re.split(r"[<>=\[ ;]", requirement, maxsplit=1)[0]
        if name.lower() not in known and name.lower().replace("-", "_") not in known:
            log.warning("licences: %s is not installed", name)
            continue
        found = distribution(name)
        page.append(f"| {name} | {found.version} | {_licence(found.metadata)} |")
    return "\n".join(page)


def _licence(metadata: Any) -> str:
    if said := metadata.get("License-Expression"):
        return str(said)
    classes = [
        each.rsplit(" :: ", 1)[-1] for each in metadata.get_all("Classifier") or [] if each.startswith("License")
    ]
    text = (metadata.get("License") or "").strip().splitlines()
    return "; ".join(classes) or (text[0][:60] if text else "not said")
