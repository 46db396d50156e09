"""Our models for other tools: one file that gives z and c of any number of samples, whole or as a stream.

`Portable` is the model in plain operations (one-dimensional convolutions, layer norms, torch's own recurrent networks),
which torch.export and ONNX take with free batch and length. Its outputs equal the model's to rounding.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cpc.config import InputError, dump
from cpc.io import atomic, write_json, write_text
from cpc.models.checkpoint import FORMAT, write_tensors
from cpc.models.context import Recurrent
from cpc.models.cpc import CPC
from cpc.models.encoder import BatchNorm, ChannelNorm
from cpc.version import versions

OPSET = 18
HF_TYPE = "cpc_audio"  # model_type in config.json
EXTRA = "pip install onnx onnxruntime"


class _ConvolutionLayer(nn.Module):
    """A convolution, its norm, and a ReLU or none: (batch, channel, step) → (batch, channel, step)."""

    def __init__(self, conv: nn.Module, norm: nn.Module, rectified: bool) -> None:
        super().__init__()
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv={type(conv).__name__}: must be Conv2d")
        self.kernel, self.stride, self.padding = conv.kernel_size[1], conv.stride[1], int(conv.padding[1])
        self.weight = nn.Parameter(conv.weight.detach()[:, :, 0].clone())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.norm, self.rectified = _plain_norm(norm), rectified

    def forward(self, x: Tensor, padding: int | None = None) -> Tensor:
        found = F.conv1d(x, self.weight, self.bias, self.stride, self.padding if padding is None else padding)
        normed: Tensor = self.norm(found.transpose(1, 2)).transpose(1, 2)
        return F.relu(normed) if self.rectified else normed


class _RecurrentLayer(nn.Module):
    """A norm or none, and a recurrent network: (batch, frame, dim) → (batch, frame, hidden) and its last state."""

    def __init__(self, norm: nn.Module, rnn: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.norm, self.rnn = _plain_norm(norm), rnn
        self.states = 2 if isinstance(rnn, nn.LSTM) else 1

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        given: Any = None if state is None else state[0] if self.states == 1 else (state[0], state[1])
        c, after = self.rnn(self.norm(x), given)
        return c, [after] if self.states == 1 else list(after)


class Portable(nn.Module):
    """A model with a recurrent context, in plain operations.

    Shape:
        waveform (batch, sample) in [−1, 1) → z (batch, frame, dim), c (batch, frame, hidden).

    Raises:
        InputError: the context is a transformer, whose blocks depend on the number of frames.
    """

    def __init__(self, model: CPC) -> None:
        super().__init__()
        if not isinstance(model.context, Recurrent):
            raise InputError("model.context.kind=transformer: cannot be exported so; give --to safetensors")
        encoder = model.encoder
        parts = zip(encoder.convs, encoder.norms, encoder.rectified, strict=True)
        self.layers = [_ConvolutionLayer(*part) for part in parts]
        self.stages = [_RecurrentLayer(norm, rnn) for norm, rnn in model.context.stages()]
        self.registered = nn.ModuleList([*self.layers, *self.stages])

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        x = waveform[:, None]  # (batch, 1, sample)
        for layer in self.layers:
            x = layer(x)
        c = z = x.transpose(1, 2)
        for stage in self.stages:
            c, _ = stage(c)
        return z, c


class PortableStream(Portable):
    """The same for a chunk of a stream, with its state as inputs and outputs.

    Shape:
        chunk (batch, sample), then what each convolution keeps (batch, channel, kept), then the state of each recurrent
        network (layer, batch, hidden; an LSTM has its cell beside it) → z, c of the frames that became computable, and
        the state for the next chunk. A chunk holds at least `receptive field` samples, so that there is a frame.
    """

    def begin(self, batch: int) -> list[Tensor]:
        """The state before the first chunk: the zero padding, and recurrent states of zeros."""
        kept = [torch.zeros(batch, layer.weight.shape[1], layer.padding) for layer in self.layers]
        for stage in self.stages:
            rnn = stage.rnn
            kept += [torch.zeros(rnn.num_layers, batch, rnn.hidden_size) for _ in range(stage.states)]
        return kept

    def forward(self, chunk: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, after, rest = chunk[:, None], [], list(state)
        for layer in self.layers:
            x = torch.cat([rest.pop(0), x], dim=2)
            count = (x.shape[2] - layer.kernel) // layer.stride + 1
            after.append(x[:, :, count * layer.stride :])
            x = layer(x, padding=0)
        c = z = x.transpose(1, 2)
        for stage in self.stages:
            c, left = stage(c, [rest.pop(0) for _ in range(stage.states)])
            after += left
        return (z, c, *after)


def _plain_norm(norm: nn.Module) -> nn.Module:
    """A norm over the last dimension in torch's own terms."""
    if isinstance(norm, ChannelNorm):
        plain = nn.LayerNorm(list(norm.normalized_shape), norm.eps_of_biased)
        plain.weight.data, plain.bias.data = norm.gain.detach().clone(), norm.bias.detach().clone()
        return plain
    if isinstance(norm, BatchNorm):
        return _Affine(norm)
    return nn.Identity()


