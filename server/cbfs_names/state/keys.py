"""The files of a directory beside its store: keys, lock, policy."""

import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cbfs_common.names.config import Config, Terms
from cbfs_common.names.note import COSIGNER_KEY, LOG_KEY, NoteKey
from cbfs_common.person import check_namespace
from cbfs_common.primitives import KEY_SIZE, Random, sign_public
from cbfs_common.wire.transport import SERVER_SECRET_SIZE, ServerSecret
from cbfs_host import files
from cbfs_host.complaints import CHECK_DATA, HostError, hint_of

VERIFIER = "verifier-1"
"""The embedded verifier's name in the policy."""


@dataclass(frozen=True, slots=True, repr=False)
class ServerKeys:
    """The secrets of one directory: ``transport`` is what it proves to clients; ``log`` and
    ``verifier`` are Ed25519 seeds (32)."""

    transport: ServerSecret
    log: bytes
    verifier: bytes

    @property
    def server(self) -> bytes:
        """The 32 bytes of its address, which stand for its public transport keys."""
        return self.transport.key

    def config(self, terms: Terms, namespace: str = "") -> Config:
        """The embedded directory's first configuration: its one verifier is the quorum. A
        namespace that nobody has chosen comes from the log's key, so that no two share one."""
        public = sign_public(self.log)
        namespace = namespace or f"{sha256(public).hexdigest()[:16]}.names"
        log = NoteKey(namespace, LOG_KEY, public)
        name = f"{namespace}/{VERIFIER}"
        verifier = NoteKey(name, COSIGNER_KEY, sign_public(self.verifier))
        return Config(log, ((VERIFIER, verifier),), (), VERIFIER, terms)


def load_keys(directory: Path, random: Random) -> ServerKeys:
    """The directory's keys, made with the first start. A crash in between leaves none or some;
    the store, which binds them, is made after them. Raises HostError."""
    begun = (directory / "store").exists()
    _check_age(directory / "transport.key")
    transport = _load(directory / "transport.key", random, begun, SERVER_SECRET_SIZE)
    log, verifier = (
        _load(directory / name, random, begun) for name in ("sequencer.key", "verifier.key")
    )
    return ServerKeys(ServerSecret(transport), log, verifier)


def _check_age(path: Path) -> None:
    """Raises HostError for the key of a directory of before there were keys of ML-KEM. What it has
    signed says nothing to clients of now, and nobody but the owners of its names can have them
    signed anew."""
    if path.exists() and path.stat().st_size == KEY_SIZE:
        raise HostError(
            f"the name directory in {path.parent} is of an earlier cbfs, and no client of now can"
            " ask it",
            "leave it as it is, begin a new one in another --data, and give its policy to your"
            " users: they take their names there with the keys that they have",
        )


def load_namespace(directory: Path, wanted: str | None) -> str:
    """The namespace that was chosen at the directory's first start, empty for none. Raises
    DecodeError for one that is ``wanted`` and no namespace, HostError for another than that."""
    path, begun = directory / "namespace", (directory / "store").exists()
    if wanted is not None:
        check_namespace(wanted)
    try:
        kept = path.read_text("ascii").strip()
    except FileNotFoundError:
        kept = ""
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read {path}", CHECK_DATA) from error
    if wanted is None or wanted == kept:
        return kept
    if begun or kept:
        raise HostError(
            "a directory keeps its namespace for good", "leave --namespace out, or begin a new one"
        )
    write_file(path, f"{wanted}\n".encode("ascii"))
    return wanted


def load_key(path: Path, random: Random) -> bytes:
    """One key (32), made when it is not there. Raises HostError."""
    return _load(path, random, begun=False)


def _load(path: Path, random: Random, begun: bool, size: int = KEY_SIZE) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError as error:
        if begun:
            raise HostError(
                f"{path} is missing", "put it back from a backup: its store belongs to it"
            ) from error
        key = random.token(size)
        write_file(path, key)
    except OSError as error:
        raise HostError(
            f"cannot read {path}: {error.strerror}", hint_of(error, CHECK_DATA)
        ) from error
    if len(key) != size:
        raise HostError(f"{path} is not a key", "put it back from a backup")
    return key


def write_file(path: Path, data: bytes, mode: int = 0o600, *, ours: bool = True) -> None:
    """Put ``data`` into a file, whole or not at all, on the disk on return. ``ours``: it is in a
    directory of our own, and not where its user may have any other file; then nothing is written of
    what is there already, also on a full disk. Raises HostError."""
    write = files.write_file if ours else files.write_beside_others
    try:
        if ours and _holds(path, data, mode):
            return
        write(path, data, mode)
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror}", hint_of(error, CHECK_DATA)
        ) from error


def _holds(path: Path, data: bytes, mode: int) -> bool:
    return path.exists() and stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == data
