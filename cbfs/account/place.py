"""An account directory as a place that is ours alone.

Whoever could put a link, or a file of theirs, where a program of ours opens one would have it write
or read elsewhere, with our rights. So before anything in an account directory is opened: the way
to it has no link of anybody else's and no folder in which everybody could put another one; it is
ours, and nobody else may enter it; and what is in it is ours and no link.
"""

import errno
import os
import pwd
import stat
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from cbfs_common.errors import CbfsError

ACCOUNT_ATTRIBUTE: Final = "user.cbfs.account"
"""Of the root of a mount: the path of its account directory."""

FOLLOWED_MAX: Final = 40
"""Links on one way, as Linux has it."""

BEFORE: Final = "before"
BEFORE_NEW: Final = f"{BEFORE}.new"
"""The copy of an account that is upgraded (``cbfs.account.formats``); one that is being made."""
AFTER: Final = "after"
AFTER_NEW: Final = f"{AFTER}.new"
"""What an account becomes that is brought over (``cbfs.account.brought``); one that is being
made."""

ARRIVING: Final = "arriving"
"""What has come of an account from another computer, until it lives here. No account is made
beside it."""

FILES: Final = (
    *("root.key", "root.key.new", "lock", "log", "store/data.mdb", "store/lock.mdb"),
    *("server/log", "server/clients", "spool/key", "spool/lock"),
    *(f"{BEFORE}/root.key", f"{BEFORE}/store/data.mdb"),
    *(f"{BEFORE_NEW}/root.key", f"{BEFORE_NEW}/store/data.mdb"),
    *(f"{AFTER}/root.key", f"{AFTER}/store/data.mdb"),
    *(f"{AFTER_NEW}/root.key", f"{AFTER_NEW}/store/data.mdb"),
)
FOLDERS: Final = (
    *(BEFORE, f"{BEFORE}/store", BEFORE_NEW, f"{BEFORE_NEW}/store"),
    *(AFTER, f"{AFTER}/store", AFTER_NEW, f"{AFTER_NEW}/store"),
    *("store", "store.new", "tor", "tor/data", "tor/onion_auth", "server", "spool", "lines"),
    ARRIVING,
)
SOCKETS: Final = ("windows",)

_NAMES = frozenset(name.partition("/")[0] for name in (*FILES, *FOLDERS, *SOCKETS))
OWN_NAMES: Final = _NAMES - {ARRIVING}
"""What may be in an account directory; some of it before there is an account."""

SPOOL: Final = "spool"
LINES: Final = "lines"
"""The folder in which lines wait (``cbfs.account.awaited``)."""

SPOOLED: Final = ".mail"
"""The folder of an account directory in which messages wait (``cbfs.account.spool``), and how the
names of their files end."""

UNREADABLE: Final = ".unreadable"
"""How those end that could not be read."""

_EVERYBODY: Final = "0 0 4294967295"
"""The uid_map of a process that sees all users as they are."""


