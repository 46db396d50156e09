"""Models of other tools: checkpoints of CPC_audio, Libri-Light and s3prl in, and ours out in the same format.

CPC_audio (Rivière et al. 2020; github.com/facebookresearch/CPC_audio, `cpc/model.py`) writes {gEncoder, cpcCriterion,
…} with its settings in checkpoint_args.json beside it. Libri-Light's released files, which s3prl calls `modified_cpc`,
are {config, weights}. What the tensors say (dimensions, layers, GRU or LSTM, the kind of norm) is read off the
tensors; the settings are asked for the rest alone. Files are read as tensors and plain values: nothing in them runs.

Their score is the mean over the dimensions of prediction × key, ours with `Dot(1 / dim)`. Their channel norm divides by
the square root of the unbiased variance: `model.encoder.norm=channel_unbiased`.
"""

import json
import pickle
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpc.config import InputError
from cpc.io import atomic_path
from cpc.models.context import AnyContextConfig, GRUConfig, LSTMConfig, TransformerConfig
from cpc.models.cpc import CPC, ModelConfig
from cpc.models.encoder import EncoderConfig
from cpc.models.heads import (
    AnyHeadsConfig,
    BilinearConfig,
    ConvolutionConfig,
    FeedForwardConfig,
    TransformerHeadsConfig,
    build_heads,
)

ELSEWHERE = "unknown"  # data.corpus of a model that another tool trained
LAYERS = 5
NORMS = {"layerNorm": "channel_unbiased", "batchNorm": "batch", "ID": "none"}
Tensors = dict[str, Tensor]
_ATTENTION = {"query": "Wq", "key": "Wk", "value": "Wv", "out": "Wo"}
_REMEDY = "only models of 5 convolutions with a GRU, an LSTM or a transformer of relative positions can be represented"


@dataclass(frozen=True)
class Converted:
    """A model of another tool in our terms.

    config, weights: of the model. heads, steps, head_weights: of the K predictions, where the file has them.
    settings: theirs, as plain values. notes: what was left behind, one line each.
    """

    config: ModelConfig
    weights: Tensors
    steps: int = 0
    heads: AnyHeadsConfig | None = None
    head_weights: Tensors = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def build(self) -> CPC:
        """The model with its weights, ready for inference."""
        model = CPC(self.config)
        model.load_state_dict(self.weights)
        return model.eval()


def read_foreign(path: Path) -> Converted:
    """Read a checkpoint of CPC_audio, Libri-Light or s3prl.

    Args:
        path: the .pt file; the settings of CPC_audio's training are looked for in checkpoint_args.json beside it.

    Raises:
        InputError: it is no such file, holds more than tensors and plain values, or something of it cannot be
            represented, which is named.
    """
    loaded = _load(path)
    if "weights" in loaded:
        settings, weights = _plain(loaded.get("config"), path), loaded["weights"]
        criterion: Any = {}
    else:
        beside = path.parent / "checkpoint_args.json"
        settings = _read_settings(beside) if beside.is_file() else {}
        weights, criterion = loaded.get("gEncoder"), loaded.get("cpcCriterion") or {}
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        rule = "neither {gEncoder, …} of CPC_audio nor {config, weights} of Libri-Light"
        raise InputError(f"{path}: holds {', '.join(map(str, list(loaded)[:5])) or 'nothing'}: {rule}")
    return from_cpc_audio(_unwrapped(weights), _unwrapped(criterion), settings, str(path))


def from_cpc_audio(
    weights: Mapping[str, Tensor], criterion: Mapping[str, Tensor], settings: Mapping[str, Any], where: str = "weights"
) -> Converted:
    """The same from the tensors of the model and of the criterion, and the settings.

    Raises:
        InputError: something of it cannot be represented.
    """
    _check_settings(settings, where)
    left = dict(weights)
    try:
        encoder, ours = _encoder(left, where)
        context, recurrent = _context(left, encoder.widths[-1], settings, where)
        if left:
            raise InputError(f"{where}: has {', '.join(sorted(left)[:3])}, which is not known; {_REMEDY}")
        config = ModelConfig(encoder, context)
        steps, heads, head_weights, notes = _heads(dict(criterion), config)
        plain = json.loads(json.dumps(dict(settings), default=str))
        found = Converted(config, ours | recurrent, steps, heads, head_weights, plain, notes)
        found.build()
        if heads:
            build_heads(heads, steps, config.context.hidden, encoder.widths[-1]).load_state_dict(
                {name.removeprefix("heads."): value for name, value in head_weights.items()}
            )
    except InputError:
        raise
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        last = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
        raise InputError(f"{where}: its tensors do not fit together ({last}); {_REMEDY}") from None
    return found


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .pt checkpoint of CPC_audio, Libri-Light or s3prl")
    try:
        with torch.serialization.safe_globals([Namespace]):  # settings; making one calls nothing
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        rule = "holds more than tensors and plain values, and nothing of it was run"
        raise InputError(f"{path}: {rule}; save it again as a dictionary of tensors") from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint of torch ({' '.join(str(error).split())})") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not a dictionary of a checkpoint")
    return loaded


