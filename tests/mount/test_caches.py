"""What was removed is in no kernel's cache, in a mount of the account or of one conversation."""

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from tests.mount.test_window import Window, folder_with, refused
from tests.support.mounted import mounted
from tests.support.world import wait_for

pytestmark = pytest.mark.mount


def is_gone(path: Path) -> bool:
    """Whether nothing is there."""
    return refused(path) == errno.ENOENT


def stale(descriptor: int) -> bool:
    """Whether what it has open is no more."""
    try:
        os.pread(descriptor, 100, 0)
    except OSError as error:
        return error.errno == errno.ESTALE
    return False


@pytest.mark.parametrize("where", ["mount", "window"])
@pytest.mark.parametrize("by", ["mount", "window", "its end"])
@pytest.mark.parametrize("read", [False, True])
def test_what_is_removed_is_in_no_cache(where: str, by: str, *, read: bool) -> None:
    """A kernel was given a message with its opening, and keeps its name: neither gives
    away what was erased, by whatever mount."""
    with mounted() as mount:
        mount.order("keep")  # else names in windows go by themselves
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        opened = Window(mount, folder_with(mount, "bob"))
        try:
            (opened.outbox / "metadata.toml").write_text('lifetime = "7d"')
            (opened.outbox / "note").write_text("secret")
            mount.wait_messages("secret")
            folder = mount.path / "conversations" / opened.messages.name
            wait_for(lambda: list(opened.messages.glob("*Z-alice*")) or None, "it to be shown")
            (name,) = [path.name for path in folder.glob("*Z-alice*")]
            looked_at = folder if where == "mount" else opened.messages
            descriptor = os.open(looked_at / name, os.O_RDONLY)
            if read:
                assert os.pread(descriptor, 100, 0) == b"secret"
            if by == "its end":
                mount.order("end")
            else:
                ((folder if by == "mount" else opened.messages) / name).unlink()
            wait_for(partial(stale, descriptor), "it to be forgotten")
            os.close(descriptor)
            for path in (folder / name, opened.messages / name):
                wait_for(partial(is_gone, path), "its name to be forgotten")
        finally:
            opened.close()


def test_what_was_given_ahead_and_removed_is_not_read() -> None:
    """In a window, where messages are read one after the other."""
    with mounted() as mount:
        mount.order("keep")
        texts = [f"text {number}" for number in range(40)]
        for text in texts:
            mount.arrive("bob", text)
        mount.wait_messages(*(f"{text}\n" for text in texts), sender="bob")
        opened = Window(mount, folder_with(mount, "bob"))
        try:
            paths = sorted(opened.messages.glob("*Z-bob*"))
            assert [path.read_text() for path in paths[:10]] == [f"{text}\n" for text in texts[:10]]
            folder = mount.path / "conversations" / opened.messages.name
            held = [os.open(path, os.O_PATH) for path in paths[10:20]]
            for path in paths[10:20]:
                (folder / path.name).unlink()
            for path in paths[10:20]:
                wait_for(partial(is_gone, path), "its name to be forgotten")
            for descriptor in held:  # it was given ahead, and is not to be had by its inode
                with pytest.raises(OSError) as caught:
                    Path(f"/proc/self/fd/{descriptor}").read_bytes()
                assert caught.value.errno in {errno.ESTALE, errno.ENOENT}
                os.close(descriptor)
            left = [path.read_text() for path in sorted(opened.messages.glob("*Z-bob*"))]
            assert left == [f"{text}\n" for text in (*texts[:10], *texts[20:])]
        finally:
            opened.close()
