# %% [markdown]
# # A stream from a microphone
#
# Frames as soon as they can be known, from chunks of any size, equal to those of the whole recording. Here a file plays the microphone, 80 ms at a time.

# %%
import os
from pathlib import Path

work = Path(os.environ.get("CPC_TUTORIALS", "tutorial"))  # all that the tutorials write
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ["TTY_COMPATIBLE"] = "0"  # lines in place of moving bars

# %%
# !cpc data synthetic voices --speakers 8 --hours 0.25 --audio-only
# !cpc data folder voices/audio --out data/mine

# %%
Path("mine.yaml").write_text("""
base: small
experiment: mine
data: {corpus: data/mine, val_fraction: 0.1}
model: {encoder: {channels: [16, 32, 64, 128, 128]}, context: {hidden: 128}}
training: {max_steps: 240, validate_every: 120, checkpoint_every: 120}
optim: {warmup_steps: 100, lr: 2.0e-3}
""")
# !cpc train mine.yaml --name mine

# %%
import time

import torch

import cpc

torch.set_num_threads(1)
model = cpc.load("runs/mine")
wave = cpc.read_audio(sorted(Path("voices/audio").rglob("*.flac"))[0], model.sample_rate)
stream = cpc.stream(model)
print(f"latency {1000 * stream.latency:.0f} ms: what c says of a moment is known so long after it")

# %%
pieces, spent = [], []
with torch.inference_mode():
    for chunk in wave.split(1280):  # 80 ms
        begun = time.perf_counter()
        pieces.append(stream(chunk[None]).c)
        spent.append(time.perf_counter() - begun)
    pieces.append(stream.close().c)
    together = torch.cat(pieces, 1)
    whole = model(wave[None]).c
print(f"{len(spent)} chunks; frames of each: {[piece.shape[1] for piece in pieces][:6]} …")
print(f"largest difference from the whole: {(together - whole).abs().max():.1e}")

# %% [markdown]
# ## Does it keep up?
#
# A chunk of 80 ms has to be done in less than 80 ms.

# %%
import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
axis.plot([1000 * seconds for seconds in spent], lw=1)
axis.axhline(80, color="black", ls="--", lw=0.8)
axis.text(len(spent) - 1, 76, "80 ms", ha="right", va="top", fontsize=9)
axis.set(xlabel="chunk", ylabel="ms to compute", ylim=(0, 90))
# %% [markdown]
# ## Without torch
#
# The same as an ONNX file, with the state as inputs and outputs: for phones and browsers.

# %%
# !cpc export runs/mine stream.onnx --to onnx-stream

# %%
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("stream.onnx")
names = [each.name for each in session.get_inputs()]
shapes = json.loads(session.get_modelmeta().custom_metadata_map["begin"])  # of the state before the first chunk
state = [np.zeros(shape, np.float32) for shape in shapes.values()]
frames = []
for chunk in wave.split(1280):
    if len(chunk) < model.receptive_field:
        break
    z, c, *state = session.run(None, dict(zip(names, [chunk[None].numpy(), *state], strict=True)))
    frames.append(c)
found = np.concatenate(frames, 1)
print(
    f"{found.shape[1]} frames; largest difference from torch: {np.abs(found - whole[:, : found.shape[1]].numpy()).max():.1e}"
)
