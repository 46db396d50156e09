"""What `cpc compare` shows and writes; an experiment as one HTML page that needs nothing else, pictures inside.

The page is a Jinja2 template with autoescaping, so that no name of a run, setting or speaker can become markup. Jinja2
comes with torch and MLflow, which both need it.
"""

import base64
import hashlib
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cpc.config import InputError, validate
from cpc.evaluation.compare import (
    LEGEND,
    heading_of,
    in_sweeps,
    marked,
    over_seeds,
    plus_minus,
    render,
    render_seeds,
    render_versus,
    versus,
    write_csv,
)
from cpc.evaluation.experiment import (
    Row,
    curves,
    differing,
    downloaded,
    is_error,
    recorded,
    register,
    rows,
    sentence,
    tasks,
)
from cpc.evaluation.plots.results import draw_budgets, draw_intervals
from cpc.evaluation.results import BETWEEN, BUDGET, ProbeResult, headings, task_name
from cpc.io import write_text
from cpc.models.checkpoint import checkpoint_file, read_checkpoint
from cpc.models.cpc import ModelConfig
from cpc.tracking import curves as training
from cpc.tracking.mlflow import RUNS, connect
from cpc.version import __version__

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from rich.table import Table

TEMPLATE = "report.html"
# The one script of the page, which its policy lets run by its hash: a heading's button sorts the rows of each sweep.
SORT = """
for (const head of document.querySelectorAll("table.sortable thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const sorted = head.getAttribute("aria-sort"), up = sorted ? sorted !== "ascending" : !head.matches(".number");
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent.trim();
    for (const body of head.closest("table").tBodies) {
      const rows = [...body.rows].filter(row => row.cells.length > 1);
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)], numbers = isFinite(x) && isFinite(y) && x !== "" && y !== "";
        return (up ? 1 : -1) * (numbers ? x - y : x.localeCompare(y, undefined, {numeric: true}));
      });
      body.append(...rows);
    }
  });
}
"""
PICTURED = 4  # runs whose pictures are shown: each has about half a megabyte of them
LARGEST = 4 << 20  # bytes of one picture
PICTURES = {  # in the order in which they are shown
    "horizon": "Accuracy and bound against the horizon k",
    "utterance": "One utterance: waveform, spectrogram, phones, and the loss of each frame",
    "confusion": "Which phone is taken for which, grouped by manner of articulation",
    "abx": "ABX error by pair of phones",
    "tsne": "t-SNE of c, by phone and by speaker",
    "umap": "UMAP of c, by phone and by speaker",
    "variance": "How many directions z and c use",
}
_LONGEST = {"git_commit": 12}  # letters of a tag
MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    caption: str
    uri: str


def write_report(experiment: str, path: Path, root: Path = RUNS) -> Path:
    """Write the page of an experiment, from MLflow alone.

    Raises:
        InputError: no such experiment, it has no runs, or `path` is not a file that can be written.
    """
    if path.is_dir():
        raise InputError(f"html={path}: is a folder; name a file, for example {path / 'report.html'}")
    table = rows(experiment, root)
    with tempfile.TemporaryDirectory() as folder:
        page = render_page(experiment, table, Path(folder), root)
    write_text(path, page)
    return path


