"""Results reach the run's folder and MLflow, each protocol under a name of its own."""

from dataclasses import replace
from pathlib import Path

import pytest

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.protocol import Protocol
from cpc.evaluation.record import metric_name, probe_and_record, record
from cpc.evaluation.result import ProbeResult
from cpc.evaluation.show import probe_table
from cpc.tracking import connect
from tests.evaluation.trained import save_untrained

SPLITS = ("phone_train", "phone_test")
FIXED = Protocol(l2=(1e-3,))


@pytest.fixture
def run(chords: Corpus) -> Path:
    return save_untrained(chords.path, Path("runs") / "one", tracked=True)


def metrics(run: Path) -> dict[str, float]:
    client = connect(run.parent)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {f"{r.info.run_name}:{name}": value for r in found for name, value in r.data.metrics.items()}


def test_budgets_are_a_curve_that_ends_in_the_result(chords: Corpus, run: Path) -> None:
    protocols = [replace(FIXED, budget=percent) for percent in (10.0, 100.0)]
    options = {"layers": ["c"], "baselines": False, "progress": False, "protocols": protocols}
    results = probe_and_record("phone", run, chords.path, *SPLITS, **options)
    assert [r.budget for r in results] == [10, 100]
    client = connect(run.parent)
    id = client.search_runs(["1"])[0].info.run_id
    curve = client.get_metric_history(id, "budget/phone/phone_test/c/accuracy")
    assert [(point.step, point.value) for point in curve] == [(r.budget, r.accuracy) for r in results]
    assert metrics(run)["one:probe/phone/phone_test/c/accuracy"] == results[1].accuracy
    names = {"phone-phone_test-cpc_c.json", "phone-phone_test-cpc_c-budget10.json"}
    assert {path.name for path in (run / "probes").iterdir()} == names
    assert {Path(file.path).name for file in client.list_artifacts(id, "probes")} == names
    assert ProbeResult.read(run / "probes" / "phone-phone_test-cpc_c.json") == results[1]


def test_baselines_have_runs_of_their_own_and_columns_never_mix(chords: Corpus, run: Path) -> None:
    protocol = replace(FIXED, context=2)
    results = probe_and_record(
        "phone", run, chords.path, *SPLITS, layers=["z+c"], progress=False, protocols=[protocol]
    )  # fmt: skip
    assert [r.features for r in results] == ["MFCC ±2", "log-mel ±2", "random z+c ±2", "CPC z+c ±2"]
    found = metrics(run)
    assert found["one:probe/phone/phone_test/z_c_context2/accuracy"] == results[3].accuracy
    assert found["MFCC ±2:probe/phone/phone_test/mfcc_context2/accuracy"] == results[0].accuracy
    assert found["one:probe/phone/phone_test/z_c_context2/speakers_low"] if results[3].speakers_low else True
    mlp = replace(results[3], classifier="mlp")
    assert metric_name(mlp) == "probe/phone_mlp/phone_test/z_c_context2"
    assert metric_name(replace(mlp, budget=1.0, test="a b/c.txt")) == "budget/phone_mlp/c/z_c_context2"
    assert len({r.file_name for r in (mlp, results[3], replace(mlp, seed=2), replace(mlp, budget=1.0))}) == 4


def test_the_error_rate_is_shown_as_an_error(chords: Corpus) -> None:
    from rich.console import Console

    result = ProbeResult(
        "phone_sequence", "CPC c", 0.4, 0.35, 0.45, 0.0, 6, "a", "b", 1, 1, 1, 1, 1, True, "made", "CTC"
    )  # fmt: skip
    console = Console(width=200, record=True)
    console.print(probe_table([result, replace(result, task="phone", l2=1e-3, speakers_low=0.3, speakers_high=0.5)]))
    error, accuracy = (next(x for x in console.export_text(clear=False).splitlines() if w in x)
                       for w in ("phone error rate", "40.0"))  # fmt: skip
    assert "60.0" in error
    assert "55.0 – 65.0" in error
    assert "30.0 – 50.0" in accuracy
    assert "0.001" in accuracy


def test_a_run_that_mlflow_does_not_know_keeps_its_files(chords: Corpus, tmp_path: Path) -> None:
    run = save_untrained(chords.path, tmp_path / "runs" / "lost")
    result = ProbeResult(
        "phone", "CPC c", 0.4, 0.3, 0.5, 0.1, 6, "a", "b", 1, 1, 1, 1, 1, True, "made", "by hand"
    )  # fmt: skip
    with pytest.raises(InputError, match="is not in sqlite"):
        record([result], run)
    assert ProbeResult.read(run / "probes" / "phone-b-cpc_c.json") == result
