"""Results reach the run's folder and MLflow, each protocol under a name of its own."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import yaml

from cpc.config import InputError
from cpc.data.alignment import write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import write_split
from cpc.evaluation import verification
from cpc.evaluation.abx import run as abx
from cpc.evaluation.experiment import rows, tasks
from cpc.evaluation.plots.gallery import draw_all
from cpc.evaluation.probes.probe import probe_and_record, probe_run
from cpc.evaluation.probes.protocol import ProbeProtocol
from cpc.evaluation.report import budgets_of
from cpc.evaluation.results import ProbeResult, headings, probe_table
from cpc.evaluation.runner import record
from cpc.io import write_json
from cpc.scale.suite import Column, paper_suite
from cpc.scale.topline import Topline
from cpc.tracking.mlflow import connect
from tests.evaluation.trained import save_untrained

SPLITS = ("phone_train", "phone_test")
FIXED = ProbeProtocol(l2=(1e-3,))


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
    curves = budgets_of(client, rows("exp", run.parent))
    assert curves == {"phone/phone_test": {"one CPC c": [(r.budget, r.accuracy, r.low, r.high) for r in results]}}
    assert metrics(run)[f"one:probe/phone/{results[1].where}/c/accuracy"] == results[1].accuracy
    said = client.get_run(id).data.tags["mlflow.note.content"].splitlines()
    assert said[0] == "| result | % | 95% interval |"
    assert (
        sum(f"c: accuracy | {100 * r.accuracy:.1f} | {100 * r.low:.1f} to" in line for r in results for line in said)
        >= 2
    )
    names = {f"phone-{result.where}-cpc_c.json" for result in results}
    assert {path.name for path in (run / "probes").iterdir()} == names
    assert {Path(file.path).name for file in client.list_artifacts(id, "probes")} == names
    assert ProbeResult.read(run / "probes" / results[1].file_name) == results[1]


def test_baselines_have_runs_of_their_own_and_columns_never_mix(chords: Corpus, run: Path) -> None:
    protocol = replace(FIXED, context=2)
    results = probe_and_record(
        "phone", run, chords.path, *SPLITS, layers=["z+c"], progress=False, protocols=[protocol]
    )  # fmt: skip
    assert [r.features for r in results] == ["MFCC ±2", "log-mel ±2", "random z+c ±2", "CPC z+c ±2"]
    found, where = metrics(run), results[0].where
    assert re.fullmatch("phone_test--packed--[0-9a-f]{6}", where)
    assert found[f"one:probe/phone/{where}/z_c_context2/accuracy"] == results[3].accuracy
    assert found[f"MFCC ±2:probe/phone/{where}/mfcc_context2/accuracy"] == results[0].accuracy
    assert found[f"one:probe/phone/{where}/z_c_context2/speakers_low"] if results[3].speakers_low else True
    mlp = replace(results[3], classifier="mlp")
    assert mlp.metric_name == f"probe/phone_mlp/{where}/z_c_context2"
    few = replace(mlp, budget=1.0, test="a b/c.txt", fingerprint="")
    assert few.metric_name == "budget/phone_mlp/c--packed--budget_1/z_c_context2"
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
    assert ProbeResult.read(run / "probes" / "phone-b--made--from_a-cpc_c.json") == result


@pytest.fixture
def twin(chords: Corpus, tmp_path: Path) -> Path:
    """A corpus of the same name and splits as `chords`, with other audio: its second half is silence."""
    ids, alignment = [id for id in chords.ids if "silent" not in id], chords.labels("phones")
    for place, id in enumerate(ids):
        wave = chords.waveform(chords.row(id)) * (1 if place % 2 else 0)
        soundfile.write(tmp_path / f"{id}.wav", wave, 16000)
    speakers = dict(zip(chords.ids, chords.speakers, strict=True))
    sources = [Source(id=id, path=tmp_path / f"{id}.wav", speaker=speakers[id]) for id in ids]
    out = tmp_path / "other" / "packed"
    pack(sources, out, workers=1, progress=False)
    write_alignment(out, "phones", map(alignment.intervals, ids), alignment.inventory, "constructed")
    for split in SPLITS:
        write_split(out, split, [chords.ids[row] for row in chords.rows(split)])
    return out


def test_two_corpora_have_a_result_each(chords: Corpus, run: Path, twin: Path) -> None:
    """In the folder, in MLflow and in the table, where the baselines of both have a row; even if both have one name."""
    named = twin.parent / "noisy"
    shutil.copytree(twin, named)
    results = []
    for corpus in (chords.path, twin, named):
        options = {"layers": ["c"], "progress": False, "protocols": [FIXED]}
        results.append(probe_and_record("phone", run, corpus, *SPLITS, **options))
    own = [each[-1] for each in results]
    for result in own:
        assert ProbeResult.read(run / "probes" / result.file_name) == result
    assert own[0].accuracy != own[1].accuracy
    table = rows("exp", run.parent)
    assert [(row.run, row.features) for row in table] == [
        ("MFCC", ""), ("log-mel", ""), ("random c", ""), ("one", "CPC c")
    ]  # fmt: skip
    for row, each in zip(table, zip(*results, strict=True), strict=True):
        assert row.metrics == {r.identity.column: (r.accuracy, r.low, r.high) for r in each}
        assert row.results == {r.identity.column: r for r in each}
    shown = headings(tasks(table))
    ends = [result.fingerprint for result in own]
    assert ends[0] != ends[1] == ends[2]
    assert {shown[result.identity.column] for result in own} == {
        f"phone/phone_test, {data}" for data in (f"packed, {ends[0]}", f"packed, {ends[1]}", f"noisy, {ends[1]}")
    }


def test_training_split_labels_seed_and_protocol_are_told_apart(chords: Corpus, run: Path) -> None:
    few = [chords.ids[row] for row in chords.rows("phone_train")][::2]
    (chords.path.parent / "few.txt").write_text("\n".join(few) + "\n")
    options = {"layers": ["c"], "baselines": False, "progress": False, "cache": run.parent / ".cache"}
    asked = [
        {},
        {"train": str(chords.path.parent / "few.txt")},
        {"labels": "shuffled"},
        {"protocols": [ProbeProtocol("mlp", fitting=FIXED.fitting, hidden=8, seed=seed) for seed in (0, 1)]},
        {"protocols": [replace(FIXED, l2=(1.0,))]},
    ]
    results = []
    for each in asked:
        splits = {"train": each.pop("train", SPLITS[0]), "test": SPLITS[1]}
        found = probe_run("phone", run, chords.path, **splits, **(options | {"protocols": [FIXED]} | each))
        record(found, run)
        results += found
    assert len({result.file_name for result in results}) == len(results) == 6
    (row,) = rows("exp", run.parent)
    assert row.metrics == {r.identity.column: (r.accuracy, r.low, r.high) for r in results}
    assert row.results == {r.identity.column: r for r in results}  # what a paired test takes is what is shown
    shown = headings(tasks([row]))
    seeds = [shown[result.identity.column] for result in results[3:5]]
    assert seeds == ["phone_mlp/phone_test", "phone_mlp/phone_test, seed 1"]
    assert shown[results[1].identity.column].startswith("phone/phone_test, from few")
    assert shown[results[2].identity.column].startswith("phone/phone_test, labels shuffled")


def test_small_budgets_are_points_of_their_own(chords: Corpus, run: Path) -> None:
    client = connect(run.parent)
    made = ProbeResult(
        "phone", "CPC c", 0.4, 0.3, 0.5, 0.1, 6, "a", "b", 1, 1, 1, 1, 1, True, "made", "by hand", fingerprint="0a1b2c"
    )  # fmt: skip
    shares = (0.3, 0.5, 33.33333, 99.6, 99.99999, 100.0)
    results = [replace(made, budget=share, accuracy=share / 200) for share in shares]
    record(results, run)
    (curves,) = budgets_of(client, rows("exp", run.parent)).values()
    assert curves == {"one CPC c": [(share, share / 200, 0.3, 0.5) for share in shares]}


def test_curves_of_older_versions_take_their_budgets_from_the_files(chords: Corpus, run: Path, tmp_path: Path) -> None:
    client = connect(run.parent)
    id = client.search_runs(["1"])[0].info.run_id
    made = ProbeResult("phone", "CPC c", 0.4, 0.3, 0.5, 0.1, 6, "a", "b", 1, 1, 1, 1, 1, True, "made", "by hand")
    for step, value in ((0, 0.2), (2, 0.25), (100, 0.4)):
        for part in ("accuracy", "low", "high"):
            client.log_metric(id, f"budget/phone/b/c/{part}", value, step=step)
    for part in ("accuracy", "low", "high"):
        client.log_metric(id, f"probe/phone/b/c/{part}", 0.4)
    values = replace(made, budget=0.3, accuracy=0.2, low=0.2, high=0.2).to_dict()
    for name in ("labels", "fingerprint", "subject"):
        del values[name]
    write_json(tmp_path / "phone-b-cpc_c-budget0.3.json", values)
    client.log_artifact(id, str(tmp_path / "phone-b-cpc_c-budget0.3.json"), "probes")
    expected = [(share, *[value] * 3) for share, value in ((0.3, 0.2), (2.0, 0.25), (100.0, 0.4))]
    assert budgets_of(client, rows("exp", run.parent)) == {"phone/b": {"one CPC c": expected}}


def test_of_two_seeds_of_an_older_version_the_pairs_are_those_of_the_number_shown(run: Path, tmp_path: Path) -> None:
    """Both had one name in MLflow and two files; the last one written was the one shown."""
    client = connect(run.parent)
    id = client.search_runs(["1"])[0].info.run_id
    made = ProbeResult("phone", "CPC c", 0.4, 0.3, 0.5, 0.1, 6, "a", "b", 1, 1, 1, 1, 1, True, "made", "by hand")
    for seed, value in ((1, 0.6), (0, 0.4)):
        path = tmp_path / f"phone-b-cpc_c-seed{seed}.json"
        replace(made, seed=seed, accuracy=value).write(path)
        client.log_artifact(id, str(path), "probes")
    for shown, seed in ((0.4, 0), (0.6, 1)):
        client.log_metric(id, "probe/phone/b/c/accuracy", shown)
        (row,) = rows("exp", run.parent)
        assert row.metrics["phone/b"][0] == shown
        assert row.results["phone/b"].seed == seed


def test_random_weights_of_two_architectures_have_a_row_each(chords: Corpus, run: Path) -> None:
    wide = save_untrained(chords.path, Path("runs") / "wide", True, "model.context.hidden=24")
    again = save_untrained(chords.path, Path("runs") / "again", tracked=True)
    options = {"layers": ["c"], "progress": False, "protocols": [FIXED]}
    results = {each: probe_and_record("phone", each, chords.path, *SPLITS, **options) for each in (run, wide, again)}
    random = {each: found[2] for each, found in results.items()}
    assert random[run].accuracy != random[wide].accuracy
    assert random[run].subject == random[again].subject != random[wide].subject
    table = {row.run: row for row in rows("exp", run.parent) if row.is_baseline}
    assert table.keys() == {"MFCC", "log-mel", "random c (as in one)", "random c (as in wide)"}
    for each in (run, wide):
        row = table[f"random c (as in {each.name})"]
        assert [value[0] for value in row.metrics.values()] == [random[each].accuracy]
        assert list(row.results.values()) == [random[each]]


def test_a_training_corpus_that_was_moved_costs_one_note(chords: Corpus, run: Path, tmp_path: Path) -> None:
    """The corpus is for a sentence on what pretraining heard alone; every verb goes on without it."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["corpus"] = str(tmp_path / "gone")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    said = "How much of the test pretraining heard is not known: "
    options = {"layers": ["c"], "progress": False, "baselines": False}
    (probed,) = probe_and_record("phone", run, chords.path, *SPLITS, **options, protocols=[FIXED])
    (evaluated,) = abx.evaluate(run, chords.path, abx.ABXConfig(split="phone_test", context="any", **options))
    (verified,) = verification.evaluate(
        run,
        chords.path,
        verification.VerificationConfig(verification.TrialChoice("phone_train", "phone_train"), **options),
    )
    for result in (probed, evaluated, verified):
        assert result.notes[-1].startswith(f"{said}corpus={tmp_path / 'gone'}")
        assert "\n" not in result.notes[-1]
    assert metrics(run)[f"one:{probed.metric_name}/accuracy"] == probed.accuracy
    column = Column("phone", "phone", *SPLITS)
    suite = paper_suite(
        run,
        chords.path,
        columns=[column],
        how=Topline(4, 2, 8000, validate_every=4, validate_batches=1),
        progress=False,
    )
    heard = {cell.row for cell in suite.cells for result in cell.results if any(said in note for note in result.notes)}
    assert heard == {"CPC, linear", "CPC, one hidden layer"}
    lines: list[str] = []
    draw_all(run, chords.path, most=4, say=lines.append)
    assert any(line.startswith("horizon: ") and line.endswith("horizon.png") for line in lines)
