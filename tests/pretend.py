"""A GPU that is none: tensors that say they are on cuda:0, and whose numbers the CPU keeps.

What code for GPUs does can so be seen on any machine, but for backward passes, which PyTorch hands to a driver: tensors
on two devices that meet raise an error as they would on a GPU, and what has the processor wait for it is written down.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
# These take indices, values or lengths from the CPU too.
ACROSS = (aten._to_copy, aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._use_cudnn_ctc_loss)
# For these the processor waits until everything that it launched is done.
READS = (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2, aten.is_nonzero)


class Held(Tensor):
    """A tensor on the GPU that is none; `own` has its numbers."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor) -> "Held":
        made: Held = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            own.shape,
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            layout=own.layout,
            device=GPU,
        )
        made.own = own.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: Any) -> Tensor:
        copy = Held(self.own.clone())
        return nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy


class Pretend(TorchDispatchMode):
    """Has new tensors made on the GPU that is none, and knows what waited for it."""

    waits: list[str] = []  # noqa: RUF012 (of all threads)
    travels: list[str] = []  # noqa: RUF012 (what went from one device to the other, waited for or not)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, computed on the CPU."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    held = {id(x.own): x for x in given if isinstance(x, Held)}
    plain = [x for x in given if not isinstance(x, Held) and x.ndim]
    kind, device = func.overloadpacket, kwargs.get("device")
    there = device is not None and torch.device(device).type == "cuda"
    if held and plain and kind not in ACROSS:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} was given some on the CPU")
    crosses = there if plain else held and device is not None and not there
    if crosses:
        Pretend.travels.append(str(func))
    if (held and kind in READS) or (crosses and not kwargs.get("non_blocking")):
        Pretend.waits.append(str(func))
    kwargs = {**kwargs, "device": torch.device("cpu")} if there else kwargs
    own_args, own_kwargs = tree_map(lambda x: x.own if isinstance(x, Held) else x, (args, kwargs))
    found = func(*own_args, **{**own_kwargs, **({"pin_memory": False} if "pin_memory" in own_kwargs else {})})
    if kind is aten.copy_:
        return args[0]
    if not there and not (held and device is None):
        return found
    return tree_map(lambda x: held.get(id(x), x) if not _new(x, held) else Held(x), found)


def _new(x: Any, held: dict[int, Held]) -> bool:
    return type(x) is Tensor and id(x) not in held


class Drawn(torch.Generator):
    """A generator that draws on the CPU, and says that it is where it was asked to be."""

    def __new__(cls, device: Any = "cpu") -> "Drawn":
        made = super().__new__(cls)
        made._there = GPU if torch.device(device).type == "cuda" else torch.device("cpu")
        return made

    def __init__(self, device: Any = "cpu") -> None:
        """Nothing is left to do."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        there: torch.device = self._there
        return there


def moved(plain: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`nn.Module.to`, which cannot change the class of parameters."""

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, torch.dtype | Tensor | None) or torch.device(device).type != "cuda":
            return plain(module, *args, **kwargs)
        for part in module.modules():
            for name, own in part.named_parameters(recurse=False):
                if not isinstance(own, Held):
                    part._parameters[name] = nn.Parameter(Held(own.detach().clone()), own.requires_grad)
            for name, buffer in part.named_buffers(recurse=False):
                if not isinstance(buffer, Held):
                    part._buffers[name] = Held(buffer.clone())
            if isinstance(part, nn.RNNBase):
                part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]
        return module

    return to


def recurrent(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a GRU or LSTM, whose kernels on GPUs are cuDNN's."""

    def forward(rnn: nn.RNNBase, x: Tensor, state: Any = None) -> Any:
        if not isinstance(x, Held):
            return plain(rnn, x, state)
        own, state = x.own, tree_map(lambda s: s.own if isinstance(s, Held) else s, state)
        begin = own.new_zeros(rnn.num_layers, len(own), rnn.hidden_size)
        state = state if state is not None else begin if isinstance(rnn, nn.GRU) else (begin, begin)
        weights = [weight.own.to(own.dtype) for weight in rnn._flat_weights]  # type: ignore[union-attr]
        call = torch._VF.gru if isinstance(rnn, nn.GRU) else torch._VF.lstm  # type: ignore[attr-defined]
        c, *last = call(own, state, weights, rnn.bias, rnn.num_layers, 0.0, False, False, True)
        return Held(c), Held(last[0]) if len(last) == 1 else tuple(map(Held, last))

    return forward


def install(patch: pytest.MonkeyPatch, bf16: bool) -> None:
    """Have PyTorch believe in the GPU."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    patch.setattr(torch, "Generator", Drawn)
    patch.setattr(nn.Module, "to", moved(nn.Module.to))
    for network in (nn.GRU, nn.LSTM):
        patch.setattr(network, "forward", recurrent(network.forward))
    patch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
    patch.setattr(Tensor, "pin_memory", lambda x, *_: x)
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU that is none")
    patch.setattr(torch.cuda, "mem_get_info", lambda *_: (1 << 34, 1 << 34))
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: bf16)
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    plain = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        with Pretend():
            plain(thread)

    patch.setattr(threading.Thread, "run", run)
    patch.setattr(Pretend, "waits", [])
    patch.setattr(Pretend, "travels", [])
