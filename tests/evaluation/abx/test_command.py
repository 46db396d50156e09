"""ABX from the outside: a run, a checkpoint, a folder of arrays, on a corpus or an `.item` file; kept and recorded."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import save_file

from cpc.audio.mfcc import MFCC39
from cpc.config import InputError, dump, validate
from cpc.data.alignment import write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.evaluation.abx.items import aligned_material, corpus_banks, listed_material, read_items, write_items
from cpc.evaluation.abx.run import ABXConfig, abx_cached, evaluate
from cpc.evaluation.abx.task import ABXResult, ABXTask, abx, abx_table
from cpc.models.cpc import ModelConfig, build
from cpc.tracking.mlflow import connect, experiment_id

QUIET = ABXConfig(context="any", progress=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The checkpoint of an untrained model."""
    config = validate(ModelConfig, {"encoder": {"channels": 16, "norm": "channel"}, "context": {"hidden": 12}})
    weights = {f"model.{name}": weight for name, weight in build(config, seed=5).state_dict().items()}
    file = tmp_path / "runs" / "first" / "last.safetensors"
    file.parent.mkdir(parents=True)
    save_file(weights, file, metadata={"cpc": json.dumps({"config": {"model": dump(config)}})})
    return file


@pytest.fixture
def run(model: Path, chords: Corpus) -> Path:
    """The folder of a run that MLflow knows."""
    folder = model.parent
    client = connect(folder.parent)
    known = client.create_run(experiment_id(client, "chords", folder.parent))
    (folder / "run.json").write_text(json.dumps({"experiment": "chords", "run_id": known.info.run_id}))
    (folder / "config.yaml").write_text(json.dumps({"data": {"corpus": str(chords.path), "train": "speaker_train"}}))
    return folder


@pytest.fixture
def named(chords: Corpus, tmp_path: Path) -> Corpus:
    """The same corpus with names of phones that an .item file can hold."""
    shutil.copytree(chords.path, tmp_path / "packed")
    alignment = chords.labels("phones")
    rows = [alignment.intervals(id) for id in chords.ids if id in alignment]
    write_alignment(tmp_path / "packed", "phones", rows, list("ABCDEF"), "constructed")
    return Corpus.open(tmp_path / "packed")


def test_mfcc_tell_chords_apart_and_shuffled_labels_are_half(chords: Corpus) -> None:
    material = aligned_material(chords, "phone")
    (bank,) = corpus_banks([MFCC39()], chords, material.rows)
    right = abx(bank, material.items, ABXTask("across", "any"))
    assert right.error < 0.1
    # Labels of other utterances: every chord is as near to any as to its own.
    wrong = aligned_material(chords, "phone", labels="shuffled")
    shuffled = abx(bank, wrong.items, ABXTask("across", "any"))
    assert shuffled.low < 0.5 < shuffled.high
    assert shuffled.high - shuffled.low < 0.1


def test_a_shifted_clock_costs_accuracy(chords: Corpus) -> None:
    """The frames of an item are those of its time: 50 ms beside it, the chord is another."""
    material = aligned_material(chords, "phone")
    (bank,) = corpus_banks([MFCC39()], chords, material.rows)
    late = replace(bank, centres=lambda n: bank.centres(n) + 0.05)
    task = ABXTask("within", "any")
    assert abx(late, material.items, task).error > abx(bank, material.items, task).error + 0.1


