"""The errors of the protocol. Every decoder raises one of these and nothing else.

``hint`` is what a user can do about it; programs print it on a line of its own.
Texts never hold a key, a name of a user or a word of a message.
"""


class CbfsError(Exception):
    """Base of all errors that a user, a peer or a disk can cause."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def in_full(self) -> str:
        """What has happened, and what to do about it, for where there is but one line."""
        return f"{self} ({self.hint})" if self.hint else str(self)


def in_words(error: Exception) -> str:
    """Any error in one line; ours in full."""
    if isinstance(error, CbfsError):
        return error.in_full
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror.lower()
        name = error.filename
        return f"{name}: {why}" if isinstance(name, str) else why
    return str(error) or type(error).__name__


class DecodeError(CbfsError):
    """Bytes that are not what their format says."""


class LimitError(CbfsError):
    """Input beyond a limit of ``cbfs_common.limits``; nothing was changed."""


class CryptoError(CbfsError):
    """A seal, signature, proof or key agreement that does not verify.

    Every failure to open looks the same from outside: catch this, not its text.
    """


class TransportError(CbfsError):
    """The connection to a server broke the transport protocol and must end."""
