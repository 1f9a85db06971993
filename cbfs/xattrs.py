"""The extended attributes of what the mount shows: ``user.cbfs.*``, all listed in mount.cbfs(8)."""

from datetime import UTC, datetime

from cbfs.model import Backend
from cbfs.nodes import File, MessageFile, Node

_XATTR = "user.cbfs."


def xattrs(node: Node, backend: Backend) -> dict[str, str]:
    """The attributes of a message or of a draft that cannot be sent: see mount.cbfs(8)."""
    if isinstance(node, MessageFile):
        message = backend.message(node.conversation, node.serial)
        if message is None:
            return {}
        state = ", ".join(f"{who}: {how.value}" for who, how in message.recipients)
        return {
            f"{_XATTR}sender": message.sender,
            f"{_XATTR}date": _moment(message.date),
            f"{_XATTR}received": _moment(message.received),
            f"{_XATTR}id": message.id.hex(),
            f"{_XATTR}state": state or "received",
        }
    if isinstance(node, File) and node.error:
        return {f"{_XATTR}error": node.error}
    return {}


def _moment(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
