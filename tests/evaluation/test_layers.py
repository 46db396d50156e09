"""Layers by name are what the model computes; sums stand side by side; what it does not have is refused."""

import pytest
import torch

from cpc.config import InputError, validate
from cpc.evaluation.features import Layer, layers_of
from cpc.models.cpc import CPC, ModelConfig, build


@pytest.fixture
def model() -> CPC:
    settings = {"encoder": {"channels": 8, "norm": "channel"}, "context": {"hidden": 6, "layers": 3}}
    return build(validate(ModelConfig, settings), seed=2).eval()


def test_parts_and_sums_come_from_one_pass(model: CPC) -> None:
    waveform = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = layers_of(model, waveform, None, ["z", "c", "z+c", "c1+z"])
        z, c = model(waveform)
    assert list(found) == ["z", "c", "z+c", "c1+z"]
    assert torch.equal(found["z+c"], torch.cat([z, c], -1))
    assert torch.equal(found["c1+z"][..., 6:], z)
    assert Layer(model, "z+c", "random").name == "random z+c"


def test_layers_of_the_context_network_stack_up_to_c(model: CPC) -> None:
    waveform = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = layers_of(model, waveform, None, ["z", "c1", "c2", "c3", "c"])
        # One layer after the other, each a recurrent network of its own with the weights of its level.
        below = found["z"]
        for number in (1, 2, 3):
            one = torch.nn.GRU(below.shape[-1], 6, 1, batch_first=True)
            weights = model.context.rnn.state_dict()
            one.load_state_dict({name: weights[name.replace("l0", f"l{number - 1}")] for name in one.state_dict()})
            below = one(below)[0]
            torch.testing.assert_close(found[f"c{number}"], below)
    torch.testing.assert_close(found["c3"], found["c"])


@pytest.mark.parametrize("layer", ["c4", "z+", "", "q", "c0", "z c"])
def test_what_the_model_does_not_have_is_refused(model: CPC, layer: str) -> None:
    with pytest.raises(InputError, match=r"the model has z, c, c1, c2, c3, and sums of these such as z\+c"):
        Layer(model, layer)
