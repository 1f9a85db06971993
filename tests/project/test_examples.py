"""The examples, each run as its README says, between two real mounts."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.programs.screen import screen
from tests.support.world import WAIT, User, World, program, wait_for, world

pytestmark = pytest.mark.mount

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, User, User]]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made, made.user("alice"), made.user("bob")


def command(user: User, example: str, *arguments: str | Path) -> tuple[list[str], dict[str, str]]:
    """How to run a script of the examples for a user."""
    script = EXAMPLES / example
    python = "python" in script.read_text().split("\n", 1)[0]
    words = [sys.executable] if python else ["/bin/sh"]
    words += [str(script), *map(str, arguments)]
    return words, {**os.environ, "CBFS_MOUNT": str(user.mountpoint)}


def run(user: User, example: str, *arguments: str | Path, given: str = "") -> str:
    words, environment = command(user, example, *arguments)
    done = subprocess.run(
        words,
        input=given,
        capture_output=True,
        text=True,
        env=environment,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(
    user: User, example: str, *arguments: str | Path, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    words, environment = command(user, example, *arguments)
    process = subprocess.Popen(
        [*prefix, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(WAIT)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def say(user: User, folder: str, text: str) -> None:
    (user.mountpoint / "outbox" / folder).mkdir(exist_ok=True)
    user.write(folder, f"note-{os.urandom(4).hex()}", text)


def clear(*users: User) -> None:
    """Nothing of what was before is unread."""
    for user in users:
        for link in (user.mountpoint / "unread").iterdir():
            link.unlink()


def test_each_has_a_readme_of_one_screen() -> None:
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir()]
    assert len(folders) == 12
    for folder in folders:
        assert len((folder / "README.rst").read_text().splitlines()) <= 40
        assert f"<{folder.name}/README.rst>" in (EXAMPLES / "README.rst").read_text()


def test_film_says_how_far_it_is(people: tuple[World, User, User], tmp_path: Path) -> None:
    there_is, alice, bob = people
    source = tmp_path / "holiday.mp4"
    source.write_bytes(os.urandom(3 << 20))
    os.kill(there_is.server.pid, signal.SIGSTOP)  # until it has said how far it is
    try:
        with running(alice, "film/film", source, "bob") as film:
            while not re.fullmatch(
                r"to your server: \d+ % of 3,145,728 bytes\n", said := line(film)
            ):
                assert said
            os.kill(there_is.server.pid, signal.SIGCONT)
            while said != "bob: received\n":
                said = line(film)
                assert said
            assert line(film) == ""
    finally:
        os.kill(there_is.server.pid, signal.SIGCONT)
    (there,) = bob.mountpoint.glob("conversations/*/*holiday.mp4")
    assert there.read_bytes() == source.read_bytes()


def test_bot_answers(people: tuple[World, User, User]) -> None:
    _, alice, bob = people
    clear(alice, bob)
    assert len((EXAMPLES / "bot" / "bot.py").read_text().splitlines()) <= 25
    with running(bob, "bot/bot.py"):
        prepared = alice.mountpoint / "tmp" / "photos"
        prepared.mkdir()
        (prepared / "photo").write_text("not a text for a bot")
        (alice.mountpoint / "outbox" / "bob bot").mkdir()
        prepared.rename(alice.mountpoint / "outbox" / "bob bot" / "photos")
        wait_for(lambda: list(bob.mountpoint.glob("conversations/*/*-photos")), "the folder")
        say(alice, "bob bot", "one two three\n")
        alice.wait_message("bob", "three two one\n")


def test_a_bot_in_a_sandbox_answers_one_conversation(people: tuple[World, User, User]) -> None:
    _, alice, bob = people
    clear(alice, bob)
    say(alice, "bob boxed", "four five\n")
    folder = bob.wait_message("alice", "four five\n").parent.name
    chat = bob.mountpoint.parent / "only-alice"
    chat.mkdir()
    mounted = subprocess.run(
        program("mount.cbfs", bob.mountpoint, chat, "-o", f"only={folder}"),
        timeout=WAIT,
        check=False,
    )
    assert mounted.returncode == 0
    try:
        with running(bob, "bot/sandbox", chat, EXAMPLES / "bot" / "one.py"):
            alice.wait_message("bob", "five four\n")
            say(alice, "bob boxed", "six seven\n")
            alice.wait_message("bob", "seven six\n")
    finally:
        subprocess.run(["fusermount3", "-u", "-z", chat], check=False, timeout=WAIT)


def test_alerts_come_from_cron_and_from_units(people: tuple[World, User, User]) -> None:
    _, alice, bob = people
    run(alice, "alerts/alert", "bob", given="the disk is full\n")
    first = bob.wait_message("alice", "the disk is full\n")
    run(alice, "alerts/alert", "bob", given="")
    run(alice, "alerts/alert", "bob", given="still full\n")
    assert bob.wait_message("alice", "still full\n").parent == first.parent
    fail_like_systemd(alice)
    text = wait_for(
        lambda: next(
            (p for p in first.parent.glob("*Z-*") if "service failed on" in p.read_text()), None
        ),
        "the alert of the unit",
    )
    assert text.parent == first.parent
    assert len([p for p in bob.messages() if p.parent == first.parent]) == 3


def fail_like_systemd(user: User) -> None:
    """Does with the units of the example what systemd would, which does not run here."""
    unit = (EXAMPLES / "alerts" / "backup.service").read_text()
    start = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    then = re.search(r"^OnFailure=cbfs-alert@%n.service$", unit, re.MULTILINE)
    assert start
    assert then
    assert subprocess.run(start[1], shell=True, check=False).returncode != 0
    unit = (EXAMPLES / "alerts" / "cbfs-alert@.service").read_text()
    start = re.search(r"^ExecStart=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
    assert start
    script = start[1].replace("%i", "backup.service").replace("%H", "host")
    script = script.replace("/usr/local/bin/alert", str(EXAMPLES / "alerts" / "alert"))
    subprocess.run(
        ["/bin/sh", "-c", script],
        env={**os.environ, "CBFS_MOUNT": str(user.mountpoint), "TO": "bob"},
        check=True,
        timeout=WAIT,
    )


def test_newsletter_is_subscribed_to_by_message(people: tuple[World, User, User]) -> None:
    _, alice, bob = people
    clear(alice, bob)
    with running(bob, "newsletter/newsletter", "serve"):
        say(alice, "bob gazette", "subscribe\n")
        welcome = alice.wait_message("bob", "You are subscribed. Write unsubscribe to end it.\n")
        issue = alice.account.parent / "issue"
        issue.write_text("Issue 1\n")
        run(bob, "newsletter/newsletter", "send", issue)
        assert alice.wait_message("bob", "Issue 1\n").parent == welcome.parent
        say(alice, welcome.parent.name, "Unsubscribe\n")
        alice.wait_message("bob", "You are not subscribed any more.\n")
        run(bob, "newsletter/newsletter", "send", issue)
    assert list((bob.mountpoint / "ui_info" / "newsletter").iterdir()) == []


def test_ticker_is_followed_line_by_line(people: tuple[World, User, User]) -> None:
    _, alice, bob = people
    clear(alice, bob)
    with (
        running(bob, "ticker/follow", "alice") as follower,
        running(alice, "ticker/publish", "bob", "3") as publisher,
    ):
        assert publisher.stdin is not None
        for number in range(4):
            publisher.stdin.write(f"price {number}\n")
            publisher.stdin.flush()
            if number % 2:
                assert line(follower) == f"price {number - 1}\n"
                assert line(follower) == f"price {number}\n"
        publisher.stdin.write("the last, without an end of line")
        publisher.stdin.close()
        assert line(follower) == "the last, without an end of line\n"
        publisher.stdin = None
    texts = [p.read_text() for p in bob.messages("alice") if p.parent.name.endswith(" feed")]
    assert len(texts) <= 4, "lines of an interval are one message"


def test_updates_are_installed_and_never_taken_back(people: tuple[World, User, User]) -> None:
    _, alice, bob = people
    clear(alice, bob)
    place = bob.account.parent / "tool"
    place.mkdir()
    key, other = place.parent / "release.key", place.parent / "other.key"
    public = run(alice, "update/update.py", "key", key).strip()
    run(alice, "update/update.py", "key", other)
    assert key.stat().st_mode & 0o777 == 0o600
    program = place.parent / "program"

    def publish(version: int, secret: Path, text: str) -> None:
        program.write_text(text)
        run(alice, "update/update.py", "publish", secret, str(version), program, "bob")

    with running(bob, "update/update.py", "follow", public, "alice", place) as follower:
        publish(7, key, "#!/bin/sh\necho seven\n")
        assert line(follower) == "installed 7\n"
        publish(6, key, "#!/bin/sh\necho six\n")
        assert line(follower) == "refused: 6 is not newer than 7\n"
        publish(8, other, "#!/bin/sh\necho evil\n")
        assert line(follower) == "refused: it is not signed by the publisher\n"
        assert subprocess.check_output([place / "current"]) == b"seven\n"
        publish(9, key, "#!/bin/sh\necho nine\n")
        assert line(follower) == "installed 9\n"
        assert subprocess.check_output([place / "current"]) == b"nine\n"


HAS_BEGUN = (
    "dbus-send --session --print-reply --dest=org.freedesktop.DBus / "
    "org.freedesktop.DBus.NameHasOwner string:org.freedesktop.Notifications | grep -q true"
)
"""Whether there is a notification daemon: whoever notifies before is given another one by the bus,
which prints nothing."""


@contextmanager
def notifying(user: User) -> Iterator[subprocess.Popen[str]]:
    """A real notification daemon on a screen of its own, which prints what it shows, and the
    example that tells it."""
    example = f"exec /bin/sh {EXAMPLES / 'notify' / 'notify'}"
    inner = f"dunst -print & until {HAS_BEGUN}; do sleep 0.1; done; {example}"
    with screen({**os.environ, "CBFS_MOUNT": str(user.mountpoint)}) as on:
        process = subprocess.Popen(
            ["dbus-run-session", "--", "/bin/sh", "-c", inner],
            env=on.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(lambda: watched(process.pid) or None, "inotifywait to watch")
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(WAIT)
            if process.stdout:
                process.stdout.close()


def shown(process: subprocess.Popen[str], words: str) -> str:
    """All that has been shown, when ``words`` are."""
    assert process.stdout is not None
    seen = ""
    while words not in seen:
        if not select.select([process.stdout], [], [], WAIT)[0]:
            raise AssertionError(f"waited in vain for {words!r}: {seen}")
        data = os.read(process.stdout.fileno(), 65_536)
        assert data, f"the notifications ended: {seen}"
        seen += data.decode()
    return seen


def test_notifications_tell_who_has_written(people: tuple[World, User, User]) -> None:
    made, alice, bob = people
    zoe = made.user("zoe")
    clear(alice, bob)
    with notifying(bob) as process:
        run(alice, "alerts/alert", "bob", given="secret words\n")
        seen = shown(process, "has written")
        (bob.mountpoint / "config.toml").write_text('strangers = "ask"\n')
        say(zoe, "bob", "let me in\n")
        assert "zoe" in shown(process, "asks to write")
    assert "alice" in seen
    assert "secret words" not in seen
    assert len(list((bob.mountpoint / "unread").iterdir())) == 1


def test_a_unit_that_fails_raises_a_notification_at_the_other_mount(
    people: tuple[World, User, User],
) -> None:
    """All the way: the unit, its OnFailure=, the alert, the message, the desktop."""
    _, alice, bob = people
    clear(alice, bob)
    with notifying(bob) as process:
        fail_like_systemd(alice)
        assert "alice" in shown(process, "has written")
    (alert,) = (bob.mountpoint / "unread").iterdir()
    assert alert.read_text().startswith("backup.service failed on host\n")


def watched(group: int) -> bool:
    """Whether an inotifywait of this session has its watch."""
    found = subprocess.run(
        ["pgrep", "-s", str(group), "inotifywait"], capture_output=True, text=True, check=False
    )
    for pid in found.stdout.split():
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            if "inotify wd:" in entry.read_text():
                return True
    return False


def test_chat_in_two_panes(people: tuple[World, User, User], tmp_path: Path) -> None:
    _, alice, bob = people
    say(bob, "alice", "hello alice\n")
    alice.wait_message("bob", "hello alice\n")
    environment = {
        **os.environ,
        "CBFS_MOUNT": str(alice.mountpoint),
        "TMUX_TMPDIR": str(tmp_path),
        "TERM": "xterm",
        "EDITOR": "",
    }
    environment.pop("TMUX", None)
    ours, theirs = pty.openpty()
    chat = subprocess.Popen(
        ["/bin/sh", EXAMPLES / "chat" / "chat", "bob"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)

    def tmux(*words: str) -> str:
        done = subprocess.run(
            ["tmux", *words], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout

    def shows(pane: int, text: str) -> None:
        wait_for(lambda: text in tmux("capture-pane", "-p", "-t", f"chat-bob.{pane}") or None, text)

    with ExitStack() as stack:
        stack.callback(os.close, ours)
        stack.callback(chat.wait, WAIT)
        stack.callback(tmux, "kill-server")
        shows(0, "bob: hello alice")
        shows(1, ">")
        tmux("send-keys", "-t", "chat-bob.1", "hello from a pane", "Enter")
        bob.wait_message("alice", "hello from a pane\n")
        shows(0, "alice: hello from a pane")
        say(bob, "alice", "and back\n")
        shows(0, "bob: and back")


HOSTS = """
set -e
for part in third na nb a b; do ip netns add {n}-$part; done
link() {{
    ip link add $2 netns $1 type veth peer name $4 netns $3
    ip -n $1 addr add $5 dev $2; ip -n $1 link set $2 up
    ip -n $3 addr add $6 dev $4; ip -n $3 link set $4 up
}}
for ns in {n}-third {n}-na {n}-nb {n}-a {n}-b; do ip -n $ns link set lo up; done
link {n}-third tona {n}-na out 198.51.100.1/24 198.51.100.2/24
link {n}-third tonb {n}-nb out 203.0.113.1/24 203.0.113.2/24
link {n}-na in {n}-a eth 10.1.0.1/24 10.1.0.2/24
link {n}-nb in {n}-b eth 10.2.0.1/24 10.2.0.2/24
ip netns exec {n}-third sysctl -qw net.ipv4.ip_forward=1
for side in na nb; do
    ip netns exec {n}-$side sysctl -qw net.ipv4.ip_forward=1
    ip netns exec {n}-$side nft -f - <<END
