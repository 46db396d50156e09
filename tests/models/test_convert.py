"""Checkpoints of CPC_audio, Libri-Light and s3prl: z, c and predictions, the round trip, and what is refused."""

import json
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import cpc
from cpc.cli.export import Format
from cpc.cli.export import export as export_model
from cpc.config import InputError
from cpc.losses.cpc import CPCLoss
from cpc.models.checkpoint import initialise, read_checkpoint
from cpc.models.convert import from_cpc_audio, read_foreign, to_cpc_audio, write_cpc_audio
from cpc.models.cpc import ModelConfig, build
from cpc.models.encoder import EncoderConfig
from cpc.training.run import import_run
from tests.reference import cpc_audio_forward, cpc_audio_predictions
from tests.tiny import tiny

WIDTH, HIDDEN, SPAN = 16, 24, 40


def theirs(kind: str, norm: str, layers: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under CPC_audio's names."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) * 0.3

    made: dict[str, Tensor] = {}
    for i, kernel in enumerate((10, 8, 4, 4, 4)):
        made[f"gEncoder.conv{i}.weight"] = random(WIDTH, 1 if i == 0 else WIDTH, kernel)
        made[f"gEncoder.conv{i}.bias"] = random(WIDTH)
        if norm == "layerNorm":
            made |= {
                f"gEncoder.batchNorm{i}.{part}": random(1, WIDTH, 1) + (part == "weight") for part in ("weight", "bias")
            }
        elif norm == "batchNorm":
            made |= {f"gEncoder.batchNorm{i}.{part}": random(WIDTH) for part in ("weight", "bias", "running_mean")}
            made[f"gEncoder.batchNorm{i}.running_var"] = random(WIDTH).abs() + 0.1
            made[f"gEncoder.batchNorm{i}.num_batches_tracked"] = torch.tensor(3)
    if kind == "transformer":
        return made | transformer("gAR.0.", WIDTH, random)
    gates = {"GRU": 3, "LSTM": 4}[kind]
    for layer in range(layers):
        made[f"gAR.baseNet.weight_ih_l{layer}"] = random(gates * HIDDEN, HIDDEN if layer else WIDTH)
        made[f"gAR.baseNet.weight_hh_l{layer}"] = random(gates * HIDDEN, HIDDEN)
        made |= {f"gAR.baseNet.bias_{part}_l{layer}": random(gates * HIDDEN) for part in ("ih", "hh")}
    return made


def transformer(prefix: str, dim: int, random: object) -> dict[str, Tensor]:
    made = {f"{prefix}multihead.{name}.weight": random(dim, dim) for name in ("Wo", "Wk", "Wq", "Wv")}  # type: ignore[operator]
    made[f"{prefix}multihead.Att.Krelpos"] = random(dim // 8, SPAN)  # type: ignore[operator]
    made |= {
        f"{prefix}multihead.Att.z": torch.zeros(1, SPAN, 1),
        f"{prefix}multihead.Att.mask": torch.zeros(1, SPAN, SPAN),
    }
    made |= {
        f"{prefix}{name}.{part}": random(dim)
        for name in ("ln_multihead", "ln_ffnetwork")
        for part in ("weight", "bias")
    }  # type: ignore[operator]
    made |= {f"{prefix}ffnetwork.lin1.weight": random(32, dim), f"{prefix}ffnetwork.lin1.bias": random(32)}  # type: ignore[operator]
    return made | {f"{prefix}ffnetwork.lin2.weight": random(dim, 32), f"{prefix}ffnetwork.lin2.bias": random(dim)}  # type: ignore[operator]


@pytest.mark.parametrize("samples", [465, 1000, 4999])
@pytest.mark.parametrize(
    ("kind", "norm", "layers"),
    [
        ("GRU", "layerNorm", 1),
        ("LSTM", "layerNorm", 2),
        ("GRU", "ID", 3),
        ("LSTM", "batchNorm", 1),
        ("transformer", "layerNorm", 1),
    ],
)
def test_z_and_c_are_theirs(kind: str, norm: str, layers: int, samples: int) -> None:
    weights = theirs(kind, norm, layers)
    waveform = torch.randn(2, samples, generator=torch.Generator().manual_seed(1)) * 0.01  # quiet: eps counts
    expected_z, expected_c = cpc_audio_forward(weights, waveform, kind)
    model = from_cpc_audio(weights, {}, {"arMode": kind, "normMode": norm}).build()
    with torch.inference_mode():
        z, c = model(waveform)
    torch.testing.assert_close(z, expected_z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(c, expected_c, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "ffd", "conv8", "transformer"])
def test_predictions_are_theirs(kind: str) -> None:
    g, steps = torch.Generator().manual_seed(2), 3
    hidden = WIDTH if kind == "transformer" else HIDDEN

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) * 0.3

    criterion: dict[str, Tensor] = {}
    for k in range(steps):
        prefix = f"wPrediction.predictors.{k}."
        if kind == "linear":
            criterion[f"{prefix}weight"] = random(WIDTH, hidden)
        elif kind == "ffd":
            for layer, inputs in (("lin1", hidden), ("lin2", WIDTH)):
                criterion |= {
                    f"{prefix}{layer}.module.weight": random(WIDTH, inputs),
                    f"{prefix}{layer}.module.bias": random(WIDTH),
                }
        elif kind == "conv8":
            criterion |= {
                f"{prefix}module.module.weight": random(WIDTH, hidden, 8),
                f"{prefix}module.module.bias": random(WIDTH),
            }
        else:
            criterion |= transformer(f"{prefix}0.", WIDTH, random)
    weights = theirs("transformer" if kind == "transformer" else "GRU", "layerNorm")
    found = from_cpc_audio(weights, criterion, {})
    assert found.steps == steps
    loss = CPCLoss(steps, WIDTH, hidden, heads=found.heads)
    loss.load_state_dict(found.head_weights)
    c = random(2, SPAN, hidden)
    with torch.inference_mode():
        made = loss.eval().heads(c)
    torch.testing.assert_close(made, cpc_audio_predictions(criterion, c, kind), rtol=1e-5, atol=1e-5)


def test_heads_without_a_counterpart_are_left_and_said() -> None:
    criterion = {
        "wPrediction.predictors.0.weight_ih_l0": torch.zeros(2),
        "wPrediction.predictors.0.weight_hh_l0": torch.zeros(2),
    }
    found = from_cpc_audio(theirs("GRU", "ID"), criterion, {"rnnMode": "RNN"})
    assert found.heads is None
    assert "training begins with new ones" in found.notes[0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_kinds_of_files_are_read(tmp_path: Path, wrapped: bool) -> None:
    weights = theirs("LSTM", "layerNorm")
    names = {f"module.{name}" if wrapped else name: value for name, value in weights.items()}
    settings = {
        "arMode": "LSTM",
        "hiddenGar": HIDDEN,
        "cpc_mode": None,
        "negativeSamplingExt": 64,
        "learningRate": 1e-4,
    }
    torch.save({"config": Namespace(**settings) if wrapped else settings, "weights": names}, tmp_path / "60k.pt")
    torch.save(
        {"gEncoder": names, "cpcCriterion": {}, "optimizer": {"state": {}}, "best": names}, tmp_path / "checkpoint_3.pt"
    )
    (tmp_path / "checkpoint_args.json").write_text(json.dumps(settings))
    one, other = (read_foreign(tmp_path / name) for name in ("60k.pt", "checkpoint_3.pt"))
    assert one.config == other.config
    assert one.settings["negativeSamplingExt"] == other.settings["negativeSamplingExt"] == 64
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_run_of_it_is_an_ordinary_run(tmp_path: Path, tones: Path) -> None:
    weights = theirs("GRU", "layerNorm", 2)
    criterion = {f"wPrediction.predictors.{k}.weight": torch.randn(WIDTH, HIDDEN) for k in range(4)}
    torch.save({"gEncoder": weights, "cpcCriterion": criterion}, tmp_path / "checkpoint_1.pt")
    found = read_foreign(tmp_path / "checkpoint_1.pt")
    folder = import_run(found, tmp_path / "runs" / "released", source="checkpoint_1.pt")
    waveform = torch.randn(1, 3000) * 0.1
    with torch.inference_mode():
        torch.testing.assert_close(
            cpc.load(folder)(waveform).c, cpc_audio_forward(weights, waveform, "GRU")[1], rtol=1e-5, atol=1e-5
        )
    import mlflow

    state = json.loads((folder / "run.json").read_text())
    served = mlflow.pyfunc.load_model(f"runs:/{state['run_id']}/model").predict(waveform.numpy())
    np.testing.assert_allclose(served["c"], cpc_audio_forward(weights, waveform, "GRU")[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="holds something already"):
        import_run(found, folder)
    small = [f"data.corpus={tones}", "data.window_size=8000", "data.batch_size=4", "data.val_fraction=0"]
    small += ["loss.group_size=4", "training.max_steps=2", "training.device=cpu", "training.precision=fp32"]
    recipe = cpc.load_config(folder / "config.yaml", [*small, f"model.init={folder}"])
    run = cpc.train(recipe, "more", tmp_path / "runs", progress=False)
    assert run.status == "FINISHED"
    header, tensors = read_checkpoint(run.checkpoint)
    assert header["config"]["model"]["init"] == str(folder)
    moved = (tensors["model.encoder.convs.0.weight"] - found.weights["encoder.convs.0.weight"]).abs().max()
    assert 0 < moved < 1e-3  # two steps of Adam at 2e-4 during a warm-up

    # What CPC_audio's file itself gives is the same, and it can be named as it is.
    named = cpc.load_config(folder / "config.yaml", [*small, f"model.init={tmp_path / 'checkpoint_1.pt'}"])
    again = cpc.train(named, "again", tmp_path / "runs", progress=False)
    assert all(torch.equal(value, read_checkpoint(again.checkpoint)[1][name]) for name, value in tensors.items())


def test_init_takes_heads_where_they_fit_and_refuses_other_models(tmp_path: Path, tones: Path) -> None:
    recipe = tiny(tones)
    model = build(recipe.model, 3)
    from cpc.models.export import export_safetensors

    export_safetensors(model, tmp_path / "m.safetensors")
    other = build(recipe.model, 4)
    criterion = CPCLoss(2, model.dim, model.hidden)
    said = initialise(tmp_path / "m.safetensors", other, criterion)
    assert said.endswith("new heads")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(InputError, match=r"model.encoder.channels is .* there and 24 here"):
        initialise(tmp_path / "m.safetensors", build(ModelConfig(EncoderConfig(channels=24))), criterion)


def test_aligned_predictions_are_not_taken_for_those_of_single_steps(tmp_path: Path, tones: Path) -> None:
    """Two predictions aligned with four frames have the shape of the heads of two steps, and another meaning."""
    aligned = tiny(tones, "loss.aligned_predictions=2", training={"max_steps": 2, "precision": "fp32"})
    run = cpc.train(aligned, "aligned", tmp_path / "runs", progress=False)
    model = build(aligned.model, 4)
    for steps, predictions, said in ((2, None, "new heads"), (4, 2, "weights and heads of")):
        criterion = CPCLoss(steps, model.dim, model.hidden, aligned_predictions=predictions)
        assert said in initialise(run.path, model, criterion)
    export_model(run.path, tmp_path / "m.pt", Format.cpc_audio)
    assert "cpcCriterion" not in torch.load(tmp_path / "m.pt", weights_only=True)


@pytest.mark.parametrize("norm", ["layerNorm", "batchNorm", "ID"])
def test_the_round_trip_is_exact(tmp_path: Path, norm: str) -> None:
    weights = theirs("GRU", norm, 2)
    criterion = {f"wPrediction.predictors.{k}.weight": torch.randn(WIDTH, HIDDEN) for k in range(3)}
    found = from_cpc_audio(weights, criterion, {"arMode": "GRU"})
    write_cpc_audio(tmp_path / "back.pt", found.build(), found.head_weights)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["weights"].keys() == weights.keys()
    assert all(torch.equal(back["weights"][name], value) for name, value in weights.items())
    assert all(torch.equal(back["cpcCriterion"][name], value) for name, value in criterion.items())
    assert back["config"]["normMode"] == norm
    assert read_foreign(tmp_path / "back.pt").config == found.config


def test_our_own_channel_norm_leaves_as_theirs(tmp_path: Path) -> None:
    model = build(ModelConfig(EncoderConfig(channels=WIDTH, norm="channel"))).eval()
    waveform = torch.randn(1, 2000) * 0.2
    with torch.inference_mode():
        z, c = cpc_audio_forward(to_cpc_audio(model)["weights"], waveform, "GRU")
        found = model(waveform)
    torch.testing.assert_close(found.z, z, rtol=2e-3, atol=2e-3)  # ε is not scaled: 1e-5 / 16 of the variance
    torch.testing.assert_close(found.c, c, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder_type": "mfcc"}, "encoder_type=mfcc"),
        ({"arMode": "RNN"}, "arMode=RNN"),
        ({"cpc_mode": "reverse"}, "cpc_mode=reverse"),
        ({"abspos": True}, "abspos=True"),
        ({"normMode": "instanceNorm"}, "normMode=instanceNorm"),
    ],
)
def test_settings_without_a_counterpart_are_refused_by_name(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_cpc_audio(theirs("GRU", "layerNorm"), {}, settings)


def test_tensors_without_a_counterpart_are_refused_by_name() -> None:
    weights = theirs("GRU", "ID")
    with pytest.raises(InputError, match=r"gAR\.extra"):
        from_cpc_audio(weights | {"gAR.extra": torch.zeros(1)}, {}, {})
    with pytest.raises(InputError, match=r"gEncoder\.conv0\.weight is missing"):
        from_cpc_audio({"models.0.gEncoder.conv0.weight": torch.zeros(1)}, {}, {})
    with pytest.raises(InputError, match="arMode=no_ar"):
        from_cpc_audio({name: w for name, w in weights.items() if "gAR" not in name}, {}, {})
    rnn = weights | {
        "gAR.baseNet.weight_ih_l0": torch.zeros(HIDDEN, WIDTH),
        "gAR.baseNet.weight_hh_l0": torch.zeros(HIDDEN, HIDDEN),
    }
    with pytest.raises(InputError, match="arMode=RNN"):
        from_cpc_audio(rnn, {}, {})


@pytest.mark.parametrize(
    ("broken", "settings", "said"),
    [
        ({"gEncoder.conv1.bias": torch.zeros(3)}, {}, "its tensors do not fit together"),
        ({"gAR.baseNet.weight_hh_l0": None}, {}, "its tensors do not fit together"),
        ({}, [1], "config is a list; must be a mapping"),
        ({}, {"negativeSamplingExt": -3}, "loss.negatives.num_negatives=-3"),
        ({}, {"learningRate": "fast"}, "optim.lr=fast"),
    ],
)
def test_files_that_make_no_sense_are_one_line_and_leave_nothing(
    tmp_path: Path, broken: dict[str, Tensor | None], settings: object, said: str
) -> None:
    weights = {name: w for name, w in {**theirs("GRU", "ID"), **broken}.items() if w is not None}
    torch.save({"config": settings, "weights": weights}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=said) as caught:
        import_run(read_foreign(tmp_path / "x.pt"), tmp_path / "runs" / "x")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_what_a_killed_conversion_left_is_made_anew_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    found = from_cpc_audio(theirs("GRU", "ID"), {}, {})
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "config.yaml").write_text("half")
    assert cpc.load(import_run(found, tmp_path / "runs" / "x"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="holds something already"):
        import_run(found, tmp_path / "file")


def test_a_run_resumes_where_what_it_started_from_is_gone(tmp_path: Path, tones: Path) -> None:
    folder = import_run(from_cpc_audio(theirs("GRU", "ID"), {}, {}), tmp_path / "runs" / "released")
    changes = [f"data.corpus={tones}", "data.window_size=8000", "data.batch_size=4", "data.val_fraction=0"]
    changes += ["loss.group_size=4", "training.max_steps=2", "training.device=cpu", f"model.init={folder}"]
    run = cpc.train(cpc.load_config(folder / "config.yaml", changes), "more", tmp_path / "runs", progress=False)
    folder.rename(tmp_path / "elsewhere")
    resumed = cpc.resume(run.path, ["training.max_steps=4"], progress=False)
    assert (resumed.status, resumed.steps) == ("FINISHED", 4)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"weights": {}, "config": Bomb()}))
    torch.save({"weights": {}, "config": Bomb()}, tmp_path / "zip.pt")
    for name in ("bomb.pt", "zip.pt"):
        with pytest.raises(InputError):
            read_foreign(tmp_path / name)
    assert not Path("exploded").exists()
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    for name in ("text.pt", "none.pt", "list.pt", "other.pt"):
        with pytest.raises(InputError) as caught:
            read_foreign(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": (8, 8, 8, 8, 16)}, "must be one number"),
        ({"output": "linear"}, "model.encoder.output=linear"),
        ({"bias": False}, "bias=false"),
    ],
)
def test_models_without_a_counterpart_there_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        to_cpc_audio(build(ModelConfig(EncoderConfig(**{"channels": 16, **changes}))))  # type: ignore[arg-type]
