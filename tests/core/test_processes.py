"""Work in several processes: in order, with one line where a worker dies, and nobody left behind."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from auricle.core.errors import InputError
from auricle.core.processes import cores, each

ENDLESS = """
import signal
import time
from auricle.core.processes import each
if __name__ == "__main__":
    # A suite started in the background of a script has Ctrl-C ignored, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for done in each(time.sleep, [0, 600, 600], 2):
        print("started", flush=True)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(each(math.sqrt, [9.0, 4.0, 1.0, 16.0], workers)) == [3.0, 2.0, 1.0, 4.0]


def test_workers_compute_with_one_thread_and_the_caller_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    assert list(each(os.getenv, names, 2)) == ["1", "1"]
    assert [os.getenv(n) for n in names] == ["3", None]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away here")
def test_cores_are_those_that_may_be_used() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(InputError, match="fewer --workers"):
        list(each(os._exit, [1, 1], 2))


def test_an_error_comes_back_and_ends_the_others() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(ValueError, match=r"nonnegative|math domain"):
        list(each(math.sqrt, [4.0, -1.0], 2))
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    """Ctrl-C reaches the whole group, a kill the parent alone; the pipe closes when the last worker is gone."""
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "started\n"
        if how == signal.SIGINT:
            os.killpg(it.pid, how)
        else:
            it.kill()
        _, error = it.communicate(timeout=30)
    assert it.returncode == -how
    assert error.count("Traceback") == (how == signal.SIGINT)
