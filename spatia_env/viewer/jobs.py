"""One thing at a time: a worker, and a queue that everyone can see.

A generation takes a second or more and uses all threads, so requests wait in order. Each belongs to whoever
asked; when they leave, what they have waiting is dropped, and what is running ends by itself.
"""

import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from spatia_env.errors import SpatiaError, ViewerError

MAX_WAITING = 6
Phase = Literal["waiting", "running", "done", "failed", "dropped"]


@dataclass
class Job:
    """A request: what is asked, by whom, and how far it is.

    Attributes:
        label: In words.
        owner: Who asked: a client's number, or None for the program itself.
        work: Does it, given the job to report progress to.
        progress: 0 to 1.
        error: What to tell the user when it failed.
    """

    label: str
    owner: int | None
    work: Callable[["Job"], None] = field(repr=False)
    phase: Phase = "waiting"
    progress: float = 0.0
    error: str = ""
    began: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def wait(self, timeout: float | None = None) -> "Job":
        """Block until it has ended, in whichever way.

        Raises:
            ViewerError: If it takes longer than `timeout` seconds.
        """
        if not self.ended.wait(timeout):
            raise ViewerError(f"{self.label}: not finished after {timeout:g} s.")
        return self


class JobQueue:
    """Runs jobs in order on one thread.

    Args:
        changed: Called, from any thread, when a job came, moved on or ended.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="playground", daemon=True)
        self._thread.start()

    def submit(self, label: str, owner: int | None, work: Callable[[Job], None]) -> Job:
        """Queue a job.

        Raises:
            ViewerError: If too many are waiting.
        """
        with self._lock:
            waiting = sum(job.phase == "waiting" for job in self._jobs)
            if waiting >= MAX_WAITING:
                raise ViewerError(f"{waiting} requests are waiting already; try again when some are done.")
            job = Job(label, owner, work)
            self._jobs.append(job)
        self._inbox.put(job)
        self._changed()
        return job

    def pending(self) -> list[Job]:
        """Jobs that run or wait, in order."""
        with self._lock:
            return [job for job in self._jobs if job.phase in ("waiting", "running")]

    def drop(self, owner: int) -> int:
        """Forget what this owner has waiting; how many that were."""
        with self._lock:
            mine = [job for job in self._jobs if job.owner == owner and job.phase == "waiting"]
            for job in mine:
                self._end(job, "dropped")
        if mine:
            self._changed()
        return len(mine)

    def report(self, job: Job, progress: float) -> None:
        """Note how far a job is."""
        job.progress = min(max(progress, 0.0), 1.0)
        self._changed()

    def close(self, timeout: float = 30.0) -> None:
        """Drop what waits, and wait for what runs."""
        with self._lock:
            for job in self._jobs:
                if job.phase == "waiting":
                    self._end(job, "dropped")
        self._inbox.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._inbox.get()) is not None:
            with self._lock:
                if job.phase != "waiting":
                    continue
                job.phase, job.began = "running", time.monotonic()
            self._changed()
            phase: Phase = "done"
            try:
                job.work(job)
            except SpatiaError as error:
                phase, job.error = "failed", str(error)
            except Exception as error:  # noqa: BLE001 - the worker must outlive any request; it is shown and printed
                phase, job.error = "failed", f"{type(error).__name__}: {error}"
                traceback.print_exc()
            with self._lock:
                self._end(job, phase)
            self._changed()

    def _end(self, job: Job, phase: Phase) -> None:
        job.phase = phase
        self._jobs.remove(job)
        job.ended.set()
