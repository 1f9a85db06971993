"""``cbfs init`` can be done again, with the same words and with others."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store, protection_of
from cbfs.commands import init
from cbfs.names.directory import Directory, NameTaken
from cbfs.network.options import NetworkOptions
from cbfs.storage.root_key import ProtectionKind
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError
from tests.support.world import ENVIRONMENT, WAIT, Service, World, program, run, world


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("here")) as made:
        yield made


def words(
    here: World, name: str, account: Path, server: str | None = None
) -> tuple[str | Path, ...]:
    where = ("--account", account, "--server", server or here.server.url)
    return ("init", name, *where, "--names", here.place / "names" / "policy", "--no-tor")


def wrong(url: str) -> dict[str, str]:
    """Addresses that are mistyped, and can be read."""
    key, _, place = url.removeprefix("cbfs://").partition("@")
    other = ("b" if key[0] != "b" else "c") + key[1:]
    return {
        "another key": f"cbfs://{other}@{place}",
        "another port": f"cbfs://{key}@127.0.0.1:1",
        "another host": f"cbfs://{key}@example.org:{place.rpartition(':')[2]}",
    }


@pytest.mark.parametrize("mistake", ["another key", "another port", "another host"])
def test_a_mistyped_address_can_be_put_right(mistake: str, here: World, tmp_path: Path) -> None:
    name, account = f"right-{mistake.split()[1]}", tmp_path / "account"
    failed = run("cbfs", *words(here, name, account, wrong(here.server.url)[mistake]))
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    done = run("cbfs", *words(here, name, account))
    assert done.returncode == 0, done.stderr
    with opened_store(account, SYSTEM_RANDOM) as store:
        made = load_account(store)
    assert made
    assert made.server.url() == here.server.url


def test_a_mistyped_name_can_be_put_right(here: World, tmp_path: Path) -> None:
    account = tmp_path / "account"
    server = wrong(here.server.url)["another port"]
    assert run("cbfs", *words(here, "fist", account, server)).returncode == 1
    done = run("cbfs", *words(here, "fist-name", account))
    assert done.returncode == 0, done.stderr
    again = run("cbfs", *words(here, "another", account))
    assert again.returncode == 1
    assert "holds the account of fist-name already" in again.stderr


def test_a_second_try_protects_what_the_first_did_not(here: World, tmp_path: Path) -> None:
    account = tmp_path / "account"
    server = wrong(here.server.url)["another port"]
    assert run("cbfs", *words(here, "guarded", account, server)).returncode == 1
    assert protection_of(account) is ProtectionKind.NOTHING
    (tmp_path / "passphrase").write_text("four words for it\n")
    with (tmp_path / "passphrase").open() as passphrase:
        done = subprocess.run(
            program("cbfs", *words(here, "guarded", account), "--passphrase-fd", "0"),
            stdin=passphrase,
            capture_output=True,
            timeout=WAIT,
            check=False,
            env=ENVIRONMENT,
        )
    assert done.returncode == 0, done.stderr
    assert protection_of(account) is ProtectionKind.PASSPHRASE


def test_keys_that_may_have_a_name_are_not_given_up(here: World, tmp_path: Path) -> None:
    """Cut off after the directory was told, and before it has answered."""
    account = tmp_path / "account"
    where = (account, here.server.url, here.place / "names" / "policy")

    def say(text: str) -> None:
        if text.startswith("registering"):
            raise CbfsError("cut off")

    with pytest.raises(CbfsError, match="cut off"):
        init.make("cut-off", *where, NetworkOptions(no_tor=True), say)
    with opened_store(account, SYSTEM_RANDOM) as store:
        with store.read() as reader:
            assert reader.get(Table.META, Meta.NAME_ASKED_FOR) is None
        store.write(init.asked_for)
    for other in (("another", None), ("cut-off", wrong(here.server.url)["another port"])):
        refused = run("cbfs", *words(here, other[0], account, other[1]))
        assert refused.returncode == 1
        assert "may be registered already" in refused.stderr
        assert here.server.url in refused.stderr
    done = run("cbfs", *words(here, "cut-off", account))
    assert done.returncode == 0, done.stderr


def test_it_is_on_the_disk_that_a_name_was_asked_for_before_it_is(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off while the directory is asked, which may have registered it. What it refuses to a
    later try does not undo the first."""
    account = tmp_path / "account"
    where = (account, here.server.url, here.place / "names" / "policy")
    for error in (CbfsError("cut off"), NameTaken()):

        async def register(*_: object, error: CbfsError = error, **_more: object) -> None:
            raise error

        monkeypatch.setattr(Directory, "register", register)
        with pytest.raises(type(error)):
            init.make("told-once", *where, NetworkOptions(no_tor=True), lambda _text: None)
        with opened_store(account, SYSTEM_RANDOM) as store, store.read() as reader:
            assert reader.get(Table.META, Meta.NAME_ASKED_FOR) is not None


def test_what_was_refused_at_the_first_try_was_not_asked_for(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name can be chosen then, in the same directory."""
    account = tmp_path / "account"
    where = (account, here.server.url, here.place / "names" / "policy")

    async def register(*_arguments: object, **_more: object) -> None:
        raise NameTaken

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "register", register)
        for was_there in (False, True):
            with pytest.raises(NameTaken):
                init.make("just-taken", *where, NetworkOptions(no_tor=True), lambda _text: None)
            assert account.exists() == was_there
            account.mkdir(mode=0o700, exist_ok=True)
    done = run("cbfs", *words(here, "not-taken", account))
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_taken_is_asked_for_in_the_same_directory(
    here: World, tmp_path: Path
) -> None:
    account = tmp_path / "account"
    assert run("cbfs", *words(here, "first-come", tmp_path / "first")).returncode == 0
    server = wrong(here.server.url)["another port"]
    assert run("cbfs", *words(here, "second", account, server)).returncode == 1
    assert "the name is taken" in run("cbfs", *words(here, "first-come", account)).stderr
    assert run("cbfs", *words(here, "second-come", account)).returncode == 0


def test_an_invite_for_something_else_is_not_spent(here: World, tmp_path: Path) -> None:
    """It is compared with what is asked for before anything is sent."""
    data, file = tmp_path / "names", tmp_path / "invite"
    service = Service("cbfs-names", data, ("--registration", "invite", "--short", "5"))
    account, policy = tmp_path / "account", data / "policy"

    def given(*name: str) -> None:
        made = run("cbfs-names", "invite", "--data", data, *name)
        assert made.returncode == 0, made.stderr
        file.write_text(made.stdout)

    def asked(name: str, by: Path = policy) -> tuple[int, str]:
        where = ("--account", account, "--server", here.server.url, "--names", by, "--no-tor")
        done = run("cbfs", "init", name, *where, "--invite", file)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    try:
        given("alice")
        code, told = asked("alicia")
        assert code == 1
        assert "is for the name alice" in told
        assert not account.exists()
        code, told = asked("alice", here.place / "names" / "policy")
        assert (code, "another name directory" in told) == (1, True)
        assert not account.exists()
        code, told = asked("alice")
        assert code == 0, told
        account = tmp_path / "short"
        given()
        code, told = asked("bob")  # it is too short for an invite to any name
        assert code == 1
        code, told = asked("bobby")
        assert code == 0, told
    finally:
        service.close()
