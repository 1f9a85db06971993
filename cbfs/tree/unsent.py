"""What is in the outbox and not sent yet: files and folders that are to be a message each, and what
is being sent of them."""

import errno
import time
from collections.abc import Iterator

from cbfs.tree.nodes import Directory, File, Node, Parcel, Sending
from cbfs.tree.rules import RULES, Area, TreeError


async def settle(*nodes: Node | None) -> None:
    """Before these change: take back what is being sent of them. What is in a transaction already
    is sent, and is a message when this returns."""
    for node in nodes:
        if node is None:
            continue
        inside: list[Node] = []
        if isinstance(node, Directory) and node.area is Area.DRAFTS:
            inside = list(node.entries.values())
        for each in (node, *inside):
            sending = _sending(each)
            if sending is not None:
                sending.scope.cancel()
                await sending.done.wait()


def _sending(node: Node) -> Sending | None:
    if isinstance(node, File) and node.sending is not None:
        return node.sending
    if isinstance(node, Directory) and node.parcel is not None:
        return node.parcel.sending
    above = (parcel_of(directory) for directory, _name in node.names)
    return next((p.sending for p in above if p is not None and p.sending is not None), None)


def parcel_of(directory: Directory) -> Parcel | None:
    """The message that a folder is, or is in."""
    while directory.area is Area.PARCEL and directory.parcel is None and directory.names:
        directory = next(iter(directory.names))[0]
    return directory.parcel


def changed_in(directory: Directory) -> None:
    """Something in a folder has changed: if it is a message, or in one, that is another now."""
    parcel = parcel_of(directory)
    if parcel is not None:
        parcel.version += 1
        parcel.changed = time.monotonic()


def node_changed(node: Node) -> None:
    """A file or folder has changed: if it is in a folder that is a message, that is another now."""
    for directory in [node] if isinstance(node, Directory) else [d for d, _name in node.names]:
        changed_in(directory)


def check_changeable(node: Node) -> None:
    """Raises TreeError(EACCES) for what is in a folder that has been sent."""
    if any(directory.area is Area.FIXED for directory, _name in node.names):
        raise TreeError(errno.EACCES)


def put_into(directory: Directory, above: Directory) -> None:
    """A folder is in the folder ``above`` now: what may be done in it and all below it, and whether
    it is a message."""
    left = [(directory, above)]
    while left:
        here, above = left.pop()
        here.area = RULES[above.area].inside
        here.parcel = Parcel(changed=time.monotonic()) if above.area is Area.DRAFTS else None
        left += [(node, here) for node in here.entries.values() if isinstance(node, Directory)]


def state_of(draft: File | Directory) -> File | Parcel:
    """What is known of what ``drafts_in`` gives."""
    if isinstance(draft, File):
        return draft
    if draft.parcel is None:
        raise ValueError("a folder that is no message")
    return draft.parcel


def drafts_in(directory: Directory) -> Iterator[tuple[str, File | Directory]]:
    """What is, or is to be, a message each: the files of a folder of the outbox, and the folders
    that were moved there."""
    for name, node in list(directory.entries.items()):
        if isinstance(node, File) or (isinstance(node, Directory) and node.parcel is not None):
            yield name, node
