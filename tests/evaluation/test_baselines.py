"""A probe session: rows in order, baselines computed once, and a key that changes with whatever matters."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from cpc.audio.mfcc import MFCC39, LogMel
from cpc.config import InputError, dump, validate
from cpc.data.corpus import Corpus
from cpc.evaluation.features import Features
from cpc.evaluation.probes.linear import Fitting
from cpc.evaluation.probes.probe import probe_cached, probe_run
from cpc.evaluation.probes.protocol import ProbeProtocol, ProbeSetup, place
from cpc.evaluation.results import ProbeTask
from cpc.models.cpc import ModelConfig, build


class Counted(LogMel):
    """Log-mel that knows how often it was computed."""

    passes = 0

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.passes += 1
        return super().forward(waveform, lengths)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with an untrained model of other weights than the random baseline's."""
    config = validate(ModelConfig, {"encoder": {"channels": 16, "norm": "channel"}, "context": {"hidden": 12}})
    weights = {f"model.{name}": weight for name, weight in build(config, seed=5).state_dict().items()}
    (tmp_path / "run").mkdir()
    header = {"cpc": json.dumps({"config": {"model": dump(config)}})}
    save_file(weights, tmp_path / "run" / "last.safetensors", metadata=header)
    return tmp_path / "run"


def test_a_session_gives_its_rows_in_order(
    chords: Corpus, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = ("speaker_train", "speaker_test")
    heard = [chords.ids[row] for row in chords.rows("speaker_test")]
    results = probe_run(
        "speaker", run, chords.path, *splits, cache=tmp_path / "cache", progress=False, pretrain_ids=heard
    )
    names = ["MFCC", "log-mel", "random z", "random c", "CPC z", "CPC c"]
    tasks = ["speaker_frame", "speaker_utterance"]
    assert [(r.features, r.task) for r in results] == [(name, task) for name in names for task in tasks]
    assert [r.slug for r in results[::2]] == ["mfcc", "logmel", "random_z", "random_c", "cpc_z", "cpc_c"]
    # What pretraining heard is said of the model that was pretrained, and of no other.
    assert ["Pretraining heard 4 of 4" in " ".join(r.notes) for r in results] == [False] * 8 + [True] * 4
    assert len(list((tmp_path / "cache").glob("*.json"))) == 12
    assert capsys.readouterr().err == ""
    again = probe_run("speaker", run, chords.path, *splits, layers=("c",), cache=tmp_path / "cache", progress=False)
    assert again[:4] == results[:4]
    assert [r.features for r in again[4:]] == ["random c", "random c", "CPC c", "CPC c"]
    assert again[4:6] == results[6:8]
    # The model's own numbers are found again as well; what was heard in pretraining is not asked for this time.
    assert len(list((tmp_path / "cache").glob("*.json"))) == 12
    assert [r.accuracy for r in again[6:]] == [r.accuracy for r in results[10:]]
    assert not any("Pretraining" in " ".join(r.notes) for r in again)


def test_a_cached_result_is_not_computed_again(chords: Corpus, tmp_path: Path) -> None:
    setup, features = ProbeSetup(chords, "phone_train", "phone_test"), Counted()
    first = probe_cached([features], setup, ["phone"], tmp_path)
    passes = features.passes
    assert probe_cached([features], setup, ["phone"], tmp_path) == first
    assert features.passes == passes > 0
    # The same utterances by their ids: the numbers are found, under the name by which they were asked for now.
    listed = replace(setup, train=[chords.ids[row] for row in chords.rows("phone_train")])
    assert probe_cached([features], listed, ["phone"], tmp_path) == [replace(first[0], train="36 ids")]
    assert features.passes == passes
    # A broken file is as good as none.
    next(tmp_path.glob("*.json")).write_text("{")
    assert probe_cached([features], setup, ["phone"], tmp_path) == first
    assert features.passes == passes  # the frames are on disk, for other tasks and splits too
    probe_cached([features], replace(setup, train="phone_test", test="phone_train"), ["phone"], tmp_path)
    assert features.passes == passes
    shutil.rmtree(tmp_path / "features")
    next(tmp_path.glob("*.json")).unlink()
    probe_cached([features], setup, ["phone"], tmp_path)
    assert features.passes > passes


def test_whatever_determines_the_result_changes_the_key(chords: Corpus, tmp_path: Path) -> None:
    setup, features = ProbeSetup(chords, "phone_train", "phone_test"), MFCC39()

    def key(features: Features, setup: ProbeSetup, task: ProbeTask = "phone") -> Path:
        return place(tmp_path, {"name": features.name, **features.settings}, setup, task)

    first = key(features, setup)
    protocols = [
        ProbeProtocol(fitting=Fitting(tolerance=1e-4)),
        ProbeProtocol(l2=(1e-4,)),
        ProbeProtocol(classifier="mlp"),
        ProbeProtocol(context=2),
        ProbeProtocol(budget=10.0),
        ProbeProtocol(seed=1),
    ]
    others = [
        key(LogMel(), setup),
        key(features, setup, "speaker_frame"),
        key(features, setup, "phone_sequence"),
        key(features, replace(setup, labels="shuffled")),
        key(features, replace(setup, train="speaker_train")),
        key(features, replace(setup, test="speaker_test")),
        key(features, replace(setup, folds=2)),
        *(key(features, replace(setup, protocol=protocol)) for protocol in protocols),
    ]
    assert len({first, *others}) == 14
    assert first == key(MFCC39(), ProbeSetup(Corpus.open(chords.path), "phone_train", "phone_test"))


def test_unfit_splits_are_refused_before_the_model_is_read(chords: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 1 speakers are not in train"):
        probe_run("speaker", tmp_path / "none", chords.path, "phone_train", "phone_test", cache=tmp_path)
