"""``cbfs serve``: what ssh(1) runs at the hub for a mount on another machine.

It copies bytes between the link and the daemon that has the account, and holds no key. Where the
account is not mounted, it starts a daemon that serves it without a mount, which others join, and
which ends when nobody has used it for five minutes.
"""

import argparse
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cbfs.account.place import check_account, new_log
from cbfs.commands.options import add_account, add_network, network_options
from cbfs.commands.process import memory
from cbfs.commands.process.daemon import daemonised
from cbfs.commands.process.entry import interrupted
from cbfs.commands.process.logs import LogFile
from cbfs.mount.single.connection import NotServed, connected
from cbfs.mount.single.wire import HUB, frame
from cbfs_common.errors import CbfsError
from cbfs_host.entry import reading_in

COPIED: Final = 65_536
"""Bytes that are copied at once."""

START_MAX: Final = 20.0
"""Seconds for which a daemon is waited for that somebody else has just started."""

_PAUSE = 0.1


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cbfs serve``."""
    parser.description = (
        "Serve an account over standard input and output to mount.cbfs ssh://HOST on another"
        ' machine. In ~/.ssh/authorized_keys: command="cbfs serve",restrict KEY'
    )
    add_account(parser)
    parser.add_argument(
        "--only",
        default="",
        metavar="CONVERSATION",
        help="nothing but this one: the name of its folder, or its id",
    )
    add_network(parser)
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    """Until the link or the daemon ends. What goes wrong before is told to the other side."""
    try:
        account = Path(os.path.abspath(options.account))  # noqa: PTH100
        only = str(options.only)
        if any("\ud800" <= letter <= "\udfff" for letter in only):
            raise CbfsError("no conversation has such a name", "its id is in its metadata.toml")
        with _daemon(account, options) as daemon:
            daemon.sendall(frame(1, HUB, [only]))
            _copy_both_ways(daemon)
    except CbfsError as error:
        _write(1, frame(1, errno.EINVAL, [str(error), error.hint]))
        raise
    return 0


def _daemon(account: Path, options: argparse.Namespace) -> socket.socket:
    try:
        return connected(account)
    except NotServed:
        pass
    try:
        _start(account, options)
    except CbfsError as error:
        failure = error
    else:
        return connected(account)
    end = time.monotonic() + START_MAX
    while time.monotonic() < end and "in use" in str(failure):  # somebody else has started it
        time.sleep(_PAUSE)
        try:
            return connected(account)
        except NotServed:
            continue
    raise failure


def _start(account: Path, options: argparse.Namespace) -> None:
    """A daemon without a mount. Raises CbfsError."""
    check_account(account)
    # nobody who finds a daemon waits for it
    from cbfs.account.passphrase import asks_for_passphrase  # noqa: PLC0415

    if asks_for_passphrase(account):
        raise CbfsError(
            "the account takes a passphrase, and is not mounted at the hub",
            f"mount it there: mount.cbfs {account} DIR",
        )
    network = network_options(options)

    def serve(ready: Callable[[], None], log: LogFile) -> None:
        with reading_in(interrupted):
            from cbfs.commands.mount.unmounted import serve_until_unused  # noqa: PLC0415

        memory.lock_present()
        serve_until_unused(account, network, ready, lambda: log.into(new_log(account)))

    daemonised(serve)


def _copy_both_ways(daemon: socket.socket) -> None:
    """Until one side ends. In threads: a side that takes nothing does not hinder the other way."""
    ended = threading.Event()
    ways = ((0, daemon.fileno()), (daemon.fileno(), 1))
    for way in ways:
        threading.Thread(target=_copy, args=(*way, ended), daemon=True).start()
    ended.wait()


def _copy(source: int, target: int, ended: threading.Event) -> None:
    try:
        while data := os.read(source, COPIED):
            _write(target, data)
    except OSError:
        pass  # the other end is gone
    finally:
        ended.set()


def _write(target: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]
