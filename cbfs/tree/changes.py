"""What may be moved where, and over what; and how a change of names is undone."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cbfs.storage.store import StoreError
from cbfs.tree.nodes import Directory, File, Link, MessageFile, Node, Text
from cbfs.tree.rules import CONFIG, PERSON, RULES, Area, TreeError, check, file_rule
from cbfs.tree.virtual.conversation_folder import MessageFolder
from cbfs.tree.virtual.metadata_file import MetadataText, is_place
from cbfs.tree.virtual.quarantine_folder import UnreadFile
from cbfs_common.limits import FILE_NAME_MAX


def check_rename(
    node: Node, source: Directory, target: Directory, new: str, *, replace: bool
) -> None:
    """Raises TreeError when ``node`` may not be moved from ``source`` to ``new`` in ``target``."""
    old = target.entries.get(new)
    if old is not None and not replace:
        raise TreeError(errno.EEXIST)
    if isinstance(node, Directory):
        _check_folder(node, target, old)
    else:
        if isinstance(node, MessageFile | UnreadFile) and not file_rule(target.area, new):
            raise TreeError(errno.EXDEV)  # mv then copies, and removes it
        check(RULES[source.area].files or file_rule(target.area, new))
        if PERSON & {source.area, target.area}:
            raise TreeError(errno.EXDEV)  # a decision is written: mv then copies
        _check_texts(node, target, new, old)
        if isinstance(old, Directory):
            raise TreeError(errno.EISDIR)
    if len(new.encode()) > FILE_NAME_MAX:
        raise TreeError(errno.ENAMETOOLONG)


def _check_folder(node: Directory, target: Directory, old: Node | None) -> None:
    if isinstance(node, MessageFolder) and not RULES[target.area].folders:
        raise TreeError(errno.EXDEV)
    if not node.recorded:
        raise TreeError(errno.EACCES)
    check(RULES[target.area].folders)
    _check_outside(node, target)
    if old is not None and not isinstance(old, Directory):
        raise TreeError(errno.ENOTDIR)
    if isinstance(old, Directory) and (old.entries or not old.recorded):
        raise TreeError(errno.ENOTEMPTY)


def _check_outside(node: Directory, target: Directory) -> None:
    """A kernel sees to that for what it has moved itself, and may not know what the kernel of
    another mount does at this moment."""
    here = target
    while here is not node:
        if here.above is here:
            return
        here = here.above
    raise TreeError(errno.EINVAL)


def _check_texts(node: Node, target: Directory, new: str, old: Node | None) -> None:
    """What the daemon writes stays, but for the metadata.toml of a conversation."""
    moved, over = isinstance(node, MetadataText), is_place(target, new)
    if (isinstance(node, Text) and not moved) or (isinstance(old, Text) and not over):
        raise TreeError(errno.EACCES)
    if over and not isinstance(node, File):
        raise TreeError(errno.EACCES)
    if isinstance(node, Link) and target.area is Area.ROOT and new == CONFIG:
        raise TreeError(errno.EACCES)


@contextmanager
def or_else(undo: Callable[[], None]) -> Iterator[None]:
    """What the disk does not take has not happened."""
    try:
        yield
    except StoreError:
        undo()
        raise


def put_back(directory: Directory, name: str, is_: Node | None, was: Node | None) -> None:
    """Under this name there was ``was``; unless something else has come since."""
    if directory.entries.get(name) is not is_:
        return
    if is_ is not None:
        directory.remove(name)
    if was is not None:
        directory.add(name, was)
