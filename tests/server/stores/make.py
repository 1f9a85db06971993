"""Makes stores as a version of the servers leaves them: see README.rst beside this file."""

import os
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import trio

from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs_common.limits import ENVELOPE_SIZE, PREKEY_RECORD_SIZE
from cbfs_common.primitives import KEM_PUBLIC_SIZE, Random, dh_public, kem_encapsulate
from cbfs_common.profile import parse_address
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import CreateAccount, Deliver, UploadPrekeys

FOREVER = 2**40
SECRET = b"7" * 32
ONE_TIME, ENVELOPES = 10, 5


def prekey(kind: PrekeyKind, number: int) -> bytes:
    """The server does not look into it."""
    start = bytes([number]) * 16 + bytes([kind]) + FOREVER.to_bytes(8, "big")
    return start + bytes(PREKEY_RECORD_SIZE - len(start))


async def fill(url: str) -> None:
    """Make the account that no program has."""
    random = Random(os.urandom, kem_encapsulate)
    address = parse_address(url)
    async with open_link(LoopbackDialer(), address, SECRET, b"test", random) as link:
        await request(link, CreateAccount())
        records = [prekey(PrekeyKind.ONE_TIME, number) for number in range(ONE_TIME)]
        records.append(prekey(PrekeyKind.LAST_RESORT, ONE_TIME))
        await request(link, UploadPrekeys(tuple(records), bytes(KEM_PUBLIC_SIZE), replace=False))
        for number in range(ENVELOPES):
            envelope = bytes([number]) * ENVELOPE_SIZE
            await request(link, Deliver(dh_public(SECRET), envelope))


def started(stack: ExitStack, module: str, data: Path) -> tuple[subprocess.Popen[str], str]:
    """A server and the address that it prints."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-P", "-m", module, "--data", str(data), "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def main(target: Path, number: str) -> None:
    """Make both files."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        server, url = started(stack, "cbfs_server.cli", place / "server")
        names, _ = started(stack, "cbfs_names.commands.main", place / "names")
        command = [
            *(sys.executable, "-P", "-c", "from cbfs.commands.main import main; exit(main())"),
            *("init", "alice", "--account", str(place / "alice"), "--no-tor"),
            *("--server", url, "--names", str(place / "names" / "policy")),
        ]
        subprocess.run(command, check=True, env=os.environ, stdin=subprocess.DEVNULL)
        trio.run(fill, url)
        for process, name in (server, "server"), (names, "names"):
            process.terminate()
            assert process.wait(60) == 0
            with tarfile.open(target / f"{name}-{number}.tar.xz", "w:xz") as file:
                file.add(place / name, ".", filter=anonymous)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Nobody's, and without locks."""
    if Path(entry.name).name in ("lock", "lock.mdb"):
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
