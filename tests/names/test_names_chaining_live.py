"""A real directory whose operator reads along: programs that have seen other heads than each other
ask it for a name in the same bytes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack

from cbfs_common.names.policy import SCHEME
from tests.support.serving import running_server
from tests.support.world import ENVIRONMENT, WAIT, run

LOOKUP = 1


@contextmanager
def curious(place: Path) -> Iterator[Path]:
    """The file in which it keeps what it is asked."""
    kept = place / "asked"
    program = [sys.executable, "-m", "tests.support.curious_directory", str(kept)]
    options = ["--data", str(place / "names"), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*program, *options], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(SCHEME)
        yield kept
    finally:
        process.terminate()
        process.wait(WAIT)
        process.stdout.close()


def test_a_directory_cannot_chain_look_ups_by_what_they_say(tmp_path: Path) -> None:
    with curious(tmp_path) as kept, running_server(tmp_path / "server") as server:

        def cbfs(name: str, *words: str) -> None:
            done = run("cbfs", *words, "--account", tmp_path / name, "--no-tor")
            assert done.returncode == 0, done.stderr

        def asked() -> list[bytes]:
            payloads = [bytes.fromhex(line) for line in kept.read_text().split()]
            return [each for each in payloads if msgpack.unpackb(each)[0] == LOOKUP]

        for name in "alice", "bobby":
            home = "--server", server.address.url(), "--names", str(tmp_path / "names" / "policy")
            cbfs(name, "init", name, *home)
            cbfs("alice", "name", "show")
        found = {name: [p for p in asked() if name.encode() in p] for name in ("alice", "bobby")}
        assert len(found["alice"]) > len(found["bobby"]) > 0
        for payloads in found.values():
            assert len(set(payloads)) == 1
