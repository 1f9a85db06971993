"""Why the directory does not apply an operation. PROTOCOL.rst, Names: requests."""

from enum import IntEnum

from cbfs_common.errors import CbfsError


class Refusal(IntEnum):
    """Why an operation is not applied."""

    BAD_REQUEST = 1
    WRONG_NAMESPACE = 2
    OUT_OF_DATE = 3
    NAME_TAKEN = 4
    NO_COMMIT = 5
    NO_SUCH_NAME = 6
    WRONG_VERSION = 7
    WRONG_SIGNATURE = 8
    NAME_EXPIRED = 9
    COMMIT_REPEATED = 10
    WRONG_ORDER = 11
    TOO_MANY = 12
    STOPPED = 13
    NAME_FROZEN = 14
    NAME_RELEASED = 15
    NO_RECOVERY = 16
    WRONG_TERM = 17
    INVITE_NEEDED = 18
    INVITE_SPENT = 19
    WORK_NEEDED = 20
    REGISTRAR_NEEDED = 21
    NO_QUORUM = 22
    EQUIVOCATION = 23
    WRONG_CONFIG = 24
    FLOODED = 25


_WORDS = {
    Refusal.BAD_REQUEST: ("the operation is malformed", ""),
    Refusal.WRONG_NAMESPACE: ("the operation is for another directory", ""),
    Refusal.OUT_OF_DATE: ("the operation has expired", "make it again"),
    Refusal.NAME_TAKEN: ("the name is taken", "choose another name"),
    Refusal.NO_COMMIT: ("the name was not committed to in an earlier round", "try again"),
    Refusal.NO_SUCH_NAME: ("the name is not registered", ""),
    Refusal.WRONG_VERSION: ("the entry has changed since", "look it up and try again"),
    Refusal.WRONG_SIGNATURE: ("the operation is not signed by the owner", ""),
    Refusal.NAME_EXPIRED: (
        "the name has run out, too long ago to be renewed",
        "register another one, or this one again 120 days after its end: cbfs init",
    ),
    Refusal.COMMIT_REPEATED: ("the commitment was made already", ""),
    Refusal.WRONG_ORDER: ("registrations are not in the order of their commitments", ""),
    Refusal.TOO_MANY: ("the directory has too much to do", "try again later"),
    Refusal.STOPPED: ("the directory makes no rounds now", "tell its operator"),
    Refusal.NAME_FROZEN: ("the name is frozen", "only its recovery keys can free it"),
    Refusal.NAME_RELEASED: ("the name was given up by its owner", ""),
    Refusal.NO_RECOVERY: ("there is no recovery of the name to act on", ""),
    Refusal.WRONG_TERM: ("the name cannot be renewed to that time", "see the directory's terms"),
    Refusal.INVITE_NEEDED: (
        "the directory registers by invitation only",
        "ask its operator for an invite",
    ),
    Refusal.INVITE_SPENT: ("the invite has been used", "ask for another"),
    Refusal.WORK_NEEDED: ("the registration lacks the proof of work that is asked", "try again"),
    Refusal.REGISTRAR_NEEDED: (
        "a name so short needs the registrar's grant",
        "choose a longer name, or ask the directory's operator for an invite to it",
    ),
    Refusal.NO_QUORUM: (
        "too few of the directory's verifiers sign at present",
        "it may still be carried out once they do: look before you try again",
    ),
    Refusal.EQUIVOCATION: (
        "the directory has stopped, as one of its keys has signed two histories",
        "ask its operator for the evidence",
    ),
    Refusal.FLOODED: ("too many registrations are under way", "try again tomorrow"),
    Refusal.WRONG_CONFIG: ("the configuration does not follow from the present one", ""),
}


class OperationRefused(CbfsError):
    """An operation that is not valid where it stands; nothing was changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(*_WORDS[refusal])
        self.refusal = refusal
