"""Our models under the conventions of Hugging Face transformers: `CPCModel.from_pretrained(FOLDER)`, or `AutoModel`.

`cpc export RUN FOLDER --to hf` writes the folder without transformers; loading it needs the extra `hf`. Importing this
module registers the model's type, so that AutoConfig, AutoModel and AutoFeatureExtractor open the folder, too.
"""

from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput
except ImportError as error:
    raise ImportError("cpc.models.hf: needs transformers; install it with: pip install 'transformers>=5'") from error

from cpc.config import validate
from cpc.models.cpc import CPC, ModelConfig
from cpc.models.export import HF_TYPE


class CPCConfig(PretrainedConfig):  # type: ignore[misc] # transformers gives no types
    """The settings of a CPC model.

    Args:
        cpc: `model` of a recipe, as plain values.
        sampling_rate: Hz of the audio.
    """

    model_type = HF_TYPE

    def __init__(self, cpc: dict[str, Any] | None = None, sampling_rate: int = 16000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cpc, self.sampling_rate = cpc or {}, sampling_rate

    @property
    def hidden_size(self) -> int:
        """Dimension of `last_hidden_state`."""
        return validate(ModelConfig, self.cpc).context.hidden


class CPCModel(PreTrainedModel):  # type: ignore[misc]
    """Waveform → c as `last_hidden_state`; with `output_hidden_states`, z and every layer of the context network.

    Shape:
        input_values (batch, sample) in [−1, 1) → last_hidden_state (batch, frame, hidden). With an attention_mask
        (batch, sample) of ones and then zeros, frames beyond the end of a waveform are 0, and the others what the
        waveform gives alone.
    """

    config_class = CPCConfig
    main_input_name = "input_values"
    base_model_prefix = "model"

    def __init__(self, config: CPCConfig) -> None:
        super().__init__(config)
        self.model = CPC(validate(ModelConfig, config.cpc))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules come with their initial weights."""

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        lengths = None if attention_mask is None else attention_mask.sum(1).to(torch.int64)
        z, c = self.model(input_values, lengths)
        layers = [c]
        if output_hidden_states:
            context = self.model.context
            layers = [z, *(context.layer_output(z, n) for n in range(1, context.depth)), c]
        if lengths is not None:
            frames = self._get_feat_extract_output_lengths(lengths)
            inside = torch.arange(c.shape[1], device=c.device) < frames[:, None]
            layers = [layer * inside[..., None] for layer in layers]
        hidden = tuple(layers) if output_hidden_states else None
        if return_dict is False:
            return (layers[-1],) if hidden is None else (layers[-1], hidden)
        return BaseModelOutput(last_hidden_state=layers[-1], hidden_states=hidden)

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Frames of waveforms of so many samples."""
        counts = [self.model.frames(int(samples)) for samples in input_lengths.tolist()]
        return torch.tensor(counts, device=input_lengths.device)


AutoConfig.register(HF_TYPE, CPCConfig)
AutoModel.register(CPCConfig, CPCModel)
