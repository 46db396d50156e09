"""A queue holds exactly the newest keys, however they came in; a momentum encoder is a moving average."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpc.losses.memory_bank import Momentum, Queue


@settings(max_examples=50)
@given(size=st.integers(1, 7), batches=st.lists(st.integers(0, 9), max_size=6))
def test_the_queue_holds_the_newest_keys(size: int, batches: list[int]) -> None:
    queue, oracle = Queue(size, 2), deque[float](maxlen=size)
    number = 0
    for batch in batches:
        values = torch.arange(number, number + batch, dtype=torch.float32)
        queue.enqueue(values[:, None].expand(-1, 2), values.long())
        oracle.extend(values.tolist())
        number += batch
    held = queue()
    assert sorted(held.keys[:, 0].tolist()) == sorted(oracle)
    assert held.keys[:, 0].long().tolist() == held.labels.tolist()


def test_a_restored_queue_goes_on_as_if_nothing_had_happened() -> None:
    keys = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    whole, first = Queue(4, 3), Queue(4, 3)
    whole.enqueue(keys[:6])
    first.enqueue(keys[:6])
    second = Queue(4, 3)
    second.load_state_dict(first.state_dict())
    for queue in (whole, second):
        queue.enqueue(keys[6:])
    assert torch.equal(whole.keys, second.keys)
    assert int(second.count) == 11


def test_no_gradient_flows_into_the_queue() -> None:
    queue, keys = Queue(4, 2), torch.ones(2, 2, requires_grad=True)
    queue.enqueue(keys * 2)
    assert not queue().keys.requires_grad
    assert queue().labels.tolist() == [-1, -1]


def test_momentum_is_a_moving_average() -> None:
    network = torch.nn.Linear(3, 2)
    slow = Momentum(network, 0.9)
    start = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    for _ in range(3):
        slow.update(network)
    torch.testing.assert_close(slow.network.weight, start + (1 - 0.9**3))
    assert not any(p.requires_grad for p in slow.network.parameters())
    assert not slow(torch.ones(1, 3)).requires_grad


def test_limits_of_momentum() -> None:
    network = torch.nn.Linear(2, 2)
    frozen, copy = Momentum(network, 1.0), Momentum(network, 0.0)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    frozen.update(network)
    copy.update(network)
    assert torch.equal(frozen.network.weight, before)
    assert torch.equal(copy.network.weight, network.weight)
    with pytest.raises(ValueError, match="momentum="):
        Momentum(network, 2.0)
    with pytest.raises(ValueError, match="size=0"):
        Queue(0, 2)
