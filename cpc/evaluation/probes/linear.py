"""A linear softmax classifier trained to convergence: what a linear probe measures with.

Objective over n training frames x with labels y, features standardised by the training mean and deviation:

    J(W, b) = 1/n Σ −log softmax(W x + b)_y + l2/2 ‖W‖²

which is scikit-learn's LogisticRegression with C = 1/(l2 n). It is convex, so its minimum does not depend on the
optimiser. L-BFGS finds it in whitened coordinates: with Σ the correlation matrix of the features, K classes and
Σ + (ε + K l2) I = L Lᵀ, it moves V where W = V L⁻¹. The objective is the same; its curvature, whose dominant factors
are Σ and the penalty, becomes nearly round, which takes dozens of iterations instead of hundreds on the correlated
channels of an encoder. Features stay as they are in memory: standardising and whitening are folded into the small
weight matrix. A large problem first comes near its minimum on few of the frames; there the curvature of each class,
E[p(1 − p) x xᵀ], is estimated once, and the descent on all frames moves in coordinates in which it is round as well.
The minimum stays where it is; the same number of passes ends nearer to it.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

log = logging.getLogger(__name__)

_RIDGE = 1e-3  # ε above; it bounds the preconditioner where channels are constant or copies of others
_HISTORY = 20  # pairs that L-BFGS keeps
_THINNED = 8  # the first descent runs on every eighth frame
_THIN_FROM = 100_000  # frames, from which that pays
_CURVED_FROM = 50_000  # frames, from which the curvature of each class pays
_CURVED_ON = 8000  # frames that it is estimated on, a tenth of it replaced by a sphere against their noise
_CURVED_MOST = 1 << 25  # its values, classes × dim²: a quarter of a GiB
_PRECISE = 1 << 22  # values, up to which float64 costs nothing and finds the flat minima of separable classes
_UNCONVERGED = (
    "the classifier stopped after %d iterations, before it converged: "
    "its accuracy is not that of the minimum; raise max_iterations"
)


@dataclass(frozen=True)
class Fitting:
    """How a classifier is trained.

    l2: strength on the standardised weights, not on the biases. Small enough to leave the accuracy of frame-wise
        probes alone, large enough that separable classes (utterance means) have a finite minimum.
    tolerance: converged when an iteration changes J by less than this share of it, or when the largest entry of
        the gradient is below it. At 1e-6 J ends within 1e-4 of its minimum on phones of c, and accuracies of probes
        within 0.1 points (benchmarks/probing.py).
    max_frames: train on this many frames drawn without replacement; None for all.
    """

    l2: float = 1e-5
    tolerance: float = 1e-6
    max_iterations: int = 500
    max_frames: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class LinearClassifier:
    """Weights on the raw features (the standardising is folded in), and how they came to be."""

    weight: Float[Tensor, "dim cls"]
    bias: Float[Tensor, " cls"]
    objective: float
    iterations: int
    converged: bool

    def logits(self, x: Float[Tensor, "frame dim"]) -> Float[Tensor, "frame cls"]:
        return torch.addmm(self.bias, x.to(self.weight.device), self.weight)

    def predict(self, x: Float[Tensor, "frame dim"]) -> Int64[Tensor, " frame"]:
        """The most probable class of each frame, on the CPU."""
        blocks = torch.split(x, _block(self.weight.device))
        return torch.cat([self.logits(block).argmax(1).cpu() for block in blocks])


def fit(
    x: Float[Tensor, "frame dim"],
    y: Int64[Tensor, " frame"],
    classes: int,
    fitting: Fitting | None = None,
    device: str | torch.device = "cpu",
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Minimise J for labels y in 0 … classes − 1, from zero weights or from those of `start`, which save steps.

    The features move to `device` in float32 (few of them in float64); parameters and sums are float64 on the
    CPU, where L-BFGS runs. Without a start, a large problem is first solved on an eighth of the frames, which costs
    an eighth and leaves few steps to go.
    """
    fitting = fitting or Fitting()
    _check(x, y, classes)
    x, y = (part.to(device) for part in _subsample(x, y, fitting))
    if x.numel() <= _PRECISE and x.device.type in ("cpu", "cuda"):
        x = x.double()
    problem = _Problem.of(x, y, classes, fitting.l2)
    first, early = problem.zeros() if start is None else problem.whitened(start.weight, start.bias), 0
    if start is None and len(x) >= _THIN_FROM:
        thinned = replace(
            problem, x=problem.x[::_THINNED].contiguous(), y=problem.y[::_THINNED], l2=_THINNED * fitting.l2
        )
        first, early, _ = _minimise(thinned.value, first, replace(fitting, tolerance=10 * fitting.tolerance))
    near = start is not None or early > 0
    if near and len(x) >= _CURVED_FROM and classes * x.shape[1] ** 2 <= _CURVED_MOST:
        curved = _Curved.at(problem, first)
        (u,), iterations, converged = _minimise(curved.value, (curved.inverse(first),), fitting)
        solution = curved.weights(u)
    else:
        solution, iterations, converged = _minimise(problem.value, first, fitting)
    if not converged:
        log.warning(_UNCONVERGED, iterations)
    weight, bias = (p.to(device, torch.float32) for p in problem.raw(*solution))
    return LinearClassifier(weight, bias, problem.value(*solution)[0], early + iterations, converged)


