"""An account that is mounted on another machine, over ssh: what is shown there, and what is
written."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, Watch, mounted
from tests.support.remote import Laptop, Network, Sshd, laptop, network_to, sshd
from tests.support.world import WAIT, wait_for

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def hub() -> Iterator[Mounted]:
    with mounted() as mount:
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        yield mount


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd") / "d") as one:
        yield one


@pytest.fixture(scope="module")
def network(served: Sshd) -> Iterator[Network]:
    with network_to(served.port) as one:
        yield one


@pytest.fixture(scope="module")
def there(
    tmp_path_factory: pytest.TempPathFactory, hub: Mounted, served: Sshd, network: Network
) -> Iterator[Laptop]:
    place = tmp_path_factory.mktemp("laptop")
    with laptop(place / "one", hub.account, served, network) as one:
        yield one


def conversation(at: Path, name: str = "bob") -> Path:
    return next((at / "conversations").glob(f"*{name}*"))


def sent(folder: Path) -> list[str]:
    """What alice has sent in a conversation, but for what is no text."""
    paths = [path for path in folder.glob("*-alice*") if path.is_file()]
    return [path.read_bytes().decode(errors="replace") for path in paths]


def listed(at: Path) -> str:
    """What ls tells of a tree, but for what changes by itself."""
    command = ["ls", "-lR", "--time-style=full-iso", "--ignore=status", "--ignore=search"]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=WAIT, check=True)
    return done.stdout


def test_the_other_machine_shows_the_same(hub: Mounted, there: Laptop) -> None:
    for folder in ("conversations", "outbox", "contacts", "mail", "unread", "by-date"):
        wait_for(
            lambda folder=folder: listed(hub.path / folder) == listed(there.path / folder),  # type: ignore[misc]
            f"the same in {folder}",
        )
    for name in ("README", "profile.toml", "config.toml", "status"):
        assert (there.path / name).read_bytes() == (hub.path / name).read_bytes()
    assert there.status() == (hub.path / "status").read_text()
    for text in ("transcript", "metadata.toml"):
        place = conversation(there.path) / text
        assert place.read_text() == (conversation(hub.path) / text).read_text()


def test_attributes_are_those_of_the_hub(hub: Mounted, there: Laptop) -> None:
    message = next(conversation(hub.path).glob("*-bob*"))
    same = there.path / message.relative_to(hub.path)
    names = os.listxattr(message)
    assert "user.cbfs.sender" in names
    assert os.listxattr(same) == names
    for name in names:
        assert os.getxattr(same, name) == os.getxattr(message, name)
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(same, "user.cbfs.nothing")
    told, known = os.statvfs(there.path), os.statvfs(hub.path)
    assert told.f_bsize == known.f_bsize
    assert abs(told.f_blocks - known.f_blocks) <= known.f_blocks // 10


def test_what_arrives_is_shown_to_those_who_watch(hub: Mounted, there: Laptop) -> None:
    folder = conversation(there.path)
    os.listdir(folder)  # noqa: PTH208
    watch, conversations = Watch(folder), Watch(there.path / "conversations")
    hub.arrive("bob", "watched")
    watch.wait("-bob")
    wait_for(
        lambda: any(path.read_text() == "watched\n" for path in folder.glob("*-bob*")), "it to come"
    )
    wait_for(lambda: "watched" in (folder / "transcript").read_text(), "the transcript to say so")
    hub.arrive("carol", "a first one")
    conversations.wait("carol")
    assert [path.read_text() for path in conversation(there.path, "carol").glob("*-carol*")]


def test_what_is_removed_goes_on_both_sides(hub: Mounted, there: Laptop) -> None:
    hub.arrive("dave", "one")
    hub.arrive("dave", "two")
    folder = wait_for(lambda: next((there.path / "conversations").glob("*dave*"), None), "dave")
    both = wait_for(
        lambda: found if len(found := sorted(folder.glob("*-dave*"))) == 2 else None, "both"
    )
    gone = {path.read_text(): path for path in both}
    gone["one\n"].unlink()
    at_hub = conversation(hub.path, "dave")
    assert [path.read_text() for path in at_hub.glob("*-dave*")] == ["two\n"]
    next(at_hub.glob("*-dave*")).unlink()
    wait_for(lambda: not list(folder.glob("*-dave*")), "the other one to go")
    with pytest.raises(FileNotFoundError):
        gone["two\n"].read_bytes()


def test_a_file_saved_there_is_sent_once(hub: Mounted, there: Laptop) -> None:
    (there.path / "outbox/erin").mkdir()
    (there.path / "outbox/erin/first").write_text("to erin\n")
    folder = wait_for(lambda: next((hub.path / "conversations").glob("*erin*"), None), "erin")
    wait_for(lambda: [p.read_text() for p in folder.glob("*-alice*")] == ["to erin\n"], "one")
    wait_for(lambda: not there.waits(), "nothing to wait")
    outbox = there.path / "outbox" / folder.name
    wait_for(outbox.is_dir, "its folder in the outbox")
    (outbox / "second").write_text("and again\n")
    wait_for(lambda: len(list(folder.glob("*-alice*"))) == 2, "both")
    wait_for(lambda: not (outbox / "second").exists(), "it to leave the outbox")
    assert sorted(p.read_text() for p in folder.glob("*-alice*")) == ["and again\n", "to erin\n"]
    assert not (there.path / "outbox/erin/first").exists()


def test_a_folder_moved_in_is_one_message(hub: Mounted, there: Laptop) -> None:
    (there.path / "tmp/photos").mkdir()
    for name in ("a", "b"):
        (there.path / "tmp/photos" / name).write_bytes(name.encode() * 300_000)
    folder = conversation(there.path).name
    (there.path / "tmp/photos").rename(there.path / "outbox" / folder / "photos")
    sent = wait_for(
        lambda: next((hub.path / "conversations" / folder).glob("*-alice-photos"), None), "it"
    )
    assert (sent / "a").read_bytes() == b"a" * 300_000
    same = there.path / sent.relative_to(hub.path)
    wait_for(same.is_dir, "it to be shown")
    assert (same / "b").read_bytes() == b"b" * 300_000


def test_a_large_file_goes_and_comes_back(hub: Mounted, there: Laptop) -> None:
    content = os.urandom(5_000_000)
    folder = conversation(there.path).name
    (there.path / "outbox" / folder / "large.bin").write_bytes(content)
    sent = wait_for(
        lambda: next((there.path / "conversations" / folder).glob("*large*"), None), "it"
    )
    assert sent.read_bytes() == content
    assert (hub.path / sent.relative_to(there.path)).read_bytes() == content


def test_decisions_and_settings_are_made_there(hub: Mounted, there: Laptop) -> None:
    config = there.path / "config.toml"
    text = config.read_text()
    with pytest.raises(OSError, match="Invalid argument"):
        config.write_text("nonsense = 3\n")
    wait_for((there.path / "config.toml.error").exists, "why it is wrong")
    assert (hub.path / "config.toml").read_text() == "nonsense = 3\n"
    config.write_text("grace = 2\n")
    wait_for(lambda: (hub.path / "config.toml").read_text() == "grace = 2\n", "the setting")
    wait_for(lambda: not (there.path / "config.toml.error").exists(), "nothing to be wrong")
    config.write_text(text)
    with pytest.raises(PermissionError):
        (there.path / "conversations/new").mkdir()
    with pytest.raises(PermissionError):
        (there.path / "outbox/file").write_text("nobody")


def test_editors_save_there(hub: Mounted, there: Laptop) -> None:
    folder = there.path / "outbox" / conversation(there.path).name
    script = "vim -u NONE -N -es -c 'normal! iedited by vim' -c wq draft </dev/null"
    done = subprocess.run(["sh", "-euc", script], cwd=folder, timeout=WAIT, check=False)
    assert done.returncode == 0
    shown = there.path / "conversations" / folder.name
    wait_for(lambda: "edited by vim\n" in sent(shown), "what was edited")
    assert sent(hub.path / "conversations" / folder.name).count("edited by vim\n") == 1


def test_two_machines_write_at_once(
    tmp_path: Path, hub: Mounted, served: Sshd, there: Laptop
) -> None:
    name = conversation(there.path).name
    with laptop(tmp_path / "two", hub.account, served) as other:
        for number in range(5):
            (there.path / "outbox" / name / f"one-{number}").write_text(f"one {number}\n")
            (other.path / "outbox" / name / f"two-{number}").write_text(f"two {number}\n")
            wait_for(lambda: not there.waits() and not other.waits(), "both to be handed over")
        expected = {f"{who} {number}\n" for who in ("one", "two") for number in range(5)}
        folder = hub.path / "conversations" / name

        def texts() -> list[str]:
            return sorted(text for text in sent(folder) if text in expected)

        wait_for(lambda: len(texts()) >= 10, f"all of them: {texts()}")
        assert texts() == sorted(expected)
        for machine in (there, other):
            place = machine.path / "conversations" / name
            wait_for(lambda place=place: len(os.listdir(place)) == len(os.listdir(folder)), "all")  # type: ignore[misc]  # noqa: PTH208


def test_one_conversation_and_no_other_is_shown(tmp_path: Path, hub: Mounted, served: Sshd) -> None:
    name = conversation(hub.path).name
    with laptop(tmp_path / "only", hub.account, served, options=("-o", f"only={name}")) as only:
        assert os.listdir(only.path / "conversations") == [name]  # noqa: PTH208
        assert os.listdir(only.path / "outbox") == [name]  # noqa: PTH208
        assert sorted(os.listdir(only.path)) == ["conversations", "outbox", "tmp"]  # noqa: PTH208
        watch = Watch(only.path / "conversations" / name)
        hub.arrive("bob", "for one conversation")
        watch.wait("-bob")
        (only.path / "outbox" / name / "answer").write_text("from one conversation\n")
        there = hub.path / "conversations" / name
        wait_for(
            lambda: any(p.read_text() == "from one conversation\n" for p in there.glob("*-alice")),
            "the answer",
        )


def test_a_forced_command_says_what_is_served(tmp_path: Path, hub: Mounted) -> None:
    name = conversation(hub.path).name
    forced = f"{sys.executable} -m cbfs.commands.main serve --account {hub.account} --only {name}"
    with (
        sshd(tmp_path / "sshd", forced=f"cd {Path.cwd()} && {forced}") as served,
        laptop(tmp_path / "forced", Path("elsewhere"), served) as machine,
    ):
        assert os.listdir(machine.path / "conversations") == [name]  # noqa: PTH208


def test_what_shows_changes_knows_which_mount_it_is_for(hub: Mounted, there: Laptop) -> None:
    """Else it would show them in one that was made over it."""

    def told() -> list[str]:
        for task in Path(f"/proc/{there.pid}/task").glob("*/children"):
            for child in task.read_text().split():
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")[:-1]
                if any("notifier_worker" in word for word in words):
                    return words
        return []

    assert wait_for(told, "the worker")[-2:] == [str(there.path), str(there.path.stat().st_dev)]
