"""A fault of the program, in any of the places of the mount that programs or news feed, costs one
look, one request or one showing: what was saved becomes one message, what comes is shown."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from cbfs.messages.model import Message
from cbfs.tree.nodes import Folder
from tests.hostile.breaking import FAULTS, SECRET, breaking
from tests.mount.test_window import Window, folder_with
from tests.support.found import indexed
from tests.support.mounted import Mounted, mounted
from tests.support.world import WAIT, wait_for
from tests.support.world import run as run_program
from tests.tree.test_tree import Mount, run, until

TOLD = "a fault of this program, in its log"

PLACES = (
    "cbfs.tree.virtual.config_file.SettingsFile.look",
    "cbfs.outbox.loop.OutboxLoop._check_folder",
    "cbfs.outbox.loop.OutboxLoop._hold_links",
    "cbfs.outbox.loop.OutboxLoop._look",
    "cbfs.mount.view.MountView._add",
    "cbfs.outbox.outbox.Outbox.bind",
    "cbfs.outbox.submission.DraftSubmission._hand_over",
    "cbfs.outbox.submission.DraftSubmission._is_ready",
    "cbfs.outbox.submission.DraftSubmission._outgoing",
    "cbfs.outbox.submission.DraftSubmission.put_off",
    "cbfs.outbox.outbox.Outbox.verdict",
    "cbfs.outbox.error_files.ErrorFiles.drop_stale",
    "cbfs.outbox.error_files.ErrorFiles.show",
    "cbfs.messages.search_index.set_read",
    "cbfs.tree.virtual.metadata_file.MetadataFiles.look",
    "cbfs.tree.virtual.unread_folder.Unread.flush",
    "cbfs.tree.virtual.search_folders.SearchFolders.added",
    "tests.support.fake_backend.FakeBackend.send",
)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "outbox.loop.FAULT_PAUSE",
        "outbox.submission.RETRY",
        "outbox.submission.SHOWN_AFTER",
        "tree.virtual.unread_folder.LAG",
    ):
        monkeypatch.setattr(f"cbfs.{name}", 0.01)


@pytest.mark.parametrize("place", PLACES)
def test_the_outbox_survives_a_fault(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first calls fail. All that is saved becomes one message, and what comes is there."""

    async def body(mount: Mount) -> None:
        tree, backend = mount.tree, mount.backend
        people = ("bob", "carol")

        def sent() -> list[bytes]:
            return sorted(data for _message, data in backend.sent)

        wanted = []
        with breaking(place) as still:
            for number in range(FAULTS + 1):
                for person in people:
                    text = b"%s %d" % (person.encode(), number)
                    folder = tree.outbox.entries.get(person)
                    if not isinstance(folder, Folder):
                        folder = await mount.changes.mkdir(tree.outbox, f"{person} {number}")
                    await mount.save(folder, f"{number}.txt", text)
                    wanted.append(text)
                await until(lambda: sent() == sorted(wanted))
                message = await backend.arrive("bob", b"from bob %d" % number)
                assert shown(mount, message)
                mount.view.search_folders.unread.read_up_to(tree.message_node(message), 100)
            if "search_folders" not in place:  # what this has missed is unread until the next mount
                await until(lambda: not unread(mount))
            await until(lambda: still() < FAULTS)
        assert sent() == sorted(wanted), "a message was sent twice"
        for message, _data in backend.sent:
            assert shown(mount, message)
        assert TOLD in mount.view.status.render().decode()

    run(tmp_path, body)
    assert SECRET not in caplog.text


def shown(mount: Mount, message: Message) -> bool:
    """Whether it is in its folder."""
    folder, _drafts = mount.tree.folders(message.conversation)
    return message.name in folder.entries


def unread(mount: Mount) -> list[int]:
    """What is unread in the store, by serial."""
    with mount.backend.store.read() as reader:
        return [serial for serial, _day, new in indexed(reader) if new]


PLACES_OF_A_MOUNT = (
    "cbfs.tree.inodes.Inodes.forget",
    "cbfs.mount.attributes.Attributes.of",
    "cbfs.mount.notifier.Notifier._do",
    "cbfs.mount.notifier.Notifier._words",
    "cbfs.tree.watchers.Watchers.show",
)

