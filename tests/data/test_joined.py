"""Several packed corpora read as one are what packing all of their files at once would have given."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig, WindowSampler
from cpc.data.splits import write_split
from cpc.training.recipe import load_config
from cpc.training.trainer import Trainer
from data_prep import labels as labels_command
from data_prep import splits as splits_command
from tests.packed import invoke, make_corpus, refusal

IDS = [f"{speaker}-{chapter}-{n}" for speaker in "abcd" for chapter in (1, 2) for n in range(3)]
SECONDS = {id: 0.5 + 0.07 * place for place, id in enumerate(IDS)}
PHONES = ["SIL", "AA", "B"]


def label(corpus: Corpus, ids: list[str], scheme: str = "phones", inventory: list[str] = PHONES) -> None:
    rows = [
        AlignedRow(id, np.array([0.0, 0.1]), np.array([0.1, 0.4]), np.array([0, len(id) % len(inventory)]))
        for id in ids
    ]
    write_alignment(corpus.path, scheme, rows, inventory, "made by hand", {"kind": "test"})


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Corpus, Corpus, Corpus]:
    """All at once, and in two parts whose ids alternate; noise depends on the place, so audio is copied in order."""
    whole = make_corpus(tmp_path, SECONDS, "whole")
    parts = []
    for number in (0, 1):
        ids = IDS[number::2]
        for id in ids:
            source = tmp_path / "whole-audio" / f"{id}.wav"
            target = tmp_path / f"part{number}-audio" / f"{id}.wav"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
        parts.append(repack(tmp_path, f"part{number}", ids))
    for corpus in (whole, *parts):
        label(corpus, list(corpus.ids))
        write_split(corpus.path, "phone_train", [id for id in corpus.ids if id[0] in "ab"])
    write_split(parts[0].path, "own", [parts[0].ids[0]])
    return whole, *parts


def repack(folder: Path, name: str, ids: list[str]) -> Corpus:
    from cpc.data.pack import pack
    from cpc.data.shards import Source

    sources = [
        Source(id, folder / f"{name}-audio" / f"{id}.wav", id[0], id.split("-")[1], "FM"[IDS.index(id) % 2], "dev")
        for id in ids
    ]
    pack(sources, folder / name, workers=1, progress=False, shard_samples=20_000)
    return Corpus.open(folder / name)


def test_rows_audio_splits_and_labels_are_those_of_one_packing(corpora: tuple[Corpus, Corpus, Corpus]) -> None:
    whole, one, other = corpora
    for joined in (Corpus.open([one.path, other.path]), Corpus.open(f"{other.path},{one.path}")):
        assert (len(joined), joined.ids, joined.speakers, joined.chapters) == (
            len(whole),
            whole.ids,
            whole.speakers,
            whole.chapters,
        )
        assert joined.samples.tolist() == whole.samples.tolist()
        assert [joined.row(id) for id in IDS] == [whole.row(id) for id in IDS]
        assert all(np.array_equal(joined.waveform(row), whole.waveform(row)) for row in range(len(whole)))
        assert joined.splits() == ["own", "phone_train"]
        assert joined.rows("phone_train").tolist() == whole.rows("phone_train").tolist()
        assert joined.rows("own").tolist() == [0]
        assert joined.groups("speaker")[1].tolist() == whole.groups("speaker")[1].tolist()
        mine, theirs = joined.labels(), whole.labels()
        assert mine.ids.to_pylist() == theirs.ids.to_pylist()
        assert len(mine) == len(theirs)
        assert [row.id for row in mine] == IDS
        assert IDS[3] in mine
        assert "x" not in mine
        centres = np.arange(40) * 0.01
        assert all(np.array_equal(mine.frames(id, centres), theirs.frames(id, centres)) for id in IDS)
        assert sum(len(group.labels) for group in mine.groups()) == 2 * len(IDS)


def test_windows_and_training_are_those_of_one_packing(corpora: tuple[Corpus, Corpus, Corpus], tmp_path: Path) -> None:
    whole, one, other = corpora
    joined = Corpus.open([one.path, other.path])
    config = WindowConfig(window_size=4000, batch_size=6)
    read = [WindowSampler(c, np.arange(len(c)), config, 0).read(3) for c in (whole, joined)]
    assert torch.equal(*read)
    losses = []
    for corpus in (str(whole.path), [str(one.path), str(other.path)]):
        recipe = load_config(
            "small",
            [f"data.corpus={corpus}", "data.window_size=4000", "model.encoder.channels=8", "model.context.hidden=8",
             "training.device=cpu", "training.precision=fp32"],
        )  # fmt: skip
        trainer = Trainer.start(recipe)
        losses.append([trainer.update(s, w)[0].loss for s, w in trainer.windows.batches(0, 3, trainer.device)])
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))


def test_the_digest_depends_on_the_parts_and_not_on_their_order(corpora: tuple[Corpus, Corpus, Corpus]) -> None:
    _, one, other = corpora
    digests = {Corpus.open(order).digest for order in ([one.path, other.path], [other.path, one.path])}
    assert len(digests) == 1
    assert not digests & {one.digest, other.digest}
    assert Corpus.open([one.path]).digest == one.digest


def test_words_may_differ_and_phones_may_not(corpora: tuple[Corpus, Corpus, Corpus]) -> None:
    _, one, other = corpora
    label(one, list(one.ids), "words", ["", "cat", "dog"])
    label(other, list(other.ids), "words", ["", "ant", "dog"])
    words = Corpus.open([one.path, other.path]).labels("words")
    assert words.inventory == ["", "ant", "cat", "dog"]
    said = {words.inventory[row.labels[1]] for row in words}
    assert said == {["", "cat", "dog"][len(id) % 3] for id in one.ids} | {
        ["", "ant", "dog"][len(id) % 3] for id in other.ids
    }
    label(other, list(other.ids), "phones", ["SIL", "B", "AA"])
    said = refusal(Corpus.open([one.path, other.path]).labels)
    assert "different inventories: class 1 is AA and B; label both in one way" in said


def test_ids_that_two_corpora_share_are_refused(corpora: tuple[Corpus, Corpus, Corpus], tmp_path: Path) -> None:
    whole, one, _ = corpora
    said = refusal(Corpus.open, [whole.path, one.path])
    assert f"{len(one)} ids are in two of them, for example {', '.join(one.ids[:3])}; leave one out" in said
    assert "ids are in two of them" in refusal(Corpus.open, [one.path, one.path])
    assert "not a packed corpus" in refusal(Corpus.open, f"{one.path},{tmp_path / 'none'}")
    assert "name at least one" in refusal(Corpus.open, [])


def test_splits_are_drawn_over_all_and_each_keeps_its_own(corpora: tuple[Corpus, Corpus, Corpus]) -> None:
    whole, one, other = corpora
    both = f"{one.path},{other.path}"
    for corpus in (whole.path, both):
        invoke(splits_command.app, corpus, "--by", "speaker", "--share", 0.5, "--name", "half")
    joined = Corpus.open(both)
    for split in ("half_train", "half_test"):
        assert joined.rows(split).tolist() == whole.rows(split).tolist()
        assert len(one.rows(split)) + len(other.rows(split)) == len(joined.rows(split))
    assert "give another --name, or --overwrite" in refusal(
        invoke, splits_command.app, both, "--by", "speaker", "--share", 0.25, "--name", "half"
    )
    invoke(splits_command.app, both, "--by", "speaker", "--share", 0.25, "--name", "half", "--overwrite")
    assert "one corpus at a time" in refusal(invoke, labels_command.app, both, "--align")
