"""What else the mount shows and does: quarantine/, df, full disks, leftovers, attributes."""

import errno
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cbfs.messages.queues.delivery_queue import add_jobs, job_for
from cbfs.messages.queues.progress import arriving, sending, sent_share
from cbfs.messages.queues.quarantine import Keeping, QuarantinedEnvelope, Why
from cbfs.mount.quota import RESERVE, errno_of
from cbfs.receiving.reassembly import Arrivals, Reception, store_part
from cbfs.storage.store import CannotWrite, Table, Writer
from cbfs.tree.nodes import Folder, MessageFile
from cbfs.tree.restore import empty_tmp
from cbfs.tree.xattrs import xattrs
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.messages.body import Part
from tests.mount.test_mount import refused
from tests.support.mounted import Mounted, mounted
from tests.support.parts import HERE
from tests.support.world import WAIT, wait_for
from tests.tree.test_tree import Mount, run, until


def test_quarantine_is_there_while_it_has_something(tmp_path: Path) -> None:
    envelopes = {why: os.urandom(ENVELOPE_SIZE) for why in (Why.NOISE, Why.FAR)}

    def keep(writer: Writer, unread: QuarantinedEnvelope) -> None:
        Keeping(writer).keep(unread)

    async def body(mount: Mount) -> None:
        tree, store = mount.tree, mount.backend.store
        assert "quarantine" not in tree.root.entries
        for why in (Why.NOISE, Why.FAR):
            for _ in range(2):  # it may come again
                unread = QuarantinedEnvelope(envelopes[why], why)
                await store.commit(partial(keep, unread=unread))
        mount.view.status_changed()
        folder = tree.lookup(tree.root, "quarantine")
        assert isinstance(folder, Folder)
        assert list(folder.entries) == ["00000001.envelope", "00000002.envelope"]
        for node, envelope in zip(folder.entries.values(), envelopes.values(), strict=True):
            assert node.size == ENVELOPE_SIZE
            assert mount.read(node) == envelope
        reasons = [xattrs(n, mount.backend)["user.cbfs.error"] for n in folder.entries.values()]
        assert "missing" in reasons[1]
        for name in ("00000003.envelope", "1.envelope", "metadata.toml", "00000001"):
            assert name not in folder.entries
        for name in list(folder.entries):
            await mount.changes.unlink(folder, name)
        assert "quarantine" not in tree.root.entries

    async def again(mount: Mount) -> None:
        assert "quarantine" not in mount.tree.root.entries

    run(tmp_path, body)
    run(tmp_path, again)


