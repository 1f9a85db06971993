"""The outbox under programs that write, fail, stop in the middle, rename and remove, mounts that
end, and time that passes: what is sent is what a program was told is written, whole; nothing with
content goes unless a program removes it; and what is held for a minute has a reason that is told.
"""

import errno
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cbfs.messages.content import read_content
from cbfs.tree.nodes import File, Folder
from cbfs.tree.rules import TreeError
from cbfs_common.limits import BLOB_SIZE_MAX
from tests.mount.test_held_names import pass_time
from tests.tree.test_tree import Mount, refused, run, until

NAMES = ("f", "f~", "f.bak", "g.tmp", "2026", "v.part", ".hidden", "Thumbs.db", "x.error")
EXAMPLES = int(float(os.environ.get("FUZZ_S", "20")) * 2)
"""Each takes half a second."""

Step = tuple[str, str, str, bool]

ACTIONS = (
    *("write", "append", "anew", "patch", "fail", "open", "truncate", "remove", "rename", "link"),
    *("move in", "move in", "close", "minute", "look"),
)
names = st.just("f") | st.sampled_from(NAMES)
steps = st.tuples(st.sampled_from(ACTIONS), names, names, st.booleans())
plans = st.lists(st.lists(steps, min_size=1, max_size=12), min_size=1, max_size=3)


@dataclass
class Known:
    """What programs know of a file: what they were told is in it, and whether one has failed."""

    content: bytes
    failed: bool = False
    writing: bool = False


@dataclass
class Model:
    """``whole``: contents that a file had when all that was asked for had been done; ``left``: what
    was in the outbox when a mount ended."""

    number: int = 0
    whole: set[bytes] = field(default_factory=set)
    left: list[Known] = field(default_factory=list)


def messages(mount: Mount) -> list[bytes]:
    """What has been sent, by this mount and those before."""
    backend = mount.backend
    with backend.store.read() as reader:
        return [
            read_content(reader, message.content, 0, message.content.size)
            for conversation in backend.conversations()
            for message in backend.messages(conversation.id)
        ]


