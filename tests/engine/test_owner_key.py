"""A name whose owner key is kept apart from the account: what the client does by itself, what takes
the key, and what somebody with a copy of the account can do. Real clients, a real directory."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.account.passphrase import Guard
from cbfs.commands.export import restore_export, write_export
from cbfs.commands.init import make
from cbfs.commands.owner import kept_apart
from cbfs.commands.owner.kept_apart import KeyKind, OwnerKey, read_seed, write_seed
from cbfs.commands.owner.name_owner import Owner
from cbfs.contacts.words import seed_words
from cbfs.engine.running import running
from cbfs.names.directory import Directory
from cbfs.names.own_name import read_own
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.names.changes import apply_change
from cbfs_common.names.entry import NO_KEYS, Entry, Keys, Status
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import NEVER, Operation, OperationKind, OperationRefused, Refusal
from cbfs_common.primitives import sign_public
from cbfs_common.profile import parse_address
from cbfs_host.files import write_beside_others
from tests.engine.test_engine import NO_TOR, until
from tests.engine.test_names_over_years import TERM, Years, both_write, renewed, years
from tests.support.killing import Kill, every_point
from tests.support.names_moved import DAY, Moved
from tests.support.world import World, make_easy

__all__ = ["years"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.contacts.monitor.LOOKUP_DELAY", 0.1)
    monkeypatch.setattr("cbfs.engine.renewal.SOON", 0.1)
    monkeypatch.setattr("cbfs.engine.renewal.LOOK", 0.1)


def account(place: Path) -> Account:
    with opened_store(place, SYSTEM_RANDOM) as store:
        found = load_account(store)
    assert found is not None
    return found


def own(place: Path) -> Entry:
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        entry = read_own(reader)
    assert entry is not None
    return entry


def keys_in(place: Path) -> set[bytes]:
    """The public key of each 32 bytes that stand anywhere in a record."""
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        values = [value for _key, value in reader.items(Table.META)]
    return {
        sign_public(value[at : at + 32])
        for value in values
        if len(value) < 2_000
        for at in range(len(value) - 31)
    }


async def refused(work: Callable[[], object], what: str) -> None:
    with pytest.raises(CbfsError, match=what) as error:
        await trio.to_thread.run_sync(work)
    assert error.value.hint


def test_the_account_does_not_hold_the_owner_key_and_keeps_its_name(years: Years) -> None:
    async def body(made: Moved) -> None:
        key = made.place / "owner"
        bob = await made.init("bob", owner_key=key)
        assert key.stat().st_mode & 0o777 == 0o600
        seed = read_seed(key, KeyKind.OWNER, "bob")
        assert key.read_text().split()[-24:] == list(seed_words(seed))
        entry = made.entry("bob")
        assert entry.owners.keys == (sign_public(seed),)
        found = keys_in(bob)
        assert entry.agent in found, "else nothing would be found"
        assert sign_public(seed) not in found
        before = own(bob)
        made.jump(TERM - 70 * DAY)
        async with running(bob, NO_TOR) as engine:
            await renewed(engine, before)
            assert not engine.lapse
            assert not engine.alarm
        assert made.entry("bob").version == 2
        await refused(lambda: made.owner(bob).renew(), "needs no renewal yet")

    years(body)


def test_an_account_with_its_owner_key_has_it(years: Years) -> None:
    async def body(made: Moved) -> None:
        bob = await made.init("bob")
        assert made.entry("bob").owners.keys[0] in keys_in(bob)
        assert not made.entry("bob").agent
        await refused(lambda: made.owner(bob).suspend(), "stays frozen")
        await refused(lambda: made.owner(bob, made.place / "x").rotate(None), "is in the account")

    years(body)


def test_what_changes_the_name_takes_the_owner_key(years: Years) -> None:
    async def body(made: Moved) -> None:
        key, other = made.place / "owner", made.place / "owner of carol"
        bob = await made.init("bob", owner_key=key)
        await made.init("carol", owner_key=other)
        elsewhere = replace(parse_address(made.server), port=9)
        for wrong, what in ((None, "takes the owner key"), (other, "holds no owner key of bob")):
            owner = made.owner(bob, wrong)
            for work in (
                lambda owner=owner: owner.rotate(None),
                lambda owner=owner: owner.rotate(None, stolen=True),
                lambda owner=owner: owner.move(elsewhere),
                lambda owner=owner: owner.take_out(made.place / "another"),
                lambda owner=owner: owner.cancel(),
                lambda owner=owner: owner.release("bob"),
                lambda owner=owner: owner.certify(made.place / "certificate"),
            ):
                await refused(work, what)
        (made.place / "forged").write_text(other.read_text().replace("carol", "bob"))
        await refused(lambda: made.owner(bob, made.place / "forged").rotate(None), "not the owner")
        assert made.entry("bob").version == 1
        before = account(bob)
        await made.do(lambda: made.owner(bob, key).rotate(None))
        entry, after = made.entry("bob"), account(bob)
        assert entry.version == 2
        assert (entry.owners, entry.agent) == (own(bob).owners, after.agent_key)
        assert entry.owners.keys == (sign_public(read_seed(key, KeyKind.OWNER, "bob")),)
        for field in ("transport", "signing", "auth", "kem", "agent"):
            assert getattr(after, field) != getattr(before, field), field
        assert not after.owner
        await made.do(lambda: made.owner(bob, key).release("bob"))
        assert made.entry("bob").status is Status.RELEASED

    years(body)


def test_an_export_has_no_owner_key_that_is_kept_apart(years: Years) -> None:
    """What is made of it again is as the account was: that key alone changes the name."""

    async def body(made: Moved) -> None:
        key, file, again = (made.place / name for name in ("owner", "export", "again"))
        bob = await made.init("bob", owner_key=key)
        with opened_store(bob, SYSTEM_RANDOM) as store:
            write_export(store, file, b"secret", SYSTEM_RANDOM)
        with opened_store(again, SYSTEM_RANDOM, create=Guard) as store:
            restore_export(store, file, b"secret")
        seed = read_seed(key, KeyKind.OWNER, "bob")
        assert sign_public(seed) not in keys_in(again)
        assert not account(again).owner
        assert account(again) == account(bob)
        await refused(lambda: made.owner(again).rotate(None), "takes the owner key")
        await made.do(lambda: made.owner(again, key).rotate(None))
        assert made.entry("bob").owners.keys == (sign_public(seed),)
        assert account(again).agent_key == made.entry("bob").agent

    years(body)


def test_the_words_are_asked_for_where_there_is_no_file(
    years: Years, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(made: Moved) -> None:
        key = made.place / "owner"
        bob = await made.init("bob", owner_key=key)
        seed = read_seed(key, KeyKind.OWNER, "bob")
        key.unlink()
        typed = " ".join(word[:4] for word in seed_words(seed)).upper()
        monkeypatch.setattr(
            "cbfs.commands.owner.kept_apart.ask_hidden", lambda prompt, lacking: typed
        )
        await made.do(lambda: made.owner(bob).rotate(None))
        assert made.entry("bob").version == 2

    years(body)


@pytest.mark.parametrize("how", ["within", "through a link", "there", "of another"])
def test_a_place_that_an_owner_key_must_not_be_in(years: Years, how: str) -> None:
    async def body(made: Moved) -> None:
        place, path = made.place / "bob", made.place / "owner"
        match how:
            case "within":
                path = place / "owner"
            case "through a link":
                (made.place / "link").symlink_to(place)
                path = made.place / "link" / ".." / "bob" / "owner"
            case "there":
                path.write_text("a text of mine\n")
            case _:
                path.write_text("cbfs owner key of carol: keep it apart\n")
        text = path.read_text() if path.exists() else ""
        with pytest.raises(CbfsError):
            await made.init("bob", owner_key=path)
        assert not path.exists() or path.read_text() == text
        with opened_store(await made.init("carol"), SYSTEM_RANDOM):
            pass
        for work in (
            lambda: made.owner(made.place / "carol").rotate(made.place / "carol" / "recovery"),
            lambda: made.owner(made.place / "carol").certify(made.place / "carol" / "frost"),
            lambda: made.owner(made.place / "carol").take_out(made.place / "carol" / "owner"),
        ):
            await refused(work, "own directory")

    years(body)


def test_who_begins_again_with_another_file_is_told_which_is_the_right_one(years: Years) -> None:
    """The name was registered, and then the computer was switched off."""

    async def body(made: Moved) -> None:
        first, second = made.place / "first", made.place / "second"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("cbfs.commands.init.write_own", _cut_off)
            with pytest.raises(CbfsError, match="cut off"):
                await made.init("bob", owner_key=first)
        entry = made.entry("bob")
        with pytest.raises(CbfsError, match="another owner key") as told:
            await made.init("bob", owner_key=second)
        assert "first try" in told.value.hint
        await made.init("bob", owner_key=first)
        assert made.entry("bob") == own(made.place / "bob") == entry

    years(body)


def _cut_off(*_: object) -> None:
    raise CbfsError("cut off")


async def attack(made: Moved, copy: Path) -> None:
    """All that somebody with a copy can try at the directory, with each key that is in it."""
    held, known = account(copy), made.entry("bob")
    seeds = [held.transport, held.signing, held.auth, held.agent, held.kem[:32], held.kem[32:]]
    thief = Keys(1, (sign_public(held.agent),))
    for kind in (kind for kind in OperationKind if 3 <= kind <= 9):
        free = kind is OperationKind.FREEZE
        named = kind in (OperationKind.ROTATE, OperationKind.RECOVER)
        for seed in seeds:
            operation = Operation(
                kind,
                made.config.directory,
                "bob",
                known.incarnation,
                0 if free else known.version + 1,
                ZERO if free else known.digest(),
                NEVER if free else known.round + 99,
                owners=thief if named else NO_KEYS,
                profile=b"thief's" if kind is OperationKind.UPDATE else b"",
                until=known.expires + TERM // 4 if kind is OperationKind.RENEW else 0,
            ).signed((seed,))
            allowed = seed == held.agent and kind in (OperationKind.RENEW, OperationKind.FREEZE)
            if not allowed:
                outcome = made.core.round([operation.encode()], int(made.clock()))
                refusal = outcome.refused[operation.encode()]
                assert refusal in (Refusal.WRONG_SIGNATURE, Refusal.NO_RECOVERY)
                with pytest.raises(OperationRefused):  # and no quorum of liars could say so
                    apply_change(known, operation, known.round + 1, int(made.clock()))
    assert made.entry("bob") == known


def test_a_copy_of_the_account_can_freeze_the_name_and_the_owner_key_frees_it(
    years: Years,
) -> None:
    async def body(made: Moved) -> None:
        key = made.place / "owner"
        alice, bob = await made.init("alice"), await made.init("bob", owner_key=key)
        for place in (alice, bob):
            make_easy(place)
        await both_write(alice, bob, "hello")
        copy = made.place / "copy"
        shutil.copytree(bob, copy)
        made.jump(TERM // 2)
        await attack(made, copy)
        for work in (
            lambda: made.owner(copy).rotate(None, stolen=True),
            lambda: made.owner(copy).take_out(made.place / "thief"),
            lambda: made.owner(copy).release("bob"),
        ):
            await refused(work, "takes the owner key")
        await made.do(lambda: made.owner(copy).renew())
        async with running(bob, NO_TOR) as engine:
            await until(lambda: "somebody has renewed it" in engine.alarm, "bob to be told")
        for _ in range(2):
            await made.do(lambda: made.owner(copy).suspend())
        assert made.entry("bob").status is Status.SUSPENDED
        async with running(bob, NO_TOR) as engine:
            await until(lambda: "frozen with the agent key" in engine.alarm, "bob to be told")
        await refused(lambda: made.owner(copy).renew(), "needs no renewal yet")
        await made.do(lambda: made.owner(bob, key).rotate(None, stolen=True))
        entry = made.entry("bob")
        assert (entry.status, entry.agent) == (Status.ACTIVE, account(bob).agent_key)
        for work in (lambda: made.owner(copy).suspend(), lambda: made.owner(copy).renew()):
            with pytest.raises(CbfsError):
                await trio.to_thread.run_sync(work)
        assert made.entry("bob") == entry
        await both_write(alice, bob, "with new keys")

    years(body)


def test_a_lost_account_s_name_is_taken_back_by_its_owner_key_at_once(years: Years) -> None:
    async def body(made: Moved) -> None:
        key = made.place / "owner"
        alice, bob = await made.init("alice"), await made.init("bob", owner_key=key)
        make_easy(alice)
        copy = made.place / "copy"
        shutil.copytree(bob, copy)
        await made.do(lambda: made.owner(copy).suspend())
        shutil.rmtree(bob)
        fresh, server = made.place / "fresh", parse_address(made.server)
        for wrong in (None, made.place / "nothing"):
            with pytest.raises(CbfsError):
                await made.do(
                    lambda wrong=wrong: made.owner(fresh, wrong).take_back(  # type: ignore[misc]
                        "bob", server, made.policy
                    )
                )
        assert not fresh.exists()
        await made.do(lambda: made.owner(fresh, key).take_back("bob", server, made.policy))
        with opened_store(fresh, SYSTEM_RANDOM) as store:  # as if it had not heard of the end
            store.write(lambda writer: writer.delete(Table.META, Meta.OWN))
        await made.do(lambda: made.owner(fresh, key).take_back("bob", server, made.policy))
        entry = made.entry("bob")
        assert (entry.incarnation, entry.status) == (1, Status.ACTIVE)
        assert entry.agent == account(fresh).agent_key
        make_easy(fresh)
        await both_write(alice, fresh, "hello")

    years(body)


def test_a_recovered_name_may_have_its_owner_key_apart(years: Years) -> None:
    async def body(made: Moved) -> None:
        bob, recovery, key = await made.init("bob"), made.place / "recovery", made.place / "owner"
        await made.do(lambda: made.owner(bob).rotate(recovery))
        fresh, server = made.place / "fresh", parse_address(made.server)

        def recover() -> int:
            return made.owner(fresh).recover("bob", server, made.policy, recovery, key)

        assert await trio.to_thread.run_sync(recover)
        due, known, key = made.entry("bob").due, key, made.place / "another"
        write_seed(made.place / "there", KeyKind.OWNER, "bob")
        for each in (key, made.place / "there"):  # it would begin anew, and wait once more
            key = each
            with pytest.raises(CbfsError, match="has not the owner key with which"):
                await trio.to_thread.run_sync(recover)
        assert not (made.place / "another").exists()
        assert made.entry("bob").due == due
        key = known
        made.jump(8 * DAY)
        assert await trio.to_thread.run_sync(recover) == 0
        entry = made.entry("bob")
        assert entry.owners.keys == (sign_public(read_seed(key, KeyKind.OWNER, "bob")),)
        assert entry.agent == account(fresh).agent_key
        assert entry.owners.keys[0] not in keys_in(fresh)

    years(body)


def test_who_could_not_give_a_name_up_keeps_it(years: Years) -> None:
    """What was refused is not held against them: it is renewed, and shouted about."""

    async def body(made: Moved) -> None:
        key = made.place / "owner"
        bob = await made.init("bob", owner_key=key)
        copy = made.place / "copy"
        shutil.copytree(bob, copy)
        await made.do(lambda: made.owner(copy).suspend())
        with pytest.raises(OperationRefused, match="frozen with its agent key"):
            await made.do(lambda: made.owner(bob, key).release("bob"))
        await made.do(lambda: made.owner(bob, key).rotate(None, stolen=True))
        before = own(bob)
        made.jump(TERM - 70 * DAY)
        async with running(bob, NO_TOR) as engine:
            await renewed(engine, before)
            assert not engine.alarm
        await made.do(lambda: made.owner(bob, key).rotate(None))
        held, entry = account(bob), made.entry("bob")
        seed = read_seed(key, KeyKind.OWNER, "bob")
        operation = Operation(
            OperationKind.RELEASE,
            made.config.directory,
            "bob",
            entry.incarnation,
            entry.version + 1,
            entry.digest(),
            entry.round + 99,
        ).signed((seed,))
        assert held.agent
        assert not made.core.round([operation.encode()], int(made.clock())).refused
        async with running(bob, NO_TOR) as engine:
            await until(lambda: "given your name up" in engine.alarm, "bob to be told")

    years(body)


# Moving an owner key out


def cut_off(place: Path, number: int) -> int:
    """``cbfs name owner-key --move-to``, killed at one of its steps."""
    here, name = place.parent, f"bob{number}"
    url = (here / "url").read_text()
    make(name, place / "account", url, here / "policy", NO_TOR, _silent)
    kill = Kill(number)
    written, commit, submit = write_beside_others, Store.commit, Directory._submit

    async def committed(self: Store, *arguments: Any) -> Any:
        kill.point()
        result = await commit(self, *arguments)
        kill.point()
        return result

    async def submitted(self: Directory, *arguments: Any) -> None:
        kill.point()
        await submit(self, *arguments)
        kill.point()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kept_apart, "write_beside_others", kill.around(written))
        patched.setattr(Store, "commit", committed)
        patched.setattr(Directory, "_submit", submitted)
        Owner(place / "account", NO_TOR, _silent).take_out(place / "owner")
    return 0


def _silent(_text: str) -> None:
    """Says nothing."""


def test_wherever_a_move_is_cut_off_somebody_has_the_owner_key(here: World, tmp_path: Path) -> None:
    """In the account, or in the file: that one which the directory has. And it can be gone on
    with."""
    (tmp_path / "url").write_text(here.server.url)
    shutil.copy(here.place / "names" / "policy", tmp_path / "policy")
    where = set()
    for number, place in enumerate(every_point(cut_off, tmp_path), 1):
        owner, file = Owner(place / "account", NO_TOR, _silent), place / "owner"
        before = account(place / "account")
        found = {"account": sign_public(before.owner)} if before.owner else {}
        if file.exists():
            found["file"] = sign_public(read_seed(file, KeyKind.OWNER, f"bob{number}"))
        shown = owner.show()
        owning = {where for where, public in found.items() if f"1 of {public.hex()}\n" in shown}
        assert len(owning) == 1, shown
        where |= owning
        if before.owner:
            owner.take_out(file)
        after, shown = account(place / "account"), owner.show()
        assert not after.owner
        public = sign_public(read_seed(file, KeyKind.OWNER, f"bob{number}"))
        assert f"1 of {public.hex()}\n" in shown
        assert f" {after.agent_key.hex()}\n" in shown
        assert "made here:      yes" in shown
        assert not {*found.values(), public} & keys_in(place / "account")
        Owner(place / "account", NO_TOR, _silent, key=OwnerKey(file)).rotate(None)
    assert where == {"account", "file"}


def test_who_is_cut_off_is_told_to_keep_the_file(here: World, tmp_path: Path) -> None:
    """It looks like a failure, and the key in the file is the only one that counts."""
    place, key, said = tmp_path / "account", tmp_path / "owner", list[str]()
    policy = here.place / "names" / "policy"
    make("bobcut", place, here.server.url, policy, NO_TOR, _silent)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cbfs.commands.owner.name_owner.write_own", _cut_off)
        with pytest.raises(CbfsError, match="cut off"):
            Owner(place, NO_TOR, said.append).take_out(key)
    assert f"keep {key}: the key in it may own bobcut by now" in said


def test_the_owner_key_that_a_copy_has_is_of_no_use_after_it_was_moved_out(years: Years) -> None:
    """And the old one is nowhere in the account any more; it can be moved out again."""

    async def body(made: Moved) -> None:
        alice, bob = await made.init("alice"), await made.init("bob")
        for place in (alice, bob):
            make_easy(place)
        await both_write(alice, bob, "hello")
        copy, old = made.place / "copy", account(bob).owner
        shutil.copytree(bob, copy)
        first, second, frost = (made.place / name for name in ("first", "second", "frost"))
        await made.do(lambda: made.owner(bob).certify(frost))
        await made.do(lambda: made.owner(bob).take_out(first))
        assert sign_public(old) not in keys_in(bob)
        assert (account(bob).auth, account(bob).transport) == (
            account(copy).auth,
            account(copy).transport,
        )
        moved_out = made.entry("bob")
        for work in (
            lambda: made.owner(copy).rotate(None, stolen=True),
            lambda: made.owner(copy).freeze(made.policy, frost),  # as the command and manual say
        ):
            with pytest.raises(CbfsError):
                await made.do(work)
        assert made.entry("bob") == moved_out
        await both_write(alice, bob, "as before")
        await made.do(lambda: made.owner(bob, first).take_out(second))
        assert made.entry("bob").owners.keys == (
            sign_public(read_seed(second, KeyKind.OWNER, "bob")),
        )
        await refused(lambda: made.owner(bob, first).rotate(None), "not the owner key")
        same = made.entry("bob"), second.read_text()
        await refused(lambda: made.owner(bob, second).take_out(second), "has now")
        assert (made.entry("bob"), second.read_text()) == same
        async with running(bob, NO_TOR) as engine:
            await engine._own.check()
            assert not engine.alarm

    years(body)
