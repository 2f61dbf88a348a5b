import copy
import threading
from typing import List

import pytest

from allennlp_ema.common.background import Background


def threads_of_background() -> List[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("allennlp_ema_background")]


def fail() -> None:
    raise MemoryError("no room")


def test_a_call_goes_on_beside_what_follows_and_the_next_one_waits() -> None:
    background, may_end, ended = Background(), threading.Event(), []  # type: ignore[var-annotated]

    def first() -> None:
        assert may_end.wait(10)
        ended.append("first")

    background.run(first)
    background.check()
    assert ended == []
    threading.Timer(0.02, may_end.set).start()
    background.run(ended.append, "second")
    background.wait()
    assert ended == ["first", "second"]


@pytest.mark.parametrize("next_call", ["check", "wait", "run"])
def test_an_error_is_raised_by_the_next_call_once(next_call: str) -> None:
    background, done = Background(), []  # type: ignore[var-annotated]
    background.run(fail)
    for thread in threads_of_background():
        thread.join()
    arguments = [done.append, 1] if next_call == "run" else []
    with pytest.raises(MemoryError, match="no room"):
        getattr(background, next_call)(*arguments)
    getattr(background, next_call)(*arguments)
    background.wait()
    assert done == ([1] if arguments else [])


def test_no_thread_stays_and_a_copy_waits() -> None:
    background, ended, may_end = Background(), [], threading.Event()  # type: ignore[var-annotated]

    def call() -> None:
        assert may_end.wait(10)
        ended.append(True)

    background.run(call)
    threading.Timer(0.02, may_end.set).start()
    copy.deepcopy(background).wait()
    assert ended == [True]
    for thread in threads_of_background():
        thread.join(10)
    assert threads_of_background() == []