def _check(x: Float[Tensor, "frame dim"], y: Int64[Tensor, " frame"], classes: int) -> None:
    if len(x) == 0:
        raise ValueError("x has 0 frames: a classifier needs some; give at least one labelled frame")
    if not math.isfinite(sum(float(block.sum()) for block in torch.split(x, 1 << 16))):
        raise ValueError("x holds NaN or infinite values: features must be finite; look at what computed them")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(f"y={low}..{high}: labels must lie in 0..{classes - 1}; drop unlabelled frames first")


def _subsample(
    x: Float[Tensor, "frame dim"], y: Int64[Tensor, " frame"], fitting: Fitting
) -> tuple[Float[Tensor, "kept dim"], Int64[Tensor, " kept"]]:
    if fitting.max_frames is None or len(x) <= fitting.max_frames:
        return x, y
    log.warning("training on %d of %d frames (max_frames)", fitting.max_frames, len(x))
    generator = torch.Generator().manual_seed(fitting.seed)
    kept = torch.randperm(len(x), generator=generator)[: fitting.max_frames].sort().values
    return x[kept], y[kept]


def _block(device: torch.device) -> int:
    """Frames handled at once: about what stays in a CPU's cache, or what fills a GPU."""
    return 8192 if device.type == "cpu" else 1 << 18


def _moments(x: Float[Tensor, "frame dim"]) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
    """Mean and covariance, in float64 on the CPU."""
    mean, covariance = torch.zeros(x.shape[1]).double(), torch.zeros(x.shape[1], x.shape[1]).double()
    for block in torch.split(x, _block(x.device)):
        mean += block.sum(0).cpu() / len(x)
    shift = mean.to(x.device, x.dtype)
    for block in torch.split(x, _block(x.device)):
        centred = block - shift
        covariance += (centred.T @ centred).cpu() / len(x)
    return mean, covariance


Weights = tuple[Float[Tensor, "dim cls"], Float[Tensor, " cls"]]


@dataclass(frozen=True)
class _Problem:
    """J of whitened weights v and biases b, which are float64 on the CPU; the features lie on any device."""

    x: Float[Tensor, "frame dim"]
    y: Int64[Tensor, " frame"]
    classes: int
    l2: float
    mean: Float[Tensor, " dim"]
    deviation: Float[Tensor, " dim"]
    whitening: Float[Tensor, "dim dim"]  # standardised weights = whitening @ v

    @classmethod
    def of(cls, x: Float[Tensor, "frame dim"], y: Int64[Tensor, " frame"], classes: int, l2: float) -> "_Problem":
        mean, covariance = _moments(x)
        deviation = covariance.diagonal().sqrt()
        # A constant channel varies by rounding alone: it must not be blown up into a feature.
        deviation = torch.where(deviation <= 1e-6 * (mean.abs() + 1e-6), math.inf, deviation)
        correlation = covariance / deviation / deviation[:, None]
        ridge = _RIDGE + classes * l2  # the penalty beside the curvature of the data, which is about 1 / classes of Σ
        lower = torch.linalg.cholesky(correlation + ridge * torch.eye(len(mean), dtype=torch.float64))
        return cls(x, y, classes, l2, mean, deviation, torch.linalg.inv(lower).T.contiguous())

    def zeros(self) -> Weights:
        return torch.zeros(len(self.mean), self.classes).double(), torch.zeros(self.classes).double()

    def raw(self, v: Float[Tensor, "dim cls"], b: Float[Tensor, " cls"]) -> Weights:
        """Weights and biases that act on unstandardised features."""
        weight = self.whitening @ v / self.deviation[:, None]
        return weight, b - self.mean @ weight

    def whitened(self, weight: Float[Tensor, "dim cls"], bias: Float[Tensor, " cls"]) -> Weights:
        """The inverse of `raw`; channels that are constant here get no weight."""
        weight = weight.cpu().double()
        known = torch.where(self.deviation.isinf(), 0, self.deviation)[:, None] * weight
        return torch.linalg.solve(self.whitening, known), bias.cpu().double() + self.mean @ weight

    def value(self, v: Float[Tensor, "dim cls"], b: Float[Tensor, " cls"]) -> tuple[float, Weights]:
        """J and its gradient with respect to v and b."""
        weight, bias = (p.to(self.x.device, self.x.dtype) for p in self.raw(v, b))
        loss, grad_raw, grad_b = 0.0, torch.zeros_like(v), torch.zeros_like(b)
        size, n = _block(self.x.device), len(self.x)
        for x, y in zip(torch.split(self.x, size), torch.split(self.y, size), strict=True):
            log_p = torch.addmm(bias, x, weight).log_softmax(1)
            picked = log_p.gather(1, y[:, None])
            residual = log_p.exp_().scatter_add_(1, y[:, None], -torch.ones_like(picked))  # softmax − one-hot
            loss -= float(picked.cpu().double().sum())
            grad_raw += (x.T @ residual).cpu()
            grad_b += residual.sum(0).cpu()
        standard = self.whitening @ v
        grad = (grad_raw - self.mean[:, None] * grad_b) / self.deviation[:, None] / n + self.l2 * standard
        objective = loss / n + self.l2 / 2 * float(standard.square().sum())
        return objective, (self.whitening.T @ grad, grad_b / n)