def default_account() -> Path:
    """$XDG_DATA_HOME/cbfs, or ~/.local/share/cbfs. Raises CbfsError when there is no home."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():  # which that specification says is to be ignored
        try:
            base = Path.home() / ".local" / "share"
        except RuntimeError as error:
            raise CbfsError("your home directory is not known", "set HOME") from error
    return base / "cbfs"


def waiting(directory: Path) -> int:
    """How many messages wait in the spool of an account until it is mounted, as far as can be
    seen."""
    return _count(directory, SPOOLED)


def unreadable(directory: Path) -> int:
    """How many were found there that could not be read, as far as can be seen."""
    return _count(directory, UNREADABLE)


def _count(directory: Path, end: str) -> int:
    try:
        names = os.listdir(directory / SPOOL)  # noqa: PTH208 - names, and quick
    except OSError:
        return 0
    return sum(name.endswith(end) for name in names)


def check_account(directory: Path) -> None:
    """Raises CbfsError for a directory that an account must not be kept in, or whose files are not
    ours; one that others could enter is closed to them. A directory that does not exist is fine."""
    check_way(directory)
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        owner = _owner(directory)
        if owner not in (None, os.geteuid()):
            raise _belongs(directory, owner) from error
        raise CbfsError(
            f"cannot use {directory}: {(error.strerror or '').lower()}", "is it yours?"
        ) from error
    try:
        told = os.fstat(folder)
        if told.st_uid != os.geteuid():
            raise _belongs(directory, told.st_uid)
        if stat.S_IMODE(told.st_mode) & 0o077 and _has_account(folder):
            _close_to_others(folder, directory)
        kinds = ((FILES, stat.S_ISREG), (FOLDERS, stat.S_ISDIR), (SOCKETS, stat.S_ISSOCK))
        for names, is_kind in kinds:
            for name in names:
                found = _look(folder, name)
                if found and (found.st_uid != os.geteuid() or not is_kind(found.st_mode)):
                    raise CbfsError(
                        f"{directory / name} is a link, or not yours",
                        "who has put it there? an account directory has nothing but its own files",
                    )
    finally:
        os.close(folder)


def _close_to_others(folder: int, directory: Path) -> None:
    """Close a directory to others. Raises CbfsError when that fails, but on a disk that cannot be
    written: it can still be read, for an export, and its files are closed themselves."""
    try:
        os.fchmod(folder, 0o700)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise CbfsError(
                f"{directory} is open to others: {(error.strerror or '').lower()}",
                f"chmod 700 {directory}",
            ) from error


def check_way(path: Path) -> None:
    """Raises CbfsError when somebody else decides where a path leads."""
    trusted = _trusted()
    here, rest, links = "/", deque(part for part in os.fspath(path).split("/") if part), 0
    while rest:
        part = rest.popleft()
        there = os.path.join(here, part)  # noqa: PTH118 - ".." must stay
        try:
            told = os.lstat(there)
        except OSError:
            return  # who opens it says what is wrong
        if stat.S_ISLNK(told.st_mode):
            links += 1
            if told.st_uid not in trusted or links > FOLLOWED_MAX:
                raise CbfsError(
                    f"{there} is a link of {_name(told.st_uid)}, and is not followed",
                    "name the place that you mean",
                )
            target = os.readlink(there)  # noqa: PTH115 - as it is
            rest.extendleft(reversed([each for each in target.split("/") if each]))
            here = "/" if target.startswith("/") else here
            continue
        if rest and stat.S_ISDIR(told.st_mode):
            _check_folder(there, told, trusted)
        here = os.path.realpath(there) if part == ".." else there


def _check_folder(there: str, told: os.stat_result, trusted: set[int]) -> None:
    if told.st_mode & stat.S_IWOTH and not told.st_mode & stat.S_ISVTX:
        raise CbfsError(
            f"everybody may write to {there}: what is in it could be put in another's place",
            f"chmod o-w {there}, or choose another place",
        )
    if os.geteuid() == 0 and told.st_uid not in trusted:
        raise CbfsError(
            f"{there} belongs to {_name(told.st_uid)}, and you are root",
            f"as root, mount for them: -o uid={_name(told.st_uid)}; or be that user",
        )


def new_log(directory: Path) -> int:
    """A descriptor of a new file ``log`` in the place of an earlier one. Raises CbfsError."""
    path = directory / "log"
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                os.unlink("log", dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            return os.open("log", flags, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {(error.strerror or '').lower()}",
            "is it yours, and is there room on the disk?",
        ) from error


def _has_account(folder: int) -> bool:
    return _look(folder, "root.key") is not None


def _look(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _belongs(directory: Path, owner: int | None) -> CbfsError:
    name = _name(owner)
    hint = "name one of your own"
    if os.geteuid() == 0:
        hint = f"as root, mount it for them: -o uid={name}; or be that user"
    return CbfsError(f"{directory} belongs to {name}", hint)


def _name(user: int | None) -> str:
    try:
        return pwd.getpwuid(-1 if user is None else user).pw_name
    except (KeyError, OverflowError):
        return str(user)


def _trusted() -> set[int]:
    """Who may decide where our ways lead: root and oneself. In a user namespace the machine's root
    is seen as somebody whom nobody knows."""
    trusted = {0, os.geteuid()}
    try:
        if " ".join(Path("/proc/self/uid_map").read_text("ascii").split()) != _EVERYBODY:
            trusted.add(int(Path("/proc/sys/kernel/overflowuid").read_text("ascii")))
    except (OSError, ValueError):
        pass
    return trusted
