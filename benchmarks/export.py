"""What a model weighs in each format, and onnxruntime against torch on one thread.

    python -m benchmarks.export [--preset small] [--rounds 5]

Each way gives z and c of one waveform, after a first call that is not counted: torch the model as `cpc.load` gives it,
onnxruntime the file of `cpc export --to onnx`, and the stream that of `--to onnx-stream`, a second at a time with its
state. The ways take turns; a time is the least of the rounds. The difference is the largest of any number of z and c,
over the largest number there is.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.measures import markdown
from cpc.config import PRESETS
from cpc.device import device_name
from cpc.models import export
from cpc.models.cpc import CPC, build
from cpc.training.recipe import load_config
from data_prep.console import run

app = typer.Typer(add_completion=False)

RATE = 16000
SECONDS = (1, 10, 60)
Found = tuple[np.ndarray, np.ndarray]


def make(preset: str) -> CPC:
    """A model of a preset, untrained."""
    torch.manual_seed(0)
    return build(load_config(PRESETS / f"{preset}.yaml", ["data.corpus=none"]).model).eval()


def session(file: Path) -> Any:
    """onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def streamed(opened: Any, begin: list[torch.Tensor], wave: np.ndarray) -> Found:
    """z and c of a waveform by the stream, a second at a time."""
    names, state = [given.name for given in opened.get_inputs()], [part.numpy() for part in begin]
    z, c = [], []
    for start in range(0, wave.shape[1], RATE):
        found = opened.run(None, dict(zip(names, [wave[:, start : start + RATE], *state], strict=True)))
        z.append(found[0])
        c.append(found[1])
        state = found[2:]
    return np.concatenate(z, 1), np.concatenate(c, 1)


def least(ways: dict[str, Callable[[], Found]], rounds: int) -> dict[str, float]:
    """Seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return {name: min(found) for name, found in times.items()}


def apart(one: Found, other: Found) -> float:
    """The largest difference over the largest number; the stream lacks the last frame, which needs zeros to come."""
    return max(float(np.abs(a[:, : b.shape[1]] - b).max() / np.abs(a).max()) for a, b in zip(one, other, strict=True))


@app.command()
def main(
    preset: Annotated[str, typer.Option(help="Whose model.")] = "small",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    model = make(preset)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode(False):
        files = {
            "safetensors": Path(scratch, "m.safetensors"),
            "onnx": Path(scratch, "m.onnx"),
            "onnx-stream": Path(scratch, "s.onnx"),
            "torch-export": Path(scratch, "m.pt2"),
        }
        export.export_safetensors(model, files["safetensors"])
        export.export_onnx(model, files["onnx"])
        export.export_onnx(model, files["onnx-stream"], stream=True)
        export.export_torch(model, files["torch-export"])
        weights = sum(parameter.numel() for parameter in model.parameters())
        rows = [[f"`{name}`", f"{file.stat().st_size / 1e6:.2f}"] for name, file in files.items()]
        machine = device_name(torch.device("cpu"))
        print(f"Preset `{preset}`, {weights:,} parameters; {machine}; {rounds} rounds\n")
        print(markdown(["`cpc export --to`", "MB"], rows))
        whole, stream = session(files["onnx"]), session(files["onnx-stream"])
        begin = export.PortableStream(model).begin(1)
    rows = []
    for seconds in SECONDS:
        wave = np.random.default_rng(0).uniform(-0.3, 0.3, (1, seconds * RATE)).astype(np.float32)

        def by_torch(wave: np.ndarray = wave) -> Found:
            with torch.inference_mode():
                found = model(torch.from_numpy(wave))
            return found.z.numpy(), found.c.numpy()

        ways: dict[str, Callable[[], Found]] = {
            "torch": by_torch,
            "onnxruntime": lambda wave=wave: tuple(whole.run(None, {whole.get_inputs()[0].name: wave})),
            "onnxruntime, a stream": lambda wave=wave: streamed(stream, begin, wave),
        }
        times, true = least(ways, rounds), by_torch()
        for name, way in ways.items():
            row = [f"{seconds} s, {name}", f"{1000 * times[name]:.1f}", f"{seconds / times[name]:.0f}"]
            rows.append([*row, f"{times['torch'] / times[name]:.2f}", f"{apart(true, way()):.0e}"])
    print()
    print(markdown(["audio and way", "ms", "× real time", "× faster than torch", "difference"], rows))


if __name__ == "__main__":
    run(app)
