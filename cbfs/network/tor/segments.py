"""Gives the relays of a private network the segments of a real one.

On loopback a TCP segment may have 64 KiB, so that each write of tor's is a small one, of which
Nagle's algorithm, which tor leaves on, lets but one be under way: the next waits for its
acknowledgement, and that for 40 ms. With segments as on an Ethernet most of a write is whole
segments, and these do not wait. A frame that went through six relays and back took 0.2 s; no real
network is slow in this way. tor has no option for it, and who accepts a connection decides for both
ends: so it is set at the sockets where relays listen, which a parent may borrow.
"""

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

SEGMENT: Final = 1_460
"""Bytes of a TCP segment on an Ethernet: its 1,500 without the headers of IP and TCP."""

BORROWABLE: Final = "DisableDebuggerAttachment 0"
"""The torrc line of a tor whose sockets may be borrowed."""

_PIDFD_GETFD: Final = 438
"""The system call, which Python lacks. pidfd_getfd(2): the same number on all architectures but
alpha."""


def shorten_segments(pid: int) -> None:
    """Connections that this process of ours accepts from now on have segments of SEGMENT bytes.
    Raises OSError where the system forbids a parent to do that."""
    for sock in _sockets(pid):
        with closing(sock):
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)


def _sockets(pid: int) -> Iterator[socket.socket]:
    """The sockets of a process, as descriptors of ours."""
    system = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            found = system.syscall(_PIDFD_GETFD, process, int(entry.name), 0)
            number = ctypes.get_errno()
            if found < 0 and number == errno.EBADF:
                continue  # closed meanwhile
            if found < 0:
                raise OSError(number, os.strerror(number))
            if stat.S_ISSOCK(os.fstat(found).st_mode):
                yield socket.socket(fileno=found)
            else:
                os.close(found)
    finally:
        os.close(process)
