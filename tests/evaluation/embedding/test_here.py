"""The executor of the calling thread: results and errors wait in their futures, Ctrl-C does not wait."""

import threading

import pytest

from cpc.evaluation.embed.embed import _Here
from cpc.evaluation.embed.inputs import ahead


def test_it_works_in_the_calling_thread_and_in_order() -> None:
    found = list(ahead(_Here(), lambda item: (item, threading.current_thread()), range(4), 1))
    assert found == [(item, threading.current_thread()) for item in range(4)]


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    results = ahead(_Here(), lambda item: 1 / item, [2, 0, 1], 1)
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_ctrl_c_stops_before_another_item_is_begun() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        list(ahead(_Here(), work, range(9), 1))
    assert begun == [0, 1]