def _plain(settings: Any, path: Path) -> dict[str, Any]:
    if not isinstance(settings, Namespace | Mapping | None):
        raise InputError(f"{path}: config is a {type(settings).__name__}; must be a mapping of settings")
    return dict(vars(settings)) if isinstance(settings, Namespace) else dict(settings or {})


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: not valid JSON ({error}); it holds the settings of the checkpoint beside it"
        ) from None
    if not isinstance(settings, dict):
        raise InputError(f"{file}: must hold a mapping of settings, not a {type(settings).__name__}")
    return settings


def _unwrapped(tensors: Mapping[str, Any]) -> Tensors:
    """Without the `module.` that DataParallel puts before every name."""
    return {re.sub(r"^(module\.)+", "", name): value for name, value in tensors.items()}


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    """What the tensors do not say."""
    refused = {
        "encoder_type": (None, "cpc"),
        "arMode": (None, "GRU", "LSTM", "transformer"),
        "cpc_mode": (None, "none"),
        "abspos": (None, False),
        "normMode": (None, *NORMS),
        "speakerEmbedding": (None, 0),
    }
    for name, known in refused.items():
        if settings.get(name) not in known:
            raise InputError(f"{where}: {name}={settings[name]}: {_REMEDY}")


def _encoder(left: Tensors, where: str) -> tuple[EncoderConfig, Tensors]:
    """The settings and weights of the encoder, which are taken out of `left`."""
    ours: Tensors = {}
    names = [f"gEncoder.conv{i}.weight" for i in range(LAYERS)]
    if missing := [name for name in names if name not in left]:
        raise InputError(f"{where}: {missing[0]} is missing; {_REMEDY}")
    widths = tuple(int(left[name].shape[0]) for name in names)
    kernels = tuple(int(left[name].shape[-1]) for name in names)
    if kernels != EncoderConfig().kernels:
        raise InputError(f"{where}: kernels={list(kernels)}: must be {list(EncoderConfig().kernels)}")
    biased = "gEncoder.conv0.bias" in left
    for i, name in enumerate(names):
        ours[f"encoder.convs.{i}.weight"] = left.pop(name)[:, :, None]
        if biased:
            ours[f"encoder.convs.{i}.bias"] = left.pop(f"gEncoder.conv{i}.bias")
    first = left.get("gEncoder.batchNorm0.weight")
    norm = "none"
    if first is not None:
        norm = "channel_unbiased" if first.ndim == 3 else "batch"
        if norm == "batch" and "gEncoder.batchNorm0.running_mean" not in left:
            raise InputError(f"{where}: normMode=instanceNorm: {_REMEDY}")
        for name in [name for name in left if name.startswith("gEncoder.batchNorm")]:
            layer, part = name.removeprefix("gEncoder.batchNorm").split(".")
            value = left.pop(name)
            ours[f"encoder.norms.{layer}.{part}"] = value.reshape(-1) if value.ndim == 3 else value
    channels = widths[0] if len(set(widths)) == 1 else widths
    made = EncoderConfig(channels=channels, norm=norm, bias=biased)  # type: ignore[arg-type]
    return made, ours


def _context(left: Tensors, dim: int, settings: Mapping[str, Any], where: str) -> tuple[AnyContextConfig, Tensors]:
    """The settings and weights of the context network, which are taken out of `left`."""
    recurrent = {name.removeprefix("gAR.baseNet."): left.pop(name) for name in list(left) if "gAR.baseNet." in name}
    if recurrent:
        hidden, layers = (
            int(recurrent["weight_hh_l0"].shape[1]),
            sum(name.startswith("weight_hh") for name in recurrent),
        )
        gates = len(recurrent["weight_hh_l0"]) // hidden
        if gates not in (3, 4) or any("reverse" in name for name in recurrent):
            raise InputError(f"{where}: arMode=RNN or a bidirectional network: {_REMEDY}")
        config = GRUConfig(hidden, layers) if gates == 3 else LSTMConfig(hidden, layers)
        return config, {f"context.rnn.{name}": value for name, value in recurrent.items()}
    layers = len({name.split(".")[1] for name in left if re.match(r"gAR\.\d+\.multihead\.", name)})
    if not layers:
        raise InputError(f"{where}: arMode={settings.get('arMode', 'no_ar')}: {_REMEDY}")
    ours: Tensors = {}
    for number in range(layers):
        found = _transformer(left, f"gAR.{number}.")
        ours |= {f"context.layers.{number}.{name}": value for name, value in found.items()}
    span, width = (
        ours["context.layers.0.attention.positions"].shape[1],
        len(ours["context.layers.0.feed_forward.0.bias"]),
    )
    heads = dim // ours["context.layers.0.attention.positions"].shape[0]
    return TransformerConfig(dim, layers, heads, width, int(span)), ours


