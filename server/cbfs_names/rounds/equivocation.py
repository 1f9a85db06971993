"""Finding that a key has signed two histories, and keeping the evidence."""

import logging
from hashlib import sha256
from pathlib import Path

from cbfs_common.errors import DecodeError
from cbfs_common.names.equivocation import Equivocation, signed_by
from cbfs_common.names.note import NoteKey, SignedNote, parse_checkpoint, parse_note
from cbfs_host.files import make_directory
from cbfs_names.state.keys import write_file
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import Snapshot, StateStore

_log = logging.getLogger(__name__)


def compare(view: Snapshot, foreign: SignedNote) -> list[Equivocation]:
    """What a head from elsewhere proves together with the newest published one here."""
    own_note = view.head()
    if own_note is None:
        return []
    own = parse_note(own_note)
    try:
        there = parse_checkpoint(foreign.text.decode("ascii"))
    except (DecodeError, UnicodeDecodeError):
        return []
    here = parse_checkpoint(own.text.decode("ascii"))
    if there.origin != here.origin or not 0 < there.size <= here.size:
        return []
    root = RoundLog(there.size, view.log_hash).root()
    if root == there.root:
        return []
    config = config_now(view)
    proof = RoundLog(here.size, view.log_hash).consistency(there.size)
    return [
        Equivocation(key, foreign, own, root, proof)
        for key in (config.log, *(key for _, key in config.witnesses))
        if signed_by(key, foreign) and signed_by(key, own)
    ]


def doubled(key: NoteKey, one: SignedNote, other: SignedNote) -> Equivocation | None:
    """What two checkpoints of one size prove that a key has signed."""
    here, there = (parse_checkpoint(note.text.decode("ascii")) for note in (one, other))
    if here.size != there.size or here.root == there.root:
        return None
    made = Equivocation(key, one, other, there.root, ())
    return made if made.proven() else None


def keep(store: StateStore, data: Path, found: list[Equivocation]) -> None:
    """Stop, for people to decide, and leave the evidence in ``data``/evidence."""
    for each in found:
        if not each.proven():
            continue
        encoded = each.encode()
        key = sha256(encoded).digest()
        with store.write() as writer:
            writer.keep_evidence(key, encoded)
        folder = data / "evidence"
        make_directory(folder)
        write_file(folder / f"{key.hex()[:16]}.evidence", encoded, 0o644)
        _log.error("the key %s has signed two histories: see %s", each.key.name, folder)
