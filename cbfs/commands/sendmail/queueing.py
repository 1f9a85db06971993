"""A letter waits in the spool of an account that is not mounted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.place import waiting
from cbfs.account.spool import WAITING_BYTES_MAX, WAITING_MAX, Spool
from cbfs.commands.process.entry import PROGRAM
from cbfs.commands.sendmail.letter import Letter, copies_size, encode_letter
from cbfs.commands.sendmail.logins import check_logins
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs_common.errors import CryptoError
from cbfs_common.limits import FILE_SIZE_MAX
from cbfs_host.complaints import say


class Queue:
    """The spool of ``account``, to put letters into."""

    def __init__(self, account: Path) -> None:
        self._account = account
        self._spool = Spool(account)

    @contextmanager
    def held(self) -> Iterator["Queue"]:
        """No mount begins to take what waits meanwhile. Raises NotSent, OSError."""
        if not self._spool.public():
            raise NotSent(
                Exit.TEMPFAIL,
                "the account is not mounted, and never was, so that nothing can wait in it",
                f"mount it once: mount.cbfs {self._account} DIR; then send it again",
            )
        if not self._spool.acquire(alone=False):
            raise NotSent(
                Exit.TEMPFAIL, "the account is just being mounted", "send it again in a moment"
            )
        try:
            yield self
        finally:
            self._spool.release()

    def add(self, letter: Letter, *, hangs: bool = False) -> None:
        """Let a letter wait, and say so. ``hangs``: the account is mounted, and its mount does not
        answer. Raises NotSent, OSError."""
        # whose name one has oneself, and whom one knows, only the store says
        mounted = f"; or, if you know them, mount the account: mount.cbfs {self._account} DIR"
        check_logins([*letter.together, *letter.apart], (), mounted)
        if sum(len(content) for _name, content in letter.files) > FILE_SIZE_MAX:
            raise NotSent(
                Exit.UNAVAILABLE,
                f"the message is too large: at most {FILE_SIZE_MAX:,} bytes",
                "send its attachments one by one",
            )
        if waiting(self._account) >= WAITING_MAX:
            raise NotSent(
                Exit.TEMPFAIL,
                f"{WAITING_MAX:,} messages wait already",
                f"mount the account: mount.cbfs {self._account} DIR",
            )
        if copies_size(letter) > WAITING_BYTES_MAX:
            raise NotSent(
                Exit.UNAVAILABLE,
                f"the message is too large for so many people apart: at most"
                f" {WAITING_BYTES_MAX:,} bytes in all",
                "send it to fewer at once",
            )
        if self._spool.size() + copies_size(letter) > WAITING_BYTES_MAX:
            raise NotSent(
                Exit.TEMPFAIL,
                f"so much waits already that this would be more than {WAITING_BYTES_MAX:,} bytes",
                f"mount the account: mount.cbfs {self._account} DIR",
            )
        try:
            self._spool.add(encode_letter(letter), SYSTEM_RANDOM)
        except CryptoError as error:
            raise NotSent(
                Exit.TEMPFAIL, "the key of the spool is damaged", "mount the account once"
            ) from error
        if hangs:
            say(
                f"{PROGRAM}: the mount of the account does not answer: the message waits until the"
                f" account is mounted anew (end the daemon, then mount.cbfs {self._account} DIR)\n"
            )
            return
        say(
            f"{PROGRAM}: the account is not mounted: the message waits until it is"
            f" (mount.cbfs {self._account} DIR)\n"
        )
