"""The strength of the L2 penalty, chosen on a held-out part of the training split.

Strengths are tried from the strongest to the weakest, each from the solution of the one before, on some of the
frames: where there are a million, 50,000 tell the strengths apart. The penalty is a prior on the weights, which counts
for less the more frames there are: what was best on a share of them is multiplied by that share. The solution of the
chosen one is the start of the final classifier, which is fitted on all training frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from cpc.evaluation.classifier import Fitting, LinearClassifier, fit
from cpc.evaluation.examples import Examples
from cpc.seeding import numpy_generator

SOME = 50_000  # examples for the choice, held out or not
WORSE = 2  # strengths in a row that are worse than the best so far: weaker ones are not tried
COARSE = 1e-5  # tolerance while choosing


@dataclass(frozen=True)
class Choice:
    """The chosen strength, the classifier that it gave, and the held-out log-likelihood (nats) of every strength.

    `share`: of the examples that it was chosen on; `for_all` is the same prior for all of them.
    """

    l2: float
    share: float
    start: LinearClassifier
    tried: dict[float, float]

    @property
    def for_all(self) -> float:
        return self.l2 * self.share


def choose_l2(
    train: Examples, held: Examples, classes: int, grid: Sequence[float], fitting: Fitting, seed: int, device: str
) -> Choice:
    """The strength whose classifier gives the labels of `held` the highest likelihood.

    Accuracy ties where examples are few (of 100 held-out utterance means every strength may get 93 right), and the
    likelihood goes on telling strengths apart. Labels must be numbered 0 … classes − 1; of held-out examples whose
    class is not among them (classes and above) nothing is asked.
    """
    share = min(1.0, SOME / (len(train) + len(held)))
    parts = (each.draw(max(1, int(len(each) * share)), numpy_generator(seed, "l2")) for each in (train, held))
    (x, y), (held_x, held_y) = ((part.x(), torch.from_numpy(part.y)) for part in parts)
    coarse = replace(fitting, tolerance=max(COARSE, fitting.tolerance), max_frames=None)
    best: Choice | None = None
    tried: dict[float, float] = {}
    start: LinearClassifier | None = None
    for l2 in sorted(grid, reverse=True):
        start = fit(x, y, classes, replace(coarse, l2=l2), device, start)
        tried[l2] = _log_likelihood(start, held_x, held_y)
        if best is None or tried[l2] > tried[best.l2]:
            best = Choice(l2, share, start, tried)
        elif list(tried).index(l2) - list(tried).index(best.l2) >= WORSE:
            break
    if best is None:
        raise ValueError("grid: empty; give at least one strength")
    return best


def _log_likelihood(classifier: LinearClassifier, x: Tensor, y: Int64[Tensor, " example"]) -> float:
    """The mean log probability, in nats, of the labels."""
    known = y < classifier.weight.shape[1]
    scores = classifier.logits(x[known]).double().log_softmax(1)
    return float(scores.gather(1, y[known, None]).mean()) if known.any() else 0.0