def test_tmp_is_empty_after_the_end(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree, store = mount.tree, mount.backend.store
        await mount.save(tree.tmp, "f", b"gone")
        await mount.save(await mount.changes.mkdir(tree.tmp, "folder"), "g", bytes(100_000))
        await mount.changes.symlink(tree.tmp, "link", "f", None)
        await mount.save(tree.ui_info, "kept", b"kept")
        await store.commit(empty_tmp(tree))
        with store.read() as reader:
            assert reader.count(Table.NODES) == 1
            assert reader.count(Table.CONTENT) == 1

    run(tmp_path, body)


def test_what_a_draft_waits_for_is_an_attribute(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"hello")
        just = {"user.cbfs.state": "it was just changed"}
        await until(lambda: xattrs(file, mount.backend) == just)

    run(tmp_path, body, grace=3600.0)


def test_progress_of_what_is_sent(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(folder, "big.bin", bytes(100_000))
        await until(lambda: mount.backend.sent)
        ((message, _data),) = mount.backend.sent
        (conversation,) = mount.backend.conversations()
        store = mount.backend.store
        job = job_for(message, conversation)
        await store.commit(lambda writer: add_jobs(writer, message, job))
        there, _ = mount.tree.folders(conversation.id)
        with store.read() as reader:
            share = sending(reader, "bob")
            assert share is not None
            assert (share.done, share.count, share.size) == (0, job.count, 100_000)
            assert sent_share(reader, message) == "bob: 0 % of 100,000 bytes"
        node = there.entries[message.name]
        assert isinstance(node, MessageFile)
        found = xattrs(node, mount.backend)
        assert found["user.cbfs.progress"] == "bob: 0 % of 100,000 bytes"
        assert found["user.cbfs.state"] == "bob: queued"

    run(tmp_path, body)


def test_progress_of_what_arrives_survives_the_mount(tmp_path: Path) -> None:
    people = ("alice", "bob")

    async def first(mount: Mount) -> None:
        await mount.backend.arrive("bob", b"hello")
        (conversation,) = mount.backend.conversations()

        def change(writer: Writer) -> None:
            arrivals = Arrivals({conversation.id: conversation})
            receiving = Reception("alice", 10**12, 0, receipts=False, directories=HERE)
            for number in (0, 2):
                part = Part(
                    *(
                        bytes([1]) * 16,
                        conversation.id,
                        (),
                        HERE.people(people),
                        "",
                        10**12,
                        "big.bin",
                    ),
                    *(number, 4, 4_000, bytes(32), bytes(1_000), b""),
                )
                store_part(writer, arrivals, receiving, "bob", part)
            assert arrivals.parts == 2

        await mount.backend.store.commit(change)

    async def second(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        with mount.backend.store.read() as reader:
            (part,) = arriving(reader, conversation.id)
            assert part.share == "50 % of 4,000 bytes"
            assert not list(arriving(reader, bytes(16)))
        folder, _ = mount.tree.folders(conversation.id)
        found = xattrs(folder, mount.backend)
        assert found["user.cbfs.progress"] == "big.bin from bob: 50 % of 4,000 bytes"

    run(tmp_path, first)
    run(tmp_path, second)


def test_errno_of_a_store_that_cannot_be_written() -> None:
    def of(cause: Exception) -> int:
        error = CannotWrite("the store cannot be written")
        error.__cause__ = cause
        return errno_of(error)

    assert of(OSError(errno.EDQUOT, "x")) == errno.EDQUOT
    assert of(OSError(errno.EIO, "x")) == errno.EIO
    assert of(ValueError("mdb_txn_commit: No space left on device")) == errno.ENOSPC


@contextmanager
def on_small_disk(size: int) -> Iterator[Mounted]:
    """A mount whose account is on a disk of its own."""
    with tempfile.TemporaryDirectory(prefix="cbfs-mount-", dir="/var/tmp") as place:
        mount = Mounted(Path(place))
        account = str(mount.account)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "cbfs-test", account], check=True
        )
        try:
            mount.mount()
            yield mount
        finally:
            mount.close()
            subprocess.run(["umount", account], check=True, timeout=WAIT)


@pytest.mark.mount
def test_a_full_disk_is_told_at_write_and_loses_nothing() -> None:
    with on_small_disk(RESERVE + (24 << 20)) as mount:
        mount.run("mkdir ui_info/x; echo before > ui_info/x/before")
        left = os.statvfs(mount.path)
        assert 0 < left.f_bavail * left.f_frsize <= 24 << 20
        with refused(errno.ENOSPC), (mount.path / "ui_info" / "big").open("wb") as file:
            for _ in range(64):
                file.write(os.urandom(1 << 20))
        full = os.statvfs(mount.path)
        assert full.f_bavail < left.f_bavail
        assert mount.run("cat ui_info/x/before") == "before\n"
        (mount.path / "ui_info" / "big").unlink()
        mount.run("mkdir outbox/bob; echo hello > outbox/bob/hi")
        mount.wait_messages("hello\n")


@pytest.mark.mount
def test_a_quota_is_shown_by_df_and_told_at_write_and_stops_no_arrival() -> None:
    with mounted() as mount:
        mount.run("mkdir ui_info/x; echo before > ui_info/x/before")
        disk = os.statvfs(mount.path)
        mount.run("""echo 'quota = "16 MiB"' > config.toml""")
        wait_for(lambda: os.statvfs(mount.path).f_blocks == 4_096 or None, "the quota in df")
        left = os.statvfs(mount.path)
        assert left.f_frsize == 4_096
        assert left.f_blocks < disk.f_blocks
        assert 0 < left.f_bavail < left.f_blocks
        big = mount.path / "ui_info" / "big"
        written = 0
        with refused(errno.EDQUOT), big.open("wb", buffering=0) as file:
            for _ in range(64):
                written += file.write(os.urandom(1 << 20))
        assert 8 << 20 < written <= 16 << 20
        full = os.statvfs(mount.path)
        assert full.f_bavail < left.f_bavail // 2
        assert full.f_blocks == left.f_blocks
        with refused(errno.EDQUOT):
            (mount.path / "ui_info" / "more").write_bytes(bytes(16 << 20))
        mount.arrive("bob", "hello all the same")
        mount.wait_messages("hello all the same\n", sender="bob")
        big.unlink()
        (mount.path / "ui_info" / "more").write_bytes(bytes(1 << 20))
        mount.run("""echo 'quota = ""' > config.toml""")
        wait_for(lambda: os.statvfs(mount.path).f_blocks > 4_096 or None, "the disk in df")


@pytest.mark.mount
def test_a_quota_that_is_used_up_hinders_nobody_in_lifting_it() -> None:
    with mounted() as mount:
        (mount.path / "ui_info" / "big").write_bytes(os.urandom(17 << 20))
        mount.run("""echo 'quota = "16 MiB"' > config.toml""")
        wait_for(lambda: os.statvfs(mount.path).f_bavail == 0 or None, "the quota in df")
        with refused(errno.EDQUOT):
            (mount.path / "ui_info" / "more").write_bytes(b"more")
        mount.run("""echo 'quota = ""' > config.toml""")
        wait_for(lambda: os.statvfs(mount.path).f_bavail > 0 or None, "the disk in df")


@pytest.mark.mount
def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    size = 60 << 20
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * (size >> 20))
    with mounted() as mount:
        before = mount.memory()
        mount.run(f"cp {large} tmp/large; cmp {large} tmp/large")
        assert mount.memory() - before < 24 << 20


