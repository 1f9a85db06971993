"""``cbfs send``: files are put into the outbox of a mount, and waited for until the servers of all
recipients have them.

A file that was sent is gone from the outbox; whoever has it open still has the attributes of the
message that it became, and so it is found among whatever else is sent meanwhile.
"""

import argparse
import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbfs.account.place import default_account
from cbfs.commands.mountpoints import is_in_a_mount, no_mount
from cbfs.commands.reading.progress import shown_progress
from cbfs.messages.file_names import free_name, shown_file_name
from cbfs.mount.mount_table import mountpoints_of
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import complain

LOOK = 0.25
"""Seconds between two looks at what becomes of the files."""

STRETCH = 1 << 20
"""Bytes that are copied at once."""

_WAITING = "queued"
_TAKEN_BACK = "cancelled"


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file that is sent: as it is called in the outbox, and its descriptor there."""

    name: str
    descriptor: int

    def says(self, attribute: str) -> str:
        """What the mount says of it; empty for nothing. Raises OSError when that is gone."""
        try:
            found = os.getxattr(f"/proc/self/fd/{self.descriptor}", f"user.cbfs.{attribute}")
        except OSError as error:
            if error.errno == errno.ENODATA:
                return ""
            raise
        return os.fsdecode(found)


def add_send(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs send`` takes."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument(
        "to", metavar="TO", help="a contact, several with commas, or a conversation"
    )
    parser.add_argument("--mount", type=Path, metavar="MOUNT", help="default: where you have one")
    parser.set_defaults(run=_send)


def _send(options: argparse.Namespace) -> int:
    mount = options.mount or _own_mount()
    if not is_in_a_mount(mount):
        raise no_mount(mount, None)
    for file in options.files:
        _check(file)
    folder = _folder(mount, options.to)
    with ExitStack() as stack:
        sent = [stack.enter_context(_put(file, folder)) for file in options.files]
        failed = 0
        for each in sent:
            try:
                print(f"{each.name}: {_waited_for(each)}", flush=True)
            except CbfsError as error:
                failed += 1
                complain("cbfs", f"{each.name}: {error}", error.hint)
    return 1 if failed else 0


def _own_mount() -> Path:
    mounts = mountpoints_of(default_account())
    if not mounts:
        raise CbfsError("your account is not mounted", "mount it, or name a mount: --mount MOUNT")
    return mounts[0]


def _check(file: Path) -> None:
    """Before anything is sent."""
    if file.is_dir():
        raise CbfsError(
            f"{file} is a folder", "copy it into tmp/ of the mount, and move it into the outbox"
        )
    try:
        with file.open("rb"):
            return
    except OSError as error:
        raise CbfsError(
            f"cannot read {file}: {(error.strerror or '').lower()}", "name a file that you can read"
        ) from error


def _folder(mount: Path, to: str) -> Path:
    """The folder of the outbox for these people, made if need be. Raises CbfsError."""
    if "/" in to or to in {"", ".", ".."}:
        raise CbfsError(f"{to!r} is nobody", "name a contact, or a folder under conversations/")
    folder = mount / "outbox" / to
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CbfsError(
            f"nothing can be sent to {to}: {(error.strerror or '').lower()}",
            "name a contact, or a folder under conversations/",
        ) from error
    return folder


@contextmanager
def _put(file: Path, folder: Path) -> Iterator[WatchedFile]:
    """Copy a file there, under a name that is free. Raises CbfsError, and then it is not sent; what
    is raised while it is waited for stays as it is."""
    name = free_name(shown_file_name(file.name), lambda each: (folder / each).exists())
    descriptor = _copied(file, folder / name)
    try:
        yield WatchedFile(name, descriptor)
    finally:
        os.close(descriptor)


def _copied(file: Path, target: Path) -> int:
    """Copy a file to ``target``, which is new; a descriptor of that. Raises CbfsError."""
    descriptor = -1
    try:
        with file.open("rb") as source, target.open("xb") as copy:
            descriptor = os.open(target, os.O_PATH | os.O_CLOEXEC)
            size = os.fstat(source.fileno()).st_size
            with shown_progress(f"{target.name}: copying", size) as bar:
                try:
                    while data := source.read(STRETCH):
                        copy.write(data)
                        bar.add(len(data))
                    copy.flush()
                except BaseException:
                    target.unlink(missing_ok=True)  # while it is open nothing of it is sent
                    raise
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        if not isinstance(error, OSError):
            raise
        raise CbfsError(
            f"{file} cannot be sent: {(error.strerror or '').lower()}",
            "nothing of it was sent: see status in the mount, and send it again",
        ) from error
    return descriptor


def _waited_for(file: WatchedFile) -> str:
    """How far it is with each recipient, when the servers of all have it. Raises CbfsError when it
    is not sent, or was taken back."""
    with shown_progress(file.name, 0) as bar:
        while True:
            try:
                state, error = file.says("state"), file.says("error")
                share = file.says("progress")
                is_message = bool(file.says("id"))
            except OSError as gone:
                raise CbfsError(
                    f"the mount has gone: {(gone.strerror or '').lower()}",
                    "mount it again: what was saved is sent then",
                ) from gone
            if state == _TAKEN_BACK or (is_message and _TAKEN_BACK in state):
                raise CbfsError(
                    "it was taken back before all had it", "send it again, if they are to have it"
                )
            if error and not is_message:
                raise _not_sent(error)
            if is_message and _WAITING not in state:
                return state
            bar.at(0, share or error or state)
            time.sleep(LOOK)


def _not_sent(text: str) -> CbfsError:
    """The error that a file beside the draft tells, on one line."""
    what, _, rest = text.strip().partition("\n")
    hint = rest.removeprefix("What to do: ").replace("\n", " ").strip(" .")
    beside = "the file stays in the outbox until you mend or remove it"
    return CbfsError(
        what.removeprefix("This was not sent: ").strip(" ."),
        f"{hint}; {beside}" if hint else beside,
    )
