"""Verification from the outside: a trained run beside its baselines, recorded, kept, compared; and bad input."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cpc
from cpc.audio.mfcc import MFCC39, LogMel
from cpc.cli.evaluate import verify
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation import compare
from cpc.evaluation.features import Layer
from cpc.evaluation.report import write_report
from cpc.evaluation.results import headings
from cpc.evaluation.trials import TrialChoice, gather
from cpc.evaluation.verification import (
    Estimate,
    Session,
    VerificationConfig,
    VerificationResult,
    embeddings,
    evaluate,
    verification_table,
    verify_cached,
    verify_run,
)
from cpc.losses.instance import load_pooling
from cpc.tracking.mlflow import connect
from tests.evaluation.trained import save_untrained
from tests.tiny import SHORT, tiny

CROSSED = TrialChoice("phone_test", "phone_train")  # of one speaker the mean, of the three others the trials
QUIET = VerificationConfig(CROSSED, progress=False)


def test_a_run_is_judged_beside_the_baselines_recorded_and_compared(chords: Corpus, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run = save_untrained(chords.path, root / "tiny", tracked=True)
    results = evaluate(run, chords.path, replace(QUIET, keep_trials=tmp_path / "trials.txt"))
    names = ["MFCC", "log-mel", "random z", "random c", "CPC z", "CPC c"]
    assert [result.features for result in results] == names
    # 36 utterances of three speakers: 3 · 12 · 11 / 2 pairs of one, and 3 · 12 · 12 of two
    assert {(r.targets, r.non_targets, r.speakers, r.utterances) for r in results} == {(198, 432, 3, 36)}
    assert len((tmp_path / "trials.txt").read_text().splitlines()) == 198 + 432
    assert results[0].eer.value < 0.25  # a hum at 100, 160 or 220 Hz is in the lowest bands
    # 12 utterances in 3 chapters of 4: 6 of each chapter's pairs, three speakers
    assert results[0].notes[0].startswith("54 of 198 target trials share a chapter: ")
    assert "mean of 12 utterances of phone_test was taken from all vectors" in results[0].notes[1]
    assert results[-1].notes[-1].startswith("Pretraining heard 3 of 3 test speakers, 9 of 9 test chapters and 36 of 36")
    for result in results:
        assert VerificationResult.read(run / "verification" / result.file_name) == result
    _recorded(run, results)
    table = compare.rows("exp", root)
    where = results[0].where
    assert re.fullmatch("phone_train--packed--from_phone_test--[0-9a-f]{6}", where)
    task = f"verification/{where}/eer"
    assert compare.tasks(table) == [task]
    assert compare.best(table, task) == min(result.eer.value for result in results)
    assert {row.run: row.metrics[task] for row in table}["MFCC"] == pytest.approx(tuple(results[0].eer))
    assert compare.heading_of(headings([task])[task]) == "verification eer %\n(phone_train)"
    page = write_report("exp", tmp_path / "page.html", root).read_text()
    assert "Are two utterances by one speaker?" in page
    assert "scored by cosine" in page
    assert verification_table(results).row_count == 6


def _recorded(run: Path, results: list[VerificationResult]) -> None:
    """What MLflow has of the run itself, and of a baseline."""
    client, state = connect(run.parent), json.loads((run / "run.json").read_text())
    own = client.get_run(state["run_id"]).data
    found = {name: value for name, value in own.metrics.items() if name.startswith("verification/")}
    expected = {}
    for layer, result in (("z", results[4]), ("c", results[5])):
        stem = f"verification/{result.where}/eer/{layer}"
        parts = {"error": result.eer.value, "low": result.eer.low, "high": result.eer.high}
        parts |= {f"min_dcf_{prior}": result.min_dcf[prior].value for prior in ("0.05", "0.01")}
        expected |= {f"{stem}/{part}": value for part, value in parts.items()}
    assert found == pytest.approx(expected)
    assert "centred on the mean of phone_test" in own.tags[f"verification.{results[5].where}.eer.c"]
    files = {Path(file.path).name for file in client.list_artifacts(state["run_id"], "verification")}
    assert files == {f"eer-{results[4].where}-cpc_{layer}.json" for layer in "zc"}
    where = client.get_experiment_by_name("exp").experiment_id
    (mfcc,) = client.search_runs([where], "tags.features = 'MFCC'")
    assert mfcc.data.metrics[f"verification/{results[0].where}/eer/mfcc/error"] == pytest.approx(results[0].eer.value)


def test_nothing_is_computed_twice(chords: Corpus, tmp_path: Path) -> None:
    class Counted(MFCC39):
        passes = 0

        def forward(self, *arguments: object) -> object:
            self.passes += 1
            return super().forward(*arguments)

    features = Counted()
    choice = TrialChoice("speaker_train", "speaker_test")
    session = Session(gather(chords, choice, lambda samples: samples > 400), tmp_path)
    (first,) = verify_cached([features], session)
    passes = features.passes
    assert verify_cached([features], session) == [first]
    assert features.passes == passes > 0
    other = gather(chords, replace(choice, other_chapters=False, seed=1), lambda samples: samples > 400)
    (second,) = verify_cached([features], Session(other, tmp_path))
    assert features.passes == passes  # the frames are on disk
    assert second.eer.value == first.eer.value  # all pairs, whatever the seed
    for broken in tmp_path.glob("*.json"):
        broken.write_text("{")
    assert verify_cached([features], session) == [first]
    assert features.passes == passes


def test_embeddings_are_means_of_frames_whatever_goes_through_together(
    chords: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, features = np.array([3, 5, 9, 30]), LogMel()
    (together,) = embeddings([features], chords, rows)
    monkeypatch.setattr("cpc.evaluation.verification._AT_ONCE", 1)
    (alone,) = embeddings([features], chords, rows)
    assert together == pytest.approx(alone, rel=1e-5)
    for row, vector in zip(rows.tolist(), together, strict=True):
        wave = torch.from_numpy(chords.waveform(row) / np.float32(2**15))
        assert vector == pytest.approx(features(wave[None])[0].mean(0).numpy(), rel=1e-4)


def test_a_list_decides_the_trials(chords: Corpus, tmp_path: Path) -> None:
    run = save_untrained(chords.path, tmp_path / "runs" / "one")
    asked = replace(QUIET, layers=("c",), baselines=False)
    checkpoint = run / "last.safetensors"
    drawn = replace(asked, choice=replace(CROSSED, most=20), keep_trials=tmp_path / "list.txt")
    (first,) = evaluate(checkpoint, chords.path, drawn)
    (second,) = evaluate(checkpoint, chords.path, replace(asked, choice=replace(CROSSED, listed=drawn.keep_trials)))
    assert (first.eer, first.min_dcf, first.targets) == (second.eer, second.min_dcf, 20)
    assert (first.task, second.task, second.where.split("--")[0]) == ("eer-most_20", "eer-listed", "list")
    assert {path.name for path in run.iterdir()} == {"config.yaml", "run.json", "last.safetensors"}  # nothing recorded
    with (tmp_path / "list.txt").open("a") as file:
        file.write("1 s0-c0-silent s0-c0-00\n")
    (third,) = evaluate(checkpoint, chords.path, replace(asked, choice=replace(CROSSED, listed=drawn.keep_trials)))
    assert third.eer == first.eer
    assert third.notes[0] == "1 of 41 trials have an utterance that is too short for a frame: skipped."


def test_other_chapters_and_utterances_too_short(chords: Corpus, tmp_path: Path) -> None:
    everything = tmp_path / "everything.txt"
    everything.write_text("\n".join(chords.ids))
    checkpoint = save_untrained(chords.path, tmp_path / "runs" / "one") / "last.safetensors"
    choice = TrialChoice(str(everything), str(everything), other_chapters=True)
    (result,) = evaluate(checkpoint, chords.path, replace(QUIET, choice=choice, layers=("z",), baselines=False))
    assert result.targets == 4 * 3 * 4 * 4  # four speakers, three pairs of chapters, four utterances in each
    assert result.notes[0] == "1 of 49 test utterances are too short for a frame: skipped."
    assert not any("share a chapter" in note for note in result.notes)
    assert result.task == "eer-other_chapters"


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (TrialChoice(test="none"), "split=none: no such split"),
        (TrialChoice(train="none"), "split=none: no such split"),
        (TrialChoice(test="speaker_test", other_chapters=True), "none of 4 speakers has two utterances, of known"),
        (TrialChoice(listed=Path("list.txt")), "trials=list.txt: no such file"),
        (TrialChoice(listed=Path("list.txt"), other_chapters=True), "other_chapters: the pairs are those of list.txt"),
        (TrialChoice(most=0), "most=0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_said(chords: Corpus, tmp_path: Path, choice: TrialChoice, said: str) -> None:
    run = save_untrained(chords.path, tmp_path / "runs" / "one")
    with pytest.raises(InputError, match=said):
        evaluate(run / "last.safetensors", chords.path, replace(QUIET, choice=choice))


def test_a_run_that_mlflow_does_not_know_keeps_its_files(chords: Corpus, tmp_path: Path) -> None:
    run = save_untrained(chords.path, tmp_path / "runs" / "one")
    with pytest.raises(InputError, match="is not in"):
        evaluate(run, chords.path, replace(QUIET, layers=("c",), baselines=False))
    assert len(list((run / "verification").glob("*.json"))) == 1


def test_the_command_prints_a_table_and_takes_its_options(
    chords: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_untrained(chords.path, tmp_path / "runs" / "one") / "last.safetensors"
    file = tmp_path / "list.txt"
    verify(run, chords.path, layer=["c"], baselines=False, most=20, seed=1, write_trials=file, device="cpu")
    printed = capsys.readouterr().out
    for said in ("EER %", "minDCF(0.05)", "minDCF(0.01)", "CPC c", "note: 20 of 20 target trials share a chapter"):
        assert said in printed
    assert len(file.read_text().splitlines()) == 40
    verify(run, chords.path, layer=["c"], baselines=False, trials=file, device="cpu")
    assert "list.txt: speaker verification" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"did you mean speaker_test\?"):
        verify(run, chords.path, test="speaker_tset", device="cpu")


def test_bad_input_is_one_line(chords: Corpus) -> None:
    line = [sys.executable, "-m", "cpc", "verify", "nowhere", str(chords.path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("cpc: nowhere: ")


@pytest.mark.slow
def test_a_trained_run_is_compared_with_its_baselines(chords: Corpus, tmp_path: Path) -> None:
    data = {"corpus": str(chords.path), "train": "speaker_train"}
    recipe = tiny(chords.path, "data.window_size=8000", "training.max_steps=3", data=data, experiment="chords")
    root = tmp_path / "runs"
    cpc.train(recipe, name="tiny", root=root, progress=False)
    results = evaluate(root / "tiny", chords.path, replace(QUIET, layers=("c",)))
    assert results[-1].notes[-1].startswith("Pretraining heard 3 of 3 test speakers, 6 of 9 test chapters and 24 of 36")
    found = {row.run: row.metrics[results[-1].identity.column] for row in compare.rows("chords", root)}
    assert found.keys() == {"MFCC", "log-mel", "random c", "tiny"}
    assert found["tiny"] == pytest.approx(tuple(results[-1].eer))


def test_results_of_different_trials_have_different_names() -> None:
    estimate = Estimate(0.1, 0.05, 0.15)
    result = VerificationResult(
        **dict.fromkeys(("targets", "non_targets", "speakers", "utterances"), 1),
        **dict.fromkeys(("listed", "other_chapters"), False),
        features="CPC c1", eer=estimate, min_dcf={"0.05": estimate}, corpus="dev-clean", train="speaker_train",
        test="speaker_test", most=20_000, seed=0, protocol="",
    )  # fmt: skip
    assert result.metric_name == "verification/speaker_test--dev-clean/eer/c1"
    changes = (
        {"test": "lists/some ids.txt"},
        {"listed": True},
        {"other_chapters": True},
        {"most": 100},
        {"seed": 1},
        {"features": "random c1"},
        {"corpus": "test-clean"},
        {"train": "others"},
        {"fingerprint": "0a1b2c"},
    )
    names = {replace(result, **change).metric_name for change in changes} | {result.metric_name}
    assert len(names) == len(changes) + 1
    assert "verification/some_ids--dev-clean/eer/c1" in names
    assert VerificationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    with pytest.raises(InputError, match="eer missing or unknown"):
        VerificationResult.from_dict({key: value for key, value in result.to_dict().items() if key != "eer"})


def test_a_learnt_pooling_is_judged_too(chords: Corpus, tmp_path: Path) -> None:
    loss = {"kind": "instance", "views": {"crop": 4000}, "pooling": {"kind": "attentive", "width": 8}}
    loss["projection"] = {"width": 8, "dim": 8}
    data = {"corpus": str(chords.path), "train": "speaker_train"}
    recipe = tiny(chords.path, "data.window_size=8000", data=data, loss=loss, training=SHORT)
    run = cpc.train(recipe, name="tiny", root=tmp_path / "runs", progress=False)
    model = cpc.load(run.path)
    _, results = verify_run(run.path, chords, CROSSED, layers=("c",), progress=False)
    assert [result.features for result in results[-2:]] == ["CPC c", "CPC c, pooled"]

    pooling = load_pooling(run.path, model)
    assert pooling is not None
    row = chords.rows("phone_test")[:1]
    (found,) = embeddings([Layer(model, "c", pooling=pooling)], chords, row)
    with torch.no_grad():
        c = model(torch.from_numpy(chords.waveform(int(row[0])) / np.float32(2**15))[None]).c
    scores = pooling.scores(c)[0].softmax(-1)
    torch.testing.assert_close(torch.from_numpy(found[0]).float(), scores @ c[0], rtol=1e-4, atol=1e-5)


def test_a_mean_is_nothing_learnt(chords: Corpus, tmp_path: Path) -> None:
    run = save_untrained(chords.path, tmp_path / "run")
    assert load_pooling(run, cpc.load(run)) is None
