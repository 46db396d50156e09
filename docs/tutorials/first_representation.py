# %% [markdown]
# # Your first representation
#
# From a folder of recordings to a picture of what a model hears in them. It takes a minute or two. The recordings here are synthetic, so that
# nothing has to be downloaded; put a folder of your own in place of `recordings`.

# %%
import os
from pathlib import Path

work = Path(os.environ.get("CPC_TUTORIALS", "tutorial"))  # all that the tutorials write
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ["TTY_COMPATIBLE"] = "0"  # lines in place of moving bars

# %% [markdown]
# ## A folder of recordings
#
# Eight voices speak sentences of a small grammar, a folder for each.

# %%
# !cpc data synthetic voices --speakers 8 --hours 0.25 --audio-only
# !find voices/audio -name '*.flac' | sed -n 1,3p

# %% [markdown]
# ## Pack it
#
# Every file is decoded once. The layout here is LibriSpeech's, which `cpc` knows; in any other the parent folder is the speaker.

# %%
# !cpc data folder voices/audio --out data/mine
# !cpc corpus data/mine

# %% [markdown]
# ## Train
#
# A recipe is a few lines over a preset. Here it is short and narrow, for a tutorial.

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
# **loss** began near 4.9, which is chance, and fell. **acc k=1** is how often the next frame is found among its negatives. Running the same command again
# finds the run finished; after a kill it would resume.
#
# ## Look inside
#
# z is a frame every 10 ms that sees 29 ms; c has heard everything up to there.

# %%
import matplotlib.pyplot as plt
import torch

import cpc

model = cpc.load("runs/mine")
file = sorted(Path("voices/audio").rglob("*.flac"))[0]
wave = cpc.read_audio(file, model.sample_rate)
with torch.inference_mode():
    z, c = model(wave[None])
print(f"{len(wave)} samples → z {tuple(z.shape)}, c {tuple(c.shape)}")

# %%
seconds = len(wave) / model.sample_rate
figure, axes = plt.subplots(3, 1, figsize=(9, 6), sharex=True, layout="constrained")
axes[0].plot(torch.arange(len(wave)) / model.sample_rate, wave, lw=0.5, color="#666666")
axes[0].set_title("waveform", loc="left")
for axis, features, name in ((axes[1], z, "z"), (axes[2], c, "c")):
    shown = (features[0] - features[0].mean(0)) / features[0].std(0).clamp_min(1e-6)
    axis.imshow(
        shown.T, aspect="auto", origin="lower", extent=(0, seconds, 0, shown.shape[1]), vmin=-2, vmax=2, cmap="RdBu"
    )
    axis.set_title(f"{name}: {features.shape[2]} channels, standardised", loc="left")
axes[2].set_xlabel("seconds")
# %% [markdown]
# Which frames are alike? The cosine of every frame of c with every other: blocks are stretches that sound the same, and a block off the diagonal is a sound that comes again.

# %%
unit = torch.nn.functional.normalize(c[0] - c[0].mean(0), dim=-1)
figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
image = axis.imshow(unit @ unit.T, origin="lower", extent=(0, seconds, 0, seconds), vmin=-1, vmax=1, cmap="RdBu")
axis.set(xlabel="seconds", ylabel="seconds")
figure.colorbar(image, label="cosine")

# %% [markdown]
# ## Features on disk
#
# One array a file, or one data set for millions (`--format parquet`, `webdataset`, `kaldi` …).

# %%
# !cpc embed runs/mine voices/audio features --layer c
# !find features -name '*.npy' | sed -n 1,3p

# %% [markdown]
# Next: is this better than MFCC? [Probe and compare two recipes](compare_recipes.py).
