"""The extended attributes of what the mount shows: ``user.cbfs.*``, all listed in mount.cbfs(8)."""

from pathlib import Path

from cbfs.account.place import ACCOUNT_ATTRIBUTE
from cbfs.interface import Backend
from cbfs.messages.file_names import moment
from cbfs.messages.lifetimes import setting, words
from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues.progress import arriving, sent_share
from cbfs.tree.nodes import ROOT, File, Folder, MessageFile, Node
from cbfs.tree.virtual.conversation_folder import MessageFolder
from cbfs.tree.virtual.quarantine_folder import UnreadFile
from cbfs.tree.virtual.virtual_directory import VirtualDirectory

PREFIX = "user.cbfs."


def xattrs(node: Node, backend: Backend, account: Path | None = None) -> dict[str, str]:
    """The attributes of a message, a conversation, a draft, an envelope, or the root of the mount
    of the account directory ``account``, by name; empty for all else."""
    if account is not None and node.inode == ROOT:
        return {ACCOUNT_ATTRIBUTE: str(account)}
    found: dict[str, str] = {}
    if isinstance(node, MessageFile):
        message = backend.message(node.conversation, node.serial)
        found = _of_message(message, backend) if message else {}
    elif isinstance(node, File):
        found = _of_file(node, backend)
    elif isinstance(node, Folder) and node.folder_draft is not None:
        found = {"state": node.folder_draft.hold, "error": node.folder_draft.error}
    elif isinstance(node, UnreadFile):
        found = {"error": node.reason}
    elif isinstance(node, MessageFolder):
        message = backend.message(*node.message)
        found = _of_message(message, backend) if message else {}
    elif isinstance(node, VirtualDirectory) and node.conversation is not None:
        found = _of_folder(node.conversation, backend)
    return {PREFIX + name: value for name, value in found.items() if value}


def _of_file(file: File, backend: Backend) -> dict[str, str]:
    """Of a draft; of one that was sent, which is there for who has it open, those of the message,
    or that it was taken back."""
    if file.message is None or file.sent != file.version:
        return {"state": file.hold, "error": file.error}
    message = backend.message(file.message.conversation, file.message.serial)
    return _of_message(message, backend) if message else {"state": "cancelled"}


def _of_message(message: Message, backend: Backend) -> dict[str, str]:
    with backend.store.read() as reader:
        share = sent_share(reader, message)
    waiting = [who for who, how in message.recipients if how is Delivery.QUEUED]
    shown = backend.people.shown
    state = ", ".join(f"{shown(who)}: {how.value}" for who, how in message.recipients)
    return {
        "sender": shown(message.sender),
        "date": _moment(message.date),
        "received": _moment(message.received),
        "id": message.id.hex(),
        "conversation": message.conversation.hex(),
        "state": state or "received",
        "unconfirmed": "yes" if message.doubts else "",
        "error": "; ".join(filter(None, map(backend.trouble, waiting))),
        "progress": share,
        "lifetime": words(message.lifetime.seconds),
        "ends": _moment(message.ends) if message.ends else "",
    }


def _of_folder(key: bytes, backend: Backend) -> dict[str, str]:
    with backend.store.read() as reader:
        shares = [
            f"{part.file_name or 'a file'} from {backend.people.shown(part.who)}: {part.share}"
            for part in arriving(reader, key)
        ]
        kept = setting(reader, key).lifetime
    return {
        "id": key.hex(),
        "progress": ", ".join(shares),
        "lifetime": words(kept.seconds),
    }


def _moment(milliseconds: int) -> str:
    return moment(milliseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
