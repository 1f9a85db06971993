"""One conversation for a program or a container, and nothing else: ``-o only=CONVERSATION``, and
bind mounts of single folders. Real mounts of real sandboxes."""

import configparser
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.single import server as single_server
from cbfs.mount.single.process import Daemon
from cbfs.mount.single.view import make_tmp
from cbfs.mount.single.wire import (
    ARGUMENTS,
    FRAME_MAX,
    LOOK,
    Frames,
    SingleRequest,
    frame,
    read_answer,
    read_request,
)
from cbfs.tree.nodes import Folder
from cbfs.tree.tree import Tree
from cbfs_common.errors import DecodeError
from tests.support.mounted import Mounted, Watch, mounted
from tests.support.world import ENVIRONMENT, WAIT, program, run, wait_for
from tests.tree.test_tree import Mount
from tests.tree.test_tree import run as play

SANDBOX = (
    *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"),
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"),
)
"""As in mount.cbfs(8)."""

on_a_mount = pytest.mark.mount


class Window:
    """What the process of a window shows on ``path``."""

    def __init__(self, mount: Mounted, name: str) -> None:
        self.path = mount.path.parent / "window"
        self.path.mkdir()
        command = program("mount.cbfs", mount.account, self.path, "-o", f"only={name}")
        self.process = subprocess.Popen(
            [*command, "--foreground"], env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        self.messages = self.path / "conversations" / name
        self.outbox = self.path / "outbox" / name
        wait_for(self.messages.exists, "the window to answer")

    def texts(self, sender: str) -> list[str]:
        """Of the messages of one sender."""
        return [path.read_text() for path in sorted(self.messages.glob(f"*Z-{sender}*"))]

    def close(self) -> None:
        """Leave nothing behind."""
        lazy = ["fusermount3", "-uz", str(self.path)]
        subprocess.run(lazy, check=False, stderr=subprocess.DEVNULL, timeout=WAIT)
        self.process.terminate()
        self.process.wait(WAIT)


def folder_with(mount: Mounted, sender: str) -> str:
    """The name of the conversation with somebody."""
    (path,) = (mount.path / "conversations").glob(f"*-{sender}-alice")
    return path.name


@contextmanager
def window() -> Iterator[tuple[Mounted, Window]]:
    """alice's window on bob; carol writes as well."""
    with mounted() as mount:
        for sender in ("carol", "bob", "carol"):
            mount.arrive(sender, f"from {sender}")
        mount.wait_messages("from bob\n", sender="bob")
        mount.wait_messages("from carol\n", "from carol\n", sender="carol")
        opened = Window(mount, folder_with(mount, "bob"))
        try:
            yield mount, opened
        finally:
            opened.close()


def everything(place: Path) -> bytes:
    """All that can be seen below a path: names, contents, attributes."""
    seen = []
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = Path(folder, name)
            attributes = os.listxattr(path)
            seen += [os.fsencode(path), *(os.getxattr(path, each) for each in attributes)]
            seen += [path.read_bytes()] if path.is_file() else []
    return b"\n".join(seen)


def refused(path: Path) -> int | None:
    """The errno of looking at it."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno
    return None


@on_a_mount
def test_a_window_shows_one_conversation_and_nothing_else() -> None:
    with window() as (mount, opened):
        assert sorted(path.name for path in opened.path.iterdir()) == [
            "conversations",
            "outbox",
            "tmp",
        ]
        assert not list((opened.path / "tmp").iterdir())
        seen = everything(opened.path)
        assert b"from bob\n" in seen
        assert b"carol" not in seen
        message = next((mount.path / "conversations").glob("*-carol-alice/*Z-carol*"))
        for inside in ("conversations", "outbox", ".", f"conversations/{opened.messages.name}"):
            for name in (
                "contacts",
                "status",
                "unread",
                "search",
                "config.toml",
                "README",
                "only-1",
            ):
                assert refused(opened.path / inside / name) == errno.ENOENT
            assert refused(opened.path / inside / message.name) == errno.ENOENT
            assert refused(opened.path / inside / message.parent.name) == errno.ENOENT
        for made in ("outbox/carol", "conversations/x", "contacts"):
            with pytest.raises(PermissionError):
                (opened.path / made).mkdir()
        with pytest.raises(PermissionError):
            opened.outbox.rename(opened.path / "outbox" / "carol")
        assert "user.cbfs.account" not in os.listxattr(opened.path)
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        (line,) = [line for line in lines if str(opened.path) in line]
        assert str(mount.account) not in line
        assert opened.messages.name not in line


@on_a_mount
def test_numbers_of_a_window_count_nothing() -> None:
    """Inode numbers of the whole mount count what comes in every conversation, and its free space
    shrinks with it."""
    with window() as (mount, opened):
        whole = [path.stat().st_ino for path in (mount.path / "conversations").glob("*/*")]
        here = {path.stat().st_ino for path in opened.path.rglob("*")}
        assert not here & set(whole)
        assert min(here) > 1 << 62
        space = os.statvfs(opened.path)
        before = (space.f_blocks, space.f_bfree, space.f_files)
        (mount.path / "ui_info" / "large").write_bytes(os.urandom(3 << 20))
        space = os.statvfs(opened.path)
        assert (space.f_blocks, space.f_bfree, space.f_files) == before


@on_a_mount
def test_a_window_is_live_and_its_owner_decides_what_is_read() -> None:
    with window() as (mount, opened):
        arrivals, gone = Watch(opened.messages), Watch(opened.outbox)
        try:
            mount.arrive("bob", "more")
            arrivals.wait("-bob")
            wait_for(lambda: "more\n" in opened.texts("bob") or None, "the message to be shown")
            script = (
                "echo draft > a.part; echo more >> a.part; chmod 600 a.part; mv a.part b;"
                "ln -s x .#lock; rm .#lock"
            )
            subprocess.run(["sh", "-euc", script], cwd=opened.outbox, check=True, timeout=WAIT)
            gone.wait("b")
            mount.wait_messages("draft\nmore\n")
            arrivals.wait("-alice")
            assert opened.texts("alice") == ["draft\nmore\n"]
        finally:
            arrivals.close()
            gone.close()
        # what was read here only is new for the owner
        newest = max(path.name for path in opened.messages.glob("*Z-bob*"))
        unread = mount.path / "unread"
        wait_for(lambda: [path.name for path in unread.glob("*-bob*")] == [newest], "just that")
        kept = mount.path / "conversations" / opened.messages.name
        assert len(list(kept.glob("*Z-bob*"))) == 2  # the kernel knows them now
        for path in opened.messages.glob("*Z-bob*"):
            path.unlink()
        assert not list(kept.glob("*Z-bob*"))
        wait_for(lambda: not list((mount.path / "unread").glob("*-bob*")), "their links to go")
        assert mount.messages("carol")


@on_a_mount
def test_what_is_prepared_in_a_window_is_sent_from_it_and_gone_with_it() -> None:
    with window() as (mount, opened):
        (mount.path / "tmp" / "not for it").write_text("")
        script = """
            mkdir tmp/photos; echo one > tmp/photos/1.txt; echo two > tmp/photos/2.txt
            echo whole > tmp/a; mv tmp/a outbox/*/
            mv tmp/photos outbox/*/
            mkdir tmp/left; echo left > tmp/left/file; ls tmp
        """
        command = ["sh", "-euc", script]
        done = subprocess.run(
            command, cwd=opened.path, capture_output=True, timeout=WAIT, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"left\n", b"")
        wait_for(lambda: list(opened.messages.glob("*Z-alice-photos/2.txt")), "the folder")
        wait_for(lambda: list(opened.messages.glob("*Z-alice")), "the file")
        opened.process.terminate()
        assert opened.process.wait(WAIT) == 0
        tmp = mount.path / "tmp"
        wait_for(lambda: [p.name for p in tmp.iterdir()] == ["not for it"], "its tmp/ to go")


@on_a_mount
def test_an_editor_holds_its_message_in_a_window() -> None:
    with window() as (mount, opened):
        command = [
            "vim",
            "-es",
            "-u",
            "NONE",
            "-c",
            "set noswapfile",
            str(opened.outbox / "letter"),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as vim:
            if vim.stdin is None:
                raise AssertionError("no stdin")
            vim.stdin.write(b"a\nfirst\n.\nw\n")
            vim.stdin.flush()
            status = mount.path / "status"
            wait_for(lambda: "letter: vim" in status.read_text() or None, "it to be held")
            vim.stdin.write(b"a\nsecond\n.\nw\nq!\n")
        mount.wait_messages("first\nsecond\n")


@on_a_mount
def test_a_window_in_another_namespace_changes_nothing_at_its_path_here() -> None:
    """The daemon shows changes by calls at the window's path: here that is a plain folder."""
    with mounted() as mount:
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        name, here = folder_with(mount, "bob"), mount.path.parent / "window"
        plain = here / "outbox" / name / "answer"
        plain.parent.mkdir(parents=True)
        plain.write_text("not the window's\n")
        script = """
            mount --make-rprivate /
            "$@" 2>/dev/null
            cd "$0/outbox/$NAME" && echo answered > answer
            while test -e answer; do sleep 0.1; done
            cat "$0/conversations/$NAME"/*-alice
            cd / && fusermount3 -u "$0"
        """
        ours = program("mount.cbfs", mount.account, here, "-o", f"only={name}")
        done = subprocess.run(
            ["unshare", "-m", "sh", "-euc", script, here, *ours],
            env={**ENVIRONMENT, "NAME": name},
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "answered\n"), done.stderr
        mount.wait_messages("answered\n")
        assert plain.read_text() == "not the window's\n"


@on_a_mount
def test_a_window_ends_with_its_account_and_leaves_what_was_written() -> None:
    with mounted() as mount:
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        opened = Window(mount, folder_with(mount, "bob"))
        try:
            half = os.open(opened.outbox / "half", os.O_WRONLY | os.O_CREAT)
            os.write(half, b"written")
            opened.process.kill()
            opened.process.wait(WAIT)
            (half_file,) = (mount.path / "outbox").glob("*/half")
            error = half_file.with_name("half.error")
            wait_for(lambda: error.exists() or None, "it to be told that something may be missing")
            assert "the mount ended" in error.read_text()
            assert not mount.messages()
            with pytest.raises(OSError):
                os.write(half, b"more")
            with suppress(OSError):
                os.close(half)
        finally:
            opened.close()
        opened.path.rmdir()
        opened = Window(mount, folder_with(mount, "bob"))
        try:
            assert (opened.outbox / "half").read_text() == "written"
            (opened.outbox / "half").write_text("written anew")
            mount.wait_messages("written anew")
            assert mount.unmount() == 0
            assert opened.process.wait(WAIT) == 0
            assert not opened.path.is_mount()
        finally:
            opened.close()


@on_a_mount
def test_what_is_wrong_with_a_window_is_told(tmp_path: Path) -> None:
    with mounted() as mount:
        done = run("mount.cbfs", mount.path, tmp_path, "-o", "only=2026-01-01-alice-dave")
        assert done.returncode == 1
        assert "there is no conversation 2026-01-01-alice-dave" in done.stderr
        assert "cbfs: hint: " in done.stderr
        assert not tmp_path.is_mount()
        account = mount.account
        assert mount.unmount() == 0
        done = run("mount.cbfs", account, tmp_path, "-o", "only=x")
        assert done.returncode == 1
        assert "is not mounted" in done.stderr
        assert not (account / "windows").exists()


@on_a_mount
def test_a_sandbox_has_nothing_but_its_conversation() -> None:
    with window() as (mount, opened):
        script = """
            cd /chat
            find . / -path /proc -prune -o -path /usr -prune -o -path /dev -prune -o -print
            cat conversations/*/*-bob*
            (cd outbox/*; echo answered > answer)
            ls / /chat/.. /proc/1/root/
        """
        command = [*SANDBOX, "--bind", str(opened.path), "/chat", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True)
        assert "from bob" in done.stdout
        assert "carol" not in done.stdout
        assert str(mount.account) not in done.stdout
        mount.wait_messages("answered\n")


@on_a_mount
def test_a_bind_mount_of_one_folder_stays_inside() -> None:
    """Of the whole mount: the folder of the messages, and that of the outbox."""
    with mounted() as mount:
        for sender in ("carol", "bob"):
            mount.arrive(sender, f"from {sender}")
            mount.wait_messages(f"from {sender}\n", sender=sender)
        name = folder_with(mount, "bob")
        script = """
            cat /in/*-bob*
            ls -a /in /in/.. /out /out/..
            for guess in /in/../conversations /out/../status /out/../../contacts; do
                ! test -e "$guess"
            done
            ! mkdir /out/folder 2>/dev/null
            echo answered > /tmp-answer
            cp /tmp-answer /out/answer
        """
        binds = [*("--bind", str(mount.path / "conversations" / name), "/in")]
        binds += ["--bind", str(mount.path / "outbox" / name), "/out"]
        command = [*SANDBOX, *binds, "sh", "-euc", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "from bob" in done.stdout
        assert "carol" not in done.stdout
        mount.wait_messages("answered\n")


# what systemd is told

UNITS = Path(__file__).parents[2] / "systemd"


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    ours, runtime = str(Path(program("mount.cbfs")[0])), tmp_path / "run"
    runtime.mkdir(mode=0o700)
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.mount")):
        text = unit.read_text().replace("ExecStart=mount.cbfs", f"ExecStart={ours}")
        text = text.replace("/usr/local/bin/cbfs-names", program("cbfs-names")[0])
        (tmp_path / unit.name).write_text(text.replace("/run/bots/bot", "/bin/true"))
    units = ["cbfs@chat.service", "cbfs-only@0123.service", "cbfs-bot@0123.service"]
    system = [
        "home-alice-chat.mount",
        "cbfs-names-sequencer.service",
        "cbfs-names-verifier@a1.service",
    ]
    for level, names in (("--user", units), ("--system", system)):
        done = subprocess.run(
            ["systemd-analyze", "verify", level, "--man=no", *(tmp_path / n for n in names)],
            env={**ENVIRONMENT, "XDG_RUNTIME_DIR": str(runtime)},
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        ours_said = [line for line in done.stderr.splitlines() if "cbfs" in line]
        assert (done.returncode, ours_said) == (0, [])


@on_a_mount
def test_the_file_systems_of_the_unit_for_bots_show_one_conversation() -> None:
    """The same mounts by bwrap, as no systemd runs in a test."""
    unit = configparser.RawConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as its manual says
    unit.read(UNITS / "cbfs-bot@.service")
    service = unit["Service"]
    with window() as (mount, opened):
        source, _, target = service["BindPaths"].partition(":")
        assert source == "%h/only/%i"
        command = ["bwrap", "--unshare-user", "--bind", "/", "/", "--dev", "/dev"]
        for folder in service["TemporaryFileSystem"].split():
            command += ["--tmpfs", folder]
        command += ["--bind", str(opened.path), target, "sh", "-euc"]
        script = f"""
            ls {mount.path} {mount.account} 2>/dev/null && exit 1
            ls -d /home/* /root/* /run/user/* 2>/dev/null && exit 1
            cat {target}/conversations/*/*Z-bob*
            cd {target}/outbox/*
            echo answered > answer
        """
        done = subprocess.run(
            [*command, script], capture_output=True, text=True, timeout=WAIT, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "from bob\n", "")
        mount.wait_messages("answered\n")


# the words between a window and its daemon


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    for read in (read_request, read_answer):
        try:
            read(data)
        except DecodeError:
            continue


def test_requests_have_just_their_types() -> None:
    body = frame(1, "lookup", [1, b"name", 2])[4:]
    assert read_request(body) == SingleRequest(1, "lookup", [1, b"name", 2])
    for word, arguments in (
        ("lookup", [1, "name", 2]),
        ("lookup", [True, b"name", 2]),
        ("lookup", [1, b"name"]),
        ("unlock", []),
        ("forget", [[1, 2]]),
        ("setattr", [1, [None] * 4]),
        ("setattr", [1, [None, None, "big", None, None]]),
    ):
        with pytest.raises(DecodeError):
            read_request(frame(1, word, arguments)[4:])
    assert all(isinstance(kind, type) for kinds in ARGUMENTS.values() for kind in kinds)


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 20))
def test_frames_come_out_as_they_went_in(bodies: list[bytes], step: int) -> None:
    data, frames = b"".join(len(b).to_bytes(4, "big") + b for b in bodies), Frames()
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    assert [body for piece in pieces for body in frames.add(piece)] == bodies
    with pytest.raises(DecodeError):
        list(Frames().add((FRAME_MAX + 1).to_bytes(4, "big")))


@pytest.mark.parametrize("gone", ["conversation", "process"])
def test_nothing_stays_of_a_window_that_came_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Its conversation is left, or its process ends, while the daemon gets ready."""

    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"hello")
        ours, theirs = trio.testing.memory_stream_pair()

        async def slow(tree: Tree) -> Folder:
            made = await make_tmp(tree)
            if gone == "conversation":
                await tree.leave_conversation(message.conversation, tree.outbox)
            else:
                await theirs.aclose()
            return made

        monkeypatch.setattr(single_server, "make_tmp", slow)
        session = single_server._Session(
            ours,  # type: ignore[arg-type]
            single_server.SingleServer(mount.view, tmp_path, SYSTEM_RANDOM),
        )
        await theirs.send_all(frame(1, LOOK, [message.conversation.hex()]))
        with trio.fail_after(WAIT):
            await session.run()
        if gone == "conversation":
            (answer,) = Frames().add(await theirs.receive_some())
            assert read_answer(answer).errno == errno.EINVAL
        assert not mount.tree.tmp.entries
        assert not mount.view.watchers.observers

    play(tmp_path, body)


def test_a_daemon_that_has_just_ended_answers_that_nobody_is_there() -> None:
    """Before the first word could be sent, too."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.aclose()
        daemon = Daemon(ours)  # type: ignore[arg-type]
        assert (await daemon.answer(LOOK, "any")).errno == errno.ENOTCONN

    trio.run(main)


@on_a_mount
def test_a_program_in_a_window_adds_nobody_and_goes_on_nowhere() -> None:
    """Whoever it added would read what comes later, and what others go on with is not its own."""
    adding = 'participants = ["alice", "bob", "carol"]'
    with window() as (mount, opened):
        folder = mount.path / "outbox" / opened.outbox.name
        with pytest.raises(OSError, match="Invalid argument"):
            (opened.outbox / "metadata.toml").write_text(adding)
        assert folder.is_dir()
        (folder / "metadata.toml").write_text(adding)
        wait_for(lambda: not folder.exists(), "the folder to get its name")
        with pytest.raises(PermissionError):
            (opened.outbox / "f").write_text("to carol")
        mount.run("cd outbox/*-bob-alice-carol; echo hi > f")
        mount.wait_messages("hi\n")
        assert [path.name for path in opened.outbox.parent.iterdir()] == [opened.outbox.name]
        assert [path.name for path in opened.messages.parent.iterdir()] == [opened.messages.name]
        assert b"carol" not in everything(opened.path)


@on_a_mount
@pytest.mark.parametrize("held", ["handle", "file", "folder"])
def test_what_a_program_in_a_window_holds_of_drafts_is_not_its_own_when_they_go_on(
    held: str,
) -> None:
    """An open file, or a path by what it holds open: it may neither see what is written there, to
    more people by now, nor write it."""
    with window() as (mount, opened):
        folder = mount.path / "outbox" / opened.outbox.name
        mount.run(f"mkdir tmp/in.part; mv tmp/in.part outbox/'{folder.name}'/")
        (folder / "draft.part").write_text("to bob")
        flags = os.O_RDWR if held == "handle" else os.O_PATH
        name = "in.part" if held == "folder" else "draft.part"
        descriptor = os.open(opened.outbox / name, flags)
        path = Path(f"/proc/self/fd/{descriptor}")
        (folder / "metadata.toml").write_text('participants = ["alice", "bob", "carol"]')
        (new,) = wait_for(lambda: list((mount.path / "outbox").glob("*-carol")), "the folder")
        (new / "draft.part").write_text("to carol, too")
        with pytest.raises(OSError, match="Stale"):
            if held == "handle":
                os.pread(descriptor, 100, 0)
            elif held == "file":
                path.read_text()
            else:
                (path / "more").write_text("from the window")
        with pytest.raises(OSError, match="Stale"):
            if held == "handle":
                os.pwrite(descriptor, b"from the window", 0)
            elif held == "file":
                path.write_text("from the window")
            else:
                list(path.iterdir())
        with suppress(OSError):
            os.close(descriptor)
        assert (new / "draft.part").read_text() == "to carol, too"
        assert not list((new / "in.part").iterdir())


@on_a_mount
def test_what_goes_in_a_window_goes_from_a_mount_that_had_looked_it_up_before() -> None:
    """The kernel of the mount keeps names of drafts, and hears nothing of what a window does."""
    with mounted() as mount:
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        name = folder_with(mount, "bob")
        draft = mount.path / "outbox" / name / ".draft"
        draft.write_text("not yet")
        opened = Window(mount, name)
        try:
            (opened.outbox / ".draft").unlink()
            assert not draft.exists()
        finally:
            opened.close()
