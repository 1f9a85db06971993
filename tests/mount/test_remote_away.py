"""An account that is mounted on another machine, whose link ends: what stays, what waits, and that
nothing is lost or doubled."""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cbfs_common.limits import FILE_SIZE_MAX
from tests.support.mounted import Mounted, Watch, mounted
from tests.support.remote import Laptop, Network, Sshd, laptop, network_to, sshd
from tests.support.world import WAIT, wait_for

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd") / "d") as one:
        yield one


@pytest.fixture
def hub() -> Iterator[Mounted]:
    with mounted() as mount:
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        yield mount


@pytest.fixture
def network(served: Sshd) -> Iterator[Network]:
    with network_to(served.port) as one:
        yield one


@pytest.fixture
def there(tmp_path: Path, hub: Mounted, served: Sshd, network: Network) -> Iterator[Laptop]:
    with laptop(tmp_path / "laptop", hub.account, served, network) as one:
        yield one


def talk(at: Path) -> Path:
    return next((at / "conversations").glob("*bob*"))


def sent(hub: Mounted) -> list[str]:
    return sorted(path.read_text() for path in talk(hub.path).glob("*-alice*"))


def unmount(path: Path) -> None:
    lazy = ["fusermount3", "-uz", str(path)]
    subprocess.run(lazy, check=False, stderr=subprocess.DEVNULL, timeout=WAIT)


def wait_away(there: Laptop) -> None:
    wait_for(lambda: there.status().startswith("away: "), "status to say that it is away")


def test_what_was_read_stays_readable_and_what_is_saved_waits(
    hub: Mounted, network: Network, there: Laptop
) -> None:
    folder = talk(there.path)
    message = next(folder.glob("*-bob*"))
    assert message.read_text() == "hello\n"
    transcript, names = (folder / "transcript").read_text(), sorted(os.listdir(folder))  # noqa: PTH208
    watch = Watch(folder)
    network.cut(stays_down=True)
    wait_away(there)
    hub.arrive("bob", "meanwhile")
    assert message.read_text() == "hello\n"
    assert (folder / "transcript").read_text() == transcript
    assert sorted(os.listdir(folder)) == names  # noqa: PTH208
    with pytest.raises(OSError) as refused:
        (there.path / "contacts/bob/fingerprint").read_bytes()
    assert refused.value.errno == errno.EHOSTUNREACH
    with pytest.raises(OSError) as refused:
        (there.path / "tmp/new").write_text("nowhere")
    assert refused.value.errno == errno.EHOSTUNREACH

    outbox = there.path / "outbox" / folder.name
    (outbox / "first").write_text("saved away\n")
    (outbox / ".second.swp").write_text("an editor's\n")
    (outbox / "draft").write_text("another\n")
    (outbox / "draft").rename(outbox / "third")
    (outbox / "taken").write_text("taken back\n")
    (outbox / "taken").unlink()
    (there.path / "outbox/carol").mkdir()
    (there.path / "outbox/carol/hi").write_text("to carol\n")
    assert (outbox / "third").read_text() == "another\n"
    assert os.getxattr(outbox / "third", "user.cbfs.state").startswith(b"waits on this machine")
    status = there.status()
    assert "4 files wait on this machine" in status
    assert "The hub has said last:" in status
    for path in there.waits():
        assert b"saved" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600

    network.mend()
    watch.wait("-bob")
    wait_for(lambda: sent(hub) == ["another\n", "saved away\n"], f"both: {sent(hub)}")
    carol = wait_for(lambda: next((hub.path / "conversations").glob("*carol*"), None), "carol")
    wait_for(lambda: [p.read_text() for p in carol.glob("*-alice*")] == ["to carol\n"], "hers")
    assert sorted(path.read_text() for path in folder.glob("*-bob*")) == ["hello\n", "meanwhile\n"]
    wait_for(lambda: len(there.waits()) == 1, "only the editor's file to be left")
    (outbox / ".second.swp").unlink()
    wait_for(lambda: there.status() == (hub.path / "status").read_text(), "the hub's status")
    assert not there.waits()


