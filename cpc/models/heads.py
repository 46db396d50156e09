"""The prediction heads W_1 … W_K: from c_1 … c_t to what z_{t+k} should be.

Every kind maps c (batch, anchor, hidden) to predictions (step, batch, anchor, dim). The paper's heads are matrices;
Rivière et al. 2020 (section 3) found that heads which look back over c, transformers above all, make training stable
without a warm-up and the features better. Prediction k of anchor t depends on c_1 … c_t alone.
"""

import math
from typing import Annotated, Literal, assert_never

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT, InputError
from cpc.models.attention import TransformerLayer

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class BilinearConfig:
    """One matrix a step."""

    kind: Literal["bilinear"] = "bilinear"


@dataclass(frozen=True, config=STRICT)
class FeedForwardConfig:
    """One hidden layer of `width` ReLU units a step; by default as many as z has dimensions.

    width: hidden units a step; null for as many as z has dimensions.
    """

    width: Positive | None = None
    kind: Literal["feed_forward"] = "feed_forward"


@dataclass(frozen=True, config=STRICT)
class ConvolutionConfig:
    """One causal convolution a step, over c_t and the `kernel` − 1 vectors before it.

    kernel: vectors of c that a prediction sees, c_t included.
    """

    kernel: Positive = 8
    kind: Literal["convolution"] = "convolution"


@dataclass(frozen=True, config=STRICT)
class TransformerHeadsConfig:
    """One causal transformer layer a step, with `heads` attention heads, over the last `span` vectors.

    heads: attention heads.
    width: units of the feed-forward part.
    span: vectors of c that a head sees, c_t included.
    dropout: rate of dropout while training.
    """

    heads: Positive = 8
    width: Positive = 2048
    span: Positive = 116
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    kind: Literal["transformer"] = "transformer"


AnyHeadsConfig = BilinearConfig | FeedForwardConfig | ConvolutionConfig | TransformerHeadsConfig
HeadsConfig = Annotated[AnyHeadsConfig, Field(discriminator="kind")]


class Bilinear(nn.Module):
    """One matrix a step, all in one parameter: prediction k is W_k c_t (van den Oord 2018, eq. 3).

    Shape:
        c (batch, anchor, hidden) → (step, batch, anchor, dim).
    """

    def __init__(self, steps: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(steps, dim, hidden))
        _as_linear(self.weight, hidden)

    def forward(self, c: Float[Tensor, "batch anchor hidden"]) -> Float[Tensor, "step batch anchor dim"]:
        stacked = rearrange(self.weight, "k d h -> (k d) h")
        return rearrange(F.linear(c, stacked), "b a (k d) -> k b a d", k=len(self.weight))


class FeedForward(nn.Module):
    """A network with one hidden layer a step: V_k ReLU(U_k c_t + u_k) + v_k.

    Shape:
        c (batch, anchor, hidden) → (step, batch, anchor, dim).
    """

    def __init__(self, steps: int, hidden: int, dim: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, steps * width)
        self.weight = nn.Parameter(torch.empty(steps, width, dim))
        self.bias = nn.Parameter(torch.empty(steps, 1, dim))
        _as_linear(self.weight, width)
        _as_linear(self.bias, width)

    def forward(self, c: Float[Tensor, "batch anchor hidden"]) -> Float[Tensor, "step batch anchor dim"]:
        units = rearrange(F.relu(self.inner(c)), "b a (k w) -> k (b a) w", k=len(self.weight))
        return rearrange(torch.baddbmm(self.bias, units, self.weight), "k (b a) d -> k b a d", b=len(c))


class Convolution(nn.Module):
    """A causal convolution a step, all in one: zeros stand before the first vector.

    Shape:
        c (batch, anchor, hidden) → (step, batch, anchor, dim).
    """

    def __init__(self, steps: int, hidden: int, dim: int, kernel: int) -> None:
        super().__init__()
        self.steps, self.kernel = steps, kernel
        self.conv = nn.Conv1d(hidden, steps * dim, kernel)

    def forward(self, c: Float[Tensor, "batch anchor hidden"]) -> Float[Tensor, "step batch anchor dim"]:
        padded = F.pad(rearrange(c, "b a h -> b h a"), (self.kernel - 1, 0))
        predictions: Tensor = rearrange(self.conv(padded), "b (k d) a -> k b a d", k=self.steps)
        return predictions


class TransformerHeads(nn.Module):
    """A causal transformer layer a step; a matrix follows where c and z differ in dimension.

    Shape:
        c (batch, anchor, hidden) → (step, batch, anchor, dim).
    """

    def __init__(self, config: TransformerHeadsConfig, steps: int, hidden: int, dim: int) -> None:
        super().__init__()
        if hidden % config.heads:
            raise InputError(
                f"loss.heads.heads={config.heads}: must divide the dimension of c, model.context.hidden={hidden}"
            )
        self.layers = nn.ModuleList(
            TransformerLayer(hidden, config.heads, config.width, config.span, config.dropout) for _ in range(steps)
        )
        self.outs = nn.ModuleList(
            nn.Identity() if hidden == dim else nn.Linear(hidden, dim, bias=False) for _ in range(steps)
        )

    def forward(self, c: Float[Tensor, "batch anchor hidden"]) -> Float[Tensor, "step batch anchor dim"]:
        return torch.stack([out(layer(c)[0]) for layer, out in zip(self.layers, self.outs, strict=True)])


def build_heads(config: AnyHeadsConfig, steps: int, hidden: int, dim: int) -> nn.Module:
    """The heads that a recipe describes, for c of dimension `hidden` and z of dimension `dim`."""
    match config:
        case BilinearConfig():
            return Bilinear(steps, hidden, dim)
        case FeedForwardConfig():
            return FeedForward(steps, hidden, dim, config.width or dim)
        case ConvolutionConfig():
            return Convolution(steps, hidden, dim, config.kernel)
        case TransformerHeadsConfig():
            return TransformerHeads(config, steps, hidden, dim)
        case _:
            assert_never(config)


def _as_linear(weight: nn.Parameter, inputs: int) -> None:
    """The initial values that nn.Linear has."""
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(weight, -bound, bound)
