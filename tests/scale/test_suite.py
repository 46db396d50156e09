"""The paper's table by one call: every row and column, restartable, recorded, with its order tested in pairs."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from cpc.data.corpus import Corpus
from cpc.evaluation.probes import mlp
from cpc.evaluation.probes import probe as baselines
from cpc.scale import suite as module
from cpc.scale.suite import ROWS, Column, order_lines, paper_suite, suite_table
from cpc.scale.topline import Topline
from cpc.tracking.mlflow import connect
from tests.evaluation.trained import save_untrained

COLUMNS = (
    Column("phone", "phone", "phone_train", "phone_test"),
    Column("speaker", "speaker_frame", "speaker_train", "speaker_test"),
)
QUICK = Topline(max_steps=4, batch_size=2, window_size=8000, validate_every=4, validate_batches=1)


def test_the_table(chords: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "MOST_ROUNDS", 1)
    monkeypatch.setattr(mlp, "ROUND", (5, 5))
    run = save_untrained(chords.path, Path("runs") / "one", tracked=True)
    options = {"columns": COLUMNS, "how": QUICK, "seeds": 2, "progress": False}
    found = paper_suite(run, chords.path, **options)
    assert [(cell.row, cell.column) for cell in found.cells] == [
        (row, column.name) for row in ROWS for column in COLUMNS
    ]
    seeds = [len(cell.results) for cell in found.cells]
    assert seeds == [2, 2, 1, 1, 1, 1, 2, 2, 2, 2]  # MFCC and the linear classifier draw nothing
    assert len(found.steps) == 8
    console = Console(width=200, record=True)
    console.print(suite_table(found))
    text = console.export_text()
    assert all(row in text for row in ROWS)
    assert "(2 seeds)" in text
    assert len(order_lines(found)) == 8
    assert order_lines(found)[0].startswith("phone: MFCC against random init +")
    # Written, and on the run in MLflow.
    where = found.cells[0].results[0].where
    assert re.fullmatch("phone_test--packed--[0-9a-f]{6}", where)
    written = json.loads((run / f"suite-paper-{where}.json").read_text())
    assert [cell["row"] for cell in written["cells"]] == [cell.row for cell in found.cells]
    assert all((run / "probes" / name).is_file() for cell in written["cells"] for name in cell["files"])
    client = connect(run.parent)
    own = next(r for r in client.search_runs(["1"]) if r.info.run_name == "one")
    assert own.data.metrics[f"suite/paper/phone/{where}/mfcc/mean"] == found.cells[2].spread.mean
    assert f"suite/paper/phone/{where}/cpc_one_hidden_layer/deviation" in own.data.metrics
    assert f"probe/phone_mlp/{where}/c/accuracy" in own.data.metrics
    # Again: from the cache alone.
    for name in ("evaluate", "extract_group"):
        monkeypatch.setattr(baselines, name, None)
    assert paper_suite(run, chords.path, **options) == found
    assert module.metrics(found)[f"phone/{where}/supervised/mean"] == found.cells[8].spread.mean
