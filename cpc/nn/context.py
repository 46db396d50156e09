"""The autoregressive context: z up to t → c_t (van den Oord 2018, section 3.1)."""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class GRUConfig:
    """A gated recurrent unit; `hidden` is the dimension of c."""

    hidden: Annotated[int, Field(ge=1)] = 256
    layers: Annotated[int, Field(ge=1)] = 1
    kind: Literal["gru"] = "gru"


ContextConfig = GRUConfig


class GRU(nn.Module):
    """c_t from z_1 … z_t; nothing after t reaches c_t.

    Shape:
        z (batch, frame, dim) → c (batch, frame, hidden).
    """

    def __init__(self, config: ContextConfig, dim: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(dim, config.hidden, config.layers, batch_first=True)

    def forward(self, z: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame hidden"]:
        return self.go_on(z)[0]

    def go_on(
        self, z: Float[Tensor, "batch frame dim"], state: Float[Tensor, "layer batch hidden"] | None = None
    ) -> tuple[Float[Tensor, "batch frame hidden"], Float[Tensor, "layer batch hidden"]]:
        """c and the state after the last frame, going on from the state that earlier frames left."""
        c, state = self.rnn(z, state)
        return c, state