table ip nat {{
    chain post {{ type nat hook postrouting priority 100; oifname "out" masquerade; }}
}}
table ip filter {{
    chain forward {{
        type filter hook forward priority 0; policy drop;
        iifname "in" accept; ct state established,related accept;
    }}
    chain input {{
        type filter hook input priority 0; policy drop;
        ct state established,related accept; iifname "in" accept;
    }}
}}
END
done
ip -n {n}-na route add default via 198.51.100.1; ip -n {n}-nb route add default via 203.0.113.1
ip -n {n}-a route add default via 10.1.0.1; ip -n {n}-b route add default via 10.2.0.1
"""


@pytest.fixture
def behind_nats() -> Iterator[str]:
    """Namespaces: hosts -a and -b, each behind a NAT of its own, and -third that both reach."""
    name = f"cbfs{os.getpid()}"
    try:
        subprocess.run(["sh", "-c", HOSTS.format(n=name)], check=True, timeout=WAIT)
        yield name
    finally:
        for part in ("third", "na", "nb", "a", "b"):
            subprocess.run(
                ["ip", "netns", "del", f"{name}-{part}"], check=False, stderr=subprocess.DEVNULL
            )


def test_two_hosts_behind_nats_find_a_direct_path(
    people: tuple[World, User, User], behind_nats: str
) -> None:
    _, alice, bob = people
    clear(alice, bob)
    enter = ("ip", "netns", "exec")
    blocked = subprocess.run(
        [*enter, f"{behind_nats}-a", "ping", "-c1", "-W1", "203.0.113.2"],
        capture_output=True,
        check=False,
    )
    assert blocked.returncode != 0, "without punching nothing passes"
    with ExitStack() as stack:
        punch = "holepunch/punch.py"
        third = (*enter, f"{behind_nats}-third")
        stack.enter_context(running(alice, punch, "reflect", "7000", prefix=third))
        here = stack.enter_context(
            running(alice, punch, "bob", "198.51.100.1:7000", prefix=(*enter, f"{behind_nats}-a"))
        )
        there = stack.enter_context(
            running(bob, punch, "alice", "203.0.113.1:7000", prefix=(*enter, f"{behind_nats}-b"))
        )
        for process, name in ((here, "bob"), (there, "alice")):
            assert process.stderr is not None
            assert process.stderr.readline() == f"a direct path to {name} is open\n"
        assert here.stdin is not None
        here.stdin.write("straight to you\n")
        here.stdin.flush()
        assert line(there) == "straight to you\n"


def test_what_the_examples_need_is_there() -> None:
    for needed in ("tmux", "inotifywait", "getfattr", "notify-send", "dunst", "nft", "ip", "ping"):
        assert shutil.which(needed), needed


def test_the_hub_of_the_example_is_what_ssh_reads(tmp_path: Path) -> None:
    told = subprocess.run(
        ["ssh", "-G", "-F", EXAMPLES / "hub" / "config", "hub"],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT,
    ).stdout.splitlines()
    assert {"hostname home.example", "identitiesonly yes"} <= set(told)
    (tmp_path / "laptop.pub").write_text("ssh-ed25519 AAAA me@laptop\n")
    readme = (EXAMPLES / "hub" / "README.rst").read_text()
    (line,) = re.findall(r"^    (sed .*) >> ~/.ssh/authorized_keys$", readme, re.MULTILINE)
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=WAIT
    )
    assert done.stdout == 'command="cbfs serve",restrict ssh-ed25519 AAAA me@laptop\n'
