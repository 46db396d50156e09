"""An upstream for s3prl: copy this file as s3prl/upstream/cpc_local/expert.py, or import `UpstreamExpert` there.

s3prl asks an upstream for `forward(wavs)`, a list of waveforms (sample,) in, {"hidden_states": […]} out, each (batch,
frame, dim) padded at the end, and for `get_downsample_rates`. `ckpt` is a run folder or a .safetensors checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cpc.models.checkpoint import load


class UpstreamExpert(nn.Module):
    """z and c of a run as the hidden states of an s3prl upstream.

    Args:
        ckpt: a run folder or a checkpoint of `cpc train` or `cpc convert`.
    """

    def __init__(self, ckpt: str, model_config: str | None = None, **_: Any) -> None:
        super().__init__()
        self.model = load(ckpt)

    def get_downsample_rates(self, key: str) -> int:
        """Samples from one frame to the next."""
        return self.model.hop

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        z, c = self.model(pad_sequence(list(wavs), batch_first=True), lengths)
        return {"hidden_states": [z, c]}
