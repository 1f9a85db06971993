"""``cbfs onion-key``, the client's side of private servers: a key for each, in the folder
``tor/onion_auth`` of the account, and the line by which the server's operator admits it.
``cbfs.network.tor.config.client_keys`` reads them. Formats of tor(1), CLIENT AUTHORIZATION.
"""

import argparse
import base64
import sys
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.place import check_account
from cbfs.commands.options import add_account
from cbfs.network.tor.config import TorConfigError, client_keys
from cbfs_common.errors import CbfsError
from cbfs_common.onion import is_onion_host
from cbfs_common.primitives import KEY_SIZE, Random, dh_public
from cbfs_host.files import make_directory, write_file


def add_onion_key(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs onion-key`` takes."""
    parser.add_argument("address", metavar="ADDRESS", help="of the server, NAME.onion")
    add_account(parser)
    parser.set_defaults(run=_onion_key)


def _onion_key(options: argparse.Namespace) -> int:
    print(admission(options.account.absolute(), options.address, SYSTEM_RANDOM))
    print(
        "cbfs: give this line to the server's operator, for the file of --onion-clients;"
        " it is in effect from the next mount",
        file=sys.stderr,
    )
    return 0


def admission(account: Path, host: str, random: Random) -> str:
    """The line ``descriptor:x25519:KEY`` for a private server at ``host`` (an .onion address). The
    key is made when there is none. It is on the disk when this returns: a crash before leaves none.
    Raises CbfsError."""
    host = host.lower()
    if not is_onion_host(host):
        raise CbfsError(f"{host} is not a complete onion address", "it ends in .onion")
    check_account(account)
    service = host.removesuffix(".onion").rpartition(".")[2]
    folder = account / "tor" / "onion_auth"
    for key in client_keys(folder):
        if key.service == service:
            return _line(base64.b64decode(key.key + "="))
    secret = random.token(KEY_SIZE)
    text = f"{service}:descriptor:x25519:{_base32(secret)}\n"
    try:
        for directory in (account, account / "tor", folder):
            make_directory(directory)
        write_file(folder / f"{service}.auth_private", text.encode())
    except OSError as error:
        raise TorConfigError(
            f"cannot write to {folder}: {error.strerror}", "is the account directory yours?"
        ) from error
    return _line(secret)


def _line(secret: bytes) -> str:
    return f"descriptor:x25519:{_base32(dh_public(secret))}"


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")
