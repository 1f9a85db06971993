"""The registrar of a name directory on this machine, in whose name accounts invite others to it.

Read in only where there is one: most servers have nothing to do with names.
"""

from dataclasses import dataclass
from pathlib import Path

from cbfs_common.errors import DecodeError
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.registration import Invite, Token
from cbfs_common.primitives import KEY_SIZE, sign_public


@dataclass(frozen=True, slots=True, repr=False)
class KeptRegistrar:
    """Who signs invites to the name ``directory`` (16): the Ed25519 ``seed`` (32)."""

    directory: bytes
    seed: bytes

    def token(self, seed: bytes, expires: int) -> bytes:
        """An invite (GRANTED_TOKEN_SIZE) for any name until then, of this seed (32)."""
        invite = Invite(self.directory, sign_public(seed), expires, "").signed(self.seed)
        return Token(seed, invite).encode()


def registrar_of(data: Path) -> KeptRegistrar | None:
    """That of a name directory with its data here; None where it has none, or does not run yet."""
    try:
        policy = parse_policy((data / "policy").read_text("ascii"))
        seed = (data / "registrar.key").read_bytes()
    except (OSError, UnicodeDecodeError, DecodeError):
        return None
    return KeptRegistrar(policy.directory, seed) if len(seed) == KEY_SIZE else None
