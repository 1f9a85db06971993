"""The connection to the daemon that has an account mounted."""

import os
import socket
from pathlib import Path

from cbfs.mount.single.wire import CREDENTIALS, SOCKET
from cbfs_common.errors import CbfsError


class NotServed(CbfsError):
    """No daemon has the account."""


def connected(account: Path) -> socket.socket:
    """A connection to the daemon that has the account in this directory, which is this user's. By
    way of a descriptor, as the path of a socket must be short. Raises NotServed, CbfsError."""
    hint = f"mount the whole account first: mount.cbfs {account} DIR"
    try:
        folder = os.open(account, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise CbfsError(f"there is no account in {account}", "cbfs init makes one") from error
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
    except OSError as error:
        connection.close()
        raise NotServed(f"the account in {account} is not mounted", hint) from error
    finally:
        os.close(folder)
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    if CREDENTIALS.unpack(data)[1] != os.getuid():
        connection.close()
        raise CbfsError(f"the account in {account} is mounted by somebody else", hint)
    return connection