PLACES_OF_WINDOWS = (
    "cbfs.mount.single.view.SingleInodes.forget",
    "cbfs.mount.single.operations.SingleOperations.appears",
    "cbfs.mount.single.operations.SingleOperations.close",
    "cbfs.mount.single.server.SingleServer._serve_one",
    "cbfs.mount.single.server._Session._answer",
)


@contextmanager
def broken_mount(place: str, faults: int = FAULTS) -> Iterator[tuple[Mounted, Path]]:
    """A mount in whose daemon ``place`` fails when the file is there."""
    with mounted() as mount:
        armed = mount.path.parent / "armed"
        mount.unmount()
        mount.program = ["tests.hostile.breaking", place, str(armed), str(faults)]
        mount.mount()
        yield mount, armed


def at_last(do: Callable[[], object]) -> None:
    """Each request of which a fault comes may fail: again, until none is left."""

    def tried() -> bool:
        try:
            do()
        except OSError:
            return False
        return True

    wait_for(tried, "what fails no more")


def lives(mount: Mounted) -> None:
    """Messages come in and go out, and status says that something was wrong."""
    for number in range(FAULTS + 1):
        text = f"from bob {number}"
        mount.arrive("bob", text)
        wait_for(partial(is_seen, mount, "bob", f"{text}\n"), text)
        at_last(partial((mount.path / "outbox" / folder_with(mount, "bob") / "n").write_text, text))
        wait_for(partial(is_seen, mount, "alice", text), text)
    wait_for(lambda: TOLD in (mount.path / "status").read_text(), "status to tell")
    assert SECRET not in mount.log()


def is_seen(mount: Mounted, sender: str, text: str) -> bool:
    """Whether one of somebody's messages says so."""
    return text in seen(mount, sender)


def seen(mount: Mounted, sender: str) -> list[str]:
    """What somebody's messages say, as far as they can be read at the moment."""
    with suppress(OSError):
        return mount.messages(sender)
    return []


@pytest.mark.mount
@pytest.mark.parametrize("place", PLACES_OF_A_MOUNT)
def test_the_mount_survives_a_fault(place: str) -> None:
    with broken_mount(place) as (mount, armed):
        folder = mount.path / "outbox" / "carol"
        folder.mkdir()
        armed.touch()
        for number in range(2 * FAULTS):
            at_last((folder / f"{number}.tmp").touch)
            at_last(partial((folder / f"{number}.tmp").unlink, missing_ok=True))  # and is forgotten
        lives(mount)
        assert mount.unmount() == 0


@pytest.mark.mount
@pytest.mark.parametrize("place", PLACES_OF_WINDOWS)
def test_a_fault_in_one_window_is_the_end_of_that_one_at_most(place: str) -> None:
    with broken_mount(place, 1) as (mount, armed):
        mount.arrive("bob", "before")
        mount.wait_messages("before\n", sender="bob")
        name = folder_with(mount, "bob")
        armed.touch()
        for number in range(2):
            use_a_window(mount, name, f"meanwhile {number}")
        opened = Window(mount, name)
        try:
            wait_for(lambda: "before\n" in opened.texts("bob"), "the window")
            mount.arrive("bob", "at last")
            wait_for(lambda: "at last\n" in opened.texts("bob"), "what comes")
        finally:
            opened.close()
        lives(mount)
        assert mount.unmount() == 0


def use_a_window(mount: Mounted, name: str, text: str) -> None:
    """As far as faults let one."""
    path = mount.path.parent / f"window {text}"
    path.mkdir()
    run_program("mount.cbfs", mount.account, path, "-o", f"only={name}")
    try:
        with suppress(OSError):
            list((path / "conversations" / name).iterdir())
        with suppress(OSError):
            (path / "outbox" / name / "x.tmp").touch()
        with suppress(OSError):
            (path / "outbox" / name / "x.tmp").unlink()
        mount.arrive("bob", text)
        wait_for(lambda: f"{text}\n" in seen(mount, "bob"), text)
    finally:
        lazy = ["fusermount3", "-uz", str(path)]
        subprocess.run(lazy, check=False, stderr=subprocess.DEVNULL, timeout=WAIT)
