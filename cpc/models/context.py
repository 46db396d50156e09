"""The autoregressive context: z up to t → c_t (van den Oord 2018, section 3.1).

Every context network is called in two ways. `context(z)` gives c for whole sequences. `context.step(z, state)` gives
c and the state after the last frame, going on from the state that earlier frames left (None: from the beginning); a
state is a flat tuple of tensors, and pieces in turn give what the whole gives. `context.layer_output(z, count)` stops
after the first `count` of its `depth` layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, assert_never

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT
from cpc.models.attention import TransformerLayer
from cpc.models.encoder import ChannelNorm
from cpc.models.gru import gru

State = tuple[Tensor, ...]
Positive = Annotated[int, Field(ge=1)]
Norm = Literal["none", "layer"]


@dataclass(frozen=True, config=STRICT)
class GRUConfig:
    """Gated recurrent units; `hidden` is the dimension of c.

    norm: "layer" normalises what every layer takes in (z, and between layers). High learning rates need it, and so do
    two layers (docs/representation.md).

    hidden: dimension of c.
    layers: recurrent layers.
    """

    hidden: Positive = 256
    layers: Positive = 1
    norm: Norm = "none"
    kind: Literal["gru"] = "gru"


@dataclass(frozen=True, config=STRICT)
class LSTMConfig:
    """Long short-term memory, as in Rivière et al. 2020; two layers in Kharitonov et al. 2020. `norm` as of a GRU.

    hidden: dimension of c.
    layers: recurrent layers.
    norm: "layer" normalises what every layer takes in.
    """

    hidden: Positive = 256
    layers: Positive = 1
    norm: Norm = "none"
    kind: Literal["lstm"] = "lstm"


@dataclass(frozen=True, config=STRICT)
class TransformerConfig:
    """Causal transformer layers with `heads` attention heads and `width` units in the feed-forward part.

    `span`: the frames that a layer sees, its own included; c_t then depends on the last layers · (span − 1) + 1 frames.
    Keep the learning rate low: with 64 channels 3e-4 trained at once where 1e-3, good for a GRU, stayed at chance.

    hidden: dimension of c.
    layers: transformer layers.
    heads: attention heads.
    width: units of the feed-forward part.
    span: frames that a layer sees, its own included.
    dropout: rate of dropout while training.
    """

    hidden: Positive = 256
    layers: Positive = 1
    heads: Positive = 8
    width: Positive = 2048
    span: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    kind: Literal["transformer"] = "transformer"

    @model_validator(mode="after")
    def _divides(self) -> "TransformerConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} must be a multiple of heads={self.heads}; change one of them")
        return self


AnyContextConfig = GRUConfig | LSTMConfig | TransformerConfig
ContextConfig = Annotated[AnyContextConfig, Field(discriminator="kind")]


class Recurrent(nn.Module):
    """c_t from z_1 … z_t by a GRU or an LSTM; nothing after t reaches c_t.

    Shape:
        z (batch, frame, dim) → c (batch, frame, hidden). State: h, and an LSTM's cell, (layer, batch, hidden) each.
    """

    def __init__(self, config: GRUConfig | LSTMConfig, dim: int) -> None:
        super().__init__()
        network = nn.GRU if isinstance(config, GRUConfig) else nn.LSTM
        self.depth = config.layers
        self.norms: nn.ModuleList | None = None
        if config.norm == "none":
            self.rnn: nn.Module = network(dim, config.hidden, config.layers, batch_first=True)
        else:  # layer by layer, each with a norm before it
            widths = [dim] + [config.hidden] * (config.layers - 1)
            self.norms = nn.ModuleList(ChannelNorm(width) for width in widths)
            self.rnn = nn.ModuleList(network(width, config.hidden, batch_first=True) for width in widths)

    def forward(self, z: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame hidden"]:
        if isinstance(self.stages()[0][1], nn.GRU) and z.device.type == "cpu" and torch.is_grad_enabled():
            for norm, rnn in self.stages():
                z = gru(rnn, norm(z))
            return z
        return self.step(z)[0]

    def step(
        self, z: Float[Tensor, "batch frame dim"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch frame hidden"], State]:
        after: list[State] = []
        with _exact_steps(z) as exact:
            c = exact
            for number, (norm, rnn) in enumerate(self.stages()):
                before = state if state is None or self.norms is None else [s[number : number + 1] for s in state]
                # torch wants a GRU's without its tuple
                given = before[0] if before is not None and len(before) == 1 else before and tuple(before)
                c, left = rnn(norm(c), given)
                after.append(left if isinstance(left, tuple) else (left,))
        return c, after[0] if len(after) == 1 else tuple(torch.cat(parts) for parts in zip(*after, strict=True))

    def layer_output(self, z: Float[Tensor, "batch frame dim"], count: int) -> Float[Tensor, "batch frame hidden"]:
        with _exact_steps(z) as exact:
            c = exact
            if self.norms is None:
                found: Tensor = _first_layers(self.stages()[0][1], count)(c)[0]
                return found
            for norm, rnn in self.stages()[:count]:
                c = rnn(norm(c))[0]
        return c

    def stages(self) -> list[tuple[nn.Module, Any]]:
        """What z goes through: a norm (or none) and a recurrent network, one after the other."""
        if self.norms is None or not isinstance(self.rnn, nn.ModuleList):
            return [(nn.Identity(), self.rnn)]
        return list(zip(self.norms, self.rnn, strict=True))


class Transformer(nn.Module):
    """Causal transformer layers over a bounded past.

    Shape:
        z (batch, frame, dim) → c (batch, frame, hidden). State: of each layer keys and values of its last frames,
        at most span − 1 of them, (batch, head, past, hidden / heads) each.
    """

    def __init__(self, config: TransformerConfig, dim: int) -> None:
        super().__init__()
        same = dim == config.hidden
        self.project = nn.Identity() if same else nn.Linear(dim, config.hidden, bias=False)
        self.layers = nn.ModuleList(
            TransformerLayer(config.hidden, config.heads, config.width, config.span, config.dropout)
            for _ in range(config.layers)
        )
        self.depth = config.layers

    def forward(self, z: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame hidden"]:
        return self.step(z)[0]

    def step(
        self, z: Float[Tensor, "batch frame dim"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch frame hidden"], State]:
        c, kept = self.project(z), []
        for number, layer in enumerate(self.layers):
            c, past = layer(c, None if state is None else (state[2 * number], state[2 * number + 1]))
            kept += past
        return c, tuple(kept)

    def layer_output(self, z: Float[Tensor, "batch frame dim"], count: int) -> Float[Tensor, "batch frame hidden"]:
        c: Tensor = self.project(z)
        for layer in self.layers[:count]:
            c, _ = layer(c)
        return c


Context = Recurrent | Transformer


def build_context(config: AnyContextConfig, dim: int) -> Context:
    """The context network that a recipe describes, for z of dimension `dim`."""
    match config:
        case GRUConfig() | LSTMConfig():
            return Recurrent(config, dim)
        case TransformerConfig():
            return Transformer(config, dim)
        case _:
            assert_never(config)


@contextmanager
def _exact_steps(z: Float[Tensor, "batch frame dim"]) -> Iterator[Float[Tensor, "batch frame dim"]]:
    """z for steps in float32 whatever autocast says, on a CPU where nothing is learnt; elsewhere z as it is.

    There the products of a step are small, and those of few sequences take up to four times longer in bfloat16.
    """
    if z.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            yield z.float()
    else:
        yield z


def _first_layers(rnn: nn.GRU | nn.LSTM, count: int) -> nn.GRU | nn.LSTM:
    """The recurrent network cut off after `count` layers, with the same weights."""
    lower = type(rnn)(rnn.input_size, rnn.hidden_size, count, batch_first=True)
    lower.load_state_dict({name: weight for name, weight in rnn.state_dict().items() if name in lower.state_dict()})
    return lower.to(next(rnn.parameters()).device)
