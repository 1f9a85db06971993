"""What ``cbfs-names`` does besides serving: keys for a configuration, what it asks of newcomers,
invites, evidence."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Protocol

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import NAME_MIN, WORK_BITS_MAX
from cbfs_common.names.config import SHORT, Registration, Terms, parse_config
from cbfs_common.names.equivocation import decode_equivocation
from cbfs_common.names.note import COSIGNER_KEY, LOG_KEY, NoteKey, parse_note_key, to_base64
from cbfs_common.names.policy import SCHEME
from cbfs_common.names.registration import Invite, Token
from cbfs_common.person import check_name, check_namespace
from cbfs_common.primitives import KEY_SIZE, Random, kem_encapsulate, sign_public
from cbfs_common.profile import Address
from cbfs_host.admin_command import Subcommands, show
from cbfs_host.complaints import HostError
from cbfs_host.files import opened_data
from cbfs_host.listening import parse_place
from cbfs_names.state.keys import load_key, load_keys
from cbfs_names.state.store import StateStore

PROGRAM = "cbfs-names"

DAY = 86_400
DAYS = 30
DAYS_MAX = 3_650
FILE_MAX = 1 << 20


def add_key(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``cbfs-names key``."""
    add_data(parser)
    parser.add_argument("name", metavar="NAME", help="of the verifier, or of the directory")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--sequencer", action="store_true", help="the log's key, not a verifier's")
    kind.add_argument("--registrar", action="store_true", help="the key that signs invites")
    parser.add_argument("--address", metavar="HOST:PORT", help="where it will listen")
    parser.set_defaults(run=_key)


def add_invite(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``cbfs-names invite``."""
    add_data(parser)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the directory's (default: DIR/config)"
    )
    parser.add_argument("--days", type=int, default=DAYS, help="valid for (default: %(default)s)")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="only for this name")
    parser.set_defaults(run=_invite)


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``cbfs-names audit``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="evidence, or a folder of it")
    parser.set_defaults(run=_audit)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the keys are."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="keys and store")


def read_text(path: Path) -> str:
    """The text of a configuration file, at most FILE_MAX characters. Raises DecodeError."""
    try:
        with path.open(encoding="ascii") as file:
            return file.read(FILE_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise DecodeError(f"cannot read {path}", "is it the right file?") from error


def say(line: str) -> None:
    """Print a line for who has called the program."""
    sys.stdout.write(line + "\n")


def _key(options: argparse.Namespace) -> None:
    """Print the line that a configuration has for this directory's key."""
    random = Random(os.urandom, kem_encapsulate)
    with opened_data(options.data, PROGRAM) as directory:
        if options.registrar:
            say(f"registrar {to_base64(sign_public(load_key(directory / REGISTRAR, random)))}")
            return
        keys = load_keys(directory, random)
    where = ""
    if options.address is not None:
        place = parse_place(options.address, 0, 1)
        where = " " + Address(keys.server, place.host, place.port).url(SCHEME)
    kind, seed = (LOG_KEY, keys.log) if options.sequencer else (COSIGNER_KEY, keys.verifier)
    if options.sequencer:
        check_namespace(options.name)
    vkey = NoteKey(options.name, kind, sign_public(seed)).encode()
    parse_note_key(vkey, kind)
    say(f"log {vkey}{where}" if options.sequencer else f"witness {options.name} {vkey}{where}")


REGISTRAR = "registrar.key"


class Wanted(Protocol):
    """What the options ask of newcomers."""

    @property
    def registration(self) -> str | None:
        """The rule."""

    @property
    def short(self) -> int | None:
        """Shorter names take an invite."""


def chosen_terms(options: Wanted, directory: Path, random: Random, *, new: bool) -> Terms | None:
    """What the options ask for; None: nothing is said, and the directory is not ``new``. The
    registrar's key is made in the directory when it is needed. Raises DecodeError, HostError."""
    if options.registration is None and options.short is None and not new:
        return None
    rule, colon, bits = (options.registration or "open").partition(":")
    if rule not in set(Registration) or not (rule == Registration.WORK) == bool(colon) == bool(
        bits
    ):
        raise DecodeError("--registration is open, invite or work:BITS", "for example work:20")
    if bits and not (bits.isascii() and bits.isdigit() and len(bits) < 4):
        raise DecodeError(f"work is a number from 0 to {WORK_BITS_MAX}")
    work = int(bits or 0)
    if work > WORK_BITS_MAX:
        raise DecodeError(f"work is a number from 0 to {WORK_BITS_MAX}")
    short = SHORT if options.short is None else options.short
    registrar = b""
    if rule == Registration.INVITE or short > NAME_MIN:
        registrar = sign_public(load_key(directory / REGISTRAR, random))
    return Terms(Registration(rule), work, registrar, short)


def _invite(options: argparse.Namespace) -> None:
    """Print an invite signed by the registrar's key."""
    config = parse_config(read_text(options.config or options.data / "config")).config
    if not 0 < options.days <= DAYS_MAX:
        raise DecodeError(f"--days is a number from 1 to {DAYS_MAX}")
    name = check_name(options.name) if options.name else ""
    path = options.data / REGISTRAR
    if not path.exists():
        raise CbfsError(f"there is no {path}", "make it: cbfs-names key --registrar")
    random = Random(os.urandom, kem_encapsulate)
    registrar = load_key(path, random)
    if sign_public(registrar) != config.terms.registrar:
        raise CbfsError("the configuration names another registrar", "is it the right --data?")
    seed = random.token(KEY_SIZE)
    expires = int(time.time()) + options.days * DAY
    invite = Invite(config.directory, sign_public(seed), expires, name).signed(registrar)
    say(Token(seed, invite).text())


def add_compact(commands: Subcommands) -> None:
    """Add the command that writes the store of a process anew that does not run."""
    parser = commands.add_parser(
        "compact", help="give the disk back what the store does not use; of one that does not run"
    )
    parser.set_defaults(run=lambda options: _compact(options.place))


def _compact(place: Path) -> None:
    if not (place / "store").is_dir():
        raise HostError(f"there is no store in {place}", "give its data directory")
    with opened_data(place, PROGRAM) as directory:
        store = StateStore(directory / "store", None)
        try:
            before, after = store.compact()
        finally:
            store.close()
    show((("bytes_before", before), ("bytes", after)), as_json=False)


def _audit(options: argparse.Namespace) -> None:
    """Say what evidence proves. Raises CbfsError when some proves nothing."""
    folder = options.file
    paths = sorted(folder.glob("*.evidence")) if folder.is_dir() else [folder]
    if not paths:
        raise CbfsError(f"there is no evidence in {folder}", "it is in DIR/evidence of a verifier")
    for path in paths:
        try:
            found = decode_equivocation(path.read_bytes())
        except OSError as error:
            raise CbfsError(f"cannot read {path}", "is it the right file?") from error
        if not found.proven():
            raise CbfsError(f"{path} proves nothing", "its signatures or its proof are wrong")
        one, other = found.heads()
        say(
            f"{path}: proven: the key {found.key.encode()} has signed two histories of"
            f" {one.origin}: heads of {one.size} and {other.size} rounds contradict each other"
        )
