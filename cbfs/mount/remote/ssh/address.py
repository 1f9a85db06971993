"""Which account on which machine is meant by ``ssh://[USER@]HOST[:PORT][/ACCOUNT]``, and what
ssh(1) is told so that it is served."""

import os
import re
import shlex
from dataclasses import dataclass
from typing import Final

from cbfs_common.errors import CbfsError

SSH_SCHEME: Final = "ssh://"

PROGRAM_VARIABLE: Final = "CBFS_SSH"
"""Environment: the command in the place of ssh, with options of its own, as in GIT_SSH_COMMAND."""

OPTIONS: Final = (
    "-T",
    "-x",
    "-a",
    *("-o", "BatchMode=yes"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=2"),
)
"""Nobody is there to be asked, and nothing but the link is wanted."""

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.%+-]*"
_PLACE = re.compile(
    rf"(?:(?P<user>{_WORD})@)?(?:(?P<host>{_WORD})|\[(?P<six>[0-9A-Fa-f:.]+(?:%{_WORD})?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """``host``: as ssh is given it, maybe with a user. ``port``: 0 for what ssh's configuration
    says. ``account``: the directory there, empty for the default one. ``url``: as it was given."""

    host: str
    port: int
    account: str
    url: str

    def command(self, only: str) -> list[str]:
        """What to run, for one conversation or (empty) for all."""
        program = shlex.split(os.environ.get(PROGRAM_VARIABLE, "")) or ["ssh"]
        port = ["-p", str(self.port)] if self.port else []
        words = ["cbfs", "serve"]
        if self.account:
            words.append(f"--account={self.account}")
        if only:
            words.append(f"--only={only}")
        return [*program, *OPTIONS, *port, "--", self.host, shlex.join(words)]


def read_address(text: str) -> HubAddress:
    """The address in a text that begins with SSH_SCHEME. Raises CbfsError."""
    hint = "it is ssh://[USER@]HOST[:PORT][/ACCOUNT]; ACCOUNT is seen from the home directory there"
    place, _, account = text.removeprefix(SSH_SCHEME).partition("/")
    found = _PLACE.fullmatch(place)
    if found is None or not text.startswith(SSH_SCHEME):
        raise CbfsError(f"no address of a machine: {text!a}", hint)
    if account.startswith("-") or not account.isprintable():
        raise CbfsError(f"no account can be called so: {account!a}", hint)
    port = int(found["port"] or 0)
    if port > 65_535:
        raise CbfsError(f"there is no port {port}", hint)
    host = found["host"] or found["six"]
    return HubAddress(f"{found['user']}@{host}" if found["user"] else host, port, account, text)