class _Affine(nn.Module):
    """Batch normalisation in evaluation mode: a factor and a constant for each channel."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        if norm.running_var is None or norm.running_mean is None:
            raise InputError("model.encoder.norm=batch: has no running statistics; train it first")
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        self.scale = nn.Parameter(scale)
        self.shift = nn.Parameter(norm.bias.detach() - norm.running_mean * scale)

    def forward(self, x: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        return x * self.scale + self.shift


def export_safetensors(model: CPC, out: Path) -> None:
    """The weights alone, with the settings of the model as JSON in the header: a checkpoint that `cpc.load` opens."""
    header = {"format": FORMAT, "config": {"model": dump(model.config)}, "step": 0, "versions": versions()}
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_tensors(out, tensors, {"cpc": json.dumps(header)})


class _ScannedRecurrence(nn.Module):
    """A recurrent network as a scan over time, which torch.export keeps for any length; its own it would unroll."""

    def __init__(self, rnn: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.lstm = rnn, isinstance(rnn, nn.LSTM)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, Tensor]:
        for weights in self.rnn.all_weights:
            x = self._layer(x, *weights)
        return x, x

    def _layer(self, x: Tensor, v: Tensor, w: Tensor, v_bias: Tensor, w_bias: Tensor) -> Tensor:
        from torch._higher_order_ops.scan import scan  # torch has no public name for it yet

        def gru(h: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
            (r, u, n), (hr, hu, hn) = given.chunk(3, -1), F.linear(h, w, w_bias).chunk(3, -1)
            u = torch.sigmoid(u + hu)
            h = (1 - u) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + u * h
            return h, h.clone()

        def lstm(both: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
            h, cell = both.chunk(2, -1)
            i, f, g, o = (given + F.linear(h, w, w_bias)).chunk(4, -1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(cell)
            return torch.cat([h, cell], -1), h.clone()

        size = self.rnn.hidden_size * (2 if self.lstm else 1)
        begin, given = x.new_zeros(x.shape[0], size), F.linear(x, v, v_bias).transpose(0, 1)
        found: Tensor = scan(lstm if self.lstm else gru, begin, given, dim=0)[1]
        return found.transpose(0, 1)


def export_hf(model: CPC, folder: Path, card: str = "") -> None:
    """A folder as transformers wants it: config.json, preprocessor_config.json, model.safetensors, README.md.

    It is opened by `cpc.models.hf.CPCModel.from_pretrained(folder)`.
    """
    settings = {name: value for name, value in dump(model.config).items() if name != "init"}
    config = {"model_type": HF_TYPE, "architectures": ["CPCModel"], "cpc": settings, "sampling_rate": model.sample_rate}
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",  # pads, and does nothing else
        "feature_size": 1,
        "sampling_rate": model.sample_rate,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": False,
        "return_attention_mask": True,
    }
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_json(folder / "preprocessor_config.json", extractor)
    write_text(folder / "README.md", card)
    write_json(folder / "config.json", config)


def export_torch(model: CPC, out: Path) -> None:
    """A program of torch.export (.pt2) with free batch and length: `torch.export.load(out).module()(waveform)`.

    It takes waveforms of at least two frames, and is for other programs of torch: its loop over time is slower than the
    model's own.
    """
    portable = Portable(model.cpu().eval()).eval()
    for stage in portable.stages:
        stage.rnn = _ScannedRecurrence(stage.rnn)  # type: ignore[assignment]
        stage.states = 1
    shortest = next(n for n in range(model.receptive_field, 1 << 30) if model.frames(n) >= 2)
    waveform = torch.zeros(2, 4 * model.receptive_field)
    free = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("samples", min=shortest)}
    with torch.no_grad():
        program = torch.export.export(
            portable,
            (waveform,),
            dynamic_shapes=(free,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    with atomic(out) as file:
        torch.export.save(program, file)


def export_onnx(model: CPC, out: Path, stream: bool = False) -> None:
    """An ONNX file: `waveform` → `z`, `c`; with `stream`, `chunk` and the state → the same and the state to come.

    Its metadata say sample_rate, hop and receptive_field, and of a stream `begin`: the shapes, as JSON, of the state
    of zeros before the first chunk.

    Raises:
        InputError: the extra onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise InputError(f"to=onnx: needs the package onnx; install it with: {EXTRA}") from None
    model = model.cpu().eval()
    length, free = 4 * model.receptive_field, {"z": {0: "batch", 1: "frame"}, "c": {0: "batch", 1: "frame"}}
    if not stream:
        portable: nn.Module = Portable(model).eval()
        inputs: tuple[Tensor, ...] = (torch.zeros(2, length),)
        names, outputs = ["waveform"], ["z", "c"]
        free["waveform"] = {0: "batch", 1: "sample"}
    else:
        portable = PortableStream(model).eval()
        state = portable.begin(2)
        inputs = (torch.zeros(2, length), *state)
        kept = len(model.encoder.convs)
        parts = [f"kept{i}" for i in range(kept)] + [f"state{i}" for i in range(len(state) - kept)]
        names, outputs = ["chunk", *parts], ["z", "c", *(f"{name}_next" for name in parts)]
        free["chunk"] = {0: "batch", 1: "sample"}
        for name in parts:
            axes = {0: "batch", 2: f"{name}_length"} if name.startswith("kept") else {1: "batch"}
            free |= {
                name: axes,
                f"{name}_next": {axis: f"{said}_next" if axis == 2 else said for axis, said in axes.items()},
            }
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), warnings.catch_warnings():
        traced = Path(scratch, "traced.onnx")
        warnings.simplefilter("ignore")  # of tracing: what it takes for constant is, and the tests say so
        torch.onnx.export(
            portable, inputs, traced, input_names=names, output_names=outputs, dynamic_axes=free,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        made = onnx.load(traced)
    facts: dict[str, Any] = {"sample_rate": model.sample_rate, "hop": model.hop}
    facts["receptive_field"] = model.receptive_field
    if isinstance(portable, PortableStream):
        shapes = (list(part.shape) for part in portable.begin(1))
        facts["begin"] = json.dumps(dict(zip(parts, shapes, strict=True)))
    onnx.helper.set_model_props(made, {name: str(value) for name, value in facts.items()})
    onnx.checker.check_model(made)
    with atomic(out) as file:
        file.write(made.SerializeToString())
