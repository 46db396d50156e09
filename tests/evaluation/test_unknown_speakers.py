"""Unknown is not a speaker: utterances without one are skipped of what needs one, and that is said with a count."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.sampler import WindowConfig, WindowSampler
from cpc.data.shards import Source
from cpc.data.splits import hold_out, hold_out_within
from cpc.evaluation.abx.items import aligned_material
from cpc.evaluation.leakage import check
from cpc.evaluation.probes.dataset import hold_out as hold_out_for_a_choice
from cpc.evaluation.probes.dataset import speaker_numbers
from cpc.evaluation.probes.probe import folds_of
from cpc.evaluation.probes.protocol import over_speakers
from cpc.evaluation.trials import TrialChoice, draw_trials, gather
from cpc.training.trainer import Trainer
from tests.tiny import tiny

NAMED, NOBODY = 6, 4


@pytest.fixture(scope="module")
def half_named(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two utterances of each of three speakers, and four whose speaker nobody wrote down."""
    folder = tmp_path_factory.mktemp("half")
    generator, sources = np.random.default_rng(0), []
    for number in range(NAMED + NOBODY):
        path = folder / f"u{number}.wav"
        soundfile.write(path, generator.uniform(-0.5, 0.5, 16000), 16000)
        speaker = f"s{number % 3}" if number < NAMED else ""
        sources.append(Source(id=path.stem, path=path, speaker=speaker, chapter=str(number // 3)))
    pack(sources, folder / "packed", workers=1, progress=False)
    edges = np.arange(9) / 10
    rows = [AlignedRow(f"u{n}", edges[:-1], edges[1:], np.arange(8) % 3) for n in range(NAMED + NOBODY)]
    write_alignment(folder / "packed", "phones", rows, ["AA", "B", "K"], "made up")
    return Corpus.open(folder / "packed")


def speakers(corpus: Corpus, rows: np.ndarray) -> list[str]:
    return [corpus.speakers[row] for row in rows.tolist()]


def everything(corpus: Corpus) -> np.ndarray:
    return np.arange(len(corpus))


def test_packing_counts_the_known_ones(half_named: Corpus) -> None:
    assert json.loads((half_named.path / "corpus.json").read_text())["speakers"] == 3


def test_holding_out_by_speaker(half_named: Corpus) -> None:
    train, held = hold_out(half_named, 0.3, seed=0)
    assert "" not in speakers(half_named, np.concatenate([train, held]))
    assert len(train) + len(held) == NAMED
    within = hold_out_within(half_named, 0.5, seed=0)
    assert set(speakers(half_named, within.left_out)) == {""}
    assert len(within.left_out) == NOBODY


def test_training_goes_on_with_them_and_never_validates_on_them(half_named: Corpus) -> None:
    recipe = tiny(half_named.path, data={"corpus": str(half_named.path), "val_fraction": 0.3})
    job = Trainer.start(recipe)
    assert job.valid is not None
    assert speakers(half_named, job.windows.rows).count("") == NOBODY
    assert "" not in speakers(half_named, job.valid.rows)


def test_batches_and_positives_of_one_speaker(half_named: Corpus) -> None:
    for config, by_speaker in ((WindowConfig(800, 4, True), False), (WindowConfig(800, 4), True)):
        windows = WindowSampler(half_named, everything(half_named), config, seed=0, by_speaker=by_speaker)
        assert windows.unknown == NOBODY
        assert "" not in speakers(half_named, windows.rows)
    recipe = tiny(
        half_named.path,
        data={"corpus": str(half_named.path), "val_fraction": 0},
        loss={"kind": "instance", "positives": "speaker", "views": {"crop": 2000}},
    )
    assert Trainer.start(recipe).windows.unknown == NOBODY
    nobody = everything(half_named)[NAMED:]
    with pytest.raises(InputError, match="none of the 4 utterances has a known speaker"):
        WindowSampler(half_named, nobody, WindowConfig(800, 4, True), seed=0)


def test_verification(half_named: Corpus) -> None:
    trials = draw_trials(half_named, everything(half_named))
    assert "" not in speakers(half_named, trials.rows)
    assert int(trials.target.sum()) == 3  # one pair of each speaker, none of the four unknown
    choice = TrialChoice(train="all", test="all")
    (half_named.path / "splits").mkdir(exist_ok=True)
    (half_named.path / "splits" / "all.txt").write_text("\n".join(half_named.ids) + "\n")
    material = gather(Corpus.open(half_named.path), choice, lambda samples: np.ones(len(samples), dtype=bool))
    assert f"{NOBODY} of {NAMED + NOBODY} test utterances have no known speaker: skipped." in material.notes


def test_verification_by_a_list(half_named: Corpus, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("1 u0 u3\n0 u0 u1\n1 u6 u7\n")
    choice = TrialChoice(train="all", test="all", listed=tmp_path / "list")
    (half_named.path / "splits").mkdir(exist_ok=True)
    (half_named.path / "splits" / "all.txt").write_text("\n".join(half_named.ids) + "\n")
    material = gather(Corpus.open(half_named.path), choice, lambda samples: np.ones(len(samples), dtype=bool))
    assert len(material.trials) == 2
    assert "1 trials have an utterance whose speaker is not known: skipped." in material.notes


def test_abx(half_named: Corpus) -> None:
    material = aligned_material(half_named, "triphone")
    assert set(material.items.speakers.tolist()) == {"s0", "s1", "s2"}
    assert f"{NOBODY} of {NAMED + NOBODY} utterances have no known speaker: skipped." in material.notes


def test_a_speaker_probe(half_named: Corpus) -> None:
    ids = {id: row for row, id in enumerate(half_named.ids)}
    train, test = np.array([ids[f"u{n}"] for n in (0, 1, 2, 6)]), np.array([ids[f"u{n}"] for n in (3, 4, 5, 7)])
    notes = check("speaker_frame", half_named, train, test)
    assert "1 of 4 training and 1 of 4 test utterances have no known speaker: skipped." in notes
    numbers = speaker_numbers(half_named, train)
    assert (numbers >= 0).tolist() == [True, True, True, False]


def test_folds_intervals_and_choices(half_named: Corpus) -> None:
    names = ["a", "b", "", "c", ""]
    assert folds_of(names, 3, 0)[[2, 4]].tolist() == [-1, -1]
    assert set(folds_of(names, 3, 0)[[0, 1, 3]].tolist()) == {0, 1, 2}
    hits, totals = np.array([1, 2, 9, 3, 9]), np.array([10, 10, 10, 10, 10])
    assert over_speakers(names, hits, totals, 0) == over_speakers(["a", "b", "c"], hits[[0, 1, 3]], totals[:3], 0)
    rows = everything(half_named)
    assert not hold_out_for_a_choice("phone", half_named, rows[NAMED:], rows[:NAMED], 0).out.all()
