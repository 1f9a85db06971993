"""Large files between real mounts and servers: kills of everybody in the middle, reading what is
still arriving, folders, mails, and who does without blobs."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cbfs_common.limits import FILE_SIZE_MAX
from tests.mount.test_attachments import memory
from tests.support.world import Service, User, World, wait_for, world

SIZE = 32 << 20
SMALL = 3 << 20

pytestmark = pytest.mark.mount


def progress(path: Path) -> int:
    """How many percent of a file are where they are to be; 100 when nothing says so any more."""
    try:
        return int(os.getxattr(path, "user.cbfs.progress").decode().split()[0])
    except OSError:
        return 100


def state(path: Path) -> str:
    return os.getxattr(path, "user.cbfs.state").decode()


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def own(user: User) -> Path:
    (found,) = wait_for(lambda: user.messages(user.name), "the file to be a message")
    return found


def written(path: Path, size: int) -> bytes:
    """A file of random bytes, which are not in memory twice; its beginning."""
    beginning = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(size >> 20):
            file.write(beginning[number:] + beginning[:number])
    return beginning


def save(user: User, folder: str, source: Path) -> None:
    place = user.mountpoint / "outbox" / folder
    place.mkdir(exist_ok=True)
    shutil.copyfile(source, place / source.name)


def is_same(path: Path, source: Path) -> bool:
    return subprocess.run(["cmp", path, source], check=False, timeout=120).returncode == 0


def in_the_middle(path: Path, what: str) -> None:
    """Until some of it is where it is to be; not all, as it is stopped at once then."""
    wait_for(lambda: progress(path) > 0, what)


def test_a_film_to_two_people_survives_kills_of_everybody(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    written(source, SIZE)
    with world(tmp_path) as programs:
        alice, bob, carol = (programs.user(name) for name in ("alice", "bob", "carol"))
        before = memory(alice)
        save(alice, "bob,carol", source)
        sent = own(alice)
        in_the_middle(sent, "some of it to be at the server")
        alice.kill()
        programs.server.end(signal.SIGKILL)
        programs.server.start()
        alice.mount()
        wait_for(lambda: bob.messages("alice") and carol.messages("alice"), "them to hear of it")
        bob.kill()
        programs.server.end(signal.SIGKILL)
        carol.kill()
        programs.server.start()
        bob.mount()
        carol.mount()
        for user in (bob, carol):
            (there,) = wait_for(lambda user=user: user.messages("alice"), "it")  # type: ignore[misc]
            wait_for(lambda there=there: progress(there) == 100, "all of it")  # type: ignore[misc]
            assert there.stat().st_size == source.stat().st_size
            assert is_same(there, source)
            assert "film.bin" not in status(user)
        wait_for(lambda: state(sent) == "bob: received, carol: received", "the receipts")
        assert is_same(sent, source)
        assert memory(alice) < before + (24 << 20)


def caught(alice: User, bob: User, source: Path, server: Service) -> Path:
    """A file of which a part has come to bob, and the rest does not come, as the server is stopped.
    All of it may have come before this process had its turn: then another one."""
    for number in range(8):
        named = source.with_name(f"film{number}.bin")
        source.rename(named)
        source = named
        save(alice, "bob", source)
        there = wait_for(lambda name=named.name: arrived(bob, name), "it")  # type: ignore[misc]
        in_the_middle(there, "some of it to come")
        os.kill(server.pid, signal.SIGSTOP)
        if progress(there) < 100:
            return there
        os.kill(server.pid, signal.SIGCONT)
    raise AssertionError("all of it came at once, each time")


def arrived(user: User, name: str) -> Path | None:
    return next((path for path in user.messages("alice") if path.name.endswith(name)), None)


def test_the_beginning_is_there_before_the_end(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    beginning = written(source, SIZE)
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        there = caught(alice, bob, source, programs.server)
        assert there.stat().st_size == SIZE
        with there.open("rb") as file:
            assert file.read(1_000) == beginning[:1_000]
            assert there in there.parent.iterdir()
            with pytest.raises(OSError, match="Resource temporarily unavailable"):
                os.pread(file.fileno(), 10, SIZE - 10)
            assert " from alice: " in status(bob)
            programs.server.end(signal.SIGKILL)
            programs.server.start()
            wait_for(lambda: progress(there) == 100, "all of it")
            file.seek(0)
            assert len(file.read()) == SIZE
        (sent,) = (path for path in alice.messages("alice") if path.name[-9:] == there.name[-9:])
        assert is_same(there, sent)


def test_a_folder_is_filled_when_it_is_here_and_mails_only_name_it(tmp_path: Path) -> None:
    """What is removed of it is gone, and deleting the message deletes the rest."""
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        (alice.mountpoint / "outbox" / "bob").mkdir()
        top = alice.mountpoint / "tmp" / "photos"
        (top / "deep").mkdir(parents=True)
        data = written(tmp_path / "large", SMALL)
        shutil.copyfile(tmp_path / "large", top / "deep" / "large")
        (top / "note").write_text("look at this")
        (top / "message").write_text("What I wrote to them.\n")
        top.rename(alice.mountpoint / "outbox" / "bob" / "photos")
        (there,) = wait_for(lambda: bob.messages("alice"), "the folder")
        wait_for((there / "note").exists, "what is in it")
        assert (there / "note").read_text() == "look at this"
        assert (there / "deep" / "large").read_bytes()[: 1 << 20] == data
        (mail,) = (bob.mountpoint / "mail").glob("???/*")
        assert 24_576 < mail.stat().st_size == len(mail.read_bytes()) < 25_600
        said = mail.read_text()
        assert "photos: a folder of 3,1" in said
        assert said.index("\n\nWhat I wrote to them.\n") < said.index("  note: 12 bytes\n")
        assert "  deep: a folder\n" in said
        assert f"{there.name} (3" in bob.run("cat conversations/*/transcript*")
        (there / "note").unlink()
        assert sorted(each.name for each in there.iterdir()) == ["deep", "message"]
        assert "  note: " not in mail.read_text()
        shutil.rmtree(there)
        assert not bob.messages("alice")
        (sent,) = alice.messages("alice")
        wait_for(lambda: state(sent) == "bob: received", "the receipt")


def test_without_blobs_all_goes_in_envelopes_and_no_more_than_64_mib(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    written(source, SMALL)
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        alice.run("echo 'blobs = false' > config.toml")
        wait_for(lambda: "blobs = false" in alice.run("cat config.toml"), "the setting")
        save(alice, "bob", source)
        (there,) = wait_for(lambda: bob.messages("alice"), "the file")
        assert progress(there) == 100
        assert is_same(there, source)
        draft = alice.mountpoint / "tmp" / "f"
        draft.touch()
        os.truncate(draft, FILE_SIZE_MAX)
        with pytest.raises(OSError, match="File too large"):
            os.truncate(draft, FILE_SIZE_MAX + 1)


def test_what_is_for_oneself_is_put_nowhere(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    written(source, SMALL)
    with world(tmp_path) as programs:
        alice = programs.user("alice")
        save(alice, "alice", source)
        kept = own(alice)
        assert state(kept) == "alice: kept here"
        assert is_same(kept, source)
        assert "server: " not in status(alice).split("Tor is")[0].replace("connected", "")


def test_what_the_server_does_not_take_is_told_and_can_be_removed(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    written(source, SMALL)
    with world(tmp_path) as programs:
        small = small_server(programs)
        alice, bob = programs.user("alice", small), programs.user("bob")
        save(alice, "bob", source)
        sent = own(alice)
        words = "your server takes nothing so large"
        wait_for(lambda: words in status(alice), "it to be told")
        assert state(sent) == "bob: queued"
        alice.write("bob", "text", "smaller")
        bob.wait_message("alice", "smaller")
        sent.unlink()
        wait_for(lambda: words not in status(alice), "nothing of it to be left")
        assert len(bob.messages("alice")) == 1


def small_server(programs: World) -> Service:
    service = Service("cbfs-server", programs.place / "small", ("--blob-quota", "0M"))
    programs._stack.callback(service.close)
    return service