class Programs:
    """Those at work in one mount."""

    def __init__(self, mount: Mount, model: Model, folder: Folder) -> None:
        self.mount = mount
        self.model = model
        self.begun = folder
        self.files: dict[File, Known] = {}
        kept = {known.content: known for known in model.left}
        for node in self.folder.entries.values():
            if isinstance(node, File) and node not in self.files:
                self.files[node] = kept[mount.read(node)]
        there = {known.content for known in self.files.values()} | set(messages(mount))
        assert {known.content for known in model.left} <= there, "it has gone with the mount"

    @property
    def folder(self) -> Folder:
        return self.begun.alias or self.begun

    async def do(self, step: Step) -> None:
        what, name, other, flag = step
        there = self.folder.entries.get(name)
        if what == "look":
            await trio.sleep(0.01)
        elif what == "minute":
            pass_time(self.mount)
            await until(self.all_is_told)
        elif what == "close":
            for file in [file for file, known in self.files.items() if known.writing]:
                await self.close(file)
        elif what == "move in" and not self.is_written(there):
            await self.move_in(name, fails=flag)
        elif what in {"write", "open"} and there is None:
            file = self.open(self.folder, name)
            await self.write(file)
            if what == "write":
                await self.close(file)
        elif isinstance(there, File) and not self.is_written(there):
            with suppress(TreeError):  # it has been sent meanwhile, and is elsewhere
                await self.change(what, name, there, other)

    async def move_in(self, name: str, *, fails: bool) -> None:
        tree = self.mount.tree
        file = self.open(tree.tmp, name)
        await self.write(file, fails=fails)
        await self.close(file)
        old = self.folder.entries.get(name)
        await self.mount.changes.rename(tree.tmp, name, self.folder, name, replace=True)
        self.replaced(old)

    async def change(self, what: str, name: str, file: File, other: str) -> None:
        folder = self.folder
        old = folder.entries.get(other)
        if what == "remove":
            await self.mount.changes.unlink(folder, name)
            self.forget(file)
        elif what == "rename":
            if old is not file and not self.is_written(old):
                await self.mount.changes.rename(folder, name, folder, other, replace=True)
                self.replaced(old)
        elif what == "patch":
            await self.patch(folder, name)
        elif what == "link":
            if old is None:
                await self.mount.changes.link(file, folder, other)
        else:
            self.open(folder, name)
            await self.write(
                file, anew=what == "anew", fails=what == "fail", cut=what == "truncate"
            )
            await self.close(file)

    def is_written(self, node: object) -> bool:
        return isinstance(node, File) and self.files[node].writing

    def replaced(self, node: object) -> None:
        if isinstance(node, File):
            self.forget(node)

    def forget(self, file: File) -> None:
        """A program has taken a name from it: with the last one it may go."""
        if not file.names:
            self.files.pop(file, None)

    def open(self, folder: Folder, name: str) -> File:
        there = folder.entries.get(name)
        if not isinstance(there, File):
            there = self.mount.changes.create(folder, name, 0o600, None)
        self.mount.tree.contents.opened(there)
        there.writers += 1
        there.handles += 1
        self.files.setdefault(there, Known(b"")).writing = True
        return there

    async def write(
        self, file: File, *, anew: bool = False, fails: bool = False, cut: bool = False
    ) -> None:
        tree, known = self.mount.tree, self.files[file]
        if cut:
            await tree.contents.truncate(file, 0)
            known.content, known.failed = b"", False
        self.model.number += 1
        data = b"text %d." % self.model.number
        start = 0 if anew else len(known.content)
        data += bytes(max(0, len(known.content) - start - len(data)))
        await tree.contents.write(file, start, data)
        known.content = known.content[:start] + data
        known.failed = known.failed and start > 0
        if fails:
            with refused(errno.EFBIG):
                await tree.contents.write(file, BLOB_SIZE_MAX, b"too far")
            known.failed = True

    async def patch(self, folder: Folder, name: str) -> None:
        """Write anew less than there is."""
        file = self.open(folder, name)
        known = self.files[file]
        self.model.number += 1
        data = b"%04d" % self.model.number  # shorter than what ``write`` writes
        await self.mount.tree.contents.write(file, 0, data)
        known.failed = known.failed and len(data) < len(known.content)
        known.content = data + known.content[len(data) :]
        await self.close(file)

    async def close(self, file: File) -> None:
        known = self.files[file]
        known.writing = False
        if not known.failed:
            self.model.whole.add(known.content)
        await self.mount.close(file)

    def check(self) -> None:
        sent = messages(self.mount)
        assert set(sent) <= self.model.whole, "it was sent, and was not whole"
        assert len(sent) == len(set(sent)), "it was sent twice"
        for file, known in self.files.items():
            here = file.names and self.mount.read(file) == known.content
            assert here or known.content in sent, "it has gone"

    def all_is_told(self) -> bool:
        status = self.mount.view.status.render().decode()
        held = [
            name
            for name, node in self.folder.entries.items()
            if isinstance(node, File) and not node.is_sent and name != "Thumbs.db"
        ]
        return all(f"/{name}: " in status for name in held)

    def end(self) -> None:
        """Those who write find no mount."""
        sent = messages(self.mount)
        self.model.left = [
            Known(known.content, known.failed or known.writing)
            for known in self.files.values()
            if known.content not in sent
        ]


async def play(mount: Mount, model: Model, steps: list[Step]) -> None:
    tree = mount.tree
    folders = [node for node in tree.outbox.entries.values() if isinstance(node, Folder)]
    folder = folders[0] if folders else await mount.changes.mkdir(tree.outbox, "bob")
    programs = Programs(mount, model, folder)
    for step in steps:
        await programs.do(step)
        programs.check()
    await tree.contents.save_all(list(programs.files))  # as the end of a mount does
    programs.check()
    programs.end()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans)
@example([[("write", "f", "f", False), ("move in", "f", "f", False)]])
def test_what_is_sent_is_whole_and_nothing_goes(plan: list[list[Step]]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as place:
        for one in plan:
            run(Path(place), lambda mount, one=one: play(mount, model, one))  # type: ignore[misc]
