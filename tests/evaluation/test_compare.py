"""Comparing runs: settings that differ, results with intervals, the best marked; all of it from MLflow."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from cpc.config import InputError
from cpc.evaluation import compare
from cpc.tracking import connect, experiment_id, log_now

ROOT = Path("runs")


def add(name: str, params: dict[str, object], probes: dict[str, float], kind: str | None = None) -> str:
    """A run as training and probing leave it."""
    client = connect(ROOT)
    tags = {"kind": kind, "features": name} if kind else {}
    run = client.create_run(experiment_id(client, "exp", ROOT), run_name=name, tags=tags)
    for key, value in params.items():
        client.log_param(run.info.run_id, key, value)
    client.set_terminated(run.info.run_id)
    for stem, value in probes.items():
        parts = {"accuracy": value, "low": value - 0.01, "high": value + 0.01}
        log_now(client, run.info.run_id, {f"probe/{stem}/{part}": v for part, v in parts.items()}, {})
    return str(run.info.run_id)


@pytest.fixture
def table() -> list[compare.Row]:
    add("one", {"optim.lr": 0.1, "seed": 0, "data.corpus": "a"}, {"phone/test/z": 0.3, "phone/test/c": 0.4})
    add("two", {"optim.lr": 0.2, "seed": 0, "data.corpus": "b"}, {"phone/test/c": 0.5, "speaker_frame/ids/c": 0.9})
    add("MFCC", {}, {"phone/test/mfcc": 0.45}, kind="baseline")
    return compare.rows("exp", ROOT)


def test_one_row_for_each_kind_of_features_baselines_first(table: list[compare.Row]) -> None:
    assert [(row.run, row.features) for row in table] == [
        ("MFCC", ""),
        ("one", "CPC z"),
        ("one", "CPC c"),
        ("two", "CPC c"),
    ]
    assert table[2].metrics == {"phone/test": pytest.approx((0.4, 0.39, 0.41))}
    assert compare.tasks(table) == ["phone/test", "speaker_frame/ids"]


def test_only_settings_that_differ(table: list[compare.Row]) -> None:
    assert compare.differing(table) == ["optim.lr"]


def test_the_best_is_marked_and_missing_results_are_dashes(table: list[compare.Row]) -> None:
    console = Console(width=200, record=True)
    console.print(compare.render(table, "t"))
    lines = console.export_text().splitlines()
    two = next(line for line in lines if "two" in line)
    assert "* 50.0 [49.0, 51.0]" in two
    assert "* 90.0 [89.0, 91.0]" in two
    mfcc = next(line for line in lines if "MFCC" in line)
    assert "45.0 [44.0, 46.0]" in mfcc
    assert "*" not in mfcc
    assert "–" in mfcc


def test_csv_holds_every_number(table: list[compare.Row], tmp_path: Path) -> None:
    with compare.write_csv(table, tmp_path / "t.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert float(rows[3]["phone/test/accuracy"]) == pytest.approx(0.5)
    assert float(rows[3]["speaker_frame/ids/low"]) == pytest.approx(0.89)
    assert rows[3]["optim.lr"] == "0.2"
    assert rows[0]["speaker_frame/ids/low"] == ""


def test_unknown_and_empty_experiments_are_refused(table: list[compare.Row]) -> None:
    with pytest.raises(InputError, match=r"experiment=exq: .* known experiments: exp"):
        compare.rows("exq", ROOT)
    experiment_id(connect(ROOT), "empty", ROOT)
    with pytest.raises(InputError, match="experiment=empty: has no runs yet"):
        compare.rows("empty", ROOT)
