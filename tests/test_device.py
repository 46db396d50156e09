"""How much of the machine others take, and what is said about it."""

from collections.abc import Iterator

import pytest

from cpc import device


def given(monkeypatch: pytest.MonkeyPatch, cores: int, busy: float, threads: int) -> None:
    """Cores of which so many are at work between two looks, and so many threads of ours."""

    def looks() -> Iterator[dict[int, tuple[int, int]]]:
        ticks = 0
        while True:
            worked = int(ticks * busy / max(cores, 1))
            yield dict.fromkeys(range(cores), (worked, ticks - worked))
            ticks += 1000

    seen = looks()
    monkeypatch.setattr(device, "_core_times", lambda: next(seen))
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)


@pytest.mark.parametrize("busy", [0.0, 0.5, 1.0, 3.7])
def test_what_others_take_is_the_work_of_all_cores(busy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, 4, busy, 4)
    assert device.busy_cores(0.0) == pytest.approx(busy, abs=0.01)


@pytest.mark.parametrize(("cores", "busy", "threads"), [(2, 0.2, 2), (2, 1.0, 1), (8, 2.0, 6), (0, 0.0, 4)])
def test_nothing_is_said_where_threads_fit(
    cores: int, busy: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, cores, busy, threads)
    assert device.threads_hint() == ""


@pytest.mark.parametrize(("cores", "busy", "threads", "free"), [(2, 0.9, 2, 1), (2, 2.0, 2, 1), (8, 3.1, 8, 5)])
def test_fewer_threads_are_advised_beside_others(
    cores: int, busy: float, threads: int, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, cores, busy, threads)
    assert device.threads_hint().endswith(
        f"{threads} threads wait for each other, and OMP_NUM_THREADS={free} would be faster"
    )


def test_the_system_counts_the_work_of_its_cores() -> None:
    for worked, idle in device._core_times().values():
        assert worked >= 0 <= idle
    assert 0 <= device.busy_cores(0.05) <= len(device._core_times()) + 0.01
