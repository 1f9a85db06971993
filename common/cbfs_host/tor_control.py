"""The connection to tor's control port, for the client and for servers that are onion services.

stem is known here, in ``cbfs_host.onion_service`` and in the client's ``network/tor`` alone.
"""

import logging
import socket
from typing import Final

import stem.control
import stem.socket
import stem.util.log

stem.util.log.get_logger().propagate = False  # it reports the end of every connection as an error
logging.getLogger("stem").setLevel(logging.CRITICAL + 1)

CONNECT_TIMEOUT: Final = 2.0
"""Seconds to connect to a control socket or port of this machine."""


def controller(address: str) -> stem.control.Controller:
    """A controller, not yet authenticated, connected to ``address``: a path, or ``HOST:PORT`` with
    a numeric host. Blocks. Raises OSError, ValueError or stem.SocketError."""
    connection = _connect(address)
    try:
        return stem.control.Controller(connection)
    except BaseException:
        connection.close()
        raise


def _connect(address: str) -> stem.socket.ControlSocket:
    """A first connection finds out whether somebody is there: stem would not close its own when
    nobody is."""
    host, _, port = address.rpartition(":")
    is_path = "/" in address
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        probe.connect(address if is_path else (host, int(port)))
    if is_path:
        return stem.socket.ControlSocketFile(address)
    return stem.socket.ControlPort(host, int(port))
