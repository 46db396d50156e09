# %% [markdown]
# # Probe and compare two recipes
#
# Does a change help? Train both, put the same linear classifier on both and on MFCC, and let a test say what is within noise.

# %%
import os
from pathlib import Path

work = Path(os.environ.get("CPC_TUTORIALS", "tutorial"))  # all that the tutorials write
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ["TTY_COMPATIBLE"] = "0"  # lines in place of moving bars

# %% [markdown]
# ## A corpus with labels
#
# `cpc data synthetic` knows its phones to the sample, and draws splits: `phone_test` has speakers that neither training nor classifier has heard.

# %%
# !cpc data synthetic data/labelled --speakers 12 --hours 0.2

# %% [markdown]
# ## Two recipes
#
# They differ in one thing: whose frames are negatives. The second has those of the own window alone.

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
# !cpc train two.yaml --name own-window loss.group_size=1 'loss.negatives={kind: all}' loss.score.centre=window

# %% [markdown]
# ## The same probe on both
#
# On c alone, to be quick; without `--layer c` there is a row for z too. MFCC, log-mel and the untrained model are baselines; computed for the first run, they come from the cache for the second.

# %%
# !cpc probe phone runs/two-windows data/labelled --train phone_train --test phone_test --layer c --max-frames 2000
# !cpc probe phone runs/own-window data/labelled --train phone_train --test phone_test --layer c --max-frames 2000

# %% [markdown]
# How to read it: **%** is accuracy on single frames; **over utterances** its 95% interval, for utterances and not frames are independent draws; **majority** is what always answering the most
# frequent phone would give; **L2** was chosen on training speakers held out.
#
# ## Compare

# %%
# !cpc compare negatives

# %% [markdown]
# `*` is the best of a column, `≈` what is within noise of it by a paired test over utterances. After 160 steps of a small model MFCC lead; `make demo` trains a larger one ten times as long, and there c passes them. Two runs side by
# side, with what differs in their settings and a test of each difference:

# %%
# !cpc compare runs/two-windows runs/own-window

# %% [markdown]
# One seed each: another training of the same recipe would differ by some points too. `cpc sweep` trains several seeds. [Honest evaluation](../concepts/evaluation.md) says what else to mind.
