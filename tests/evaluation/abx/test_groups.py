"""Cells are exactly the combinations that the definition allows; what the caps leave is drawn by seed and name."""

from itertools import product

import numpy as np
import pytest

from cpc.evaluation.abx.cells import Cells, Groups, Names, drop_unused, make_cells, make_groups
from cpc.evaluation.abx.items import Items

Named = tuple[str, str, str]  # phone, context, speaker


def make_items(count: int, seed: int = 0, phones: str = "ABC", contexts: str = "xy", speakers: str = "rst") -> Items:
    generator = np.random.default_rng(seed)
    columns = {
        "phones": generator.choice(list(phones), count),
        "previous": generator.choice(list(contexts), count),
        "following": np.full(count, "z"),
        "speakers": generator.choice(list(speakers), count),
    }
    onsets = np.arange(count) / 10
    return Items(files=np.full(count, "f"), onsets=onsets, offsets=onsets + 0.1, **columns)


def name(groups: Groups, names: Names, g: int) -> Named:
    return (
        names.phones[groups.phone[g]],
        names.contexts[groups.context[g]],
        names.speakers[groups.speaker[g]],
    )


def named(groups: Groups, names: Names, cells: Cells) -> set[tuple[Named, Named, Named]]:
    found = [tuple(name(groups, names, g) for g in triple) for triple in zip(cells.a, cells.b, cells.x, strict=True)]
    assert len(found) == len(set(found)), "no cell comes twice"
    return set(found)


@pytest.mark.parametrize("context", ["within", "any"])
def test_groups_partition_the_items(context: str) -> None:
    items = make_items(200)
    groups, names = make_groups(items, context, most=None)
    assert sorted(groups.members.tolist()) == list(range(200))
    for g in range(len(groups)):
        for member in groups.members[groups.bounds[g] : groups.bounds[g + 1]].tolist():
            beside = "" if context == "any" else f"{items.previous[member]} {items.following[member]}"
            assert name(groups, names, g) == (items.phones[member], beside, items.speakers[member])


@pytest.mark.parametrize("context", ["within", "any"])
@pytest.mark.parametrize("speaker", ["within", "across"])
@pytest.mark.parametrize("count", [12, 60])
def test_cells_are_all_that_the_definition_allows(speaker: str, context: str, count: int) -> None:
    items = make_items(count)
    groups, names = make_groups(items, context, most=None)
    sizes = {name(groups, names, g): int(size) for g, size in enumerate(groups.sizes)}
    expected = {
        (a, b, x)
        for a, b, x in product(sizes, repeat=3)
        if a[0] != b[0]  # two phones
        and a[1:] == b[1:]  # in one context by one speaker
        and x[:2] == a[:2]  # X is what A is
        and (x == a and sizes[a] > 1 if speaker == "within" else x[2] != a[2])
    }
    cells = make_cells(groups, names, speaker, most=None)
    assert named(groups, names, cells) == expected
    assert cells.symmetric == (speaker == "within")
    used, renumbered = drop_unused(groups, cells)
    assert named(used, names, renumbered) == expected
    assert {name(used, names, g) for g in range(len(used))} == {g for triple in expected for g in triple}


def test_caps_leave_as_many_as_they_say() -> None:
    items = make_items(900, speakers="qrstuvwxyz")
    groups, names = make_groups(items, "any", most=10)
    everything, _ = make_groups(items, "any", most=None)
    assert groups.sizes.tolist() == np.minimum(everything.sizes, 10).tolist()
    assert everything.sizes.max() > 10
    assert set(groups.members.tolist()) <= set(everything.members.tolist())
    cells = named(groups, names, make_cells(groups, names, "across", most=5))
    by_pair: dict[tuple[Named, Named], set[str]] = {}
    for a, b, x in cells:
        by_pair.setdefault((a, b), set()).add(x[2])
    assert {len(speakers) for speakers in by_pair.values()} == {5}
    for (a, b), speakers in by_pair.items():  # one draw for an A, whatever it is compared with
        other = next(c for one, c in by_pair if one == a and c != b)
        assert by_pair[a, other] == speakers


def test_a_draw_depends_on_the_seed_and_the_group_and_on_nothing_else() -> None:
    items = make_items(900)
    groups, names = make_groups(items, "any", most=10, seed=1)
    again, _ = make_groups(items, "any", most=10, seed=1)
    other, _ = make_groups(items, "any", most=10, seed=2)
    assert np.array_equal(groups.members, again.members)
    assert not np.array_equal(groups.members, other.members)
    # Without all items of one speaker the draws of the others stay what they were.
    kept = np.flatnonzero(items.speakers != "r")
    fewer, fewer_names = make_groups(items.take(kept), "any", most=10, seed=1)
    for g in range(len(fewer)):
        drawn = kept[fewer.members[fewer.bounds[g] : fewer.bounds[g + 1]]]
        (same,) = [h for h in range(len(groups)) if name(groups, names, h) == name(fewer, fewer_names, g)]
        assert drawn.tolist() == groups.members[groups.bounds[same] : groups.bounds[same + 1]].tolist()


def test_every_item_of_a_large_group_may_be_drawn() -> None:
    items = make_items(40, phones="A", contexts="x", speakers="r")
    drawn = {member for seed in range(60) for member in make_groups(items, most=10, seed=seed)[0].members.tolist()}
    assert drawn == set(range(40))  # one that is left out 60 times has odds of 0.75^60


def test_every_other_speaker_may_say_x() -> None:
    items = make_items(400, phones="AB", contexts="x", speakers="qrstuvwxyz")
    groups, names = make_groups(items)
    draws = [named(groups, names, make_cells(groups, names, "across", most=2, seed=seed)) for seed in range(40)]
    by_a: dict[Named, set[str]] = {}
    for a, _, x in set.union(*draws):
        by_a.setdefault(a, set()).add(x[2])
    assert {len(speakers) for speakers in by_a.values()} == {9}  # left out 40 times: odds of (7/9)^40 = 4e-5 each
    assert draws[0] == named(groups, names, make_cells(groups, names, "across", most=2, seed=0)) != draws[1]