def test_what_goes_while_it_is_away_is_gone_when_it_is_back(
    hub: Mounted, network: Network, there: Laptop
) -> None:
    folder = talk(there.path)
    message = next(folder.glob("*-bob*"))
    assert message.read_text() == "hello\n"
    watch = Watch(folder, Watch.GOES)
    network.cut(stays_down=True)
    wait_away(there)
    next(talk(hub.path).glob("*-bob*")).unlink()
    network.mend()
    watch.wait("-bob")
    assert not list(folder.glob("*-bob*"))
    with pytest.raises(FileNotFoundError):
        message.read_text()


def test_what_waits_outlives_the_mount_and_is_handed_over_once(
    tmp_path: Path, hub: Mounted, network: Network, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    network.cut(stays_down=True)
    wait_away(there)
    for number in range(3):
        (outbox / f"note{number}").write_text(f"kept {number}\n")
    there.kill()
    assert len(there.waits()) == 3
    network.mend()
    there.mount()
    expected = [f"kept {number}\n" for number in range(3)]
    wait_for(lambda: sent(hub) == expected, f"all three, once: {sent(hub)}")
    wait_for(lambda: not there.waits(), "nothing to wait")
    with pytest.raises(AssertionError, match="has mounted it already"):
        second = Laptop(there.place, there.account, there.ssh)
        second.path = tmp_path / "second"
        second.path.mkdir()
        second.mount()


def test_a_hub_that_is_killed_and_begins_anew_loses_and_doubles_nothing(
    hub: Mounted, there: Laptop
) -> None:
    folder = talk(there.path)
    outbox = there.path / "outbox" / folder.name
    watch = Watch(folder)
    expected = []
    for number in range(6):
        (outbox / f"note{number}").write_text(f"saved {number}\n")
        expected.append(f"saved {number}\n")
        if number % 2:
            assert hub.signal(signal.SIGKILL) == -signal.SIGKILL
            hub.abort()
            unmount(hub.path)
            hub.mount()
    wait_for(lambda: not there.waits(), "nothing to wait")
    wait_for(lambda: sent(hub) == expected, f"each of them once: {sent(hub)}")
    hub.arrive("bob", "after all that")
    watch.wait("-bob")
    wait_for(lambda: len(list(folder.glob("*-alice*"))) == 6, "all to be shown there")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_link_that_is_cut_at_any_byte_loses_and_doubles_nothing(
    seed: int, hub: Mounted, network: Network, there: Laptop
) -> None:
    choice = random.Random(seed)
    outbox = there.path / "outbox" / talk(there.path).name
    expected = []
    for number in range(8):
        wait_for(lambda: not there.status().startswith("away"), "a link")
        network.cut_after(choice.randrange(1, 6_000))
        text = f"{number} " + "x" * choice.randrange(1, 4_000) + "\n"
        (outbox / f"note{number}").write_text(text)
        expected.append(text)
        wait_for(lambda: not network.is_to_be_cut or not there.waits(), "a cut")
    network.cut_after(-1)
    wait_for(lambda: not there.waits(), "nothing to wait")
    wait_for(lambda: sent(hub) == sorted(expected), "each of them once")
    assert network.cuts


def test_a_large_file_goes_on_where_the_link_was_cut(
    hub: Mounted, network: Network, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    content = random.Random(3).randbytes(6 << 20)
    before = network.passed
    network.cut_after(4 << 20)
    (outbox / "film").write_bytes(content)
    wait_for(lambda: not there.waits(), "nothing to wait")
    assert network.cuts == 1
    # what was on its way is sent again, and all else once
    assert network.passed - before < 8 << 20
    there_now = talk(hub.path)
    found = wait_for(lambda: list(there_now.glob("*-alice*")), "it to be sent")
    assert [path.read_bytes() for path in found] == [content]


def test_an_ssh_that_stands_still_holds_up_nobody_for_ever(hub: Mounted, there: Laptop) -> None:
    folder = talk(there.path)
    assert next(folder.glob("*-bob*")).read_text() == "hello\n"
    stopped = wait_for(there.ssh_pid, "an ssh")
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(OSError) as refused:
        (there.path / "contacts/bob/fingerprint").read_bytes()
    assert refused.value.errno in {errno.ETIMEDOUT, errno.EHOSTUNREACH}
    (there.path / "outbox" / folder.name / "note").write_text("saved meanwhile\n")
    wait_for(lambda: there.ssh_pid() not in {0, stopped}, "another ssh")
    wait_for(lambda: sent(hub) == ["saved meanwhile\n"], "what was saved")
    assert (there.path / "contacts/bob/fingerprint").read_bytes()


def test_a_killed_ssh_is_made_anew(hub: Mounted, there: Laptop) -> None:
    watch = Watch(talk(there.path))
    for number in range(3):
        killed = wait_for(there.ssh_pid, "an ssh")
        os.kill(killed, signal.SIGKILL)
        hub.arrive("bob", f"number {number}")
        watch.wait("-bob", number + 1)
    assert there.unmount() == 0


def test_close_fails_when_what_was_saved_is_nowhere(
    network: Network, hub: Mounted, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    network.cut(stays_down=True)
    wait_away(there)
    shutil.rmtree(next((there.place / "state/cbfs/hubs").iterdir()))  # with that of the account
    file = (outbox / "note").open("w")
    file.write("lost\n")
    file.flush()
    with pytest.raises(OSError):
        file.close()
    assert not (outbox / "note").exists()
    assert not sent(hub)


def test_what_is_saved_again_after_a_hand_over_of_unknown_end_is_not_lost(
    hub: Mounted, network: Network, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    network.stall()  # nobody knows what has become of the first one
    (outbox / "note").write_text("first\n")
    ssh = wait_for(there.ssh_pid, "an ssh")
    (outbox / "note").write_text("second, which is longer\n")
    network.cut()
    network.mend()
    wait_for(lambda: there.ssh_pid() not in {0, ssh}, "another ssh")
    wait_for(lambda: not there.waits(), "nothing to wait")
    wait_for(lambda: "second, which is longer\n" in sent(hub), f"the second: {sent(hub)}")
    assert len(sent(hub)) == len(set(sent(hub)))


def test_what_waits_for_one_account_goes_to_no_other_at_the_same_address(
    tmp_path: Path, hub: Mounted, served: Sshd, network: Network
) -> None:
    with mounted() as other:
        other.arrive("bob", "to somebody else")
        other.wait_messages("to somebody else\n", sender="bob")
        address = tmp_path / "account"
        address.symlink_to(hub.account)
        with laptop(tmp_path / "laptop", address, served, network) as there:
            outbox = there.path / "outbox" / talk(there.path).name
            network.cut(stays_down=True)
            wait_away(there)
            (outbox / "note").write_text("for one account only\n")
            address.unlink()
            address.symlink_to(other.account)
            network.mend()
            # the mount is of the account that it was of
            wait_for(lambda: "another account answers there now" in there.status(), "a refusal")
            assert len(there.waits()) == 1
            there.kill()
            there.mount()  # and this one of the other
            wait_for(lambda: "to somebody else\n" in shown(there.path), "the other account")
            assert "1 file waits for another account that was here" in there.status()
            assert not (there.path / "outbox" / outbox.name / "note").exists()
            there.kill()
            address.unlink()
            address.symlink_to(hub.account)
            there.mount()
            wait_for(lambda: sent(hub) == ["for one account only\n"], "it to go where it belongs")
            wait_for(lambda: not there.waits(), "nothing to wait")
        assert not list((other.path / "conversations").glob("*/*-alice*"))


@pytest.mark.parametrize("damage", [Path.unlink, lambda key: key.write_bytes(b"short")])
def test_what_waits_under_a_key_that_is_lost_is_kept_and_told(
    damage: Callable[[Path], object], hub: Mounted, network: Network, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    network.cut(stays_down=True)
    wait_away(there)
    (outbox / "note").write_text("nobody can open it\n")
    (waiting,) = there.waits()
    sealed = waiting.read_bytes()
    there.kill()
    damage(waiting.with_name("key"))
    network.mend()
    for _ in range(2):  # it is told for as long as the file is there
        there.mount()
        assert "1 file that waited cannot be opened any more" in there.status()
        assert "1 files that wait for the hub cannot be opened any more" in there.log()
        (outbox / "more").write_text("under another key\n")
        wait_for(lambda: not there.waits(), "that to be handed over")
        assert not (outbox / "note").exists()
        there.kill()
    (kept,) = waiting.parent.glob("*.out.unreadable")
    assert kept.read_bytes() == sealed
    kept.unlink()
    there.mount()
    assert "cannot be opened" not in there.status()
    assert set(sent(hub)) <= {"under another key\n"}


def shown(at: Path) -> set[str]:
    """What bob has said."""
    return {path.read_text() for path in at.glob("conversations/*/*-bob*")}


def test_a_folder_that_goes_while_somebody_writes_in_it_loses_nothing(
    hub: Mounted, there: Laptop
) -> None:
    folder = there.path / "outbox/carol"
    folder.mkdir()
    with (folder / "note").open("w") as file:
        file.write("to carol\n")
        (hub.path / "outbox/carol").rmdir()
        (hub.path / "outbox/dave").mkdir()
        seen = (there.path / "outbox").iterdir
        wait_for(lambda: "dave" in {path.name for path in seen()}, "the hub to be asked again")
    place = wait_for(lambda: next((hub.path / "conversations").glob("*carol*"), None), "carol")
    wait_for(lambda: [p.read_text() for p in place.glob("*-alice*")] == ["to carol\n"], "hers")


def test_a_time_to_come_holds_what_was_saved_away(
    hub: Mounted, network: Network, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    network.cut(stays_down=True)
    wait_away(there)
    (outbox / "held").write_text("for next year\n")
    later = time.time_ns() + 10**17
    os.utime(outbox / "held", ns=(later, later))
    (outbox / "now").write_text("for now\n")
    network.mend()
    wait_for(lambda: not there.waits(), "nothing to wait")
    wait_for(lambda: sent(hub) == ["for now\n"], f"what may go: {sent(hub)}")
    held = hub.path / "outbox" / outbox.name / "held"
    assert held.stat().st_mtime_ns == later
    assert held.read_text() == "for next year\n"
    held.unlink()


def test_a_program_that_is_killed_or_writes_too_much_sends_nothing(
    hub: Mounted, there: Laptop
) -> None:
    outbox = there.path / "outbox" / talk(there.path).name
    written = outbox / "killed"
    with subprocess.Popen(["sh", "-c", f"exec cat > '{written}'"], stdin=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        cat.stdin.write(b"half of what was to be said\n")
        cat.stdin.flush()
        wait_for(lambda: written.exists() and written.stat().st_size, "what was written")
        cat.kill()
    wait_for(lambda: "user.cbfs.error" in os.listxattr(written), "it to be no message")
    assert "cut off" in os.getxattr(written, "user.cbfs.error").decode()
    assert f"{written.name}: it was cut off" in there.status()
    with pytest.raises(OSError) as refused, (outbox / "large").open("wb", buffering=0) as file:
        file.write(b"the beginning\n")
        file.seek(FILE_SIZE_MAX)
        file.write(b"x")
    assert refused.value.errno == errno.EFBIG
    wait_for(lambda: not (outbox / "large").exists(), "it to be nothing")
    (outbox / "after").write_text("whole\n")
    wait_for(lambda: sent(hub) == ["whole\n"], f"only what is whole: {sent(hub)}")
    written.unlink()
    assert not there.waits()
    assert sent(hub) == ["whole\n"]
