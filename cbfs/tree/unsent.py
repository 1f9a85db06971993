"""What is in the outbox and not sent yet: files and folders that are to be a message each, and what
is being sent of them."""

import errno
import time
from collections.abc import Iterator

from cbfs.tree.nodes import File, Folder, FolderDraft, Node, PendingSubmission
from cbfs.tree.rules import RULES, Area, TreeError


async def settle(*nodes: Node | None) -> None:
    """Before these change: take back what is being sent of them. What is in a transaction already
    is sent, and is a message when this returns."""
    for node in nodes:
        if node is None:
            continue
        inside: list[Node] = []
        if isinstance(node, Folder) and node.area is Area.DRAFTS:
            inside = list(node.entries.values())
        for each in (node, *inside):
            sending = sending_of(each)
            if sending is not None:
                sending.scope.cancel()
                await sending.done.wait()


def sending_of(node: Node) -> PendingSubmission | None:
    """What is under way of a node, or of the message that it is in; None for nothing."""
    if isinstance(node, File) and node.sending is not None:
        return node.sending
    if isinstance(node, Folder) and node.folder_draft is not None:
        return node.folder_draft.sending
    above = (folder_draft_of(directory) for directory, _name in node.names)
    return next((p.sending for p in above if p is not None and p.sending is not None), None)


def folder_draft_of(directory: Folder) -> FolderDraft | None:
    """The message that a folder is, or is in."""
    here = directory
    while here.area is Area.FOLDER_DRAFT and here.folder_draft is None and here.names:
        here = next(iter(here.names))[0]
    return here.folder_draft


def changed_in(directory: Folder) -> None:
    """Something in a folder has changed: if it is a message, or in one, that is another now."""
    draft = folder_draft_of(directory)
    if draft is not None:
        draft.version += 1
        draft.changed = time.monotonic()


def node_changed(node: Node) -> None:
    """A file or folder has changed: if it is in a folder that is a message, that is another now."""
    for directory in [node] if isinstance(node, Folder) else [d for d, _name in node.names]:
        changed_in(directory)


def is_sent(file: File) -> bool:
    """Whether it is a message as it is, or in a folder that is one, though it may still be shown as
    a draft."""
    return file.is_sent or any(directory.area is Area.FIXED for directory, _name in file.names)


def check_changeable(node: Node) -> None:
    """Raises TreeError(EACCES) for what is in a folder that has been sent."""
    if any(directory.area is Area.FIXED for directory, _name in node.names):
        raise TreeError(errno.EACCES)


def put_into(directory: Folder, above: Folder) -> None:
    """A folder is in the folder ``above`` now: what may be done in it and all below it, and whether
    it is a message."""
    left = [(directory, above)]
    while left:
        here, above = left.pop()
        here.area = RULES[above.area].inside
        is_draft = above.area is Area.DRAFTS
        here.folder_draft = FolderDraft(changed=time.monotonic()) if is_draft else None
        left += [(node, here) for node in here.entries.values() if isinstance(node, Folder)]


def state_of(draft: File | Folder) -> File | FolderDraft:
    """What is known of what ``drafts_in`` gives."""
    if isinstance(draft, File):
        return draft
    if draft.folder_draft is None:
        raise ValueError("a folder that is no message")
    return draft.folder_draft


def drafts_in(directory: Folder) -> Iterator[tuple[str, File | Folder]]:
    """What is, or is to be, a message each: the files of a folder of the outbox, and the folders
    that were moved there."""
    for name, node in list(directory.entries.items()):
        if isinstance(node, File) or (isinstance(node, Folder) and node.folder_draft is not None):
            yield name, node
