"""What the programs say of a disk that does not take or give what it should.

They know it by an error's text alone: LMDB's own errors belong to the stores.
"""


def reason_of(error: Exception) -> str:
    """What went wrong, without the path that LMDB puts in front."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.rpartition(": ")[2]


def hint_of(error: Exception, otherwise: str) -> str:
    """What may help against an error of a write or of opening; ``otherwise`` when it is none of
    those that are known."""
    text = str(error)
    if "Too many open files" in text:
        return "too few file descriptors: raise the limit (ulimit -n)"
    if "File too large" in text:
        return "files may not grow so large: raise the limit (ulimit -f)"
    if "MDB_MAP_FULL" in text or "Cannot allocate memory" in text:
        return "its address space is used up: raise the limit (ulimit -v)"
    if "No space" in text:
        return "the disk is full: make room"
    if "Read-only" in text:
        return "the disk is read-only"
    if "ermission" in text:
        return "check the files' owner"
    return otherwise
