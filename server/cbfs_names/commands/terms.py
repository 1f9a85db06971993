"""What a directory in one process asks of newcomers, by options."""

import argparse
from pathlib import Path

from cbfs_common.errors import DecodeError
from cbfs_common.limits import NAME_MIN, SPOKEN_FOR_MAX, WORK_BITS_MAX
from cbfs_common.names.config import Registration, Terms
from cbfs_common.primitives import Random, sign_public
from cbfs_names.commands.tools import REGISTRAR
from cbfs_names.state.keys import load_key


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Who may register."""
    parser.add_argument(
        "--registration",
        metavar="RULE",
        help="open, invite, or work:BITS for a proof of work; kept until it is changed",
    )
    parser.add_argument(
        "--short", type=int, metavar="LENGTH", help="shorter names need an invite to that very name"
    )


def chosen_terms(options: argparse.Namespace, directory: Path, random: Random) -> Terms | None:
    """What the options ask for; None: nothing is said. The registrar's key is made in the
    directory when it is needed. Raises DecodeError, DataError."""
    if options.registration is None and options.short is None:
        return None
    rule, _, bits = (options.registration or "open").partition(":")
    if rule not in set(Registration) or (rule == Registration.WORK) != bool(bits):
        raise DecodeError("--registration is open, invite or work:BITS", "for example work:20")
    if bits and not (bits.isascii() and bits.isdigit() and len(bits) < 4):
        raise DecodeError(f"work is a number from 1 to {WORK_BITS_MAX}")
    work = int(bits or 0)
    if bits and not 1 <= work <= WORK_BITS_MAX:
        raise DecodeError(f"work is a number from 1 to {WORK_BITS_MAX}")
    short = NAME_MIN if options.short is None else options.short
    if not NAME_MIN <= short <= SPOKEN_FOR_MAX:
        raise DecodeError(f"--short is a number from {NAME_MIN} to {SPOKEN_FOR_MAX}")
    registrar = b""
    if rule == Registration.INVITE or short > NAME_MIN:
        registrar = sign_public(load_key(directory / REGISTRAR, random))
    return Terms(Registration(rule), work, registrar, short)
