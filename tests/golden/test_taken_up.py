"""Accounts of before there were keys of ML-KEM go on in a name directory of now: with their names,
their keys, their people, and what they had not sent."""

import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.account.passphrase import unlocking
from cbfs.contacts.contact import How
from cbfs.storage.root_key import NO_LOCK, Protection
from tests.golden.make import PASSPHRASE, shown
from tests.golden.test_golden import GOLDEN, mounted
from tests.support.host import RunningHost, init_by
from tests.support.world import World, make_easy, run, wait_for, world

pytestmark = pytest.mark.mount

LATE = "this waits for the server\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def town(tmp_path: Path, stack: ExitStack) -> World:
    (tmp_path / "town").mkdir()
    return stack.enter_context(world(tmp_path / "town"))


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    """Those of alice and bob, brought over, and protected by nothing."""
    with tarfile.open(GOLDEN / "70e89ed" / "stores.tar.xz") as file:
        file.extractall(tmp_path / "stores", filter="data")
    for name in "alice", "bob":
        account = tmp_path / "stores" / f"{name}-account"
        account.chmod(0o700)
        with opened_store(account, SYSTEM_RANDOM, unlocking(lambda: PASSPHRASE)) as store:
            store.protect(Protection(), NO_LOCK)
        make_easy(account, open_=False)
    return tmp_path / "stores"


def go_on(town: World, account: Path, name: str) -> tuple[int, str]:
    """``cbfs init`` with a server and a directory of now; its exit code, and what it said."""
    place = ("--account", account, "--server", town.server.url, "--no-tor")
    done = run("cbfs", "init", name, *place, "--names", town.place / "names" / "policy")
    return done.returncode, done.stderr


def keys(account: Path) -> tuple[bytes, ...]:
    with opened_store(account, SYSTEM_RANDOM) as store:
        found = load_account(store)
    assert found is not None
    return found.transport, found.signing, found.auth, found.kem, found.owner


def test_people_of_before_go_on_with_each_other(
    town: World, accounts: Path, stack: ExitStack
) -> None:
    before = {name: keys(accounts / f"{name}-account") for name in ("alice", "bob")}
    for name, known in before.items():
        code, said = go_on(town, accounts / f"{name}-account", name)
        assert code == 0, said
        assert keys(accounts / f"{name}-account") == known
    bob = stack.enter_context(mounted(accounts / "bob-account", "grace=0.1"))
    seen = shown(bob)
    alice = stack.enter_context(mounted(accounts / "alice-account", "grace=0.1"))
    wait_for(
        lambda: list(bob.glob("conversations/*-carol (2)/*-alice-late.txt")), "what has waited"
    )
    (late,) = bob.glob("conversations/*-carol (2)/*-alice-late.txt")
    assert late.read_text() == LATE
    (talk,) = bob.glob("outbox/*-carol (2)")
    (talk / "now.txt").write_text("here it is\n")
    wait_for(lambda: list(alice.glob("conversations/*-carol (2)/*-bobby-now.txt")), "the answer")
    assert list(alice.glob("outbox/*-bobby-carol (2)/later.txt"))
    assert seen.items() <= shown(bob).items()
    assert len(list(alice.glob("conversations/*-carol"))) == 2
    profile = tomllib.loads((alice / "contacts" / "bobby" / "profile.toml").read_text())
    assert profile["kem_key"].strip("0")
    assert not (alice / "contacts" / "bobby" / "verified").exists()
    assert "OUTLIVED" not in (alice / "status").read_text()
    assert not (alice / "WARNING").exists()
    (bob / "requests" / "dave").rename(bob / "contacts" / "dave")
    wait_for(lambda: list(bob.glob("conversations/*dave*/*-dave")), "what dave had sent")


def test_who_has_other_keys_under_a_known_name_is_left_to_the_user(
    town: World, accounts: Path, stack: ExitStack
) -> None:
    account = accounts / "alice-account"
    assert go_on(town, account, "alice")[0] == 0
    alice = stack.enter_context(mounted(account, "grace=0.1"))
    wait_for(
        lambda: "has not taken the name" in (alice / "status").read_text(), "carol to be asked for"
    )
    assert not (alice / "contacts" / "carol" / "CHANGED").exists()
    town.account("carol")
    wait_for((alice / "contacts" / "carol" / "CHANGED").exists, "carol to be another")
    assert not (alice / "contacts" / "bobby" / "CHANGED").exists()


def test_a_name_that_somebody_else_has_leaves_the_account_as_it_was(
    town: World, accounts: Path, stack: ExitStack
) -> None:
    town.account("bob")
    for _ in range(2):
        code, said = go_on(town, accounts / "bob-account", "bob")
        assert code == 1
        assert "somebody else is called bob there" in said
    code, said = go_on(town, accounts / "bob-account", "robert")
    assert code == 1
    assert "holds the account of bob" in said
    bob = stack.enter_context(mounted(accounts / "bob-account", "grace=0.1"))
    assert "OUTLIVED" in (bob / "status").read_text()
    assert list(bob.glob("conversations/*-carol/*-bob-answer*"))


def test_a_line_takes_up_an_account_of_before_and_its_name(
    tmp_path: Path, accounts: Path, stack: ExitStack
) -> None:
    """By which its old contact who invites is known again; and which is good for no other name."""
    host = RunningHost(tmp_path / "host", "--no-tor")
    stack.callback(host.end)
    bob, alice = accounts / "bob-account", accounts / "alice-account"
    done = init_by(host.invite("carol"), bob)
    assert done.returncode == 1
    assert "the line is for carol" in done.stderr
    spent = host.invite()
    assert init_by(spent, tmp_path / "dora", "dora\n").returncode == 0
    done = init_by(spent, bob)
    assert done.returncode == 1
    done = init_by(host.invite(), bob)
    assert done.returncode == 0, done.stderr
    assert "bob is ready" in done.stdout
    done = init_by(host.invite("alice", account=bob), alice)
    assert done.returncode == 0, done.stderr
    assert "other keys" not in done.stderr
    theirs = stack.enter_context(mounted(bob, "grace=0.1"))
    mine = stack.enter_context(mounted(alice, "grace=0.1"))
    wait_for(
        lambda: list(theirs.glob("conversations/*-carol (2)/*-alice-late.txt")), "what has waited"
    )
    assert sorted(path.name for path in (mine / "contacts").iterdir()) == ["bobby", "carol"]
    assert not (mine / "contacts" / "bobby" / "CHANGED").exists()
    known = theirs / "contacts" / "alice" / "profile.toml"
    wait_for(lambda: How.LINE.value in known.read_text(), "her to be met by the line")
