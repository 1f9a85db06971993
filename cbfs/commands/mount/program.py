"""``mount.cbfs``: mount an account, return when the mount answers.

Also a helper of mount(8): ``/sbin/mount.cbfs SPEC DIR [-sfnv] [-o OPTIONS]``.
"""

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from cbfs.account.place import new_log
from cbfs.commands.mount.options import MountOptions, parse
from cbfs.commands.process import memory
from cbfs.commands.process.daemon import daemonised
from cbfs.commands.process.entry import PROGRAM, interrupted
from cbfs.commands.process.logs import LogFile, log_into
from cbfs.commands.process.running import run
from cbfs.mount.mount_table import prepare, source_of
from cbfs.mount.mounting import stop_event
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import STDERR, complain
from cbfs_host.entry import reading_in
from cbfs_host.log_format import TEXT, line_format

FAILED, USAGE, FAILED_FOR_MOUNT = 1, 2, 32

Serving: TypeAlias = Callable[
    [Callable[[], None], Callable[[], None], trio.Event, trio.Event], Awaitable[None]
]
"""Serves a mount until it is unmounted: is given what to call when it answers, what begins the log,
when to stop, and what to set when there is a mount."""

_log = logging.getLogger(__name__)


def main() -> int:
    """The entry point."""
    memory.protect()
    by_mount = _called_by_mount()
    try:
        options, fake = parse(sys.argv[1:])
        if by_mount and _is_there(options):
            return 0  # mount -a once more
        prepare(options.mountpoint)
        if options.network.no_tor:
            print("cbfs: without Tor: only servers on this machine can be reached", file=sys.stderr)
        if fake:
            return 0
        passphrase = _passphrase(options)
        if options.foreground:
            return _in_the_foreground(options, passphrase)
        return daemonised(lambda ready, log: _serve(options, passphrase, ready, log))
    except CbfsError as error:
        complain(PROGRAM, str(error), error.hint)
        return FAILED_FOR_MOUNT if by_mount else FAILED


def _in_the_foreground(options: MountOptions, passphrase: bytes | None) -> int:
    log = LogFile(line_format(PROGRAM, TEXT, STDERR))
    log.into(os.dup(STDERR))
    log_into(log)
    try:
        _serve(options, passphrase, lambda: None, log)
    finally:
        logging.shutdown()
    return 0


def _passphrase(options: MountOptions) -> bytes | None:
    """The passphrase, when the account takes one: the terminal is here, not in the daemon."""
    if options.only or options.hub is not None:
        return None  # its daemon has it open
    # not for a single conversation, whose process has nothing to open
    from cbfs.account.passphrase import asks_for_passphrase  # noqa: PLC0415

    return options.passphrase.once() if asks_for_passphrase(options.account) else None


def _called_by_mount() -> bool:
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text().strip() == "mount"
    except OSError:
        return False


def _is_there(options: MountOptions) -> bool:
    """Whether this very account is mounted there, by a daemon that lives."""
    try:
        os.statvfs(options.mountpoint)
    except OSError:
        return False
    return source_of(options.mountpoint) == options.source


def _serve(
    options: MountOptions, passphrase: bytes | None, ready: Callable[[], None], log: LogFile
) -> None:
    """Until unmounted. Raises CbfsError when the mount cannot be made."""
    serve = _read_in(options, passphrase)
    memory.lock_present()
    run(_until_stopped, options, serve, ready, log)


def _read_in(options: MountOptions, passphrase: bytes | None) -> Serving:
    """What serves such a mount. It is read in only now, in the process that stays: one needs the
    whole client, the other next to nothing."""
    with reading_in(interrupted):
        if options.hub is not None:
            from cbfs.commands.mount.elsewhere import serve_hub  # noqa: PLC0415

            return partial(serve_hub, options)
        if options.only:
            from cbfs.mount.single import process  # noqa: PLC0415

            return lambda ready, _begin_log, stop, mounted: process.serve(
                options.place, options.only, ready, stop, mounted
            )
        from cbfs.commands.mount.serving import serve_account  # noqa: PLC0415
        from cbfs.network.access import read_in  # noqa: PLC0415

        read_in(options.network)  # so that it is there when memory is locked
        return partial(serve_account, options, passphrase)


async def _until_stopped(
    options: MountOptions, serve: Serving, ready: Callable[[], None], log: LogFile
) -> None:
    """A signal that comes before there is a mount gives up what was done for it."""

    def begin_log() -> None:
        if not (options.foreground or options.only or options.hub is not None):
            log.into(new_log(options.account))

    def hang_up() -> None:
        try:
            begin_log()
        except CbfsError as error:  # the one that there was is written on
            _log.error("%s", error.in_full)

    stop = stop_event(None if options.foreground else hang_up)
    mounted = trio.Event()

    async def give_up(scope: trio.CancelScope) -> None:
        await stop.wait()
        if not mounted.is_set():
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up, nursery.cancel_scope)
        await serve(ready, begin_log, stop, mounted)
        nursery.cancel_scope.cancel()
    if not mounted.is_set():
        raise CbfsError("it was told to end before there was a mount")


if __name__ == "__main__":
    sys.exit(main())