def render_page(experiment: str, table: Sequence[Row], folder: Path, root: Path = RUNS) -> str:
    """The page's text; pictures are drawn in `folder` on their way into it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    client = connect(root)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    histories = curves(table, root)
    budgets = budgets_of(client, table)
    return environment.get_template(TEMPLATE).render(
        experiment=experiment,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        columns=[(key, key.rpartition(".")[2]) for key in differing(table)],
        tasks=[(task, heading_of(shown).split("\n")) for task, shown in headings(tasks(table)).items()],
        groups=list(in_sweeps(table)),
        marks=marked(table),
        legend=LEGEND,
        seeds=over_seeds(table),
        plus_minus=plus_minus,
        intervals=_inside(draw_intervals(table, folder / "intervals.svg")) if tasks(table) else None,
        curves=_inside(training.draw(histories, folder / "curves.svg")) if histories else None,
        budgets=_inside(draw_budgets(budgets, folder / "budgets.svg")) if budgets else None,
        pictures=list(pictures(client, table, folder)),
        runs=_runs(table),
        notes=_notes(table),
        measures={measure.partition("/")[0] for measure in tasks(table)},
        sort_script=SORT,
        sort_hash=base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode(),
    )


def _inside(file: Path) -> str:
    """A picture as a data URI."""
    return f"data:{MEDIA[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def pictures(client: "MlflowClient", table: Sequence[Row], folder: Path) -> Iterator[tuple[str, list[Picture]]]:
    """The pictures of the runs that have some in MLflow (figures/*.png), the best runs first, at most `PICTURED`."""
    trained = {row.run_id: row for row in _ranked(table) if not row.is_baseline}
    shown = 0
    for run_id, row in trained.items():
        if shown == PICTURED:
            break
        files = {file.stem: file for file in downloaded(client, run_id, "figures", folder / run_id)}
        names = [*PICTURES, *sorted(files.keys() - PICTURES.keys() - {"curves"})]
        kept = [files[name] for name in names if name in files]
        found = [
            Picture(PICTURES.get(file.stem, file.stem), _inside(file))
            for file in kept
            if file.suffix in MEDIA and file.stat().st_size <= LARGEST
        ]
        if found:
            shown += 1
            yield row.run, found


def _ranked(table: Sequence[Row]) -> list[Row]:
    """The rows, the best at the first task first; those without it keep their order at the end."""
    first = next(iter(tasks(table)), None)
    if first is None:
        return list(table)
    sign = 1 if is_error(first) else -1
    return sorted(table, key=lambda row: sign * row.metrics[first][0] if first in row.metrics else float("inf"))


Point = tuple[float, float, float, float]  # percent of the labels, accuracy, low, high


def budgets_of(client: "MlflowClient", table: Sequence[Row]) -> dict[str, dict[str, list[Point]]]:
    """Task → features → the points of every curve over budgets of labels, in their order."""
    found: dict[str, dict[str, list[Point]]] = {}
    rows = {row.run_id: row for row in table}
    names = [row.run for row in rows.values()]
    for row in rows.values():
        for (column, features), points in _curves(client, row).items():
            name = row.run if names.count(row.run) == 1 else f"{row.run} {row.run_id[:6]}"
            label = name if row.is_baseline else f"{name} CPC {features}"
            found.setdefault(column, {})[label] = [(share, *values) for share, values in sorted(points.items())]
    return {shown: found[column] for column, shown in headings(sorted(found)).items()}


def _curves(client: "MlflowClient", row: Row) -> dict[tuple[str, str], dict[float, tuple[float, float, float]]]:
    """(column, features) → percent → accuracy, low, high. The end of a curve is the result with all labels.

    Older versions named no percentage: it was the step, in whole percent. Their files say it in full.
    """
    metrics = client.get_run(row.run_id).data.metrics
    found: dict[tuple[str, str], dict[float, tuple[float, float, float]]] = {}
    for name in sorted(m for m in metrics if m.startswith("budget/") and m.endswith("/accuracy")):
        stem = name.removesuffix("/accuracy")
        _, task, where, features = stem.split("/")
        parts = where.split(BETWEEN)
        share = next((part.removeprefix(BUDGET) for part in parts[1:] if part.startswith(BUDGET)), None)
        column = f"{task}/{BETWEEN.join(part for part in parts if part != f'{BUDGET}{share}')}"
        points = found.setdefault((column, features), {})
        if share is None:
            points |= _older(client, row, stem)
        else:
            points[float(share)] = _with_interval_ends(metrics, stem)
            if f"probe/{column}/{features}/accuracy" in metrics:
                points[100.0] = _with_interval_ends(metrics, f"probe/{column}/{features}")
    return found


def _with_interval_ends(metrics: Mapping[str, float], stem: str) -> tuple[float, float, float]:
    value = metrics[f"{stem}/accuracy"]
    return value, metrics.get(f"{stem}/low", value), metrics.get(f"{stem}/high", value)


def _older(client: "MlflowClient", row: Row, stem: str) -> dict[float, tuple[float, float, float]]:
    """A curve as older versions wrote it: from the files beside it, and from its steps where there is none."""
    written = [r for r in recorded(client, row.run_id) if not r.fingerprint and r.older_budget == stem]
    exact = {r.budget: (r.accuracy, r.low, r.high) for r in written}
    histories = [_history(client, row.run_id, f"{stem}/{part}") for part in ("accuracy", "low", "high")]
    known = {round(share) % 100 for share in exact if share < 100}
    ends = 100 in histories[0]
    steps = {step for step in set.intersection(*(set(each) for each in histories)) if step not in known}
    steps -= {0} if ends else set()  # below half a percent, and nothing says what
    return exact | {float(step or 100): (histories[0][step], histories[1][step], histories[2][step]) for step in steps}


def _history(client: "MlflowClient", run_id: str, name: str) -> dict[int, float]:
    return {int(m.step): m.value for m in client.get_metric_history(run_id, name)}


def _runs(table: Sequence[Row]) -> list[dict[str, Any]]:
    """What every trained run was trained with, once a run."""
    names = {"device": "device", "precision": "precision", "git_commit": "commit"}
    names |= {"version.cpc": "cpc", "version.torch": "torch", "version.python": "Python", "collapse": "collapse"}
    return [
        {
            "name": row.name,
            "started": datetime.fromtimestamp(row.started / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            "steps": row.settings.get("training.max_steps", ""),
            "seed": row.settings.get("seed", ""),
            "corpus": Path(row.settings.get("data.corpus", "")).name,
            "facts": {
                label: row.tags[tag][: _LONGEST.get(tag, 200)] for tag, label in names.items() if row.tags.get(tag)
            },
        }
        for row in {row.run_id: row for row in table if not row.is_baseline}.values()
    ]


def _notes(table: Sequence[Row]) -> Mapping[str, list[str]]:
    """How each task was measured: protocols and notes, each once, from the results and from the tags of runs."""
    found: dict[str, list[str]] = {}
    for row in table:
        for task in row.metrics:
            stem = (task if is_error(task) else f"probe/{task}").replace("/", ".")
            tags = [value for key, value in row.tags.items() if key.startswith(f"{stem}.")]
            result = row.results.get(task)
            if result:
                said = [f"{result.corpus}: {result.train} → {result.test}; {result.protocol}", *result.notes]
            else:
                said = tags[:1]
            found.setdefault(task, []).extend(line if line.endswith(".") else f"{line}." for line in said)
    shown = headings(tasks(table))
    return {shown[task]: list(dict.fromkeys(lines)) for task, lines in found.items()}


# --- A model card (Mitchell et al. 2019), as Hugging Face shows it beside a model.


CARD = """\
---
library_name: transformers
tags: [speech, contrastive-predictive-coding, self-supervised]
---

# {name}

Contrastive Predictive Coding (van den Oord et al. 2018, arXiv 1807.03748) on audio of {rate} Hz, trained with
cpc-audio {version}: waveform to a local z_t and a c_t with context every {hop:g} ms.

    from cpc.models.hf import CPCModel
    model = CPCModel.from_pretrained("FOLDER")
    c = model(waveform).last_hidden_state    # (batch, frame, {hidden})

## Data

{data}

## Recipe

```yaml
{recipe}```

## Results

{results}

## Intended use

Features of speech for probes, clustering into units, retrieval and downstream models, and a start for training on
other recordings.

## Limits

c holds who speaks as well as what is said, so that it tells speakers apart; do not publish features of people who did
not agree. What was measured was measured on the splits named above. A model knows the languages, rooms and microphones
of its data, and no others.
"""


def model_card(run: Path) -> str:
    """The card of a run or of a checkpoint: data, recipe, results with intervals, intended use, limits.

    Raises:
        InputError: there is no checkpoint at `run`.
    """
    header, _ = read_checkpoint(checkpoint_file(run))
    config = header["config"]
    model = validate(ModelConfig, config["model"])
    data = config.get("data") or {}
    heard = data.get("corpus") or "not known"
    said = f"Corpus {heard}, split {data.get('train') or 'all of it'}; {header.get('step', 0):,} updates"
    said += f" of {data['batch_size']} windows of {data['window_size']} samples, without labels." if data else "."
    return CARD.format(
        name=run.resolve().stem if run.is_file() else run.resolve().name,
        rate=model.sample_rate,
        version=__version__,
        hop=1000 * math.prod(model.encoder.strides) / model.sample_rate,
        hidden=model.context.hidden,
        data=said,
        recipe=yaml.safe_dump(config, sort_keys=False),
        results=_results(run) or "Not measured yet: `cpc probe`, `cpc abx` and `cpc verify` put their results here.",
    )


def _results(run: Path) -> str:
    """The results of the run's own features, which lie in its folder."""
    lines = []
    for file in sorted((run / "probes").glob("*.json")) if run.is_dir() else []:
        try:
            found = ProbeResult.read(file)
        except (InputError, ValueError, TypeError):
            continue  # of an older version
        if found.features.startswith("CPC"):
            value, low, high = (f"{100 * number:.1f}" for number in (found.accuracy, found.low, found.high))
            lines.append(
                f"| {task_name(found)} | {found.features} | {found.corpus}: {found.train} → {found.test} | "
                f"{value} [{low}, {high}] |"
            )
    if not lines:
        return ""
    head = "Accuracy in % of a linear classifier with its 95% interval over utterances.\n\n"
    return head + "\n".join(["| task | features | data | % |", "|---|---|---|---|", *lines])


# --- What `cpc compare` does: an experiment as a table with its files, or two runs side by side.


@dataclass(frozen=True)
class Shown:
    """Tables for the terminal, then lines."""

    tables: "list[Table]"
    lines: list[str]


@dataclass(frozen=True)
class ReportOptions:
    """What else is made of an experiment: a page, and its best model under a name in the registry."""

    html: Path | None = None
    register: str | None = None
    alias: str | None = None
    by: str | None = None


def show(names: list[str], out: Path, options: ReportOptions | None = None, root: Path = RUNS) -> Shown:
    """One name is an experiment, two are runs (a folder, a name, or an MLflow id each); files are written to `out`.

    Raises:
        InputError: unknown names, more than two, or an option for an experiment where two runs are given.
    """
    options = options or ReportOptions()
    if len(names) == 1:
        if (Path(names[0]) / "run.json").is_file():
            raise InputError(f"compare={names[0]}: is one run; give two runs, or the name of an experiment")
        return _experiment(names[0], out, options, root)
    if len(names) != 2:
        raise InputError(f"compare={' '.join(names)}: give one experiment, or two runs")
    if options != ReportOptions():
        raise InputError(f"compare={' '.join(names)}: --html, --register, --alias and --by are for one experiment")
    return _two_runs(names[0], names[1], out, root)


def _experiment(name: str, out: Path, options: ReportOptions, root: Path = RUNS) -> Shown:
    """The runs of an experiment: a table, seeds summed up, CSV, curves, and what the options ask for."""
    if (options.alias or options.by) and not options.register:
        raise InputError("register: --alias and --by say how a model is registered; name it with --register NAME")
    found = rows(name, root)
    tables = [render(found, f"experiment {name}: with 95% intervals"), render_seeds(found)]
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"table: {write_csv(found, out / f'compare-{_letters(name)}.csv')}"]
    if drawn := curves(found, root):
        lines.append(f"training curves: {training.draw(drawn, out / f'compare-{_letters(name)}.png')}")
    if options.html:
        lines.append(f"page: {write_report(name, options.html, root)}")
    if options.register:
        lines.append(sentence(register(found, options.register, options.alias, options.by, root)))
    return Shown([table for table in tables if table], lines)


def _two_runs(one: str, other: str, out: Path, root: Path = RUNS) -> Shown:
    """Two runs side by side, and their curves in one picture."""
    found = versus(one, other, root)
    path = out / f"compare-{'-'.join(_letters(name) for name in found.names)}.png"
    lines = [f"training curves: {training.draw(found.curves, path)}"]
    lines.append("tested are these two trained models; another seed of either is another model")
    return Shown(render_versus(found), lines)


def _letters(name: str) -> str:
    """A name as a part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)
