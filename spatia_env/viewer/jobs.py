"""One thing at a time: a queue with one worker thread, and the requests of clients that go into it.

A generation takes a second or more and uses all threads, so jobs wait in order. Each belongs to a client; when the
client leaves or stops it, it ends after its present step, or never begins.
"""

import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from spatia_env.errors import SpatiaError, ViewerError

MAX_WAITING = 6
Phase = Literal["waiting", "running", "done", "failed", "dropped"]


@dataclass(eq=False)
class Job:
    """What was asked for, by whom, and how far it is.

    Attributes:
        label: In words.
        owner: The id of the client that asked; None for the program itself.
        work: Does it, given this job; it counts its `steps` and ends early when `stopping` is set.
        steps: How many are done, and how many there are.
        error: What to tell the user when it failed.
        began: Monotonic seconds.
    """

    label: str
    owner: int | None
    work: Callable[["Job"], None] = field(repr=False)
    phase: Phase = "waiting"
    steps: tuple[int, int] = (0, 1)
    stopping: bool = False
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
            return list(self._jobs)

    def stop(self, owner: int | None = None, label: str | None = None) -> int:
        """Drop what waits, and end what runs after its present step; how many jobs that are.

        Args:
            owner: Only what this client asked for; None for everyone's.
            label: Only jobs of this label.
        """
        with self._lock:
            chosen = [
                job
                for job in self._jobs
                if owner in (None, job.owner) and label in (None, job.label) and not job.stopping
            ]
            for job in chosen:
                job.stopping = True
                if job.phase == "waiting":
                    self._end(job, "dropped")
        if chosen:
            self._changed()
        return len(chosen)

    def close(self, timeout: float = 30.0) -> None:
        """Drop what waits, and wait for what runs."""
        self.stop()
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


class Requests:
    """What clients ask for; what goes wrong with it is told to the one who asked.

    Args:
        server: The viser server.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._open: list[Job] = []

    def ask(self, owner: int | None, submit: Callable[[int | None], Job]) -> Job | None:
        """Submit a job in the name of a client; None when it was refused."""
        job = self.attempt(owner, lambda: submit(owner))
        if job is not None:
            self._open.append(job)
        return job

    def attempt(self, owner: int | None, act: Callable[[], Any]) -> Any:
        """Do something at once; None when it was refused."""
        try:
            return act()
        except SpatiaError as error:
            self.tell(owner, str(error))
            return None

    def tell(self, owner: int | None, words: str) -> None:
        """Show what did not work to a client, or to all."""
        for client_id, client in self._server.get_clients().items():
            if owner in (None, client_id):
                client.add_notification(
                    "That did not work", words[:400], auto_close_seconds=8.0, color="orange"
                )

    def tell_failures(self) -> None:
        """Tell of jobs that have failed since the last call."""
        for job in [job for job in self._open if job.ended.is_set()]:
            self._open.remove(job)
            if job.phase == "failed":
                self.tell(job.owner, job.error)
