"""Random streams depend on the seed and the names, and on nothing else."""

import torch

from cpc.seeding import derive, numpy_generator, torch_generator


def test_names_decide() -> None:
    assert derive(0, "a", 1) == derive(0, "a", 1)
    assert len({derive(0, "a", 1), derive(1, "a", 1), derive(0, "b", 1), derive(0, "a", 2), derive(0, "a1")}) == 5
    assert 0 <= derive(5, "x") < 2**63


def test_generators_repeat() -> None:
    first, again = (torch.rand(3, generator=torch_generator("cpu", 1, "n", 2)) for _ in range(2))
    assert torch.equal(first, again)
    assert numpy_generator(1, "n").integers(1 << 60) == numpy_generator(1, "n").integers(1 << 60)
