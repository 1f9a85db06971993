"""What may be done where, and what the names of files say. Pure.

A directory's ``area`` decides what may be done in it, by ``RULES``. A new kind of directory is a
new ``Area`` with its line in ``RULES``; nothing else asks what an area is, but for the outbox's
rule of sending.
"""

import errno
import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from enum import Enum

from cbfs.account.bounds import GRACE
from cbfs.messages.file_names import ERROR_SUFFIX
from cbfs_common.limits import FILE_NAME_MAX

METADATA = "metadata.toml"

MAIL_OF_CONVERSATION = ".conversations."
"""How the names of the Maildirs of conversations begin in mail/."""

QUIET = 60.0
"""Seconds without a change after which it is told why something is not sent, and in which a file
is remembered that was beside its backup."""

SHORT_GRACE = GRACE
"""Seconds: with a grace of up to that, a file need not be left alone for all of it when those who
have changed it have ended. Who sets a longer one wants time to think."""

_OWN = re.compile(r"\.DS_Store\Z|\._|\.directory\Z|(thumbs\.db|desktop\.ini)\Z", re.IGNORECASE)
"""What file managers keep for themselves in each folder that they show."""

_LOCKS = re.compile(
    r"\..*\.sw[a-px]\Z | .*\.sw[opx]\Z | \.\#. | \#.*\#\Z | \.~lock\..*\#\Z | \..*\.kate-swp\Z"
    r"| .*\.lock\Z | ~\$",
    re.VERBOSE | re.IGNORECASE,
)
_DOWNLOADS = re.compile(
    r".*\.(part|partial|filepart|crdownload|opdownload|download)\Z", re.IGNORECASE
)
_TEMPORARY = re.compile(
    r"""(?i:.*\.(tmp|temp)\Z) | DEADJOE\Z
    | sed[A-Za-z0-9]{6}\Z | XX[A-Za-z0-9]{6}\Z | tmp[A-Za-z0-9_]{6,8}\Z""",
    re.VERBOSE,
)
_ERROR = re.compile(rf".*{re.escape(ERROR_SUFFIX)}\Z")
_TAKEN_FOR = (
    (_LOCKS, "an editor's lock, swap or rescue file"),
    (_DOWNLOADS, "a download that is not complete"),
    (_TEMPORARY, "a temporary file"),
    (re.compile(r"\."), "a hidden file"),
    (_ERROR, "an error file"),
)

_BACKUP = re.compile(r"(.+?)(\.~[0-9]+~|~|(?i:\.(bak|orig|rej|save)))\Z")

_PROBE = re.compile(r"[0-9]{4,5}\Z")
"""As what vim makes to see whether it may, empty."""

_FOLDER_TAKEN_FOR = (
    (re.compile(r"\."), "a hidden folder"),
    (re.compile(r".*~\Z"), "a backup"),
    (re.compile(r".*\.(tmp|temp|part|partial)\Z", re.IGNORECASE), "a folder that is not complete"),
    (_ERROR, "an error file"),
)
"""A folder may well be called XXabcdef: no program saves one under such a name."""

CONFIG = "config.toml"
CONFIG_ERROR = CONFIG + ERROR_SUFFIX
VERIFIED, ACCEPTED, BLOCKED, MUTED = "verified", "accepted", "blocked", "muted"
"""What a user writes into the folder of a contact."""

NEW_CONTACT = "NEW"
NEW_CONTACT_ERROR = NEW_CONTACT + ERROR_SUFFIX
"""In contacts/: what a user writes a line into, and why that was refused. Nobody's name is in
capitals."""

_DECISIONS = frozenset((VERIFIED, ACCEPTED, BLOCKED, MUTED))


