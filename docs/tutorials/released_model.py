# %% [markdown]
# # Continue from a released model
#
# Libri-Light's models (600, 6,000 and 60,000 hours), CPC_audio's checkpoints and s3prl's `modified_cpc` come in with one command, and become a run like any other. There is no download here, so the
# "released" file of this page is one that we write ourselves, in their format. With the real one everything below is the same:
#
#     curl -O https://dl.fbaipublicfiles.com/librilight/CPC_checkpoints/60k_epoch4-d0f474de.pt
#     cpc convert 60k_epoch4-d0f474de.pt runs/released

# %%
import os
from pathlib import Path

work = Path(os.environ.get("CPC_TUTORIALS", "tutorial"))  # all that the tutorials write
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ["TTY_COMPATIBLE"] = "0"  # lines in place of moving bars

# %% [markdown]
# ## A file in their format

# %%
# !cpc data synthetic data/labelled --speakers 12 --hours 0.2

# %%
Path("theirs.yaml").write_text("""
base: classic
experiment: released
data: {corpus: data/labelled, train: pretrain, valid: valid}
model: {encoder: {channels: 64}, context: {hidden: 64}}
training: {max_steps: 50, checkpoint_every: 50, validate_every: 50}
optim: {warmup_steps: 10, lr: 1.0e-3}
""")
# !cpc train theirs.yaml --name origin
# !cpc export runs/origin released.pt --to cpc_audio

# %% [markdown]
# ## In
#
# The file is a pickle. It is read as tensors and plain values only; nothing in it is ever run.

# %%
# !cpc convert released.pt runs/released

# %% [markdown]
# Its channel norm divides by the unbiased variance, ours does not; the weights are changed so that the outputs agree.

# %%
import torch

import cpc

one, other = cpc.load("runs/origin"), cpc.load("runs/released")
wave = torch.randn(1, 16000) * 0.1
with torch.inference_mode():
    print(f"largest difference of c: {(one(wave).c - other(wave).c).abs().max():.1e}")

# %% [markdown]
# ## On
#
# Training goes on from its weights on your corpus: a new run, with settings of its own. A low rate, so that what it knows stays.

# %%
# !cpc train runs/released/config.yaml model.init=runs/released data.corpus=data/labelled data.train=pretrain data.valid=valid training.max_steps=25 training.validate_every=25 optim.lr=5e-4 optim.warmup_steps=5 --name further

# %% [markdown]
# And every verb works on it: `cpc probe`, `abx`, `embed`, `units`, `figures`.

# %%
# !cpc embed runs/further data/labelled/audio features-further --layer c