def _transformer(left: Tensors, prefix: str) -> Tensors:
    """One of their transformer layers; their column S − 1 − d is the distance d. Masks are made anew."""
    ours = {
        f"attention.{mine}.weight": left.pop(f"{prefix}multihead.{name}.weight") for mine, name in _ATTENTION.items()
    }
    ours["attention.positions"] = left.pop(f"{prefix}multihead.Att.Krelpos").flip(1)
    for mine, name in {"attention_norm": "ln_multihead", "feed_forward_norm": "ln_ffnetwork"}.items():
        ours |= {f"{mine}.{part}": left.pop(f"{prefix}{name}.{part}") for part in ("weight", "bias")}
    for mine, name in {"feed_forward.0": "lin1", "feed_forward.3": "lin2"}.items():
        ours |= {f"{mine}.{part}": left.pop(f"{prefix}ffnetwork.{name}.{part}") for part in ("weight", "bias")}
    for made in ("z", "mask"):
        left.pop(f"{prefix}multihead.Att.{made}", None)
    return ours


def _heads(criterion: Tensors, model: ModelConfig) -> tuple[int, AnyHeadsConfig | None, Tensors, tuple[str, ...]]:
    """The K predictions, where they can be represented; else a note says why training would begin with new ones."""
    prefix = "wPrediction.predictors."
    parts = {name.removeprefix(prefix): value for name, value in criterion.items() if name.startswith(prefix)}
    if not parts:
        return 0, None, {}, ()
    steps = len({name.split(".")[0] for name in parts})
    kind = sorted(name.split(".", 1)[1] for name in parts if name.startswith("0."))
    if kind == ["weight"]:
        weight = torch.stack([parts[f"{k}.weight"] for k in range(steps)])
        return steps, BilinearConfig(), {"heads.weight": weight}, ()
    if kind == ["lin1.module.bias", "lin1.module.weight", "lin2.module.bias", "lin2.module.weight"]:
        return steps, *_feed_forward(parts, steps), ()
    if kind == ["module.module.bias", "module.module.weight"]:
        return steps, *_convolution(parts, steps), ()
    if "0.multihead.Att.Krelpos" in kind:
        heads: Tensors = {}
        for k in range(steps):
            found = _transformer(parts, f"{k}.0.")
            heads |= {f"heads.layers.{k}.{name}": value for name, value in found.items()}
        size, span = heads["heads.layers.0.attention.positions"].shape
        width = len(heads["heads.layers.0.feed_forward.0.bias"])
        config = TransformerHeadsConfig(model.context.hidden // int(size), width, int(span))
        return steps, config, heads, ()
    return (
        steps,
        None,
        {},
        (f"The heads ({', '.join(kind[:2])} …) have no counterpart here: training begins with new ones.",),
    )


def _equalised(weight: Float[Tensor, "out *rest"]) -> float:
    """The factor by which their layers multiply what they give, biases too (`getLayerNormalizationFactor`)."""
    return float((2.0 / weight[0].numel()) ** 0.5)


def _feed_forward(parts: Tensors, steps: int) -> tuple[AnyHeadsConfig, Tensors]:
    made: dict[str, list[Tensor]] = {"first": [], "first_bias": [], "second": [], "second_bias": []}
    for k in range(steps):
        for layer, name in (("lin1", "first"), ("lin2", "second")):
            factor = _equalised(parts[f"{k}.{layer}.module.weight"])
            made[name].append(parts[f"{k}.{layer}.module.weight"] * factor)
            made[f"{name}_bias"].append(parts[f"{k}.{layer}.module.bias"] * factor)
    weights = {
        "heads.inner.weight": torch.cat(made["first"]),
        "heads.inner.bias": torch.cat(made["first_bias"]),
        "heads.weight": torch.stack(made["second"]).transpose(1, 2).contiguous(),
        "heads.bias": torch.stack(made["second_bias"])[:, None],
    }
    return FeedForwardConfig(len(made["first"][0])), weights


def _convolution(parts: Tensors, steps: int) -> tuple[AnyHeadsConfig, Tensors]:
    weights = [parts[f"{k}.module.module.weight"] for k in range(steps)]
    biases = [parts[f"{k}.module.module.bias"] for k in range(steps)]
    factor = _equalised(weights[0])
    made = {"heads.conv.weight": torch.cat(weights) * factor, "heads.conv.bias": torch.cat(biases) * factor}
    return ConvolutionConfig(int(weights[0].shape[-1])), made


# --- And back: our models in CPC_audio's format.


def to_cpc_audio(model: CPC, head_weights: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """{config, weights} as Libri-Light released them, which CPC_audio's hubconf, s3prl and ZeroSpeech's tools read.

    With bilinear heads of the loss, {gEncoder, cpcCriterion} are there as well, as a checkpoint of CPC_audio has them.

    Raises:
        InputError: CPC_audio has no counterpart of a part of the model, which is named.
    """
    config = model.config
    encoder, context = config.encoder, config.context
    rules = {
        f"model.encoder.channels={encoder.channels}: must be one number": len(set(encoder.widths)) == 1,
        f"model.encoder.output={encoder.output}: must be relu": encoder.output == "relu",
        "model.encoder.kernels, strides, padding: must be those of the paper": (
            (encoder.kernels, encoder.strides, encoder.padding)
            == (EncoderConfig().kernels, EncoderConfig().strides, EncoderConfig().padding)
        ),
        "model.encoder.bias=false: must be true": encoder.bias,
        f"model.context.kind={context.kind}: must be gru or lstm": isinstance(context, GRUConfig | LSTMConfig),
        "model.context.norm=layer: must be none": getattr(context, "norm", "none") == "none",
        f"model.sample_rate={config.sample_rate}: must be 16000": config.sample_rate == 16000,
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise InputError(f"{'; '.join(broken)}: CPC_audio has nothing else (presets paper, riviere and classic fit)")
    weights: Tensors = {}
    for name, value in model.state_dict().items():
        weights |= _to_their_layout(name, value, encoder)
    names = {ours: theirs for theirs, ours in NORMS.items()} | {"channel": "layerNorm"}
    settings: dict[str, Any] = {
        "hiddenEncoder": encoder.widths[-1],
        "hiddenGar": context.hidden,
        "nLevelsGRU": context.layers,
        "arMode": context.kind.upper(),
        "normMode": names[encoder.norm],
        "encoder_type": "cpc",
        "rnnMode": "linear",
        "samplingType": "samespeaker",
        "cpc_mode": None,
        "sizeWindow": 20480,
        "abspos": False,
        "dropout": False,
        "speakerEmbedding": 0,
    }
    made: dict[str, Any] = {"config": settings, "weights": weights}
    if head_weights and "heads.weight" in head_weights and set(head_weights) == {"heads.weight"}:
        heads = head_weights["heads.weight"].cpu()
        settings["nPredicts"] = len(heads)
        made |= {
            "gEncoder": weights,
            "cpcCriterion": {f"wPrediction.predictors.{k}.weight": w.clone() for k, w in enumerate(heads)},
        }
    return made


def write_cpc_audio(out: Path, model: CPC, head_weights: Mapping[str, Tensor] | None = None) -> None:
    """Write `to_cpc_audio` as torch saves it, whole or not at all."""
    made = to_cpc_audio(model, head_weights)
    with atomic_path(out) as partial:
        torch.save(made, partial)


def _to_their_layout(name: str, value: Tensor, encoder: EncoderConfig) -> Tensors:
    """One of our tensors under their name."""
    value = value.detach().cpu().clone()
    kind, number, part = ([*name.split(".")[1:], ""])[:3]
    if kind == "convs":
        return {f"gEncoder.conv{number}.{part}": value[:, :, 0] if part == "weight" else value}
    if kind == "norms":
        if encoder.norm == "batch":
            return {f"gEncoder.batchNorm{number}.{part}": value}
        width = len(value)
        if encoder.norm == "channel" and part == "weight":  # ours divides by the biased variance
            value = (value.double() * (width / (width - 1)) ** 0.5).float()
        return {f"gEncoder.batchNorm{number}.{part}": value.reshape(1, -1, 1)}
    return {f"gAR.baseNet.{name.rpartition('.')[2]}": value}
