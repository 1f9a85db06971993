"""Somebody who shows the keys of a server and has other secrets."""

from cbfs_common.wire.transport import ServerSecret, server_id


def shown_as(own: ServerSecret, public: bytes) -> ServerSecret:
    """What somebody has who shows the ``public`` keys of a server and has the secrets ``own``."""
    made = ServerSecret(own.encoded)
    made.public, made.key = public, server_id(public)
    return made
