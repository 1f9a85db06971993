"""What all verifiers of a directory agree on; clients pin its hash. PROTOCOL.rst, Names:
configuration."""

from dataclasses import dataclass
from hashlib import sha256

from cbfs_common.names_note import NoteKey
from cbfs_common.names_policy import Policy
from cbfs_common.profile import Address

CONFIG_LABEL = "cbfs1 names config"


@dataclass(frozen=True, slots=True)
class Config:
    """``log``: the sequencer's key, whose name is the namespace. ``witnesses``: the verifiers'
    keys by name; ``quorum``: the one that must sign. ``lifetime`` of a registration in seconds."""

    log: NoteKey
    witnesses: tuple[tuple[str, NoteKey], ...]
    quorum: str
    lifetime: int

    @property
    def namespace(self) -> str:
        """The directory's name for itself."""
        return self.log.name

    def encode(self) -> str:
        """The text that is hashed."""
        witnesses = "".join(f"witness {name} {key.encode()}\n" for name, key in self.witnesses)
        return (
            f"{CONFIG_LABEL}\nlog {self.log.encode()}\nregistration open\n"
            f"lifetime {self.lifetime}\n{witnesses}quorum {self.quorum}\n"
        )

    def digest(self) -> bytes:
        """SHA-256 of the text (32)."""
        return sha256(self.encode().encode("ascii")).digest()

    def policy(self, server: Address) -> Policy:
        """The policy for clients that reach the directory at ``server``."""
        return Policy(self.log, server, self.digest(), self.witnesses, (), self.quorum)
