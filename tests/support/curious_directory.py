"""``python -m tests.support.curious_directory FILE OPTIONS``: cbfs-names, whose operator keeps in a
file what clients ask, one payload a line, in hex."""

import sys
from pathlib import Path

from cbfs_names.commands.main import main
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import DeferredReply


def listen_in(place: Path) -> None:
    """Keep every payload before it is answered."""
    answer = DirectoryService.answer

    def keeping(self: DirectoryService, payload: bytes) -> bytes | DeferredReply:
        with place.open("a") as file:
            file.write(f"{payload.hex()}\n")
        return answer(self, payload)

    DirectoryService.answer = keeping  # type: ignore[method-assign]


if __name__ == "__main__":
    listen_in(Path(sys.argv[1]))
    raise SystemExit(main(sys.argv[2:]))
