"""The whole way on real speech, where it lies beside the checkout: pack, label, probe, train a little."""

from pathlib import Path

import numpy as np
import pytest

import cpc
from cpc.audio.mfcc import MFCC39
from cpc.evaluation.probes.probe import probe

pytestmark = pytest.mark.speech


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty utterances of two speakers, packed with the labels and splits that lie beside them."""
    from data_prep.folder import main as pack_folder
    from tests.conftest import SPEECH

    if not (SPEECH / "audio").is_dir():
        pytest.skip("no real speech beside the checkout (../shared/speech)")
    folder = tmp_path_factory.mktemp("some") / "audio"
    for speaker in ("libri-devclean/84", "libri-devclean/2277"):
        files = sorted((SPEECH / "audio" / speaker).rglob("*.mp3"))[:20]
        for path in files:
            link = folder / path.relative_to(SPEECH / "audio")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    pack_folder(folder, folder.parent / "packed", table=SPEECH / "meta" / "utterances.tsv", first_centre=205)
    return folder.parent / "packed"


def test_labels_meet_frames(some: Path) -> None:
    """MFCC of frames at their centres say more about the phones than at centres 60 ms off."""
    corpus = cpc.Corpus.open(some)
    train, test = corpus.ids[::2], corpus.ids[1::2]

    class Shifted(MFCC39):
        def frame_centres(self, n_frames: int) -> np.ndarray:
            return super().frame_centres(n_frames) + 0.06

    right = probe(MFCC39(), corpus, train, test, "phone")
    wrong = probe(Shifted(), corpus, train, test, "phone")
    assert right.accuracy > right.majority + 0.1
    assert right.low > wrong.high


def test_it_trains_on_real_speech(some: Path, tmp_path: Path) -> None:
    overrides = [f"data.corpus={some}", "data.train=null", "data.val_fraction=0.5", "training.max_steps=100"]
    overrides += [
        "training.validate_every=60",
        "training.validate_batches=2",
        "data.batch_size=4",
        "optim.warmup_steps=20",
    ]
    recipe = cpc.load_config(Path(__file__).parents[1] / "recipes" / "speech" / "cpc.yaml", overrides)
    run = cpc.train(recipe, root=tmp_path / "runs", progress=False)
    assert run.metrics["train/loss"] < run.metrics["train/ceiling"] - 0.01
    assert run.path.name == "speech-001"
