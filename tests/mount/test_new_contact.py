"""contacts/NEW: by one line two who have accounts become contacts of each other. Real programs,
real mounts."""

import errno
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, load_account, reading_store
from cbfs.network.dial import LoopbackDialer
from cbfs.network.drop import at_drop, put
from cbfs.network.link import request
from cbfs.receiving.signing_up import sign_up
from cbfs.storage.store import Table
from cbfs_common.limits import INVITE_LINE_MAX, LINE_SALT_SIZE
from cbfs_common.names.policy import parse_policy
from cbfs_common.profile import parse_address
from cbfs_common.wire.lines import InviteRecord, line_to, parse_line
from cbfs_common.wire.requests import Delete, List
from tests.support.host import init_by
from tests.support.world import ENVIRONMENT, User, World, program, run, wait_for

ELSEWHERE = "other.example"
LINE_WORDS = "a line that one of you gave the other"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose ``elsewhere`` is a second directory, with a namespace of its own; nobody is
    accepted who is not asked for."""
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("lines"), stack)
        made.open = False
        made.another_directory("elsewhere", ELSEWHERE)
        yield made


def line_of(user: User) -> str:
    done = run("cbfs", "invite", "--contact", "--account", user.account, "--no-tor")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert len(line) <= INVITE_LINE_MAX
    return line


def paste(user: User, text: str) -> int:
    """Write into contacts/NEW; the errno of the close, or 0."""
    file = os.open(user.mountpoint / "contacts" / "NEW", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, text.encode())
    try:
        os.close(file)
    except OSError as error:
        return error.errno or -1
    return 0


def contacts(user: User) -> set[str]:
    return set(os.listdir(user.mountpoint / "contacts"))  # noqa: PTH208


def how(user: User, name: str) -> str:
    profile = tomllib.loads((user.mountpoint / "contacts" / name / "profile.toml").read_text())
    assert not profile.get("verified")
    return str(profile["known_by"])


def error_of(user: User) -> str:
    path = user.mountpoint / "contacts" / "NEW.error"
    return path.read_text() if path.exists() else ""


def refused(user: User, text: str, why: str, number: int = 0) -> None:
    """It adds nobody, and it is said why: of what is no line when it is closed, with EINVAL, else
    when servers have answered."""
    before = contacts(user) - {"NEW.error"}
    assert paste(user, text) == number
    wait_for(lambda: why in error_of(user), f"that it is said: {why}")
    assert contacts(user) == before | {"NEW.error"}
    said = error_of(user)
    assert said.startswith("Nobody was added: "), said
    assert "What to do: " in said


def added(user: User, text: str, names: set[str]) -> None:
    """By this line they have these contacts."""
    assert paste(user, text) == 0
    wait_for(lambda: contacts(user) == names, "who has made the line")


def test_by_a_line_both_are_contacts_and_write_to_each_other(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    line = line_of(alice)
    bob.run(f"echo {line} > contacts/NEW")
    wait_for(lambda: contacts(bob) == {"alice"}, "who has made the line")
    assert LINE_WORDS in how(bob, "alice")
    wait_for(lambda: "bob" in contacts(alice), "who has come")
    assert contacts(alice) == {"bob"}
    assert LINE_WORDS in how(alice, "bob")
    bob.run("mkdir outbox/alice; echo hello > outbox/alice/hi")
    alice.wait_message("bob", "hello\n")
    assert not list((alice.mountpoint / "requests").iterdir())

    # it is used up, for whoever has it
    refused(here.user("carol"), line, "it was used")
    refused(bob, line, "it was used")
    # and what is right takes the error away
    other = line_of(here.account("dave"))
    added(bob, f"  {other.upper()}\n", {"alice", "dave"})


def serving(user: User) -> list[int]:
    """Daemons of an account that is not mounted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if {b"serve", bytes(user.account)} <= set(words):
                found.append(int(entry.name))
    return found


def test_an_account_that_is_only_served_to_other_machines_invites_and_awaits(here: World) -> None:
    """No mount of it is on this one, and a daemon has it."""
    quentin, rose = here.account("quentin"), here.user("rose")
    words = program("cbfs", "serve", "--account", quentin.account, "--no-tor")
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, env=ENVIRONMENT) as served:
        assert served.stdin is not None and served.stdout is not None
        assert served.stdout.read(1)  # it has answered
        added(rose, line_of(quentin), {"quentin"})

        def has_met() -> bool:
            with reading_store(quentin.account, SYSTEM_RANDOM) as store, store.read() as reader:
                return next(reader.keys(Table.PEERS), None) is not None

        wait_for(has_met, "who has come")
        served.stdin.close()
    for pid in serving(quentin):
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not serving(quentin), "the daemon to end")
    quentin.mount()
    assert contacts(quentin) == {"rose"}


