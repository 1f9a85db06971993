"""The beginning of the link of a mount on another machine: both sides say what they are, and what
ssh(1) has to say is kept."""

from contextlib import suppress
from typing import Final

import trio

from cbfs.mount.remote.wire import ID_SIZE, VERSION, read_hub_answer
from cbfs.mount.single.wire import Answer, Frames, frame
from cbfs_common.errors import CbfsError, DecodeError

GREET_MAX: Final = 60.0
"""Seconds until the hub has to greet: an account may have to be opened there."""

_TOLD_MAX = 2_048


class Silent(CbfsError):
    """ssh has ended without a greeting: it may have said why."""


async def greeted(process: trio.Process, frames: Frames, mount: bytes) -> tuple[int, bytes]:
    """Let both sides say what they are; ``mount``: the id of this mount, by which the hub ends its
    earlier links. Gives the hub's time, and what it calls the account. Raises CbfsError."""
    answers: list[Answer] = []
    if process.stdin is None or process.stdout is None:
        raise Silent("there is no ssh", "install it: openssh-client")
    with trio.move_on_after(GREET_MAX):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await process.stdin.send_all(frame(2, "hello", [VERSION, mount]))
        try:  # what has ended may have said why
            while len(answers) < 2:
                data = await process.stdout.receive_some()
                if not data:
                    break
                for each in frames.add(data):
                    answers.append(read_hub_answer(each))
                    if len(answers) == 2 or answers[-1].errno:
                        break
                if answers and answers[-1].errno:
                    break
        except DecodeError as error:
            raise CbfsError(
                "what answers there is not cbfs serve",
                "does a start-up file of the shell print something there? see: ssh -T HOST cbfs"
                " --version",
            ) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    return _read_greeting(answers)


def _read_greeting(answers: list[Answer]) -> tuple[int, bytes]:
    match answers:
        case [Answer(errno=number, result=[str(text), str(hint)]), *_] if number:
            raise CbfsError(f"the hub says: {_plain(text)}", _plain(hint))
        case [Answer(errno=0), Answer(errno=0, result=[int(version), *rest])]:
            match rest:
                case [int(when), bytes(account)] if version == VERSION and len(account) == ID_SIZE:
                    return when, account
            raise CbfsError(
                "the hub has another version of cbfs", "install the same one on both machines"
            )
        case _:
            raise Silent("the hub does not answer", "try: ssh HOST cbfs --version")


async def listen(process: trio.Process, told: bytearray) -> None:
    """Keep the end of what ssh says in ``told``."""
    if process.stderr is not None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in process.stderr:
                told += data
                del told[:-_TOLD_MAX]


def last_line(told: bytearray) -> str:
    """The last of what ssh has said, for the terminal."""
    lines = [line for line in told.decode(errors="replace").splitlines() if line.strip()]
    return _plain(lines[-1]) if lines else ""


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]
