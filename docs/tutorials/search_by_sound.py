# %% [markdown]
# # Search a folder by sound
#
# Which recordings sound like this one? Embed a folder once, then look for the nearest. No text, no labels.

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

# %% [markdown]
# ## One data set of features

# %%
# !cpc embed runs/mine voices/audio library --layer c --format parquet

# %%
import numpy as np
import pyarrow.dataset as ds

ids, frames = [], []
for part in ds.dataset("library/features").to_batches(columns=["path", "frames", "dim", "features"]):
    for path, count, dim, values in zip(*(column.to_pylist() for column in part.columns), strict=True):
        ids.append(path)
        frames.append(np.asarray(values, np.float32).reshape(count, dim))
print(len(ids), "recordings,", sum(map(len, frames)), "frames of", frames[0].shape[1])

# %% [markdown]
# ## Recordings that sound alike
#
# The mean of c over a recording says mostly who speaks, in which room. What all have in common is taken away first.

# %%
means = np.stack([each.mean(0) for each in frames])
means = (means - means.mean(0)) / means.std(0)
means /= np.linalg.norm(means, axis=1, keepdims=True)
query = len(ids) // 2
near = np.argsort(-(means @ means[query]))
speaker = np.array([Path(id).parent.parent.name for id in ids])
for place in near[:6]:
    print(f"{means[place] @ means[query]:.2f}  {ids[place]}")
of_own = speaker[near[1:11]] == speaker[query]
print(
    f"{of_own.sum()} of the ten nearest are by the same speaker; by chance it would be {10 * (speaker == speaker[query]).mean():.1f}"
)

# %% [markdown]
# ## A stretch of sound, anywhere
#
# Half a second of the query, slid over every recording: where is the mean distance of frames least? (Take dynamic time warping, as in `cpc abx`, where the speed may differ.)

# %%
pattern = frames[query][40:90]
best = []
for place, each in enumerate(frames):
    if place == query or len(each) < len(pattern):
        continue
    windows = np.lib.stride_tricks.sliding_window_view(each, len(pattern), axis=0).transpose(0, 2, 1)
    distance = np.sqrt(((windows[::2] - pattern) ** 2).sum(-1)).mean(1)
    best.append((distance.min(), 2 * int(distance.argmin()), place))
best.sort()
for distance, start, place in best[:5]:
    print(f"{distance:.2f}  {ids[place]}  from {start / 100:.2f} s")

# %%
import matplotlib.pyplot as plt
from IPython.display import Audio, display

import cpc

figure, axes = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained", sharey=True)
found = [(query, 40), *((place, start) for _, start, place in best[:3])]
for number, (axis, (place, start)) in enumerate(zip(axes, found, strict=True)):
    wave = cpc.read_audio(Path("voices/audio", ids[place])).numpy()[160 * start : 160 * (start + 50)]
    axis.specgram(wave, NFFT=400, Fs=16000, noverlap=320, cmap="magma")
    axis.set_title("query" if number == 0 else f"match {number}", loc="left", fontsize=10)
    axis.set_xlabel("seconds")
    display(Audio(wave, rate=16000))
axes[0].set_ylabel("Hz")
