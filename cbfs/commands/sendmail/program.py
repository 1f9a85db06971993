"""``cbfs sendmail``: take a message from standard input, and send it to people by name.

While the account is mounted, the message is put into the outbox of the mount, as any program would
do it. Else it waits in the account's spool, sealed, for the next mount. It is there as a whole, or
the exit code says why there is nothing of it.
"""

import argparse
import errno
import os
import sys
from pathlib import Path

from cbfs.account.place import check_account, default_account
from cbfs.commands.process.entry import PROGRAM
from cbfs.commands.sendmail.asking import answers
from cbfs.commands.sendmail.handing_over import MountOutbox
from cbfs.commands.sendmail.letter import Letter
from cbfs.commands.sendmail.options import USAGE_TEXT, Exit, NotSent, SendmailOptions, parse
from cbfs.commands.sendmail.reading import MESSAGE_MAX, read_letter
from cbfs.mount.mount_table import own_mountpoints_of
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import complain, say

_FULL = (errno.ENOSPC, errno.EDQUOT)


def add_sendmail(parser: argparse.ArgumentParser) -> None:
    """Say in the help of ``cbfs`` where that of this command is: it reads its words itself."""
    parser.description = "see: cbfs sendmail --help"


def main(words: list[str]) -> int:
    """Run the command with the words behind its name; its exit code, of sysexits.h."""
    try:
        options = parse(words)
        if options.help:
            sys.stdout.write(USAGE_TEXT)
            return Exit.OK
        letter = read_letter(
            _message(),
            options.recipients,
            from_headers=options.from_headers,
            dot_ends=options.dot_ends,
        )
        _send(letter, options)
    except NotSent as error:
        complain(PROGRAM, str(error), error.hint)
        return error.code
    except OSError as error:
        complain(PROGRAM, f"nothing was sent: {(error.strerror or '').lower()}", _hint(error))
        return Exit.TEMPFAIL
    except CbfsError as error:
        complain(PROGRAM, str(error), error.hint)
        return Exit.CONFIG
    return Exit.OK


def _hint(error: OSError) -> str:
    return "make room, then send it again" if error.errno in _FULL else "send it again"


def _message() -> bytes:
    try:
        return sys.stdin.buffer.read(MESSAGE_MAX + 1)
    except OSError as error:
        raise NotSent(
            Exit.NOINPUT, f"the message cannot be read: {(error.strerror or '').lower()}"
        ) from error


def _send(letter: Letter, options: SendmailOptions) -> None:
    """Raises CbfsError, OSError."""
    account = _account(options.account)
    mount, hangs = _mount_of(account)
    if mount is None:
        # where there is a mount, nothing of this is needed
        from cbfs.commands.sendmail.queueing import Queue  # noqa: PLC0415

        with Queue(account).held() as queue:
            if not hangs:
                mount, hangs = _mount_of(account)  # it may have come until the spool was ours
            if mount is None:
                queue.add(letter, hangs=hangs)
                return
    MountOutbox(mount).take(letter)
    if options.verbose:
        say(f"{PROGRAM}: in the outbox of {mount}\n")


def _account(given: str) -> Path:
    account = Path(os.path.abspath(given)) if given else default_account()  # noqa: PTH100
    if not (account / "root.key").exists():
        raise NotSent(
            Exit.CONFIG,
            f"there is no account in {account}",
            "make one: cbfs init; or name its directory with --account",
        )
    check_account(account)
    return account


def _mount_of(account: Path) -> tuple[Path | None, bool]:
    """Where the account is mounted by us, and by a daemon that lives: others, whom a message is
    none of the business of, can say that they have mounted it. And whether there is one that does
    not answer."""
    names = dict.fromkeys((account, Path(os.path.realpath(account))))
    hangs = False
    for mountpoint in (each for name in names for each in own_mountpoints_of(name)):
        found = answers(mountpoint)
        if found:
            return mountpoint, False
        hangs = hangs or found is None  # else it is dead, or not ours to enter
    return None, hangs
