"""Passphrases, the keyring, exports and restores."""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest
import trio

from cbfs.account import passphrase
from cbfs.account.account import SYSTEM_RANDOM, opened_store, reading_store
from cbfs.account.passphrase import Guard, by_keyring, by_passphrase, unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.commands.export import NotAnExport, read_export, restore_export, write_export
from cbfs.engine.running import running
from cbfs.messages import listings
from cbfs.storage.encoding import u32, u64
from cbfs.storage.root_key import RootError, WrongPassphrase
from cbfs.storage.store import Table
from cbfs_common.errors import CbfsError
from tests.engine.test_engine import NO_TOR, Recorder, account, read, send, until
from tests.support.stores import open_store
from tests.support.world import ENVIRONMENT, WAIT, World, program

SECRET = b"correct horse battery staple"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("p"), stack)


@pytest.fixture
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "MEMORY", 1_024)
    monkeypatch.setattr("cbfs.commands.export.MEMORY", 1_024)


def given(text: bytes) -> int:
    """A descriptor that says this."""
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    return reading


def cbfs(*words: str | Path, said: dict[str, bytes] | None = None) -> str:
    """Run a program of ours; options in ``said`` get descriptors. What it printed, or its error."""
    descriptors = [given(text) for text in (said or {}).values()]
    options = [f"{option}{number}" for option, number in zip(said or {}, descriptors, strict=True)]
    command = [part for word in options for part in word.split(" ")]
    name, *rest = words
    done = subprocess.run(
        [*program(str(name), *rest), *command],
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    for number in descriptors:
        os.close(number)
    for text in (said or {}).values():
        assert text.decode() not in done.stdout + done.stderr
    return done.stdout if done.returncode == 0 else f"{done.returncode}: {done.stderr}"


@pytest.mark.usefixtures("_cheap")
def test_a_passphrase_is_set_changed_and_removed(tmp_path: Path) -> None:
    guard = by_passphrase(SECRET, SYSTEM_RANDOM)
    with opened_store(tmp_path, SYSTEM_RANDOM, create=lambda: guard) as store:
        store.write(lambda writer: writer.put(Table.META, b"a", b"value"))

    def opens(word: bytes) -> None:
        unlock = unlocking(lambda: word)
        with opened_store(tmp_path, SYSTEM_RANDOM, unlock) as store, store.read() as reader:
            assert reader.get(Table.META, b"a") == b"value"

    opens(SECRET)
    with pytest.raises(WrongPassphrase):
        opens(b"wrong")
    opening = opened_store(tmp_path, SYSTEM_RANDOM)
    with pytest.raises(CbfsError, match="protected by a passphrase"), opening:
        pass

    def change(old: bytes, new: Guard) -> None:
        with opened_store(tmp_path, SYSTEM_RANDOM, unlocking(lambda: old)) as store:
            store.protect(new.protection, new.lock)

    change(SECRET, by_passphrase(b"another", SYSTEM_RANDOM))
    change(b"another", Guard())
    with opened_store(tmp_path, SYSTEM_RANDOM) as store, store.read() as reader:
        assert reader.get(Table.META, b"a") == b"value"


def test_costs_from_a_file_are_bounded() -> None:
    for passes, memory in ((1_000, 1_024), (1, 1 << 31), (0, 1_024), (1, 1)):
        with pytest.raises(CbfsError):
            passphrase.stretch(SECRET, bytes(16), passes, memory)


def test_what_a_descriptor_says() -> None:
    for text, expected in ((b"word\n", b"word"), (b"word", b"word"), (b"a b\nmore", b"a b")):
        descriptor = given(text)
        assert PassphraseSource(descriptor).once() == expected
        os.close(descriptor)
    for text in (b"", b"\n", b"x" * 2_000):
        descriptor = given(text)
        with pytest.raises(CbfsError):
            PassphraseSource(descriptor).once()
        os.close(descriptor)
    with pytest.raises(CbfsError):
        PassphraseSource(descriptor).once()


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.known.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.known[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.known.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError


def test_the_keyring_opens_an_account(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    ring = Ring()
    keyring.set_keyring(ring)
    try:
        unlock = unlocking(lambda: b"")
        guard = by_keyring("alice", SYSTEM_RANDOM)
        with opened_store(tmp_path, SYSTEM_RANDOM, create=lambda: guard):
            pass
        with opened_store(tmp_path, SYSTEM_RANDOM, unlock) as store:
            passphrase.forget(store.protect(Guard().protection, Guard().lock))
        assert not ring.known
        guard = by_keyring("alice", SYSTEM_RANDOM)
        with opened_store(tmp_path, SYSTEM_RANDOM) as store:
            store.protect(guard.protection, guard.lock)
        ring.known = dict.fromkeys(ring.known, "00" * 32)
        opening = opened_store(tmp_path, SYSTEM_RANDOM, unlocking(lambda: b""))
        with pytest.raises(RootError), opening:
            pass
        ring.known.clear()
        opening = opened_store(tmp_path, SYSTEM_RANDOM, unlocking(lambda: b""))
        with pytest.raises(CbfsError, match="keyring"), opening:
            pass
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize(
    ("made", "typed"),
    [
        ("schöne Grüße", "scho\u0308ne Gru\u0308ße"),
        ("scho\u0308n", "schön"),
        (
            "한국어 암호",
            "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 \u110b\u1161\u11b7\u1112\u1169",
        ),
        ("two words", "two\u00a0words"),  # Option-Space of a Mac
        ("of a file", "of a file\r"),
    ],
)
@pytest.mark.usefixtures("_cheap")
def test_a_passphrase_is_its_characters_however_they_are_typed(made: str, typed: str) -> None:
    first = PassphraseSource(given(f"{made}\n".encode())).twice()
    again = PassphraseSource(given(f"{typed}\n".encode())).once()
    guard = by_passphrase(first, SYSTEM_RANDOM)
    assert by_passphrase(again, SYSTEM_RANDOM).lock != guard.lock, "each has a salt of its own"
    assert unlocking(lambda: again)(guard.protection) == guard.lock


def test_a_passphrase_that_is_no_text_is_its_bytes() -> None:
    assert PassphraseSource(given(b"\xff\xfe words")).once() == b"\xff\xfe words"
    assert PassphraseSource(given(b"Case counts")).once() == b"Case counts"


@pytest.mark.mount
def test_programs_ask_for_the_passphrase(here: World) -> None:
    alice = here.account("alice")
    assert "protected" in cbfs(
        "cbfs", "passphrase", alice.account, said={"--passphrase-fd ": SECRET}
    )
    mount = ("mount.cbfs", alice.account, alice.mountpoint, "--no-tor")
    refused = cbfs(*mount)
    assert "there is no terminal to ask for the passphrase" in refused
    assert "passphrase_fd" in refused
    assert "the passphrase is wrong" in cbfs(*mount, said={"-o passphrase_fd=": b"wrong words"})
    assert not alice.mountpoint.is_mount()
    assert cbfs(*mount, said={"-o passphrase_fd=": SECRET}) == ""
    assert alice.mountpoint.is_mount()
    assert "unmount it" in cbfs("cbfs", "passphrase", alice.mountpoint, "--remove")
    (pid,) = alice.pids()
    assert Path(f"/proc/{pid}/limits").read_text().split("Max core file size")[1].split()[0] == "0"
    file = here.place / "alice.export"
    said = {"--passphrase-fd ": b"of the export", "--account-passphrase-fd ": SECRET}
    assert "records" in cbfs("cbfs", "export", alice.mountpoint, file, said=said)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    alice.unmount()
    place = here.place / "restored"
    said = {"--export-passphrase-fd ": b"of the export"}
    words = ("--restore", file, "--account", place, "--no-tor")
    restored = cbfs("cbfs", "init", *words, said=said)
    assert "alice is ready" in restored
    assert restored.endswith("MOUNTPOINT --no-tor\n")
    assert "already" in cbfs("cbfs", "init", "--restore", file, "--account", place, said=said)


def put(place: Path, count: int) -> None:
    store = open_store(place)
    for key, table in ((b"account", Table.META), (b"own", Table.META), (b"s" * 16, Table.SESSIONS)):
        store.write(lambda writer, key=key, table=table: writer.put(table, key, b"x"))  # type: ignore[misc]
    for number in range(count):
        key = content_key(number)
        store.write(lambda w, key=key: w.put(Table.CONTENT, key, key * 1_300))  # type: ignore[misc]
    store.close()


def content_key(number: int) -> bytes:
    return u64(number) + u32(0)


@pytest.mark.usefixtures("_cheap")
def test_an_export_holds_all_but_sessions_and_any_change_of_it_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    put(tmp_path / "old", 20)
    file = tmp_path / "export"
    with reading_store(tmp_path / "old", SYSTEM_RANDOM) as store:
        count = write_export(store, file, SECRET, SYSTEM_RANDOM)
        with store.read() as reader:
            whole = {(t, k): v for t in Table for k, v in reader.items(t)}
    assert (count.written, count.damaged) == (len(whole) - 1, 0)
    store = open_store(tmp_path / "new")
    restore_export(store, file, SECRET)
    store.close()
    store = open_store(tmp_path / "new")
    with store.read() as reader:
        again = {(t, k): v for t in Table for k, v in reader.items(t)}
    del whole[Table.SESSIONS, b"s" * 16]
    assert again == whole
    store.close()
    data = file.read_bytes()
    assert SECRET not in data
    with pytest.raises(NotAnExport, match="wrong"):
        list(read_export(file, b"wrong"))
    file.write_bytes(data.replace(b"cbfs export 7", b"cbfs export 1"))
    with pytest.raises(NotAnExport, match="another version"):
        list(read_export(file, SECRET))
    for bad in (
        *(data[:size] for size in (0, 20, 40, 41, 65_592, 65_593, len(data) - 1)),
        data + b"x",
        *(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(0, len(data), 5_000)),
    ):
        file.write_bytes(bad)
        with pytest.raises(CbfsError):
            list(read_export(file, SECRET))


@pytest.mark.usefixtures("_cheap")
def test_what_is_intact_in_a_damaged_store_is_exported(tmp_path: Path) -> None:
    put(tmp_path, 20)
    store = open_store(tmp_path)
    with store.read() as reader:
        place = reader.place(Table.CONTENT, content_key(7))
    with store._env.begin(write=True) as txn:
        sealed = bytearray(txn.get(place) or b"")
        sealed[-1] ^= 1
        txn.put(place, bytes(sealed))
    store.close()
    with reading_store(tmp_path, SYSTEM_RANDOM) as store:
        count = write_export(store, tmp_path / "export", SECRET, SYSTEM_RANDOM)
    assert count.damaged == 1
    found = [table for table, _key, _ in read_export(tmp_path / "export", SECRET)]
    assert found.count(Table.CONTENT) == 19


def test_an_account_restored_from_an_old_export_reads_everything_again(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("cbfs.receiving.receiver.PROMPT_AFTER", 0.2),
        ("cbfs.receiving.reassembly.ASK_FIRST", 0),
        ("cbfs.receiving.lost_state.LOST_FIRST", 50),
        ("cbfs.account.passphrase.MEMORY", 1_024),
        ("cbfs.commands.export.MEMORY", 1_024),
    ):
        monkeypatch.setattr(name, value)
    carol, david = account(here, "carol"), account(here, "david")
    file, place = here.place / "david.export", here.place / "david-restored"

    async def main() -> None:
        async with running(carol, NO_TOR) as c:
            at_carol = Recorder()
            c.attach(at_carol)
            async with running(david, NO_TOR) as d:
                view = Recorder()
                d.attach(view)
                await send(c, ("david",), b"before")
                await until(lambda: view.arrived, "the first message")
                await send(d, ("carol",), b"answer")
                await until(lambda: at_carol.arrived, "the answer")
                write_export(d.store, file, SECRET, SYSTEM_RANDOM)
                await send(c, ("david",), b"after the export")
                await until(lambda: len(view.arrived) == 2, "the second message")
            await send(c, ("david",), b"while david was away")
            with opened_store(place, SYSTEM_RANDOM, create=Guard) as store:
                restore_export(store, file, SECRET)
            async with running(place, NO_TOR) as d:
                view = Recorder()
                d.attach(view)
                await send(d, ("carol",), b"I am back")
                await until(lambda: len(at_carol.arrived) == 2, "david's word")
                await send(c, ("david",), b"welcome")

                def texts() -> set[bytes]:
                    (conversation,) = d.conversations()
                    return {read(d, m) for m in d.messages(conversation.id)}

                all_of_them = {
                    *(b"before", b"answer", b"after the export", b"while david was away"),
                    *(b"I am back", b"welcome"),
                }
                await until(lambda: texts() == all_of_them, "everything at david's")
                (known,) = d.conversations()
                assert len(d.messages(known.id)) == len(all_of_them)
                with d.store.read() as reader:
                    entries = list(listings.every(reader, known.id))
                assert entries == [listings.entry_of(m) for m in d.messages(known.id)]

    trio.run(main)


def test_a_name_is_kept_of_protections() -> None:
    guard = Guard()
    assert "lock" not in repr(replace(guard, lock=SECRET))
