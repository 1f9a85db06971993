"""A machine of its own: namespaces of processes, mounts and network, which end with
its first process.

What is started in it, mounted in it and attached to loop devices in it is gone when that has ended,
however it ended. ``boxed`` starts one, for a function of a module that is called in it.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

TOP = Path("/mnt")
"""Where the disks of a box are mounted; in memory, and its own."""

_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x20000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

FAILED = 99


def missing() -> str:
    """Why there can be no box here; empty when there can."""
    if os.geteuid() != 0:
        return "power is cut as root only: it takes loop devices and mounts"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not Path(path).exists():
            return f"power is cut with {path} only"
    return ""


def boxed(work: Callable[..., None], *arguments: object, limit: float) -> int:
    """Call ``work`` in a box; 0, or FAILED when it raised, or the negative number of the signal
    that ended it: SIGKILL after ``limit`` seconds. This process must have one thread."""
    outer = os.fork()
    if outer == 0:
        code = FAILED
        try:
            code = _outer(work, arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return _ended(outer, time.monotonic() + limit)


def _ended(pid: int, end: float) -> int:
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGKILL
        time.sleep(0.01)


def _outer(work: Callable[..., None], arguments: tuple[object, ...]) -> int:
    """Wait for the box's first process, which dies with this one."""
    die_with_parent()
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    first = os.fork()
    if first == 0:
        code = FAILED
        try:
            die_with_parent()
            _furnish()
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(first, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else FAILED


def die_with_parent() -> None:
    """This process ends when the one that started it does."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _furnish() -> None:
    if _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "private mounts")
    for kind, place in ((b"proc", b"/proc"), (b"tmpfs", bytes(TOP))):
        if _libc.mount(kind, place, kind, 0, None):
            raise OSError(ctypes.get_errno(), place.decode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def mount_image(image: Path, name: str) -> Path:
    """Mount an ext4 in a file as a disk of the box. Its journal is replayed."""
    place = TOP / name
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True, timeout=60)
    return place


def spawn(main: Callable[[], object], log: Path, first_line: bool = False) -> str:
    """Run a program's ``main`` in a process of its own; the first line that it prints, if that is
    asked for. "" when it has ended before."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        code = FAILED
        try:
            os.setsid()
            os.close(reading)
            os.dup2(writing, 1)
            errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(errors, 2)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.closerange(3, 64)
            code = int(main() or 0)  # type: ignore[call-overload]
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writing)
    with open(reading, "rb", buffering=0) as out:  # noqa: PTH123 - a descriptor
        return out.readline().decode().strip() if first_line else ""


def call(main: Callable[[], object], log: Path, limit: float = 120.0) -> int:
    """The exit code of a program that comes to its end by itself."""
    pid = os.fork()
    if pid == 0:
        code = FAILED
        try:
            errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number in (1, 2):
                os.dup2(errors, number)
            code = int(main() or 0)  # type: ignore[call-overload]
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return _ended(pid, time.monotonic() + limit)


def start(work: Callable[[], object], log: Path) -> int:
    """Call ``work`` in a process of its own; its id."""
    pid = os.fork()
    if pid == 0:
        os._exit(call(work, log, limit=3_600))
    return pid
