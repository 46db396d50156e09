# %% [markdown]
# # Units and ABX
#
# Does a model tell phones apart without any classifier (ABX)? And can its frames be written as a short string of symbols, as a language model needs (units)?

# %%
import os
from pathlib import Path

work = Path(os.environ.get("CPC_TUTORIALS", "tutorial"))  # all that the tutorials write
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ["TTY_COMPATIBLE"] = "0"  # lines in place of moving bars

# %%
# !cpc data synthetic data/labelled --speakers 12 --hours 0.2

# %%
Path("two.yaml").write_text("""
base: small
experiment: negatives
data: {corpus: data/labelled, train: pretrain, valid: valid}
model: {encoder: {channels: [16, 32, 64, 128, 128]}, context: {hidden: 128}}
training: {max_steps: 160, validate_every: 80, checkpoint_every: 80}
optim: {warmup_steps: 60, lr: 2.0e-3}
""")
# !cpc train two.yaml --name two-windows

# %% [markdown]
# ## ABX
#
# Take two "bag" and one "beg", or whatever differs in the middle phone: is X nearer to the A of its own kind than to B? Errors in %, 50 is chance. Within a speaker, and across.

# %%
# !cpc abx runs/two-windows data/labelled --split phone_test

# %% [markdown]
# ## Units
#
# k-means on the frames of c; the codebook lies beside the run. **PNMI** is the share of the uncertainty about phones that a unit takes away; **bits a second** what the string costs.

# %%
# !cpc units runs/two-windows data/labelled --k 50
# !head -c 300 runs/two-windows/units/c-50/units.txt

# %% [markdown]
# What does a unit stand for? Each against the phones that are spoken when it comes: a row that is bright in one place stands for one phone.

# %%
import matplotlib.pyplot as plt
import numpy as np

import cpc

corpus = cpc.Corpus.open("data/labelled")
file = Path("runs/two-windows/units/c-50/units.txt")  # beside it the codebook, and units without repetition
model = cpc.load("runs/two-windows")
labels = corpus.labels("phones")
counts = np.zeros((50, len(labels.inventory)))
for line in file.read_text().splitlines():
    id, _, text = line.partition("\t")
    units = np.array([int(unit) for unit in text.replace(",", " ").split()])
    phones = labels.frames(id, model.frame_centres(len(units)))
    np.add.at(counts, (units[phones >= 0], phones[phones >= 0]), 1)
share = counts / counts.sum(1, keepdims=True).clip(1)
order = np.argsort(share.argmax(1), kind="stable")
seen = counts.sum(0) > 0
figure, axis = plt.subplots(figsize=(9, 6.5), layout="constrained")
image = axis.imshow(share[order][:, seen], aspect="auto", cmap="viridis", vmin=0, vmax=0.4)
axis.set_xticks(range(int(seen.sum())), np.array(labels.inventory)[seen], rotation=90, fontsize=7)
axis.set(xlabel="phone", ylabel="unit, sorted by its most frequent phone")
figure.colorbar(image, label="share of the unit's frames", extend="max")
