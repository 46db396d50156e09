"""Cells and averages equal the oracle's; laws that any ABX obeys; the interval resamples speakers."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from cpc.config import InputError
from cpc.evaluation.abx.cells import Names, make_groups
from cpc.evaluation.abx.items import FeatureStore, Items
from cpc.evaluation.abx.score import _Table, summarise
from cpc.evaluation.abx.task import ABXTask, Comparison, abx, compare
from cpc.evaluation.features import FrameTable
from tests.evaluation.abx import reference

ALL = ABXTask(most_items=None, most_speakers=None)
HOP = 0.01


def bank_of(stretches: list[torch.Tensor]) -> FeatureStore:
    """One file with all stretches one after the other."""
    frames = torch.cat(stretches).float()
    return FeatureStore(
        "test", FrameTable(frames, np.array([0, len(frames)])), {"f": 0}, lambda n: (np.arange(n) + 0.5) * HOP
    )


def items_of(stretches: list[torch.Tensor], phones: list[str], contexts: list[str], speakers: list[str]) -> Items:
    ends = np.cumsum([len(stretch) for stretch in stretches]) * HOP
    starts = ends - np.array([len(stretch) for stretch in stretches]) * HOP
    columns = [np.array(column) for column in (phones, contexts, contexts, speakers)]
    return Items(np.full(len(phones), "f"), starts, ends, *columns)


def made(
    count: int, seed: int, dim: int = 4, longest: int = 6, levels: int | None = None
) -> tuple[list[torch.Tensor], Items]:
    """Random stretches of three phones in two contexts by three speakers; a phone shifts the mean a little."""
    generator = np.random.default_rng(seed)
    names = [generator.choice(list(letters), count).tolist() for letters in ("ABC", "xy", "rst")]
    stretches = []
    for phone in names[0]:
        shape = (int(generator.integers(1, longest + 1)), dim)
        values = generator.normal(size=shape) if levels is None else generator.integers(levels, size=shape)
        stretches.append(torch.from_numpy(values + (levels is None) * 0.7 * "ABC".index(phone)))
    return stretches, items_of(stretches, *names)


def by_name(found: Comparison, items: Items) -> dict[tuple[str, ...], float]:
    groups, cells = found.groups, found.cells
    names = [
        (items.phones[m], f"{items.previous[m]} {items.following[m]}", items.speakers[m])
        for m in groups.members[groups.bounds[:-1]].tolist()
    ]
    return {
        (names[a][0], names[b][0], names[a][1], names[a][2], names[x][2]): score
        for a, b, x, score in zip(cells.a, cells.b, cells.x, found.scores.tolist(), strict=True)
    }


@pytest.mark.parametrize("speaker", ["within", "across"])
@pytest.mark.parametrize("context", ["within", "any"])
@pytest.mark.parametrize(
    ("distance", "levels"),
    [("angular", None), ("euclidean", None), ("kl", None), ("angular", 3), ("euclidean", 4)],
)
def test_cells_and_error_are_those_of_the_oracle(speaker: str, context: str, distance: str, levels: int | None) -> None:
    # Levels make ties, between items and between paths of different lengths, in numbers that are exact: whole numbers
    # on a line, or coordinate axes and zero.
    stretches, items = made(36, seed=3, levels=levels, dim=1 if levels else 4)
    if distance == "kl":
        stretches = [(stretch.abs() + 1) / (stretch.abs() + 1).sum(1, keepdim=True) for stretch in stretches]
    elif levels and distance == "angular":
        stretches = [torch.eye(3)[s[:, 0].long()] * (s != 2) for s in stretches]
    if context == "any":
        items = replace(items, previous=np.full(36, "-"), following=np.full(36, "-"))
    task = ABXTask(speaker, context, distance, most_items=None, most_speakers=None)
    found = compare(bank_of(stretches), items, task)
    # Frames come out of single precision; the oracle gets the same numbers.
    frames = [stretch.float().double().tolist() for stretch in stretches]
    contexts = [f"{a} {b}" for a, b in zip(items.previous, items.following, strict=True)]
    named = list(zip(items.phones.tolist(), contexts, items.speakers.tolist(), frames, strict=True))
    expected = reference.cell_scores(named, speaker, distance)
    assert by_name(found, items) == pytest.approx(expected, abs=1e-12)
    result = abx(bank_of(stretches), items, task)
    assert result.error == pytest.approx(reference.error(expected), abs=1e-12)
    assert (result.cells, result.items) == (len(expected), len(found.groups.members))


def test_distances_are_those_of_the_oracle_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpc.evaluation.abx import score as pairs

    stretches, items = made(30, seed=5, longest=12)
    found = compare(bank_of(stretches), items, ALL)
    for strip, sizes in ((1, (1, 1)), (20, (300, 200))):
        monkeypatch.setattr(pairs, "STRIP", strip)
        monkeypatch.setattr(pairs.Sizes, "of", classmethod(lambda cls, device, sizes=sizes: cls(*sizes)))
        again = compare(bank_of(stretches), items, ALL)
        assert torch.allclose(again.distances.values, found.distances.values, atol=1e-6)
    groups, members = found.groups, [stretches[m].tolist() for m in found.groups.members.tolist()]
    for x, y in {*zip(found.cells.x, found.cells.a, strict=True), *zip(found.cells.x, found.cells.b, strict=True)}:
        between = found.distances.between(int(x), int(y))
        for i, j in product(range(groups.sizes[x]), range(groups.sizes[y])):
            if x != y or i != j:
                one, other = members[groups.bounds[x] + i], members[groups.bounds[y] + j]
                assert between[i, j].item() == pytest.approx(reference.item_distance(one, other, "angular"), abs=2e-6)


def one_hot(items: Items, lengths: list[int]) -> list[torch.Tensor]:
    return [torch.eye(3)["ABC".index(p)].repeat(n, 1) for p, n in zip(items.phones.tolist(), lengths, strict=True)]


@pytest.mark.parametrize("task", [ABXTask(s, c) for s in ("within", "across") for c in ("within", "any")])
def test_one_hot_phones_are_never_confused_and_silence_always_half(task: ABXTask) -> None:
    stretches, items = made(60, seed=1)
    lengths = [len(stretch) for stretch in stretches]
    right = abx(bank_of(one_hot(items, lengths)), items, task)
    assert (right.error, right.low, right.high) == (0, 0, 0)
    same = abx(bank_of([torch.ones(n, 1) for n in lengths]), items, task)
    assert (same.error, same.low, same.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_noise_is_half_within_its_interval(speaker: str) -> None:
    # Of equal lengths: a warped path is cheaper where it may choose more, so that lengths alone can tell phones apart.
    generator = np.random.default_rng(4)
    names = [generator.choice(list(letters), 900).tolist() for letters in ("ABC", "x", "rstuvwyz")]
    stretches = [torch.from_numpy(generator.normal(size=(4, 8))) for _ in range(900)]
    result = abx(bank_of(stretches), items_of(stretches, *names), ABXTask(speaker))
    assert result.low < 0.5 < result.high
    assert result.high - result.low < 0.1


def test_neither_order_nor_names_nor_scale_matter() -> None:
    stretches, items = made(50, seed=8)
    error = abx(bank_of(stretches), items, ALL).error
    order = np.random.default_rng(0).permutation(50)
    assert abx(bank_of(stretches), items.take(order), ALL).error == pytest.approx(error, abs=1e-12)
    renamed = replace(items, phones=np.char.translate(items.phones, str.maketrans("ABC", "ZYX")))
    assert abx(bank_of(stretches), renamed, ALL).error == pytest.approx(error, abs=1e-12)
    louder = [stretch * 3 for stretch in stretches]
    assert abx(bank_of(louder), items, ALL).error == pytest.approx(error, abs=1e-3)
    backwards = [stretch.flip(0) for stretch in stretches]
    assert abx(bank_of(backwards), items, ALL).error == pytest.approx(error, abs=1e-3)


def test_saying_everything_twice_changes_nothing_across_speakers() -> None:
    stretches, items = made(40, seed=9)
    task = ABXTask("across", most_items=None, most_speakers=None)
    once, twice = abx(bank_of(stretches), items, task), abx(bank_of(stretches), items.take(np.arange(80) % 40), task)
    assert twice.error == pytest.approx(once.error, abs=1e-12)
    assert twice.triplets == 8 * once.triplets


def test_frames_that_are_dropped_and_distances_that_are_chosen_matter() -> None:
    stretches, items = made(60, seed=2)
    results = [
        abx(bank_of(stretches), items, ABXTask(distance=d, slicing=s))
        for d in ("angular", "euclidean")
        for s in ("centre", "librilight")
    ]
    assert len({result.error for result in results}) == 4
    assert len({result.task for result in results}) == 4
    short = [len(stretch) == 1 for stretch in stretches]
    assert any(short)
    assert "shorter than a frame" in results[1].notes[0]


def test_the_same_seed_gives_the_same_numbers() -> None:
    stretches, items = made(200, seed=2)
    results = [abx(bank_of(stretches), items, ABXTask(most_items=3, seed=seed)) for seed in (5, 5, 6)]
    assert results[0] == results[1]
    assert results[0].error != results[2].error


# The interval


def cells_of(speaker: str) -> tuple[Comparison, int]:
    stretches, items = made(120, seed=11)
    return compare(bank_of(stretches), items, ABXTask(speaker)), 3


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_a_replicate_is_the_error_of_a_corpus_with_those_speakers(speaker: str) -> None:
    """Drawing a speaker twice is as if two speakers were alike: cells are repeated, in both roles."""
    found, phones = cells_of(speaker)
    table = _Table.of(found.groups, found.cells, found.scores, phones)
    for draw in ([2, 0, 1], [1, 1, 1], [0, 3, 0], [2, 1, 0]):
        named = {}
        for number, score in enumerate(found.scores.tolist()):
            a, b, x = (int(each[number]) for each in (found.cells.a, found.cells.b, found.cells.x))
            ours, theirs = int(found.groups.speaker[a]), int(found.groups.speaker[x])
            for one, other in product(range(draw[ours]), range(draw[theirs] if speaker == "across" else 1)):
                pair = (str(found.groups.phone[a]), str(found.groups.phone[b]))
                named[*pair, f"{number}", f"{ours}.{one}", f"{theirs}.{other}"] = score
        errors = table.pairs(np.array(draw, dtype=np.float64)[:, None])[:, 0]
        if named:
            assert np.nanmean(errors) == pytest.approx(reference.error(named), abs=1e-12)
        else:
            assert np.isnan(errors).all()


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_the_interval_holds_the_error_and_does_not_depend_on_blocks(
    speaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpc.evaluation.abx import score

    found, phones = cells_of(speaker)
    summary = summarise(found.groups, found.cells, found.scores, phones)
    assert summary.low < summary.error < summary.high
    assert summary.resampled == "speakers"
    monkeypatch.setattr(score, "_VALUES_AT_ONCE", 700)
    again = summarise(found.groups, found.cells, found.scores, phones)
    assert (again.low, again.high) == pytest.approx((summary.low, summary.high), abs=1e-12)


def test_speakers_who_differ_widen_the_interval() -> None:
    found, phones = cells_of("within")
    who = found.groups.speaker[found.cells.a]
    alike = summarise(found.groups, found.cells, np.full(len(found.cells), 0.7), phones)
    apart = summarise(found.groups, found.cells, np.where(who == 0, 0.4, 0.9), phones)
    assert alike.low == pytest.approx(alike.high)
    assert apart.high - apart.low > 0.2


def test_one_speaker_has_an_interval_over_phone_pairs_and_is_told() -> None:
    stretches, items = made(120, seed=11)
    alone = items.take(items.speakers == "r")
    result = abx(bank_of(stretches), alone, ALL)
    assert result.resampled == "phone pairs"
    assert result.low < result.error < result.high
    assert "One speaker" in result.notes[-1]
    with pytest.raises(InputError, match="no phone was said by two speakers where another was said in the same"):
        abx(bank_of(stretches), alone, ABXTask("across"))


def test_pairs_of_phones_average_to_the_error() -> None:
    stretches, items = made(80, seed=6)
    result = abx(bank_of(stretches), items, ALL)
    errors = [error for row in result.pair_errors.values() for error in row.values()]
    assert np.mean(errors) == pytest.approx(result.error, abs=1e-12)
    assert len(errors) == result.phone_pairs == 6


@pytest.mark.parametrize(
    ("value", "distance", "said"),
    [
        (float("nan"), "angular", "not finite"),
        (float("inf"), "euclidean", "not finite"),
        (-0.5, "kl", "must be probabilities"),
        (2.0, "kl", "must be probabilities"),
    ],
)
def test_features_that_cannot_be_compared(value: float, distance: str, said: str) -> None:
    stretches, items = made(30, seed=0)
    stretches = [torch.full_like(stretch, 0.25) for stretch in stretches]
    for stretch in stretches:
        stretch[0, 0] = value
    with pytest.raises(InputError, match=said):
        abx(bank_of(stretches), items, ABXTask(distance=distance))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("both", "within", "angular", "centre"), "speaker=both: must be one of within, across"),
        (("within", "all", "angular", "centre"), "context=all: must be one of within, any"),
        (("within", "any", "cosine", "centre"), "distance=cosine: must be one of angular, euclidean, kl"),
        (("within", "any", "kl", "half"), "slicing=half: must be one of centre, librilight"),
    ],
)
def test_words_that_are_not_known(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ABXTask.named(*words)


def test_caps_that_leave_nothing() -> None:
    with pytest.raises(InputError, match="most_items=1: must be 2 or more"):
        ABXTask(most_items=1)
    with pytest.raises(InputError, match="most_speakers=0: must be 1 or more"):
        ABXTask(most_speakers=0)


@pytest.mark.cuda
def test_a_gpu_gives_the_same(cuda: torch.device) -> None:
    stretches, items = made(120, seed=6, longest=20)
    for distance in ("angular", "euclidean"):
        task = ABXTask("across", "any", distance)
        there, here = (abx(bank_of(stretches), items, task, device=str(d)) for d in (cuda, "cpu"))
        assert there.error == pytest.approx(here.error, abs=1e-3)


def test_names_are_kept_apart() -> None:
    _, items = made(40, seed=0)
    assert make_groups(items)[1] == Names(["x x", "y y"], ["r", "s", "t"], ["A", "B", "C"])