@dataclass(frozen=True)
class _Curved:
    """J of coordinates u in which the curvature of each class is round: (v, b) of class k = maps[k] @ u[k]."""

    problem: _Problem
    maps: Float[Tensor, "cls dim_1 dim_1"]

    @classmethod
    def at(cls, problem: _Problem, near: Weights) -> "_Curved":
        """Estimated at weights that are near the minimum, on frames spread over all."""
        x = problem.x[:: max(1, len(problem.x) // _CURVED_ON)].cpu().double()
        weight, bias = problem.raw(*near)
        p = torch.softmax(x @ weight + bias, 1)
        whitened = ((x - problem.mean) / problem.deviation) @ problem.whitening
        whitened = torch.cat([whitened, torch.ones(len(x), 1).double()], 1).float()
        size = whitened.shape[1]
        variance = (p * (1 - p)).float()  # (frame, cls)
        blocks = torch.stack([(whitened * own[:, None]).T @ whitened for own in variance.T]).double() / len(x)
        sphere = variance.double().mean(0)[:, None, None] * torch.eye(size).double()
        penalty = torch.zeros(size, size).double()
        penalty[:-1, :-1] = problem.l2 * problem.whitening.T @ problem.whitening
        curvature = 0.9 * blocks + 0.1 * sphere + penalty + 1e-7 * torch.eye(size).double()
        return cls(problem, torch.linalg.inv(torch.linalg.cholesky(curvature)).mT.contiguous())

    def weights(self, u: Float[Tensor, "cls dim_1"]) -> Weights:
        moved = torch.bmm(self.maps, u[..., None])[..., 0]
        return moved[:, :-1].T.contiguous(), moved[:, -1].contiguous()

    def inverse(self, weights: Weights) -> Float[Tensor, "cls dim_1"]:
        both = torch.cat([weights[0].T, weights[1][:, None]], 1)
        found: Tensor = torch.linalg.solve(self.maps, both[..., None])
        return found[..., 0]

    def value(self, u: Float[Tensor, "cls dim_1"]) -> tuple[float, tuple[Float[Tensor, "cls dim_1"]]]:
        """J and its gradient with respect to u."""
        objective, (grad_v, grad_b) = self.problem.value(*self.weights(u))
        both = torch.cat([grad_v.T, grad_b[:, None]], 1)
        return objective, (torch.bmm(self.maps.mT, both[..., None])[..., 0],)


Point = TypeVar("Point", bound=tuple[Tensor, ...])


def _minimise(value: Callable[..., tuple[float, Point]], start: Point, fitting: Fitting) -> tuple[Point, int, bool]:
    """L-BFGS with a strong Wolfe line search: the solution, its iterations, and whether it converged.

    torch's own stopping rule looks at absolute changes, so it is called one iteration at a time; what it
    has learnt about the curvature stays between the calls.
    """
    optimiser = torch.optim.LBFGS(
        list(start), max_iter=1, tolerance_grad=0, tolerance_change=0, max_eval=25,
        history_size=_HISTORY, line_search_fn="strong_wolfe",
    )  # fmt: skip
    evaluated: tuple[Tensor, float] | None = None

    def closure() -> float:
        nonlocal evaluated
        point = torch.cat([part.flatten() for part in start])
        if evaluated is None or not torch.equal(point, evaluated[0]):  # an iteration begins where one ended
            objective, gradients = value(*start)
            for part, gradient in zip(start, gradients, strict=True):
                part.grad = gradient
            evaluated = point, objective
        return evaluated[1]

    before = closure()
    for iteration in range(1, fitting.max_iterations + 1):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        after = closure()
        steepest = max(float(part.grad.abs().max()) for part in start if part.grad is not None)
        if steepest < fitting.tolerance or abs(before - after) < fitting.tolerance * abs(after):
            return start, iteration, True
        before = after
    return start, fitting.max_iterations, False