def test_a_run_is_judged_beside_the_baselines_and_recorded(chords: Corpus, run: Path) -> None:
    results = evaluate(run, chords.path, replace(QUIET, split="speaker_test"))
    where = results[-1].where
    assert re.fullmatch("speaker_test--packed--[0-9a-f]{6}", where)
    names = ["MFCC", "log-mel", "random z", "random c", "CPC z", "CPC c"]
    assert [result.features for result in results] == names
    assert "Pretraining heard 4 of 4" in results[-1].notes[-1]
    assert len(list((run / "abx").glob("*.json"))) == 6
    assert ABXResult.read(run / "abx" / f"within-any-{results[-1].where}-cpc_c.json") == results[-1]
    assert (run / "figures" / "abx.png").stat().st_size > 1000
    client, state = connect(run.parent), json.loads((run / "run.json").read_text())
    own = client.get_run(state["run_id"])
    expected = {
        f"abx/{where}/within-any/{layer}/{part}": value
        for layer, result in (("z", results[4]), ("c", results[5]))
        for part, value in (("error", result.error), ("low", result.low), ("high", result.high))
    }
    assert own.data.metrics == pytest.approx(expected)
    assert "dynamic time warping" in own.data.tags[f"abx.{where}.within-any.c"]
    artifacts = {
        artifact.path for folder in ("abx", "figures") for artifact in client.list_artifacts(state["run_id"], folder)
    }
    assert artifacts == {
        f"abx/within-any-{where}-cpc_c.json",
        f"abx/within-any-{where}-cpc_z.json",
        "figures/abx.png",
    }
    experiment = experiment_id(client, "chords", run.parent)
    (mfcc,) = client.search_runs([experiment], "tags.features = 'MFCC'")
    assert mfcc.data.metrics[f"abx/{where}/within-any/mfcc/error"] == pytest.approx(results[0].error)
    assert abx_table(results).row_count == 6


def test_nothing_is_computed_twice(chords: Corpus, tmp_path: Path) -> None:
    class Counted(MFCC39):
        passes = 0

        def forward(self, *arguments: object) -> object:
            self.passes += 1
            return super().forward(*arguments)

    features, material, task = Counted(), aligned_material(chords, "phone", "speaker_test"), ABXTask("within", "any")
    (first,) = abx_cached([features], material, task, tmp_path)
    passes = features.passes
    assert abx_cached([features], material, task, tmp_path) == [first]
    assert features.passes == passes > 0
    (other,) = abx_cached([features], material, replace(task, seed=1), tmp_path)
    assert features.passes == passes  # the frames are on disk
    assert other.seed == 1
    for broken in tmp_path.glob("*.json"):
        broken.write_text("{")
    assert abx_cached([features], material, task, tmp_path) == [first]
    assert features.passes == passes


