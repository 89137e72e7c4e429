"""Work shared among processes: in order, without orphans, and with one line where a worker dies or the user stops it."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from auricle.core.errors import InputError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

J = TypeVar("J")
R = TypeVar("R")


def cores() -> int:
    """Processor cores that this process may run on: a batch system, or a container with CPUs of its own, allows some of the machine's alone."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[R]:
    """Yield ``work(job)`` for every job, in order, from `workers` processes; 0 takes one a core, 1 works in this process.

    When the caller stops, by Ctrl-C or an error, or dies, the workers end at once. Raises `InputError` where a worker was killed.
    """
    workers = min(workers or cores(), len(jobs))
    if workers <= 1:
        yield from map(work, jobs)
        return
    others = set(multiprocessing.active_children())
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        with _interrupts_ignored(), _one_thread_each():
            # Not `map`, which cancels what is waiting: the pool then stumbles over it when its workers are ended.
            waiting = deque(pool.submit(work, job) for job in jobs)
        try:
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise InputError("a worker process was killed, most likely for want of memory: give fewer --workers") from None
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started within inherit this: Ctrl-C, which a terminal sends to all of them, is then the parent's business alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started within inherit this: numpy's and torch's own threads in each of them would fight over the cores."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """End this worker when its parent is gone, which no signal tells it where the parent was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
