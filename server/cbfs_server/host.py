"""What a server needs of its machine: descriptors, data directory, addresses, signals, and one way
to start and to end.

Imports nothing of its package, so that ``cbfs_names`` has the same file.
"""

import contextlib
import errno
import fcntl
import ipaddress
import os
import pwd
import re
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cbfs_common.errors import CbfsError, DecodeError

BACKLOG: Final = 512

PORT_MAX: Final = 65_535

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, before there is anything to end cleanly."""

HOPS_MAX: Final = 40
"""Symbolic links on the way to a directory."""

_PLACE: Final = re.compile(
    r"\[(?P<six>[^\]]*)\](?::(?P<port6>[0-9]{1,5}))?|(?P<host>[^:\[\]]+):(?P<port>[0-9]{1,5})"
)

_QUIET: Final = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO")
"""Signals that end a program that knows nothing of them."""


class HostError(CbfsError):
    """What was asked for cannot be done on this machine, or not by this user."""


# Starting and ending


def start(program: str, work: Callable[[], None]) -> int:
    """Run ``work``: 0, 1 when it ends with an error, 130 after Ctrl-C; then why is on standard
    error. Signals that mean nothing to the program do not end it."""
    status = 0
    try:
        _fill_descriptors()
        for name in _QUIET:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        work()
    except* KeyboardInterrupt:
        status = INTERRUPTED
    except* CbfsError as group:
        complain(program, group)
        status = status or 1
    except* OSError as group:
        complain(program, group)
        status = status or 1
    if status == INTERRUPTED:
        _say(f"{program}: interrupted")
    return status


def complain(program: str, group: BaseExceptionGroup[CbfsError | OSError]) -> None:
    """Say what went wrong, and what can be done about it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            complain(program, error)
        elif isinstance(error, CbfsError):
            _say(f"{program}: error: {error}")
            if error.hint:
                _say(f"{program}: hint: {error.hint}")
        else:
            where = f"{error.filename}: " if error.filename else ""
            _say(f"{program}: error: {where}{error.strerror or type(error).__name__}")
            _say(f"{program}: hint: {hint_of(error)}")


def hint_of(error: OSError) -> str:
    """What helps against an error of the system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "check the files' owner"
    if error.errno == errno.EROFS:
        return "the disk is read-only"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too few file descriptors: raise the limit (ulimit -n)"
    return "check the disk and the data directory"


def _say(line: str) -> None:
    """One line, with nothing in it that a terminal would obey."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with contextlib.suppress(OSError, ValueError):  # nobody is there to be told
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _fill_descriptors() -> None:
    """When 0, 1 or 2 are closed, what is opened next would get their numbers, and be written to."""
    for number, name, mode in (0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


async def until_asked(
    scope: trio.CancelScope,
    reread: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Cancel ``scope`` at SIGTERM and SIGINT; at SIGHUP ``reread`` what was configured."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                reread()
            else:
                scope.cancel()


# Where to listen


@dataclass(frozen=True, slots=True)
class Place:
    """Host and TCP port; port 0 is a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether it stands for all addresses of the machine, so that nobody can connect to it."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return self.host == "0"


def parse_place(text: str, port: int, least: int = 0) -> Place:
    """``HOST:PORT``, ``[IPV6]:PORT``, or an IPv6 address alone, with ``port``. Raises
    DecodeError."""
    match = _PLACE.fullmatch(text)
    try:
        host = match["host"] if match and match["host"] else _ipv6(match["six"] if match else text)
    except ValueError as error:
        raise DecodeError(
            f"{text!r} is not HOST:PORT", "for example 127.0.0.1:7701, or [::1]:7701"
        ) from error
    given = (match["port"] or match["port6"]) if match else None
    found = port if given is None else int(given)
    if not least <= found <= PORT_MAX:
        raise DecodeError(f"{found} is not a port", f"ports are {least} to {PORT_MAX}")
    return Place(host, found)


def _ipv6(text: str) -> str:
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError
    return address.compressed


def listen(place: Place) -> socket.socket:
    """A non-blocking listening socket. Raises HostError."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        listener = socket.create_server((place.host, place.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise HostError(f"cannot listen on {place}: {_why(error)}", _cause(error, place)) from error
    listener.setblocking(False)
    return listener


def _why(error: OSError) -> str:
    """The reason alone: ``create_server`` adds words of its own."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else "no such host"


def _cause(error: OSError, place: Place) -> str:
    if (error.errno or 0) <= 0:  # of a look-up
        return "give an address of this machine"
    if error.errno in (errno.EACCES, errno.EPERM) and place.port < 1_024:
        return (
            "ports below 1024 take the capability CAP_NET_BIND_SERVICE (AmbientCapabilities= in a"
            " unit of systemd): choose a higher one with --listen HOST:PORT"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program listens there (ss -ltnp 'sport = {place.port}' says which): end it,"
            " or choose another port with --listen HOST:PORT"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "this machine has no such address (ip address lists those it has); IPv6 with a port is"
            " written [::1]:7701"
        )
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6: choose another address with --listen HOST:PORT"
    return "choose another with --listen HOST:PORT"


# Where the data is


@contextmanager
def opened_data(path: Path, program: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """The data directory, locked; ``make`` makes it (0700) if need be. Gives where it really is.
    It belongs to this user, nobody else may write to it, and nobody else has put a link on the
    way there. Raises HostError."""
    try:
        place = way(path)
        make(place)
        _check_own(place)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(place / "lock", flags, 0o600)
    except OSError as error:
        raise HostError(
            f"{path} cannot be used: {error.strerror}",
            "give a directory that this user may write, with --data",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HostError(
                f"another {program} uses {path}", "stop it first, or give another --data"
            ) from error
        yield place
    finally:
        os.close(lock)


def _check_own(place: Path) -> None:
    """Raises HostError, OSError."""
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(held)
        if found.st_uid != os.geteuid():
            raise HostError(
                f"{place} belongs to {_name(found.st_uid)}",
                "run this program as its owner, or give another --data",
            )
        if found.st_mode & 0o022:
            if any(place.iterdir()):
                raise HostError(
                    f"others may write to {place}",
                    f"look at what is in it; then: chmod 700 {place}",
                )
            os.fchmod(held, 0o700)
    finally:
        os.close(held)


def way(path: Path) -> Path:
    """``path`` without symbolic links, none of which is somebody else's; and root goes through no
    directory of somebody else, who could put one there at any time. Raises HostError, OSError."""
    at, pending, links = Path("/"), list(reversed(Path.cwd().joinpath(path).parts[1:])), 0
    while pending:
        part = pending.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        try:
            found = step.lstat()
        except FileNotFoundError:
            return step.joinpath(*reversed(pending))
        linked = stat.S_ISLNK(found.st_mode)
        if not _trusted(found.st_uid) and (linked or (pending and os.geteuid() == 0)):
            what = "a symbolic link" if linked else "a directory"
            raise HostError(
                f"the way to {path} goes through {what} of {_name(found.st_uid)}: {step}",
                "run this program as its owner, or give another --data",
            )
        if not linked:
            at = step
            continue
        links += 1
        if links > HOPS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = step.readlink()
        at = Path("/") if target.is_absolute() else at
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return at


def _trusted(owner: int) -> bool:
    """This user or root. Within a user namespace, root outside of it has the number of nobody."""
    return owner in (0, os.geteuid()) or (_in_namespace() and owner == _overflow())


def _in_namespace() -> bool:
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _overflow() -> int:
    return int(Path("/proc/sys/kernel/overflowuid").read_text())


def _name(owner: int) -> str:
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
