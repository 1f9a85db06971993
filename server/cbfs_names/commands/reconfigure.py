"""``cbfs-names configure`` and ``submit``: operators change the configuration, each signing with
the key of a verifier of theirs. The operation goes from one to the next as a file."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import trio

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.config import Config, ConfigFile, parse_config
from cbfs_common.names.note import parse_checkpoint, parse_note
from cbfs_common.names.operations import (
    SUBMIT_MAX,
    Operation,
    OperationKind,
    OperationRefused,
    decode_operation,
)
from cbfs_common.names.wire import (
    AskHead,
    HeadIs,
    RefusedReply,
    Reply,
    Request,
    Submit,
    Submitted,
    decode_reply,
    encode_request,
)
from cbfs_common.primitives import Random, kem_encapsulate, sign_public
from cbfs_names.commands.tools import add_data, read_text, say
from cbfs_names.state.keys import load_key, write_file
from cbfs_names.wire.peer_link import connected

ROUNDS = 4_096
"""Rounds after which a change that was not submitted is void."""


def add_configure(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``cbfs-names configure``."""
    add_data(parser)
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the present one"
    )
    parser.add_argument("--new", type=Path, required=True, metavar="FILE", help="as it will be")
    parser.add_argument(
        "operation", type=Path, metavar="OPERATION", help="made, or signed as well when it is there"
    )
    parser.set_defaults(run=_configure)


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``cbfs-names submit``."""
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the present one"
    )
    parser.add_argument("operation", type=Path, metavar="OPERATION", help="signed by a quorum")
    parser.set_defaults(run=_submit)


def _configure(options: argparse.Namespace) -> None:
    file, new = parse_config(read_text(options.config)), parse_config(read_text(options.new)).config
    old = file.config
    if new.log != old.log or new == old:
        raise CbfsError("--new is the same or another directory's", "it keeps the log line")
    path = options.data / "verifier.key"
    if not path.exists():
        raise CbfsError(f"there is no {path}", "is it the right --data?")
    seed = load_key(path, Random(os.urandom, kem_encapsulate))
    if old.witness(sign_public(seed)) is None:
        raise CbfsError("the configuration has no witness line for the key in --data")
    if options.operation.exists():
        operation = _read(options.operation)
        if (operation.previous, operation.terms) != (old.digest(), new.encode()):
            raise CbfsError(f"{options.operation} makes another change", "read what it would do")
    else:
        expires = trio.run(_rounds, file) + ROUNDS
        operation = Operation(
            OperationKind.CONFIGURE,
            old.directory,
            "",
            0,
            0,
            old.digest(),
            expires,
            terms=new.encode(),
        )
    signed = _with_signature(operation, seed)
    write_file(options.operation, signed.encode(), 0o644, ours=False)
    names = _signers(old, signed)
    enough = "a quorum: submit it" if old.satisfied(names) else "no quorum yet"
    say(f"{options.operation}: signed by {', '.join(names)}; {enough}")


def _with_signature(operation: Operation, seed: bytes) -> Operation:
    """With one more signature by this seed (32)."""
    added = dict(operation.signatures) | dict(operation.signed((seed,)).signatures)
    return replace(operation, signatures=tuple(sorted(added.items())))


def _signers(config: Config, operation: Operation) -> list[str]:
    """The names of the verifiers that have signed. Raises CbfsError."""
    found = [config.witness(key) for key in operation.signers()]
    return sorted(each[0] for each in found if each is not None)


def _submit(options: argparse.Namespace) -> None:
    file = parse_config(read_text(options.config))
    reply = trio.run(_ask, file, Submit(_read(options.operation).encode()))
    if isinstance(reply, RefusedReply):
        raise OperationRefused(reply.refusal)
    if not isinstance(reply, Submitted):
        raise DecodeError("the sequencer answers something else")
    say(f"in force after round {reply.round}: give all processes and clients the new files")


def _read(path: Path) -> Operation:
    try:
        with path.open("rb") as file:
            operation = decode_operation(file.read(SUBMIT_MAX + 1))
    except OSError as error:
        raise CbfsError(f"cannot read {path}", "is it the right file?") from error
    if operation.kind is not OperationKind.CONFIGURE:
        raise DecodeError(f"{path} changes no configuration", "is it the right file?")
    return operation


async def _rounds(file: ConfigFile) -> int:
    """How many rounds the directory has made."""
    reply = await _ask(file, AskHead())
    if not isinstance(reply, HeadIs):
        raise DecodeError("the sequencer has no round yet", "start it with its verifiers first")
    return parse_checkpoint(parse_note(reply.note).text.decode("ascii")).size


async def _ask(file: ConfigFile, request: Request) -> Reply:
    if file.server is None:
        raise CbfsError("no sequencer is known", "put its URL behind the key in the log line")
    random = Random(os.urandom, kem_encapsulate)
    async with connected(file.server, random) as link:
        return decode_reply(await link.raw(encode_request(request)))
