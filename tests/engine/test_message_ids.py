"""The salt of a message belongs to its draft: who restores a backup sends nothing a second time."""

import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.commands.export import write_export
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.interface import Outgoing
from cbfs.messages.model import Message
from cbfs.tree.nodes import File, Folder
from tests.engine.test_engine import NO_TOR, account, read, send
from tests.engine.test_engine import until as settled
from tests.support.world import ENVIRONMENT, WAIT, program, world
from tests.tree.test_tree import Mount, run, until

LATER = 4_000_000_000 * 10**9


async def prepare(mount: Mount) -> None:
    """A letter, and a folder of photos, which wait for their date."""
    tree = mount.tree
    folder = await mount.changes.mkdir(tree.outbox, "bob")
    letter = await mount.save(tree.tmp, "letter.txt", b"hello")
    photos = await mount.changes.mkdir(tree.tmp, "photos")
    await mount.save(photos, "one.jpg", b"one")
    for node in (letter, photos):
        await mount.changes.describe(node, None, LATER)
    for name in ("letter.txt", "photos"):
        await mount.changes.rename(tree.tmp, name, folder, name, replace=False)


async def let_go(mount: Mount) -> list[tuple[bytes, bytes]]:
    """Send them: (conversation, salt) of each."""
    folder = mount.tree.outbox.entries["bob"]
    assert isinstance(folder, Folder)
    for name in ("letter.txt", "photos"):
        await mount.changes.describe((folder.alias or folder).entries[name], None, 1)
        count = len(mount.backend.sent)
        await until(lambda before=count: len(mount.backend.sent) > before)  # type: ignore[misc]
    origins = [(message.conversation, message.origin) for message, _data in mount.backend.sent]
    return [(place, origin.salt) for place, origin in origins if origin is not None]


def test_a_restored_draft_is_the_message_that_was_sent(tmp_path: Path) -> None:
    sent: list[list[tuple[bytes, bytes]]] = []

    async def send(mount: Mount) -> None:
        sent.append(await let_go(mount))

    async def change_and_send(mount: Mount) -> None:
        folder = mount.tree.outbox.entries["bob"]
        assert isinstance(folder, Folder)
        letter, photos = folder.entries["letter.txt"], folder.entries["photos"]
        assert isinstance(letter, File)
        assert isinstance(photos, Folder)
        one = photos.entries["one.jpg"]
        assert isinstance(one, File)
        for file in (letter, one):
            await mount.tree.contents.write(file, 0, b"another")
            await mount.changes.describe(file, None, LATER)
            await mount.tree.contents.save(file)
        sent.append(await let_go(mount))

    place, backup, other = (tmp_path / name for name in ("place", "backup", "other"))
    place.mkdir()
    run(place, prepare)
    shutil.copytree(place, backup)
    shutil.copytree(place, other)
    for where in (place, backup):
        run(where, send)
    run(other, change_and_send)
    first, again, changed = sent
    assert first == again
    assert len(set(first)) == 2
    assert {salt for _conversation, salt in changed}.isdisjoint(salt for _c, salt in first)


def test_the_same_again_is_another_message(tmp_path: Path) -> None:
    """In the second in which what was sent is there, and later."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"hello")
        await until(lambda: len(mount.backend.sent) == 1)
        await tree.contents.truncate(file, 0)
        await tree.contents.write(file, 0, b"hello")
        await until(lambda: len(mount.backend.sent) == 2)
        await mount.save(folder.alias or folder, "again", b"hello")
        await until(lambda: len(mount.backend.sent) == 3)
        assert len({message.id for message, _data in mount.backend.sent}) == 3

    run(tmp_path, body)


def texts(engine: Engine) -> list[bytes]:
    """All that is there, in order."""
    return [
        read(engine, message)
        for conversation in engine.conversations()
        for message in engine.messages(conversation.id)
    ]


async def send_draft(engine: Engine, data: bytes, seed: bytes) -> Message:
    """What was a draft with this seed, to bob."""
    real = engine.send

    async def seeded(outgoing: Outgoing) -> Message:
        return await real(replace(outgoing, seed=seed))

    with mock.patch.object(engine, "send", seeded):
        return await send(engine, ("bob",), data)


async def problems(place: Path) -> tuple[str, ...]:
    async with running(place, NO_TOR) as engine:
        return engine.report().problems


def test_a_recipient_drops_the_double_of_a_draft_that_was_sent_after_the_backup(
    tmp_path: Path,
) -> None:
    """By real servers: exported, sent, restored, and sent once more."""
    seed, file, again = bytes(range(32)), tmp_path / "export", tmp_path / "again"

    async def talk(alice_at: Path, bob_at: Path, *said: bytes, last: bytes) -> list[bytes]:
        async with running(alice_at, NO_TOR) as alice, running(bob_at, NO_TOR) as bob:
            for data in said:
                await send_draft(alice, data, seed)
            await send(alice, ("bob",), last)
            await settled(lambda: last in texts(bob), "the last to come")
            return texts(bob)

    with world(tmp_path) as here:
        alice, bob = account(here, "alice"), account(here, "bob")
        trio.run(partial(talk, alice, bob, last=b"before"))
        with opened_store(alice, SYSTEM_RANDOM) as store:
            write_export(store, file, b"secret", SYSTEM_RANDOM)
        trio.run(partial(talk, alice, bob, b"draft", last=b"since"))
        where = ("init", "--account", again, "--restore", file, "--export-passphrase-fd", "0")
        done = subprocess.run(
            program("cbfs", *where, "--no-tor"),
            input=b"secret\n",
            capture_output=True,
            timeout=WAIT,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 0, done.stderr
        told = "; ".join(trio.run(partial(problems, again)))
        assert "began anew" in told
        assert "bob has not answered since" in told
        found = trio.run(partial(talk, again, bob, b"draft", last=b"after"))
        assert found == [b"before", b"draft", b"since", b"after"]
