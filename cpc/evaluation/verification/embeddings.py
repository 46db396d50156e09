"""One vector for each utterance, and how alike two of them are."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from cpc.corpus.corpus import Corpus
from cpc.evaluation.abx.bank import corpus_banks
from cpc.evaluation.features import Features
from cpc.evaluation.layers import Layer
from cpc.evaluation.verification.trials import Trials

_AT_ONCE = 1 << 25  # samples whose frames are held at once: 35 minutes, 0.4 GiB of frames of 512 numbers

Rows = Int64[np.ndarray, " utterance"]
Vectors = Float64[np.ndarray, "utterance dim"]


def embeddings(
    group: Sequence[Features], corpus: Corpus, rows: Rows, *, device: str = "cpu", progress: bool = False
) -> list[Vectors]:
    """A vector for each of the rows, for each of the features: the mean of its frames, or what a layer's pooling makes.

    The layers of one model come out of one pass over the audio. Every row must have a frame.
    """
    found = [np.empty((len(rows), 0)) for _ in group]
    for places in _blocks(corpus.samples[rows]):
        banks = corpus_banks(group, corpus, rows[places], device=device, progress=progress)
        for number, bank in enumerate(banks):
            vectors = np.stack([_vector(group[number], bank.table.utterance(i)) for i in range(len(places))])
            if not found[number].size:
                found[number] = np.empty((len(rows), vectors.shape[1]))
            found[number][places] = vectors
    return found


@torch.inference_mode()
def _vector(features: Features, frames: Float32[Tensor, "frame dim"]) -> Float64[np.ndarray, " dim"]:
    pooling = features.pooling if isinstance(features, Layer) else None
    if pooling is None:
        mean: Float64[np.ndarray, " dim"] = frames.double().mean(0).numpy()
        return mean
    device = next(pooling.parameters()).device
    return np.asarray(pooling(frames[None].to(device))[0].double().cpu())


def cosines(
    vectors: Vectors, rows: Rows, train: Int64[np.ndarray, " train"], trials: Trials
) -> Float64[np.ndarray, " trial"]:
    """The cosine of the two vectors of each trial, after the mean of the training rows was taken from all.

    `rows` says, sorted, whose vectors they are. A vector equal to the mean has no direction: its cosines are 0.
    """
    centred = vectors - vectors[np.searchsorted(rows, train)].mean(0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(lengths > 0, lengths, 1)
    one, other = (unit[np.searchsorted(rows, side)] for side in (trials.first, trials.second))
    alike: Float64[np.ndarray, " trial"] = np.einsum("td,td->t", one, other)
    return alike


def _blocks(samples: Rows) -> Iterator[Int64[np.ndarray, " block"]]:
    """Places of utterances of similar length, so many at once that their frames take bounded memory."""
    order = np.argsort(samples, kind="stable")
    block = np.cumsum(samples[order]) // _AT_ONCE
    yield from np.split(order, np.flatnonzero(np.diff(block)) + 1)