@pytest.mark.mount
def test_what_is_open_at_the_end_is_told_and_not_lost() -> None:
    with mounted("grace=3600") as mount:
        with (mount.path / "ui_info" / "f").open("wb", buffering=0) as file:
            file.write(b"before ")
            busy = subprocess.run(
                ["fusermount3", "-u", mount.path], capture_output=True, text=True, check=False
            )
            assert busy.returncode != 0
            assert "busy" in busy.stderr
            mount.send(signal.SIGTERM)
            wait_for(lambda: not mount.path.is_mount(), "the mountpoint to be free")
            file.write(b"after")
        assert mount.wait() == 0
        assert "still open" in mount.log()
        mount.mount()
        assert mount.run("cat ui_info/f") == "before after"


@pytest.mark.mount
def test_readers_and_writers_that_are_interrupted_wedge_nothing(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(20 << 20))
    with mounted() as mount:
        mount.run(f"cp {large} tmp/large")
        for command in ("cat tmp/large", "cp tmp/large tmp/copy", "find . -type f", "ls -lR"):
            for _ in range(5):
                with subprocess.Popen(
                    ["sh", "-c", f"exec {command}"],
                    cwd=mount.path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                ) as program:
                    if program.stdout is None:
                        raise AssertionError("no stdout")
                    if command != "cp tmp/large tmp/copy":
                        program.stdout.read(1)
                    program.send_signal(signal.SIGINT)
                    program.wait(WAIT)
        mount.run(
            f"cmp {large} tmp/large; rm -f tmp/copy; cp {large} tmp/copy; cmp {large} tmp/copy"
        )
