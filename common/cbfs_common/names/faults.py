"""What a client finds wrong with the name directory, by name. PROTOCOL.rst, Names: checks."""

from enum import Enum

from cbfs_common.errors import CbfsError
from cbfs_common.names.entry import Entry, Status


class Fault(Enum):
    """What is wrong with an answer, in the order of the checks."""

    MALFORMED = "it is malformed"
    SIGNATURE = "a signature of its head is wrong"
    QUORUM = "too few of the policy's verifiers have signed its head"
    NAMESPACE = "it is another directory's"
    CONFIG = "its verifiers run another configuration than the policy's"
    STALE = "its head was signed too long ago"
    FUTURE = "its head is signed for a time to come"
    CLOCK = "its head was signed earlier than one seen before"
    LAST_ROUND = "its round is not the last of its log"
    SMALLER = "its log is shorter than before"
    FORK = "its log contradicts the one seen before"
    FEED = "its list of changes is not that of its rounds"
    MAP_PROOF = "its proof is wrong"
    WRONG_NAME = "it is about another name"
    VANISHED = "it denies a name that it had"
    SAME_VERSION = "it has two entries of one version"
    ROLLED_BACK = "it has an older entry than before"
    CHAIN = "its entry does not follow from the one known"


def _span(seconds: int) -> str:
    """A length of time in its largest unit."""
    for size, unit in (365 * 86_400, "year"), (86_400, "day"), (3_600, "hour"), (60, "minute"):
        if seconds >= size:
            count = (seconds + size // 2) // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} seconds"


_CLOCK_HINT = "set it right; if it is, the directory's verifiers have stopped"
_HINTS = {
    Fault.STALE: _CLOCK_HINT,
    Fault.FUTURE: "set it right; if it is, tell the directory's operator",
    Fault.CLOCK: "check this computer's clock; if it is right, tell the directory's operator",
    Fault.NAMESPACE: "use the policy file of the directory that the account was made with",
}


class DirectoryLies(CbfsError):
    """An answer that fails a check. Nothing of it is believed."""

    _WHAT = "the name directory's answer"
    _HINT = "tell the directory's operator; nothing was changed here"

    def __init__(self, fault: Fault, ahead: int = 0) -> None:
        """``ahead``: by how many seconds this computer's clock is ahead of the time at which a
        quorum has signed, where that is what is wrong."""
        found = f"{self._WHAT} is refused: {fault.value}"
        if ahead:
            way = "ahead of" if ahead > 0 else "behind"
            found = f"this computer's clock is {_span(abs(ahead))} {way} the name directory's"
        super().__init__(found, _HINTS.get(fault, self._HINT))
        self.fault = fault
        self.ahead = ahead


class BundleRefused(DirectoryLies):
    """What somebody has sent as the proof of their own name fails a check. That says nothing of
    the directory."""

    _WHAT = "what the sender shows of their name"
    _HINT = "nothing was changed here"


class NameExpired(CbfsError):
    """The name's registration has run out, or was given up; ``entry`` is what it was."""

    def __init__(self, entry: Entry) -> None:
        if entry.status is Status.RELEASED:
            super().__init__("the name was given up by its owner", "ask them for another name")
        else:
            super().__init__("the name's registration has expired", "its owner must renew it")
        self.entry = entry


class NameChanged(CbfsError):
    """Somebody else, or the owner anew, has registered a known contact's name: ``entry``. Only
    the user can say whether it is the same person."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(
            "the name belongs to a new owner", "ask the person, by voice, before writing to them"
        )
        self.entry = entry
