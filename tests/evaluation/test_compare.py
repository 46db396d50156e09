"""Comparing runs: settings that differ, results with intervals, what is noise, seeds, sweeps; all of it from MLflow."""

import csv
import io
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from cpc.config import InputError
from cpc.evaluation import compare
from cpc.evaluation.compare import over_seeds, paired_test, render_versus, ties, versus
from cpc.evaluation.experiment import find_run, register, sentence
from cpc.evaluation.report import ReportOptions, show
from cpc.tracking.mlflow import connect, experiment_id
from tests.evaluation.recorded import UTTERANCES, add, add_result

LOSS = [(10, 3.0), (20, 2.5)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with several experiments, as a group would leave it."""
    root = tmp_path_factory.mktemp("store")
    lr, ones = "optim.lr", {"phone/test/z": 0.3, "phone/test/c": 0.4}
    add(root, "one", {lr: 0.1, "seed": 0, "data.corpus": "a"}, ones, metrics={"train/loss": LOSS})
    twos = {"phone/test/c": 0.5, "speaker_frame/ids/c": 0.9}
    add(root, "two", {lr: 0.2, "seed": 0, "data.corpus": "b"}, twos, metrics={"train/loss": LOSS})
    add(root, "MFCC", {}, {"phone/test/mfcc": 0.495}, kind="baseline")

    parent = add(root, "steps", kind="sweep", experiment="swept")
    add(root, "alone", {"loss.prediction_steps": 9}, {"phone/test/c": 0.2}, experiment="swept")
    add(root, "steps-2", {"loss.prediction_steps": 2}, {"phone/test/c": 0.3}, experiment="swept", parent=parent)
    add(
        root,
        "steps-4",
        {"loss.prediction_steps": 4},
        {"phone/test/c": 0.4},
        experiment="swept",
        parent=parent,
        status="KILLED",
    )

    for seed, value in enumerate((0.40, 0.44, 0.48)):
        add(root, f"wide-seed{seed}", {lr: 1, "seed": seed}, {"phone/test/c": value}, experiment="seeds")
    add(root, "narrow", {lr: 2, "seed": 0}, {"phone/test/c": 0.6}, experiment="seeds")
    return root


@pytest.fixture(scope="module")
def paired(root: Path) -> list[compare.Row]:
    """Two runs whose intervals overlap while one is better on every utterance, and one that differs by coin flips."""
    hard = np.random.default_rng(0).integers(10, 80, UTTERANCES)
    flips = np.random.default_rng(1).choice([-3, 3], UTTERANCES)
    for name, hits in (("weak", hard), ("strong", hard + 2), ("equal", hard + 2 + flips)):
        value = float(hits.mean() / 100)
        run_id = add(root, name, {"seed": 0, "name": name}, {"phone/test/c": value}, experiment="paired", half=0.07)
        add_result(root, run_id, hits.tolist())
    return compare.rows("paired", root)


def table_of(root: Path, name: str = "exp") -> list[compare.Row]:
    return compare.rows(name, root)


def shown(*tables: Table | None) -> str:
    """What a terminal shows."""
    console = Console(width=200, file=io.StringIO())
    for table in tables:
        console.print(table)
    return str(console.file.getvalue())


def text(root: Path, name: str) -> list[str]:
    return shown(compare.render(table_of(root, name), "t")).splitlines()


def test_one_row_for_each_kind_of_features_baselines_first(root: Path) -> None:
    table = table_of(root)
    assert [(row.run, row.features) for row in table] == [
        ("MFCC", ""),
        ("one", "CPC z"),
        ("one", "CPC c"),
        ("two", "CPC c"),
    ]
    assert table[2].metrics == {"phone/test": pytest.approx((0.4, 0.39, 0.41))}
    assert compare.tasks(table) == ["phone/test", "speaker_frame/ids"]


def test_only_settings_that_differ(root: Path) -> None:
    assert compare.differing(table_of(root)) == ["optim.lr"]


def test_the_best_and_its_ties_are_marked_and_missing_results_are_dashes(root: Path) -> None:
    """0.495 ± 0.01 cannot be told from 0.5 ± 0.01; 0.4 ± 0.01 can, for 0.1 is far above √2 · 0.01."""
    lines = text(root, "exp")
    two = next(line for line in lines if "two" in line)
    assert "* 50.0 [49.0, 51.0]" in two
    assert "* 90.0 [89.0, 91.0]" in two
    mfcc = next(line for line in lines if "MFCC" in line)
    assert "≈ 49.5 [48.5, 50.5]" in mfcc
    assert "*" not in mfcc
    assert "–" in mfcc
    assert not any("≈" in line for line in lines if "one" in line and "40.0" in line)


def test_csv_holds_every_number(root: Path, tmp_path: Path) -> None:
    with compare.write_csv(table_of(root), tmp_path / "t.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert float(rows[3]["phone/test/accuracy"]) == pytest.approx(0.5)
    assert float(rows[3]["speaker_frame/ids/low"]) == pytest.approx(0.89)
    assert rows[3]["optim.lr"] == "0.2"
    assert rows[0]["speaker_frame/ids/low"] == ""


def test_unknown_and_empty_experiments_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"experiment=exq: .* known experiments: exp"):
        compare.rows("exq", root)
    experiment_id(connect(root), "empty", root)
    with pytest.raises(InputError, match="experiment=empty: has no runs yet"):
        compare.rows("empty", root)


def test_the_runs_of_a_sweep_stay_together_under_its_name(root: Path) -> None:
    assert [(row.run, row.sweep) for row in table_of(root, "swept")] == [
        ("steps-2", "steps"),
        ("steps-4", "steps"),
        ("alone", ""),
    ]
    lines = [line for line in text(root, "swept") if "│" in line]
    assert "sweep steps" in lines[0]
    assert "  steps-2" in lines[1]
    assert "steps-4 (killed)" in lines[2]


def test_curves_are_those_of_trained_runs(root: Path) -> None:
    found = compare.curves(table_of(root), root)
    assert found.keys() == {"one", "two"}
    assert found["one"]["train/loss"] == LOSS


def test_an_error_rate_is_best_where_it_is_lowest(root: Path) -> None:
    for name, error in (("a", 0.10), ("b", 0.30)):
        add(root, name, {"seed": name}, {"abx/dev/within-any/c": error}, experiment="abx")
    table = table_of(root, "abx")
    assert compare.tasks(table) == ["abx/dev/within-any"]
    assert compare.best(table, "abx/dev/within-any") == pytest.approx(0.1)
    lines = text(root, "abx")
    assert any("ABX error within-any %" in line for line in lines)
    assert any("* 10.0 [9.0, 11.0]" in line for line in lines)


def test_utterances_decide_where_they_were_recorded(paired: list[compare.Row]) -> None:
    """Intervals of ± 7% overlap, yet 2 points on each of 40 utterances are no accident; ± 3 by coin flips may be."""
    weak, strong, equal = paired
    found = paired_test(strong, weak, "phone/test")
    assert found.significant
    assert found.difference == pytest.approx(0.02)
    assert found.how == f"paired over {UTTERANCES} utterances"
    assert not paired_test(strong, equal, "phone/test").significant
    best = max(strong, equal, key=lambda row: row.metrics["phone/test"][0])
    assert [row.run for row in ties(paired, "phone/test")] == [next(r for r in (strong, equal) if r is not best).run]


def test_without_utterances_the_intervals_decide(root: Path) -> None:
    """Two standard errors of 0.01 / 1.96 each: a difference is noise below √2 · 0.01."""
    one, two = table_of(root)[2:]
    found = paired_test(two, one, "phone/test")
    assert found.significant
    assert (found.low, found.high) == pytest.approx((0.1 - 0.01 * 2**0.5, 0.1 + 0.01 * 2**0.5))
    assert "unpaired" in found.how


def test_seeds_are_summed_up(root: Path) -> None:
    (group,) = over_seeds(table_of(root, "seeds"))
    assert group.runs == ("wide-seed0", "wide-seed1", "wide-seed2")
    assert group.label == "wide"
    assert group.metrics["phone/test"][:2] == pytest.approx((0.44, 0.04))
    assert "44.0 ± 4.0" in shown(compare.render_seeds(table_of(root, "seeds")))
    assert compare.render_seeds(table_of(root)) is None


def test_two_runs_are_explained(root: Path) -> None:
    found = versus("one", "two", root)
    assert found.settings == {"optim.lr": ("0.1", "0.2")}
    assert found.training == {"train/loss": (2.5, 2.5)}
    (each,) = found.differences
    assert (each.task, each.features, each.better) == ("phone/test", "CPC c", 2)
    assert each.verdict.difference == pytest.approx(-0.1)
    assert found.curves.keys() == {"one", "two"}
    assert "two is better (from the two intervals, unpaired)" in shown(*render_versus(found))


def test_two_runs_with_their_utterances_are_tested_in_pairs(root: Path, paired: list[compare.Row]) -> None:
    (each,) = versus("strong", "weak", root).differences
    assert each.better == 1
    assert each.verdict.p < 0.001
    (each,) = versus("strong", "equal", root).differences
    assert each.better == 0


def test_runs_are_found_by_folder_name_and_id(root: Path, tmp_path: Path) -> None:
    run = find_run("one", root)
    assert find_run(run.info.run_id, root).info.run_id == run.info.run_id
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"run_id": run.info.run_id}))
    assert find_run(str(folder), root).info.run_name == "one"
    with pytest.raises(InputError, match=r"run=oen: not in .* no such run"):
        find_run("oen", root)
    with pytest.raises(InputError, match="are the same run"):
        versus("one", run.info.run_id, root)


def test_a_name_that_several_runs_have_is_refused(root: Path) -> None:
    ids = [add(root, "twin", {}, {}, experiment="twins") for _ in range(2)]
    with pytest.raises(InputError, match=f"run=twin: 2 runs have this name; .*{ids[0]}"):
        find_run("twin", root)


def test_the_best_model_is_registered_under_an_alias(root: Path) -> None:
    """Twice the same is one version; a run without a model is refused; the alias follows a better run."""

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context: object, model_input: list[float]) -> list[float]:
            return model_input

    first = add(root, "first", {"seed": 0}, {"phone/test/c": 0.5}, experiment="models")
    with mlflow.start_run(first):
        mlflow.pyfunc.log_model(name="model", python_model=Echo(), pip_requirements=[])
    done, again = (register(table_of(root, "models"), "cpc-phones", "best", root=root) for _ in range(2))
    assert done == again
    assert (done.run, done.version, done.uri) == ("first", "1", "models:/cpc-phones@best")
    assert "run first, best at phone/test (accuracy 50.0%)" in sentence(done)
    assert connect(root).get_model_version_by_alias("cpc-phones", "best").run_id == first
    add(root, "second", {"seed": 1}, {"phone/test/c": 0.6}, experiment="models")
    with pytest.raises(InputError, match="run=second: its model cannot be registered"):
        register(table_of(root, "models"), "cpc-phones", "best", root=root)
    with pytest.raises(InputError, match="by=speaker/test: no finished run has this result"):
        register(table_of(root, "models"), "cpc-phones", by="speaker/test", root=root)
    with pytest.raises(InputError, match="register=a/b: a name of letters"):
        register(table_of(root, "models"), "a/b", root=root)


def test_the_verb_compares_an_experiment_or_two_runs(root: Path, tmp_path: Path) -> None:
    shown_ = show(["exp"], tmp_path, ReportOptions(html=tmp_path / "r.html"), root)
    assert len(shown_.tables) == 1
    assert [line.split(":")[0] for line in shown_.lines] == ["table", "training curves", "page"]
    assert {path.name for path in tmp_path.iterdir()} == {"compare-exp.csv", "compare-exp.png", "r.html"}
    assert len(show(["seeds"], tmp_path, root=root).tables) == 2
    assert len(show(["one", "two"], tmp_path, root=root).tables) == 2
    assert (tmp_path / "compare-one-two.png").stat().st_size > 10_000


def test_the_folder_of_one_run_is_not_taken_for_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="is one run; give two runs, or the name of an experiment"):
        show([str(tmp_path)], tmp_path)


@pytest.mark.parametrize(
    ("names", "wishes", "message"),
    [
        (["a", "b", "c"], ReportOptions(), "give one experiment, or two runs"),
        (["one", "two"], ReportOptions(html=Path("r.html")), "are for one experiment"),
        (["exp"], ReportOptions(alias="best"), "name it with --register"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(
    root: Path, names: list[str], wishes: ReportOptions, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        show(names, Path("out"), wishes, root)


def test_too_many_settings_are_left_to_the_file(tmp_path: Path) -> None:
    for number in range(2):
        settings = {f"part.setting{place}": number for place in range(9)}
        add(tmp_path, f"run{number}", settings, {"phone/test/c": 0.3 + number / 10})
    table = compare.rows("exp", tmp_path)
    text = shown(compare.render(table, "t"))
    assert "9 settings differ, too many to show here" in text
    assert "setting3" not in text
    assert "40.0 [" in text
    compare.write_csv(table, tmp_path / "table.csv")
    assert "setting3" in (tmp_path / "table.csv").read_text()
