"""What a program says on standard error when something has gone wrong: a line ``error:``, and one
``hint:`` with what helps against it.

Imports little, as it is needed before all else is there. An error of the disk is known by its text
alone: LMDB's own classes belong to the stores.
"""


def reason_of(error: Exception) -> str:
    """What went wrong, without the path that LMDB puts in front."""
    return _text(error).rpartition(": ")[2]


def hint_of(error: Exception, otherwise: str) -> str:
    """What may help against an error of the system or of LMDB; ``otherwise`` when it is none of
    those that are known."""
    text = _text(error)
    if "Too many open files" in text:
        return "too few file descriptors: raise the limit (ulimit -n)"
    if "File too large" in text:
        return "files may not grow so large: raise the limit (ulimit -f)"
    if "MDB_MAP_FULL" in text or "Cannot allocate memory" in text:
        return "its address space is used up: raise the limit (ulimit -v)"
    if "No space" in text or "quota exceeded" in text:
        return "the disk is full: make room"
    if "Read-only" in text:
        return "the disk is read-only"
    if "ermission" in text or "not permitted" in text:
        return "check the files' owner"
    return otherwise


def _text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