class TreeError(Exception):
    """An operation that is refused; ``errno`` says why."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


def name_fault(name: bytes) -> int:
    """Why nothing can have this name, as an errno; 0 where something can. A kernel sees to most of
    it, but what comes from another machine has not been through one."""
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
        return errno.EINVAL
    if len(name) > FILE_NAME_MAX:
        return errno.ENAMETOOLONG
    try:
        name.decode()
    except UnicodeDecodeError:
        return errno.EILSEQ
    return 0


class Area(Enum):
    """What a directory is for."""

    FIXED = "fixed"  # nothing: the daemon alone puts something there
    ROOT = "root"  # the same, but for config.toml and what editors put beside it
    CONVERSATION = "conversation"  # read, delete
    OUTBOX = "outbox"  # make folders
    DRAFTS = "drafts"  # a folder of the outbox: files are messages
    FOLDER_DRAFT = "folder draft"  # a folder moved in there: one message
    CONTACTS = "contacts"  # a line: see cbfs.tree.virtual.people_folders
    REQUESTS = "requests"  # move a request to contacts/, or remove it
    REQUEST = "request"  # a folder of requests/: decisions too
    CONTACT = "contact"  # a folder of contacts/: decisions, see cbfs.tree.virtual.people_folders
    DIRECTORIES = "directories"  # policies: see cbfs.tree.virtual.directories_folder
    SCRATCH = "scratch"  # tmp/: anything, until unmount
    KEPT = "kept"  # ui_info/: anything, for good
    MAIL = "mail"  # mail/: what mail programs keep beside a Maildir, for good, as anything below


def _any(_name: str) -> bool:
    return True


def _of_config(name: str) -> bool:
    """config.toml, and the swap, backup, lock and scratch files of programs that save it."""
    return name != CONFIG_ERROR and (name.startswith(CONFIG) or is_scratch(name))


def _of_mail_programs(name: str) -> bool:
    """Hidden files and folders, as mail programs keep beside new/ and cur/: Maildirs of their own,
    for what is not sent yet, too."""
    return name.startswith(".") and not name.startswith(MAIL_OF_CONVERSATION)


def _of_policies(name: str) -> bool:
    """What a policy may be called while it is copied, and what programs write before they give it
    its name."""
    return not is_own(name) and not name.endswith(ERROR_SUFFIX)


@dataclass(frozen=True, slots=True)
class Rules:
    """0 where something is allowed, else the errno of its refusal. ``files``: make files and
    symbolic links, move and remove them, if they have a name that ``names`` says yes to.
    ``folders``: move folders of such names there, and unless ``mkdir`` says otherwise make them;
    they are of the area ``inside``."""

    files: int
    folders: int
    inside: Area
    names: Callable[[str], bool] = _any
    mkdir: int = 0


PERSON = frozenset((Area.REQUEST, Area.CONTACT))
"""The folders of people."""

DECIDED = PERSON | {Area.DIRECTORIES, Area.CONTACTS}
"""Where what a program writes is a decision, and no file when it is closed."""

RULES = {
    Area.FIXED: Rules(errno.EACCES, errno.EACCES, Area.FIXED),
    Area.ROOT: Rules(0, errno.EACCES, Area.FIXED, _of_config),
    Area.CONVERSATION: Rules(errno.EACCES, errno.EACCES, Area.CONVERSATION),
    Area.OUTBOX: Rules(errno.EACCES, 0, Area.DRAFTS),
    # moved in, a folder is whole; of one that is made and filled, nobody could tell when it is
    Area.DRAFTS: Rules(0, 0, Area.FOLDER_DRAFT, mkdir=errno.EPERM),
    Area.FOLDER_DRAFT: Rules(0, 0, Area.FOLDER_DRAFT),
    Area.CONTACTS: Rules(0, errno.EACCES, Area.FIXED, NEW_CONTACT.__eq__),
    Area.REQUESTS: Rules(errno.EACCES, errno.EACCES, Area.FIXED),
    Area.REQUEST: Rules(0, errno.EACCES, Area.FIXED, _DECISIONS.__contains__),
    Area.CONTACT: Rules(0, errno.EACCES, Area.FIXED, _DECISIONS.__contains__),
    Area.DIRECTORIES: Rules(0, errno.EACCES, Area.FIXED, _of_policies),
    Area.SCRATCH: Rules(0, 0, Area.SCRATCH),
    Area.KEPT: Rules(0, 0, Area.KEPT),
    Area.MAIL: Rules(0, 0, Area.KEPT, _of_mail_programs),
}


def file_rule(area: Area, name: str) -> int:
    """The rule for a file or symbolic link of that name: 0 or an errno."""
    rules = RULES[area]
    return rules.files or (0 if rules.names(name) else errno.EACCES)


def folder_rule(area: Area, name: str) -> int:
    """The rule for a folder that gets that name: 0 or an errno."""
    rules = RULES[area]
    return rules.folders or (0 if rules.names(name) else errno.EACCES)


def mkdir_rule(area: Area, name: str) -> int:
    """The rule for making a folder of that name: 0 or an errno. A hidden one is no message before
    it is renamed: programs put into such what they then move beside it (rsync --delay-updates)."""
    return (0 if name.startswith(".") else RULES[area].mkdir) or folder_rule(area, name)


def check(number: int) -> None:
    """Raise TreeError for a rule that is not 0."""
    if number:
        raise TreeError(number)


def is_scratch(name: str) -> bool:
    """Whether programs use such names for what is no document."""
    return bool(taken_for(name) or is_own(name) or backup_of(name) or _PROBE.match(name))


def is_lock(name: str) -> bool:
    """Whether editors call their lock, swap and rescue files so."""
    return _LOCKS.match(name) is not None


def backup_of(name: str) -> str:
    """What the file would be called whose backup has this name, empty for no backup."""
    match = _BACKUP.match(name)
    return match[1] if match else ""


def is_backup(name: str, there: Container[str], left: Mapping[str, float], now: float) -> bool:
    """Whether what gets this name among the names that are ``there`` is the backup of a file that
    is one of them, is being edited, or ``left`` just now (by when it did)."""
    base = backup_of(name)
    if not base:
        return False
    near = now - left.get(base, -math.inf) < QUIET
    return near or any(each in there for each in (base, *lock_names(base)))


def taken_for(name: str) -> str:
    """What no document it is taken for, in words, because a file has this name; else empty."""
    return _first(name, _TAKEN_FOR)


def folder_taken_for(name: str) -> str:
    """What no message it is taken for, in words, because a folder has this name; else empty."""
    return _first(name, _FOLDER_TAKEN_FOR)


def is_own(name: str) -> bool:
    """Whether file managers keep a file of this name for themselves in folders that they show."""
    return _OWN.match(name) is not None


def lock_names(name: str) -> tuple[str, ...]:
    """Names under which editors keep a lock or swap file for ``name``."""
    swaps = tuple(f".{name}.sw{letter}" for letter in "opnx")
    others = (f".~lock.{name}#", f".{name}.kate-swp", f".{name}.lock", f"{name}.lock")
    return (*swaps, f".#{name}", *others)


def _first(name: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    return next((what for pattern, what in patterns if pattern.match(name)), "")
