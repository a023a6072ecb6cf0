"""Killing a process, or failing its calls, at exactly the k-th call that changes the file system.

The child is traced (ptrace, no other tools needed), so this works for whatever writes: Python, SQLite, NumPy.
Only on Linux on x86-64; elsewhere `available()` says no.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch

_TRACEME, _SYSCALL, _GETREGS, _SETREGS, _SETOPTIONS = 0, 24, 12, 13, 0x4200
_TRACESYSGOOD, _EXITKILL = 0x1, 0x100000
_REGISTERS = 27  # user_regs_struct on x86-64: 27 words
_RAX, _ORIG_RAX, _RSI, _RDX = 10, 15, 13, 12
# write, writev, pwrite64, pwritev, fsync, fdatasync, truncate, ftruncate, rename, mkdir, rmdir, link, unlink,
# symlink, linkat, unlinkat, renameat, renameat2, fallocate
CHANGING = {1, 20, 18, 296, 74, 75, 76, 77, 82, 83, 84, 86, 87, 88, 265, 263, 264, 316, 285}
_OPENAT, _OPEN = 257, 2


@dataclass(frozen=True)
class Outcome:
    """How a child ended: how many changing calls it had begun, and its exit code (negative: signal)."""

    calls: int
    code: int


def available() -> bool:
    """Whether children can be traced here."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    try:
        return run(lambda: None).code == 0
    except OSError:
        return False


def run(
    work: Callable[[], None],
    at: int | None = None,
    fault: int | None = None,
    persistent: bool = False,
    prepare: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run `work` in a forked child and count the calls that change files.

    Args:
        work: What to do; an exception ends the child with code 3.
        at: Number of the call, from 1, before which the child is killed, or that fails.
        fault: The errno it fails with; None kills.
        persistent: Whether all later calls fail too.
        prepare: Runs in the child before calls are counted.
    """
    child = os.fork()
    if child == 0:
        _child(prepare, work)
    try:
        return _trace(child, at, fault, persistent)
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _child(prepare: Callable[[], None], work: Callable[[], None]) -> None:
    code = 3
    torch.set_num_threads(1)  # torch's pool of threads did not survive the fork: using it would hang
    try:
        prepare()
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        code = 0
    except OSError as error:
        code = 4 if error.errno == errno.EPERM and not error.args[1:] else 3
    except BaseException:  # noqa: BLE001 - the parent reads the code
        code = 3
    finally:
        os._exit(code)


def _trace(child: int, at: int | None, fault: int | None, persistent: bool) -> Outcome:
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return Outcome(0, os.waitstatus_to_exitcode(status))
    _ptrace(_SETOPTIONS, child, 0, _TRACESYSGOOD | _EXITKILL)
    calls, entering, failing, deliver = 0, True, False, 0
    while True:
        _ptrace(_SYSCALL, child, 0, deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return Outcome(calls, os.waitstatus_to_exitcode(status))
        deliver = 0
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            deliver = os.WSTOPSIG(status)
            continue
        if entering:
            registers = _get(child)
            if _changes(registers):
                calls += 1
                hit = at is not None and (calls == at or (persistent and calls > at))
                if hit and fault is None:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return Outcome(calls, -signal.SIGKILL)
                if hit:
                    failing = True
                    registers[_ORIG_RAX] = 2**64 - 1  # no such call: the kernel does nothing
                    _set(child, registers)
        elif failing:
            registers = _get(child)
            registers[_RAX] = 2**64 - fault
            _set(child, registers)
            failing = False
        entering = not entering


def _changes(registers: list[int]) -> bool:
    number = registers[_ORIG_RAX]
    if number in (_OPENAT, _OPEN):
        flags = registers[_RDX] if number == _OPENAT else registers[_RSI]
        return bool(flags & (os.O_CREAT | os.O_TRUNC))
    return number in CHANGING


def _get(child: int) -> list[int]:
    buffer = ctypes.create_string_buffer(8 * _REGISTERS)
    _ptrace(_GETREGS, child, 0, buffer)
    return list(struct.unpack(f"{_REGISTERS}Q", buffer.raw))


def _set(child: int, registers: list[int]) -> None:
    _ptrace(_SETREGS, child, 0, ctypes.create_string_buffer(struct.pack(f"{_REGISTERS}Q", *registers)))


def _ptrace(request: int, child: int, address: int, data) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if (
        libc.ptrace(
            request, child, address, ctypes.cast(data, ctypes.c_void_p) if not isinstance(data, int) else data
        )
        < 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
