"""The CPC loss over K steps: predict z_{t+k} from c_t against negatives (van den Oord 2018, section 2.3).

All pairs of a group are scored by one matrix product a step, then scores are picked: gathering negative *vectors*
instead, as is usual, moves M × D numbers an anchor where this moves M. Sequences are scored in groups, so that cost
and memory grow linearly with the batch. A batch may come in equal shares, one after the other or on several
processes: each is contrasted with the keys, and draws the negatives, that it has in the whole batch.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc import distributed
from cpc.config import STRICT
from cpc.device import upcast
from cpc.losses.acpc import aligned
from cpc.losses.contrast import Calibration, Contrasted, Learnt, PairContrast, contrast
from cpc.losses.negatives import All, Grid, Negatives, Uniform, Within
from cpc.losses.objectives import InfoNCE, Objective
from cpc.losses.scores import Cosine, Dot, Score
from cpc.losses.sharding import FULL_BATCH, BatchShard, PrecomputedNegatives, blocks, cut, positives, step_chunks
from cpc.models.cpc import CPC, Latents
from cpc.models.heads import AnyHeadsConfig, BilinearConfig, HeadsConfig, build_heads

MOST_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}  # at once: 2 MiB, which stay in a cache, and 256 MiB
MOST_PICKED = {"cpu": 1, "cuda": 1 << 26}  # the same where scores are picked; a CPU, for which a call costs little,
# goes step by step. Of the whole batch, so that every share of it draws the same negatives.


@dataclass(frozen=True, config=STRICT)
class CPCLossConfig:
    """What is predicted, and against what.

    prediction_steps: K, how many frames ahead are predicted.
    heads: what turns c_t into the K predictions.
    score: how alike a prediction and a frame are.
    negatives: which other frames a prediction is contrasted with.
    objective: the loss of a positive and its negatives.
    group_size: windows that are scored together, at most: where negatives across windows come from.
    gather_distributed: groups may span processes, which exchange z.
    learnable: what of the scores is learnt: temperature, normaliser, both, or nothing.
    aligned_predictions: fewer than prediction_steps, matched in order to the frames ahead (ACPC; Chorowski et al.
        2021, whose 6 are matched to 12); null for one prediction a frame.
    """

    prediction_steps: Annotated[int, Field(ge=1)] = 12
    heads: HeadsConfig = Field(default_factory=BilinearConfig)
    score: Score = Field(default_factory=Dot)
    negatives: Negatives = Field(default_factory=Uniform)
    objective: Objective = Field(default_factory=InfoNCE)
    group_size: Annotated[int, Field(ge=1)] = 8
    gather_distributed: bool = False
    learnable: tuple[Learnt, ...] = ()
    aligned_predictions: Annotated[int, Field(ge=1)] | None = None
    kind: Literal["cpc"] = "cpc"

    @model_validator(mode="after")
    def _weighs(self) -> "CPCLossConfig":
        check_weights(self.negatives, self.objective)
        check_alignment(self.aligned_predictions, self.prediction_steps)
        return self


def check_weights(negatives: Negatives, objective: Objective) -> None:
    """Raises ValueError for negatives that are weighed by an objective that does not weigh."""
    plain = isinstance(objective, InfoNCE) and not objective.concentration
    if isinstance(negatives, All) and negatives.cross_weight != 1.0 and not plain:
        rule = "weighing negatives is for objective.kind=info_nce without a concentration; leave it at 1"
        raise ValueError(f"negatives.cross_weight={negatives.cross_weight}: {rule}")


def check_alignment(predictions: int | None, steps: int) -> None:
    """Raises ValueError for more aligned predictions than there are frames to match them to."""
    if predictions is not None and predictions > steps:
        raise ValueError(
            f"aligned_predictions={predictions}: must be at most prediction_steps={steps}, the frames that they are "
            "matched to; predict less, or further"
        )


class Losses(NamedTuple):
    """What a step of training wants to know.

    loss: the mean over the K steps, to be minimised.
    per_step: (step) the loss of each step k = 1 … K, in nats.
    accuracy: (step) the share of anchors whose positive scores above all negatives.
    bound: (step) ln(1 + M) − per_step, a lower bound on the mutual information of c_t and z_{t+k} in nats, which cannot
        exceed ln(1 + M) (van den Oord 2018, section 2.3); NaN where the loss gives no such bound: for other objectives
        than InfoNCE, and for negatives that are weighed or chosen by their score.
    ceiling: the loss at chance, ln(1 + M) (of weighed negatives, M is the sum of the weights); NaN where it is not
        known.
    kinds: of triplets, the shares that are easy, semi-hard and hard (Schroff et al. 2015, section 3.2); None for other
        objectives.
    bounded: whether bound is one.
    """

    loss: Float[Tensor, ""]
    per_step: Float[Tensor, "step"]
    accuracy: Float[Tensor, "step"]
    bound: Float[Tensor, "step"]
    ceiling: float
    kinds: Float[Tensor, "kind"] | None = None
    bounded: bool = False

    def detach(self) -> "Losses":
        """The same numbers, without the graph that made them."""
        return self._replace(loss=self.loss.detach(), per_step=self.per_step.detach())


def mean(shares: Sequence[Losses]) -> Losses:
    """The losses of a batch from those of its equal shares."""
    if len(shares) == 1:
        return shares[0]
    tensors = zip(*(share[:4] for share in shares), strict=True)
    loss, per_step, accuracy, bound = (torch.stack(values).mean(0) for values in tensors)
    return Losses(
        loss,
        per_step,
        accuracy,
        bound,
        shares[0].ceiling,
        mean_kinds([share.kinds for share in shares]),
        shares[0].bounded,
    )


def mean_kinds(shares: Sequence[Tensor | None]) -> Tensor | None:
    """The mean shares of the kinds of triplets, where there are triplets."""
    found = [share for share in shares if share is not None]
    return torch.stack(found).mean(0) if found else None


def of_pairs(found: PairContrast) -> Losses:
    """The losses of a contrast by labels: a single step, without a bound."""
    nothing = torch.full_like(found.mean.detach()[None], math.nan)
    return Losses(found.mean, found.mean[None], found.accuracy[None], nothing, math.nan, found.kinds)


class CPCLoss(nn.Module):
    """Heads W_k and the contrast of their predictions with the frames k steps ahead.

    Args:
        prediction_steps: K, how many frames ahead are predicted.
        dim: of z.
        hidden: dimension of c.
        negatives: which other frames a prediction is contrasted with; `Uniform()` by default.
        objective: the loss of a positive and its negatives; `InfoNCE()` by default.
        score: how alike a prediction and a frame are; `Dot()` by default.
        group_size: sequences that are scored together, at most.
        heads: what turns c_t into the K predictions; linear by default.
        learnable: what of the scores is learnt: temperature, normaliser, both, or nothing.
        aligned_predictions: of ACPC: so many predictions are matched in order to the K frames ahead, each to at least
            one; None for one prediction a frame.

    Shape:
        Latents(z (batch, frame, dim), c (batch, frame, hidden)) → Losses. The anchors are the first frame − K frames
        of each sequence. Negatives across sequences come from the same group of at most `group_size` sequences. Of a
        `share` the losses are those of its own anchors.

    >>> loss = CPCLoss(prediction_steps=2, dim=8, hidden=4, negatives=Within(), group_size=1)
    >>> losses = loss(Latents(torch.zeros(3, 10, 8), torch.zeros(3, 10, 4)))
    >>> round(losses.loss.item(), 4), round(losses.ceiling, 4)       # nothing is known: ln(1 + 9)
    (2.3026, 2.3026)
    """

    def __init__(
        self,
        prediction_steps: int,
        dim: int,
        hidden: int,
        negatives: Negatives | None = None,
        objective: Objective | None = None,
        score: Score | None = None,
        group_size: int = 8,
        heads: AnyHeadsConfig | None = None,
        learnable: Sequence[Learnt] = (),
        aligned_predictions: int | None = None,
    ) -> None:
        super().__init__()
        self.prediction_steps, self.group_size = prediction_steps, group_size
        self.negatives, self.objective = negatives or Uniform(), objective or InfoNCE()
        check_weights(self.negatives, self.objective)
        check_alignment(aligned_predictions, prediction_steps)
        self.score, self.aligned_predictions = score or Dot(), aligned_predictions
        self.calibration = Calibration(learnable) if learnable else None
        self.heads = build_heads(heads or BilinearConfig(), aligned_predictions or prediction_steps, hidden, dim)

    @classmethod
    def build(cls, config: CPCLossConfig, dim: int, hidden: int) -> "CPCLoss":
        """The loss that a recipe describes.

        Args:
            config: its settings.
            dim: of z.
            hidden: dimension of c.

        Returns:
            the loss, its heads drawn from torch's global generator.
        """
        parts = (config.negatives, config.objective, config.score, config.group_size)
        rest = (config.heads, config.learnable, config.aligned_predictions)
        return cls(config.prediction_steps, dim, hidden, *parts, *rest)

    def forward(
        self, latents: Latents, generator: torch.Generator | None = None, share: BatchShard = FULL_BATCH
    ) -> Losses:
        """Score every step.

        Args:
            latents: z (batch, frame, dim) and c (batch, frame, hidden).
            generator: draws the negatives; without it torch's global one does.
            share: which part of the whole batch this is.

        Returns:
            the losses of the anchors of this part.

        Raises:
            ValueError: no more frames than steps, so that nothing can be predicted.
        """
        batch, frames, _ = latents.z.shape
        if size := self.scored_at_once(batch, share):
            losses, accuracy = self._at_once(latents, size)
            kinds: list[Tensor | None] = []
        else:
            found = list(self.contrasts(latents, generator, share))
            losses = torch.cat([some.loss.mean((1, 2)) for some in found])
            accuracy = torch.cat([some.correct.float().mean((1, 2)) for some in found])
            kinds = [some.kinds for some in found for _ in some.loss]
        ceiling = self.ceiling(batch * share.of, frames) if self.knows_chance else math.nan
        bound = (ceiling if self.bounds_information else math.nan) - losses.detach()
        return Losses(losses.mean(), losses, accuracy, bound, ceiling, mean_kinds(kinds), self.bounds_information)

    def scored_at_once(self, batch: int, share: BatchShard = FULL_BATCH) -> int | None:
        """The size of a group whose other frames are all negatives, so that all steps are scored at once; None if not.

        That is InfoNCE against every other frame of the own window (`Within`, or `All` with a group of 1), or of equal
        groups of windows (`All`), which no process or micro-batch cuts.
        """
        if not isinstance(self.objective, InfoNCE) or self.objective.concentration:
            return None
        alone = self.group_size == 1 or not (isinstance(self.score, Cosine) and self.score.centre == "group")
        if isinstance(self.negatives, Within):
            return 1 if alone else None
        size = min(self.group_size, batch)
        whole = size == 1 or (share.of == 1 and batch % size == 0)
        return size if isinstance(self.negatives, All) and whole else None

    def _at_once(self, latents: Latents, size: int) -> tuple[Float[Tensor, "step"], Float[Tensor, "step"]]:
        """Loss and accuracy of every step: one product and one cross-entropy over all frames of a group.

        Equal, to rounding, to what `contrasts` gives, with nothing drawn or picked. Groups come in chunks of so many
        scores that those of a chunk stay in a CPU's cache, or fill a GPU.
        """
        z, _ = latents
        batch, frames, _ = z.shape
        anchors, steps, groups = self._num_anchors(frames), self.prediction_steps, batch // size
        predictions = rearrange(self.predict(latents), "k (g s) a d -> g (s a k) d", s=size)
        keys = rearrange(_centred(z, self.score, size), "(g s) t d -> g (s t) d", s=size)
        starts = torch.arange(size, device=z.device)[:, None, None] * frames
        ahead = torch.arange(1, steps + 1, device=z.device)
        target = (starts + torch.arange(anchors, device=z.device)[:, None] + ahead).flatten()
        score, temperature = self.score, self.objective.temperature if isinstance(self.objective, InfoNCE) else 1.0
        if isinstance(score, Cosine):  # lengths are taken once, and those of the predictions divide their scores
            keys, temperature = F.normalize(keys, dim=-1), temperature * score.temperature
            lengths = torch.linalg.vector_norm(predictions, dim=-1, keepdim=True).clamp_min(1e-12)
            score, scales = Dot(), (1 / temperature) / upcast(lengths)
        else:
            scales = upcast(predictions.new_full((1, 1, 1), 1 / temperature)).expand(groups, 1, 1)
        grid = Grid(size, frames)
        weights = self.negatives.log_weights(target, grid) if isinstance(self.negatives, All) else None
        chunk = max(1, MOST_SCORES[z.device.type] // (len(target) * size * frames))
        losses, correct = [], []
        for predicted, own, scale in zip(*(torch.split(x, chunk) for x in (predictions, keys, scales)), strict=True):
            scores = upcast(score(predicted, own)) * scale  # (group, sequence · anchor · step, sequence · frame)
            if self.calibration is not None:
                scores = self.calibration(scores)
            flat, places = scores.flatten(0, 1), target.repeat(len(own))
            with torch.no_grad():
                correct.append((flat >= flat.gather(1, places[:, None])).sum(1) == 1)
            weighed = flat if weights is None else (scores + weights).flatten(0, 1)
            losses.append(F.cross_entropy(weighed, places, reduction="none"))
        return (
            reduce(torch.cat(losses), "(b a k) -> k", "mean", k=steps, a=anchors),
            reduce(torch.cat(correct).float(), "(b a k) -> k", "mean", k=steps, a=anchors),
        )

    def predict(self, latents: Latents) -> Float[Tensor, "step batch anchor dim"]:
        """What every anchor t predicts for each frame t + k.

        Args:
            latents: z (batch, frame, dim) and c (batch, frame, hidden), of more frames than K.

        Returns:
            (step, batch, anchor, dim): W_k c_t, or of aligned predictions the one that is matched to frame t + k.

        Raises:
            ValueError: no more frames than steps.
        """
        z, c = latents
        predictions: Tensor = self.heads(c[:, : self._num_anchors(z.shape[1])])
        if self.aligned_predictions is None:
            return predictions
        temperature = self.objective.temperature if isinstance(self.objective, InfoNCE) else 1.0
        chosen = aligned(predictions, z, self.prediction_steps, self.score, temperature)
        return predictions.gather(0, chosen[..., None].expand(-1, -1, -1, predictions.shape[-1]))

    def _num_anchors(self, frames: int) -> int:
        """The frames of a sequence that predict."""
        if frames <= self.prediction_steps:
            raise ValueError(
                f"frames={frames}: must exceed prediction_steps={self.prediction_steps}; use longer windows or "
                "fewer steps"
            )
        return frames - self.prediction_steps

    def contrasts(
        self,
        latents: Latents,
        generator: torch.Generator | None = None,
        share: BatchShard = FULL_BATCH,
        still: bool = False,
    ) -> Iterator[Contrasted]:
        """The loss of every anchor, (step, sequence, anchor), of as many steps at a time as may be scored at once.

        With `still`, W_k c_t is replaced by z_t itself, compared by its cosine with all frames but itself: what
        predicts without having learnt anything, namely that the signal stays as it is.
        """
        z, _ = latents
        batch, frames, _ = z.shape
        anchors = self._num_anchors(frames)
        unlearnt = z[None, :, :anchors].expand(self.prediction_steps, -1, -1, -1)  # (step, batch, anchor, dim)
        predictions = unlearnt if still else self.predict(latents)
        cuts = (
            list(blocks(batch, self.group_size))
            if share.of == 1
            else [(slice(None), self.equal_group_size(batch, share))]
        )
        keys = z if cuts[0][1] <= batch else distributed.gather(z, cuts[0][1] // batch)
        score = Cosine(1.0) if still else self.score
        parts = [(block, _prepared(cut(keys, block), score, size), size) for block, size in cuts]
        pairs = share.whole(batch) * anchors * cuts[0][1] * frames  # scores of a step
        most = max(1, MOST_PICKED[z.device.type] // pairs)
        for steps, predicted in step_chunks(predictions, most):
            each = partial(self._contrast, steps=steps, share=share, generator=generator, still=still)
            yield _joined([each(cut(predicted, block), own, size=size) for block, own, size in parts])

    def contrast(
        self,
        predicted: Float[Tensor, "group anchor dim"],
        keys: Float[Tensor, "group key dim"],
        positive: Int[Tensor, "anchor"],
        grid: Grid,
        generator: torch.Generator | None = None,
        negatives: Negatives | None = None,
        itself: Int[Tensor, "anchor"] | None = None,
        unit: bool = False,
    ) -> Contrasted:
        """Predictions against keys by this loss: its score and what of it is learnt, its negatives, its objective.

        With `itself`, the key that each prediction is, they are compared by their cosines, and by nothing learnt. Of
        cosines, `unit` says that the keys have length 1.
        """
        score = self.score if itself is None else Cosine(1.0)
        return contrast(
            predicted,
            keys,
            positive,
            grid,
            score=score.of_unit_keys if unit and isinstance(score, Cosine) else score,
            negatives=negatives or self.negatives,
            objective=self.objective,
            generator=generator,
            calibration=self.calibration if itself is None else None,
            skipped=itself,
        )

    @property
    def knows_chance(self) -> bool:
        """Whether the loss of scores that know nothing is ln(1 + M)."""
        plain = isinstance(self.objective, InfoNCE) and not self.objective.concentration
        return plain and isinstance(self.negatives, Uniform | All | Within)

    @property
    def bounds_information(self) -> bool:
        """Whether ln(1 + M) − loss is a lower bound on the mutual information.

        Not where negatives are weighed, nor where each frame takes the prediction that suits it.
        """
        unweighed = getattr(self.negatives, "cross_weight", 1.0) == 1.0
        return self.knows_chance and unweighed and self.aligned_predictions is None

    def on_step_end(self, model: CPC) -> None:
        """After a step of the optimizer: nothing is kept."""

    def reset(self) -> None:
        """Nothing is kept."""

    def ceiling(self, batch: int, frames: int) -> float:
        """ln(1 + M): the loss at chance, and the most that the bound can show; of weighed negatives M is their weight.

        Groups of different sizes can differ in M: the mean over the anchors of the batch.
        """
        weigh = self.negatives.weight if isinstance(self.negatives, All) else self.negatives.size
        return sum(share * math.log1p(weigh(grid)) for share, grid in self._grids(batch, frames))

    def chance(self, batch: int, frames: int) -> float:
        """The accuracy of guessing, 1 / (1 + M), the mean over the anchors of a batch."""
        return sum(share / (1 + self.negatives.size(grid)) for share, grid in self._grids(batch, frames))

    def _grids(self, batch: int, frames: int) -> list[tuple[float, Grid]]:
        """The shares of the anchors of a batch that have a grid of keys, and that grid."""
        parts = blocks(batch, self.group_size)
        return [(len(range(*block.indices(batch))) / batch, Grid(size, frames)) for block, size in parts]

    def equal_group_size(self, sequences: int, share: BatchShard) -> int:
        """The size of every group of a batch of which a share has so many sequences."""
        return sequences * share.of // math.ceil(sequences * share.of / self.group_size)

    def _contrast(
        self,
        predicted: Float[Tensor, "step batch anchor dim"],
        z: Float[Tensor, "keys frame dim"],
        steps: range,
        size: int,
        share: BatchShard,
        generator: torch.Generator | None,
        still: bool = False,
    ) -> Contrasted:
        """Some steps for a block of equal groups of `size` sequences, of which `predicted` may be a share."""
        frames, anchors, groups = z.shape[1], predicted.shape[2], len(z) // size
        grid, own = Grid(size, frames), predicted.shape[1] // groups  # sequences of a group that are anchors here
        every = positives(size, anchors, frames, steps, z.device)
        each = anchors * len(steps)  # pairs of a sequence
        first = share.part * predicted.shape[1] % size * each
        mine = every[first : first + own * each]
        found = self.contrast(
            rearrange(predicted, "k (g s) a d -> g (s a k) d", g=groups),
            rearrange(z, "(g s) t d -> g (s t) d", g=groups),
            mine,
            grid,
            generator,
            self._negatives(every, grid, predicted.shape[1], own, share, generator),
            mine - torch.tensor(steps, device=z.device).repeat(own * anchors) if still else None,
            unit=True,
        )
        loss, correct = (rearrange(x, "g (s a k) -> k (g s) a", s=own, a=anchors) for x in (found.loss, found.correct))
        return Contrasted(loss, correct, found.kinds)

    def _negatives(
        self,
        every: Int[Tensor, "pair"],
        grid: Grid,
        sequences: int,
        own: int,
        share: BatchShard,
        generator: torch.Generator | None,
    ) -> Negatives:
        """Those of the recipe; where they are drawn, a share keeps its own of what is drawn for the whole batch."""
        if share.of == 1 or not isinstance(self.negatives, Uniform):
            return self.negatives
        groups = share.whole(sequences) // grid.sequences
        drawn = self.negatives.draw(every, grid, groups, generator)
        mine = rearrange(drawn, "g (s a) n -> (g s) a n", s=grid.sequences)[share.places(sequences)]
        index = rearrange(mine, "(g s) a n -> g (s a) n", s=own)
        return PrecomputedNegatives(self.negatives.num_negatives, self.negatives.cross_sequence_fraction, index=index)


def _centred(keys: Float[Tensor, "keys frame dim"], score: Score, size: int) -> Float[Tensor, "keys frame dim"]:
    """Keys of whole groups of `size` sequences less their mean, as the score wants them."""
    if not isinstance(score, Cosine) or score.centre == "none":
        return keys
    grouped = rearrange(keys, "(g s) t d -> g s t d", s=size)
    return rearrange(score.centred(grouped), "g s t d -> (g s) t d")


def _prepared(keys: Float[Tensor, "keys frame dim"], score: Score, size: int) -> Float[Tensor, "keys frame dim"]:
    """What of the score concerns the keys alone, done once for all steps: of cosines their mean and their lengths."""
    return F.normalize(_centred(keys, score, size), dim=-1) if isinstance(score, Cosine) else keys


def _joined(found: Sequence[Contrasted]) -> Contrasted:
    """The same steps of several blocks of a batch."""
    if len(found) == 1:
        return found[0]
    loss, correct = (torch.cat(parts, 1) for parts in list(zip(*found, strict=True))[:2])
    return Contrasted(loss, correct, mean_kinds([part.kinds for part in found]))