def test_a_checkpoint_is_judged_and_nothing_recorded(chords: Corpus, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "abx.json"
    asked = replace(QUIET, layers=("c",), baselines=False, split="speaker_test", out=out)
    (result,) = evaluate(model, chords.path, asked)
    assert result.features == "CPC c"
    assert ABXResult.from_dict(json.loads(out.read_text())[0]) == result
    assert {path.name for path in model.parent.iterdir()} == {"last.safetensors"}
    (again,) = evaluate(model.parent, chords.path, asked)  # the folder that it is in, without a run.json
    assert again == result


def test_a_folder_on_a_corpus_on_its_items_and_a_model_on_them_agree(
    named: Corpus, model: Path, tmp_path: Path
) -> None:
    material = aligned_material(named, "phone", "speaker_test")
    (bank,) = corpus_banks([MFCC39()], named, material.rows)
    for id, place in bank.places.items():
        (tmp_path / "mfcc").mkdir(exist_ok=True)
        np.save(tmp_path / "mfcc" / f"{id}.npy", bank.table.utterance(place).numpy())
    asked = replace(QUIET, hop=0.01, first_centre=200.5 / 16000, split="speaker_test", keep_items=tmp_path / "x.item")
    (on_corpus,) = evaluate(tmp_path / "mfcc", named.path, asked)
    assert len(read_items(tmp_path / "x.item")) == len(material.items)
    (on_items,) = evaluate(tmp_path / "mfcc", tmp_path / "x.item", replace(asked, split=None, keep_items=None))
    listed = listed_material(named, tmp_path / "x.item")
    (from_audio,) = abx_cached([MFCC39()], listed, ABXTask("within", "any"))
    errors = [result.error for result in (on_corpus, on_items, from_audio)]
    assert errors == pytest.approx([errors[0]] * 3, abs=1e-3)
    assert (on_corpus.unit, on_items.unit, on_items.split, on_items.where) == ("phone", "items", "x", "x")
    with_items = replace(QUIET, items=tmp_path / "x.item", layers=("c",), baselines=False)
    assert evaluate(model, named.path, with_items)[0].unit == "items"


def test_utterances_without_labels_are_counted(chords: Corpus) -> None:
    everything = aligned_material(chords, "phone")
    assert "1 of 49 utterances have no labels" in everything.notes[0]
    assert len(everything.rows) == 48


def test_a_subset_of_the_corpus_is_a_split_too(chords: Corpus, tmp_path: Path) -> None:
    ids = [id for id in chords.ids if "c1" in id][:8]
    for id in ids:
        soundfile.write(tmp_path / f"{id}.wav", chords.waveform(chords.row(id)), 16000)
    sources = [
        Source(id=id, path=tmp_path / f"{id}.wav", speaker=id[:2], subset=f"part{i % 2}") for i, id in enumerate(ids)
    ]
    pack(sources, tmp_path / "packed", workers=1, progress=False)
    alignment = chords.labels("phones")
    write_alignment(tmp_path / "packed", "phones", map(alignment.intervals, ids), alignment.inventory, "constructed")
    parts = Corpus.open(tmp_path / "packed")
    assert set(aligned_material(parts, "phone", "part1").items.files.tolist()) == set(ids[1::2])
    with pytest.raises(InputError, match=r"split=nowhere: .*\(subsets: part0, part1\)"):
        aligned_material(parts, "phone", "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speaker": "both"}, "speaker=both"),
        ({"unit": "word"}, "unit=word: must be one of triphone, phone"),
        ({"layers": ("y",)}, "layer=y"),
        ({"split": "none"}, "split=none"),
        ({"labels": "words"}, "labels=words"),
    ],
)
def test_what_cannot_be_is_said(chords: Corpus, model: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(model, chords.path, replace(QUIET, **changes))


def test_a_model_needs_audio_and_a_folder_its_hop(named: Corpus, model: Path, tmp_path: Path) -> None:
    write_items(tmp_path / "x.item", aligned_material(named, "phone", "speaker_test").items)
    with pytest.raises(InputError, match="a model needs the audio of the items; give a packed corpus"):
        evaluate(model, tmp_path / "x.item", QUIET)
    with pytest.raises(InputError, match="hop: must be given for a folder"):
        evaluate(tmp_path, tmp_path / "x.item", QUIET)
    with pytest.raises(InputError, match="no such file or folder"):
        evaluate(tmp_path / "none", named.path, QUIET)


def test_a_run_that_mlflow_does_not_know_keeps_its_files(chords: Corpus, run: Path) -> None:
    (run / "run.json").write_text(json.dumps({"experiment": "chords", "run_id": "0" * 32}))
    with pytest.raises(InputError, match="is not in"):
        evaluate(run, chords.path, replace(QUIET, layers=("c",), baselines=False, split="speaker_test"))
    assert len(list((run / "abx").glob("*.json"))) == 1


def test_results_of_different_tasks_have_different_names() -> None:
    result = ABXResult(
        **dict.fromkeys(("error", "low", "high"), 0.1),
        **dict.fromkeys(("items", "speakers", "cells", "triplets", "phone_pairs"), 1),
        features="CPC c1",
        resampled="speakers",
        speaker="within",
        context="within",
        unit="triphone",
        distance="angular",
        slicing="centre",
        most_items=10,
        most_speakers=5,
        seed=0,
        corpus="dev-clean",
        split="",
        pair_errors={"AA": {"B": 0.1}},
        protocol="",
    )
    assert result.metric_name == "abx/dev-clean/within-within/c1"
    assert result.pairs == {("AA", "B"): 0.1}
    changes = (
        {"split": "lists/some ids.txt"},
        {"slicing": "librilight"},
        {"distance": "euclidean"},
        {"speaker": "across"},
        {"speaker": "across", "most_speakers": None},
        {"context": "any"},
        {"context": "any", "unit": "phone"},
        {"most_items": None},
        {"seed": 1},
        {"corpus": "test-clean"},
        {"labels": "words"},
        {"fingerprint": "0a1b2c"},
        {"subject": "0a1b2c"},
    )
    names = {replace(result, **change).metric_name for change in changes} | {result.metric_name}
    assert len(names) == len(changes) + 1
    assert "abx/some_ids--dev-clean/within-within/c1" in names
    assert "abx/dev-clean/within-any/c1" in names  # phones are the usual unit there
    with pytest.raises(InputError, match="error missing or unknown"):
        ABXResult.from_dict({key: value for key, value in result.to_dict().items() if key != "error"})
