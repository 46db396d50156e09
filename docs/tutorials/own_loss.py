# %% [markdown]
# # A loss in 20 lines
#
# Every loss here is `objective( score(anchor, keys) at its positives and its negatives )`. An objective is a callable: scores of the positives, scores of the negatives and a mask in, one loss an anchor out.
# Below is one that the package does not have, a *focal* InfoNCE (after Lin et al. 2017, [arXiv 1708.02002](https://arxiv.org/abs/1708.02002)), which cares less for what is already right.

# %%
import os
from pathlib import Path

work = Path(os.environ.get("CPC_TUTORIALS", "tutorial"))  # all that the tutorials write
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ["TTY_COMPATIBLE"] = "0"  # lines in place of moving bars

import torch
import torch.nn.functional as F
from dataclasses import dataclass

import cpc


@dataclass(frozen=True)
class FocalInfoNCE:
    """(1 − p)^γ · −ln p, with p the softmax share of the positive."""

    gamma: float = 2.0

    def __call__(self, positive, negatives, mask=None):
        if mask is not None:
            negatives = negatives.masked_fill(~mask, -torch.inf)
        loss = F.softplus(torch.logsumexp(negatives, -1) - positive)  # −ln p
        return (1 - torch.exp(-loss)) ** self.gamma * loss


# %% [markdown]
# ## First its laws
#
# What must hold, before any training? With γ = 0 it is InfoNCE. With no information it is ln(1 + M), times (M / (1 + M))^γ. And an easy anchor counts less than with InfoNCE.

# %%
positive, negatives = torch.randn(5), torch.randn(5, 7)
torch.testing.assert_close(FocalInfoNCE(0.0)(positive, negatives), cpc.InfoNCE()(positive, negatives))
chance = torch.log(torch.tensor(8.0)) * (7 / 8) ** 2
torch.testing.assert_close(FocalInfoNCE()(torch.zeros(1), torch.zeros(1, 7))[0], chance)
easy = torch.tensor([9.0]), torch.zeros(1, 7)
print(f"an easy anchor: InfoNCE {cpc.InfoNCE()(*easy).item():.5f}, focal {FocalInfoNCE()(*easy).item():.9f}")

# %% [markdown]
# ## Then in CPC
#
# `CPCLoss` takes it as it is; heads, negatives and scores are those of every other loss. A training loop is plain torch.

# %%
# !cpc data synthetic data/labelled --speakers 12 --hours 0.2

# %%
corpus = cpc.Corpus.open("data/labelled")
long_enough = [row for row in range(len(corpus)) if corpus.samples[row] > 20480]


def batch(step: int, size: int = 8) -> torch.Tensor:
    """Windows of 1.28 s; a function of the step alone, so that a run can be repeated."""
    draw = torch.Generator().manual_seed(step)
    waves = []
    for place in torch.randint(len(long_enough), (size,), generator=draw).tolist():
        row = long_enough[place]
        start = int(torch.randint(int(corpus.samples[row]) - 20480, (1,), generator=draw))
        waves.append(torch.from_numpy(corpus.waveform(row, start, start + 20480).copy()))
    return torch.stack(waves).float() / 32768


def train(objective, steps: int = 70) -> list[float]:
    """Accuracy at k = 4 over training."""
    torch.manual_seed(0)
    config = cpc.load_config("small", ["data.corpus=none", "model.encoder.channels=[16, 32, 64, 128, 128]"]).model
    model = cpc.build(config)
    loss_fn = cpc.CPCLoss(12, 128, 256, cpc.All(), objective, cpc.Cosine(0.1, "window"), group_size=1)
    parameters = [*model.parameters(), *loss_fn.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    accuracy = []
    for step in range(steps):
        losses = loss_fn(model(batch(step)))
        optimizer.zero_grad()
        losses.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        accuracy.append(float(losses.accuracy[3]))
    return accuracy


curves = {name: train(objective) for name, objective in (("InfoNCE", cpc.InfoNCE()), ("focal, γ = 2", FocalInfoNCE()))}

# %%
import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, values in curves.items():
    smooth = torch.tensor(values).unfold(0, 10, 1).mean(-1)
    axis.plot(range(10, len(values) + 1), 100 * smooth, label=name)
axis.set(xlabel="step", ylabel="% of frames found at k = 4")
axis.legend(frameon=False)

# %% [markdown]
# ## And in recipes
#
# To make it a recipe's `loss.objective={kind: focal}`: give the dataclass a `kind`, put it in `cpc/losses/objectives.py` and in the union at the end of that file. Its YAML is then validated straight into the callable;
# nothing else has to know. [Contributing](../contributing.md) says which tests it needs.