def test_people_of_two_directories_follow_each_others(here: World) -> None:
    erin, frank = here.user("erin"), here.user("frank", directory="elsewhere")
    home = parse_policy((here.place / "names" / "policy").read_text()).namespace
    added(frank, line_of(erin), {f"erin@{home}"})
    there = f"frank@{ELSEWHERE}"
    wait_for(lambda: there in contacts(erin), "who has come from elsewhere")
    assert contacts(erin) == {there}
    assert set(os.listdir(erin.mountpoint / "directories")) == {home, ELSEWHERE}  # noqa: PTH208
    assert LINE_WORDS in how(erin, there)
    assert LINE_WORDS in how(frank, f"erin@{home}")
    erin.run(f"mkdir 'outbox/{there}'; echo good day > 'outbox/{there}/m'")
    frank.wait_message(f"erin@{home}", "good day\n")


def laid(here: World, user: User, **fields: object) -> str:
    """A line with another record than its maker would make."""
    with reading_store(user.account, SYSTEM_RANDOM) as store:
        account = load_account(store)
    assert account
    record = {
        "salt": SYSTEM_RANDOM.token(LINE_SALT_SIZE),
        "expires": int(time.time()) + 1_000,
        "policy": account.policy,
        "inviter": account.name,
        "identity": account.profile.identity(account.person),
        "contact": True,
    }
    made = InviteRecord(**{**record, **fields})  # type: ignore[arg-type]  # fields by name
    line = line_to(parse_address(here.server.url), made)

    async def lay() -> None:
        async with at_drop(LoopbackDialer(), line, SYSTEM_RANDOM) as link:
            await sign_up(link, line.drop, SYSTEM_RANDOM)
            await put(link, line, made)

    trio.run(lay)
    return line.text()


def test_a_line_that_is_good_for_nothing_adds_nobody_and_says_why(here: World) -> None:
    grace, heidi = here.user("grace"), here.account("heidi")
    line = line_of(heidi)
    refused(grace, "bob", "this is no line", errno.EINVAL)
    refused(grace, line[:-2], "mistyped", errno.EINVAL)
    refused(grace, laid(here, heidi, expires=1), "older than 7 days")
    refused(grace, laid(here, heidi, identity=b"x" * 32), "other keys for heidi")
    refused(grace, laid(here, heidi, inviter="nobody"), "other keys for nobody")
    refused(grace, laid(here, heidi, contact=False), "makes an account")
    refused(grace, line_of(grace), "your own")
    home = parse_policy((here.place / "names" / "policy").read_text()).namespace
    posing = here.another_directory("posing", home).read_text()
    refused(grace, laid(here, heidi, policy=posing), "another name directory")
    assert set(os.listdir(grace.mountpoint / "directories")) == {home}  # noqa: PTH208
    grace.run("rm contacts/NEW.error")
    assert contacts(grace) == set()
    assert grace.run("printf '' > contacts/NEW; ls contacts") == ""
    for wrong in ("touch contacts/other", "mkdir contacts/NEW", "ln -s x contacts/NEW"):
        with pytest.raises(AssertionError):
            grace.run(wrong)
    added(grace, line, {"heidi"})  # none of that has used it up


def test_another_record_that_a_thief_of_the_line_puts_there_is_not_taken(here: World) -> None:
    """The thief owns the drop, and can remove what lies there, but be nobody else by that."""
    mike, nina, mallory = here.account("mike"), here.user("nina"), here.account("mallory")
    line = parse_line(line_of(mike))
    with reading_store(mallory.account, SYSTEM_RANDOM) as store:
        thief = load_account(store)
    assert thief
    forged = InviteRecord(
        bytes(LINE_SALT_SIZE),
        int(time.time()) + 1_000,
        thief.policy,
        inviter="mallory",
        identity=thief.profile.identity(thief.person),
        contact=True,
    )

    async def steal() -> None:
        async with at_drop(LoopbackDialer(), line, SYSTEM_RANDOM) as link:
            await put(link, line, forged)
            await request(link, Delete((await request(link, List())).ids[:1]))

    trio.run(steal)
    refused(nina, line.text(), "not what it was made for")


def test_a_line_waits_until_its_server_answers(here: World) -> None:
    """Also over the end of a mount; who writes it does not wait for that."""
    ivan = here.user("ivan")
    away = here.another_server("away")
    line = line_of(here.account("judy", away))
    away.end()
    assert paste(ivan, line) == 0
    status = ivan.mountpoint / "status"
    wait_for(lambda: "nobody was added yet" in status.read_text(), "what the line waits for")
    assert contacts(ivan) == set()
    assert paste(ivan, line) == 0
    ivan.unmount()
    away.start()
    ivan.mount()
    wait_for(lambda: contacts(ivan) == {"judy"}, "who has made the line")
    assert "line that you have pasted" not in status.read_text()


def test_who_cannot_be_a_contact_makes_no_line(here: World, tmp_path: Path) -> None:
    for words, why in (
        (("--contact",), "there is no account"),
        (("--contact", "bob"), "leave it out"),
        ((), "there is no account"),
        (("--host", tmp_path, "--no-tor"), "the host knows"),
    ):
        done = run("cbfs", "invite", *words, "--account", tmp_path / "none", "--no-tor")
        assert done.returncode
        assert not done.stdout
        assert why in done.stderr


def test_a_line_in_the_argument_of_init_says_where_it_belongs(here: World, tmp_path: Path) -> None:
    done = init_by("-", tmp_path / "new", line_of(here.account("ken")))
    assert done.returncode == 1
    assert "contacts/NEW" in done.stderr
    assert not (tmp_path / "new").exists()
