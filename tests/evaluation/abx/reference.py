"""The slow, obvious ABX: pure Python, one frame, one pair, one triplet at a time."""

import math
from collections import defaultdict
from fractions import Fraction
from itertools import product
from statistics import fmean

Frame = list[float]
Stretch = list[Frame]


def angle(x: Frame, y: Frame) -> float:
    """arccos(cosine)/π; a zero vector is at 1 from all but itself."""
    lengths = math.hypot(*x), math.hypot(*y)
    if 0 in lengths:
        return 0.0 if lengths == (0, 0) else 1.0
    cosine = sum(a * b for a, b in zip(x, y, strict=True)) / (lengths[0] * lengths[1])
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def kl(p: Frame, q: Frame) -> float:
    """Σ (p − q) (log p − log q) / 2, with 1e-6 added before the logarithms."""
    return sum((a - b) * (math.log(a + 1e-6) - math.log(b + 1e-6)) for a, b in zip(p, q, strict=True)) / 2


FRAME_DISTANCES = {"angular": angle, "euclidean": math.dist, "kl": kl}


def warp(d: list[list[float]]) -> float:
    """Fill in the whole table of costs, walk back from its end, divide by the cells on the way."""
    n, m = len(d), len(d[0])
    cost = [[math.inf] * m for _ in range(n)]
    for i, j in product(range(n), range(m)):
        before = [
            cost[i - 1][j - 1] if i and j else math.inf,
            cost[i][j - 1] if j else math.inf,
            cost[i - 1][j] if i else math.inf,
        ]
        cost[i][j] = d[i][j] + (min(before) if i or j else 0)
    i, j, cells = n - 1, m - 1, 1
    while i or j:
        diagonal = cost[i - 1][j - 1] if i and j else math.inf
        left = cost[i][j - 1] if j else math.inf
        up = cost[i - 1][j] if i else math.inf
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        cells += 1
    return cost[-1][-1] / cells


def item_distance(x: Stretch, y: Stretch, distance: str) -> float:
    """X's frames are the rows."""
    return warp([[FRAME_DISTANCES[distance](a, b) for b in y] for a in x])


def frames_of(onset: str, offset: str, hop: str, first_centre: str, present: int, librilight: bool) -> list[int]:
    """Frames whose centre lies within [onset, offset], in exact arithmetic; times as they stand in a file."""
    centres = (Fraction(first_centre) + i * Fraction(hop) for i in range(present + 1))
    inside = [i for i, centre in enumerate(centres) if Fraction(onset) <= centre <= Fraction(offset)]
    return [i for i in (inside[:-1] if librilight else inside) if i < present]


def triplet_score(to_a: float, to_b: float) -> float:
    return 1.0 if to_a < to_b else 0.5 if to_a == to_b else 0.0


# An item is (phone, context, speaker, frames).
Item = tuple[str, str, str, Stretch]


def cell_scores(items: list[Item], speaker: str, distance: str) -> dict[tuple[str, str, str, str, str], float]:
    """(phone A, phone B, context, speaker of A and B, speaker of X) → share of triplets with X nearer to A; no caps."""
    groups: dict[tuple[str, str, str], list[Stretch]] = defaultdict(list)
    for phone, context, who, frames in items:
        groups[phone, context, who].append(frames)
    scores = {}
    for (a, context, who), (b, other_context, same) in product(groups, groups):
        if a == b or context != other_context or who != same:
            continue
        for x, x_context, x_who in groups:
            if x != a or x_context != context or (x_who == who) != (speaker == "within"):
                continue
            mine, theirs, xs = groups[a, context, who], groups[b, context, who], groups[x, context, x_who]
            triplets = [
                triplet_score(item_distance(third, one, distance), item_distance(third, two, distance))
                for third in xs
                for one in mine
                if third is not one
                for two in theirs
            ]
            if triplets:
                scores[a, b, context, who, x_who] = fmean(triplets)
    return scores


def error(scores: dict[tuple[str, str, str, str, str], float]) -> float:
    """Contexts (and speakers of X), then speakers of A and B, then ordered pairs of phones."""
    by_speaker = defaultdict(list)
    for (a, b, _, who, _), score in scores.items():
        by_speaker[a, b, who].append(score)
    by_pair = defaultdict(list)
    for (a, b, _), values in by_speaker.items():
        by_pair[a, b].append(fmean(values))
    return 1 - fmean(fmean(values) for values in by_pair.values())
