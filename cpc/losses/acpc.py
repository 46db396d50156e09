"""ACPC, aligned CPC: fewer predictions than frames ahead, matched to them in order (Chorowski et al. 2021, section 3).

A phone lasts several frames, so that predicting each of the next K frames asks when it ends as well as what it is.
With M < K predictions a context says what comes next, in order, and the alignment says how long each lasts.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cpc.device import upcast
from cpc.losses.scores import Cosine, Score


def align(costs: Float[Tensor, "*anchors prediction frame"]) -> Int[Tensor, "*anchors frame"]:
    """The cheapest way to match predictions to frames in order, each prediction to one frame or several in a row.

    Args:
        costs: (…, prediction, frame) of matching each prediction to each frame, with no fewer frames than predictions.

    Returns:
        (…, frame) the prediction of every frame, from the first to the last and never backwards; of equally cheap ways
        the one that stays with a prediction for longer.

    Raises:
        ValueError: fewer frames than predictions, so that some have none.

    >>> align(torch.tensor([[0., 0., 9., 9.], [9., 9., 0., 0.]]))
    tensor([0, 0, 1, 1])
    """
    predictions, frames = costs.shape[-2:]
    if predictions > frames:
        raise ValueError(f"{predictions} predictions of {frames} frames: must be no more than the frames")
    least = torch.full_like(costs[..., 0], torch.inf)  # (…, prediction): of all ways that end there at this frame
    least[..., 0] = costs[..., 0, 0]
    moved = []
    for frame in range(1, frames):
        before = torch.cat([torch.full_like(least[..., :1], torch.inf), least[..., :-1]], dim=-1)
        moved.append(before < least)
        least = torch.minimum(before, least) + costs[..., frame]
    places = [torch.full_like(costs[..., 0, 0], predictions - 1, dtype=torch.long)]
    for steps in reversed(moved):  # back from the last prediction at the last frame
        places.append(places[-1] - steps.gather(-1, places[-1][..., None])[..., 0].long())
    return torch.stack(places[::-1], dim=-1)


@torch.no_grad()
def aligned(
    predictions: Float[Tensor, "prediction batch anchor dim"],
    z: Float[Tensor, "batch frame dim"],
    frames_ahead: int,
    score: Score,
    temperature: float = 1.0,
) -> Int[Tensor, "step batch anchor"]:
    """Which prediction of anchor t is matched to frame t + k, for k = 1 … frames_ahead.

    The cost of a match is its InfoNCE loss against all frames of the window, −log softmax of its score.

    Args:
        predictions: in order, (prediction, batch, anchor, dim).
        z: the frames (batch, frame, dim).
        frames_ahead: K.
        score: of a prediction and a frame. Cosines that are centred take the mean of the window here.
        temperature: by which scores are divided.

    Returns:
        (step, batch, anchor) numbers of predictions.
    """
    keys = score.centred(z[:, None])[:, 0] if isinstance(score, Cosine) else z
    scores = upcast(score(rearrange(predictions, "m b a d -> b (m a) d"), keys)) / temperature
    costs = rearrange(scores.logsumexp(-1, keepdim=True) - scores, "b (m a) t -> b a m t", m=len(predictions))
    ahead = torch.arange(1, frames_ahead + 1, device=z.device)
    places = torch.arange(costs.shape[1], device=z.device)[:, None] + ahead  # (anchor, step)
    picked = costs.gather(-1, places[:, None].expand(len(costs), -1, costs.shape[2], -1))
    return rearrange(align(picked), "b a k -> k b a")
