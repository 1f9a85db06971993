"""What the new computer has of an account that comes: a folder in the account directory to be.

    arriving/begun     which copy this is, and of which offer
    arriving/manifest  as much as has come of it
    arriving/tree/     the files, as much as has come; the root file is called root.part
    arriving/whole     all is on the disk, and was opened
    arriving/token     the account lives here

While there is no root file in its place, nothing can be mounted. The token is what decides
(``cbfs.commands.home.moving.sides``): from then on ``put_in_place`` has all that it needs, and goes
on where it was cut off. The root file comes into its place last. What a crash leaves:

- before ``whole``: what has come so far; what is wrong of it the digest tells;
- before ``token``: a copy that waits for the old computer;
- before the root file is in place: files in the one or the other place, which are moved next time;
- after it: an account, and a folder that is removed next time.
"""

import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cbfs.account.account import SYSTEM_RANDOM, load_account
from cbfs.account.leaving import COPY_SIZE, LeavingStage, forget_leaving, read_leaving, token_check
from cbfs.account.place import ARRIVING
from cbfs.commands.home.moving.cargo import ROOT, STORE, CargoFile, decode_manifest
from cbfs.commands.home.moving.messages import Have, MoveOffer, Unintelligible
from cbfs.commands.home.moving.sides import digesting
from cbfs.storage import root_key
from cbfs.storage.root_key import RootFile, Unlock, protections
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.primitives import KEY_SIZE, equal
from cbfs_host.file_identity import identity_of
from cbfs_host.files import make_directory, sync_directory, write_file

ROOM_LEFT: Final = 16 << 20
"""Bytes of the disk that are to be free when all has come."""

READ_SIZE: Final = 1 << 20
_PART = "root.part"
_BEGUN = struct.Struct(f">{COPY_SIZE}s{KEY_SIZE}sIQ")
_DAMAGED = (
    "what is known of the account that comes is damaged",
    "is the disk well? On the old computer cbfs claim takes the account back",
)
_WHOLE = struct.Struct(f">Q{KEY_SIZE}s")


@dataclass(frozen=True, slots=True)
class _Begun:
    """Which copy this is, and what was offered."""

    copy: bytes
    check: bytes
    manifest: int
    size: int

    def encode(self) -> bytes:
        """copy 16 | check 32 | manifest u32 | size u64."""
        return _BEGUN.pack(self.copy, self.check, self.manifest, self.size)


def decode_begun(data: bytes) -> _Begun:
    """Undo ``_Begun.encode``. Raises DecodeError."""
    if len(data) != _BEGUN.size:
        raise DecodeError(*_DAMAGED)
    return _Begun(*_BEGUN.unpack(data))


def decode_whole(data: bytes) -> tuple[int, bytes]:
    """How many bytes are whole, and their digest (32): count u64 | digest 32. Raises
    DecodeError."""
    if len(data) != _WHOLE.size:
        raise DecodeError(*_DAMAGED)
    count, digest = _WHOLE.unpack(data)
    return count, digest


class LivingCopy:
    """Of an account that lives here, by this ``token`` (32): what the old computer has not heard of
    yet. As the new side of a move has it."""

    def __init__(self, have: Have, token: bytes) -> None:
        self._have = have
        self._token = token

    def begin(self, _offer: MoveOffer) -> Have:
        """All of it."""
        return self._have

    def restart(self) -> None:
        """Raises Unintelligible."""
        raise Unintelligible

    def take(self, _data: bytes) -> None:
        """Raises Unintelligible."""
        raise Unintelligible

    def note_whole(self, _digest: bytes) -> None:
        """Raises Unintelligible."""
        raise Unintelligible

    def note_token(self, token: bytes) -> None:
        """It does live already. Raises Unintelligible for another token."""
        if not equal(token, self._token):
            raise Unintelligible


class IncomingCopy:
    """What has come into the account directory ``place``, which is locked. Methods raise OSError as
    well."""

    def __init__(self, place: Path, unlock: Unlock) -> None:
        self._place = place
        self._unlock = unlock
        self._folder = place / ARRIVING
        self._tree = self._folder / "tree"
        self._begun: _Begun | None = None
        self._manifest = b""
        self._files: tuple[CargoFile, ...] = ()
        self._digest = digesting()
        self._number = 0
        self._left = 0
        self._file: BinaryIO | None = None
        self.count = 0
        """How many bytes of the cargo are here."""
        self.name = ""
        """Whose account it is, as soon as it was opened."""

    @property
    def is_there(self) -> bool:
        """Whether something has come."""
        return self._folder.exists()

    @property
    def is_whole(self) -> bool:
        """Whether all has come, and was opened."""
        return self._noted("whole")

    @property
    def lives(self) -> bool:
        """Whether the account lives here, be it in its place yet or not."""
        return self._noted("token")

    def arrived(self) -> LivingCopy | None:
        """What lives here, as far as is still noted of it."""
        try:
            begun = decode_begun((self._folder / "begun").read_bytes())
            count, digest = decode_whole((self._folder / "whole").read_bytes())
            return LivingCopy(
                Have(begun.copy, count, digest), (self._folder / "token").read_bytes()
            )
        except (FileNotFoundError, DecodeError):
            return None

    @property
    def root(self) -> Path:
        """The root file of what has come."""
        return self._tree / _PART

    def _noted(self, name: str) -> bool:
        return (self._folder / name).exists()

    def close(self) -> None:
        """What is written next of it is looked for anew."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def unlock(self) -> None:
        """Have the passphrase asked for that what has come takes. Raises CbfsError."""
        for each in protections(self.root):
            self._unlock(each)

    # as the sides of a move have it

    def begin(self, offer: MoveOffer) -> Have:
        """What is here of what is offered. Raises CbfsError for what cannot be taken."""
        if offer.format != root_key.FORMAT:
            raise CbfsError(
                f"the other computer has another version of cbfs: the account has format"
                f" {offer.format}, and this version works with {root_key.FORMAT}",
                "install the same version on both",
            )
        self.close()
        known = self._known()
        if known is not None and self.is_whole:
            if known.check != offer.check:
                raise CbfsError(
                    f"another account, or one that was offered by another line, waits in"
                    f" {self._folder}",
                    "finish that, or choose another directory with --account. If the old computer"
                    f" has begun anew after cbfs move --cancel: rm -r {self._folder}",
                )
            count, digest = decode_whole((self._folder / "whole").read_bytes())
            self._begun = _Begun(known.copy, offer.check, offer.manifest, offer.size)
            self.count = count
            return Have(known.copy, count, digest)
        fresh = _Begun(SYSTEM_RANDOM.token(COPY_SIZE), offer.check, offer.manifest, offer.size)
        if known is None or fresh != _Begun(fresh.copy, known.check, known.manifest, known.size):
            self._begin(fresh)
        else:
            self._begun = known
            try:
                self._look()
            except Unintelligible:  # a disk that lost its current keeps sizes without contents
                self._begin(known)
        self._check_room(offer.size - self.count)
        return Have(self._the_begun.copy, self.count, self._digest.digest())

    def restart(self) -> None:
        """Nothing of what has come is kept; it stays the same copy."""
        self._begin(self._the_begun)
        self._check_room(self._the_begun.size)

    def take(self, data: bytes) -> None:
        """Keep the next bytes. Raises Unintelligible."""
        self._digest.update(data)
        self.count += len(data)
        missing = self._the_begun.manifest - len(self._manifest)
        if missing:
            path, flags = self._folder / "manifest", os.O_WRONLY | os.O_APPEND | os.O_CREAT
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "ab") as file:  # noqa: PTH123 - a descriptor
                file.write(data[:missing])
            self._manifest += data[:missing]
            data = data[missing:]
            if len(self._manifest) == self._the_begun.manifest:
                self._read_manifest()
                self._open(0)
        while data:
            if self._file is None:
                raise Unintelligible
            part, data = data[: self._left], data[self._left :]
            self._file.write(part)
            self._left -= len(part)
            if not self._left:
                self._open(self._number + 1)

    def note_whole(self, digest: bytes) -> None:
        """All has come: bring it to the disk, open it, and note that it is whole. Raises
        CbfsError."""
        if self.is_whole:
            if equal(decode_whole((self._folder / "whole").read_bytes())[1], digest):
                return
            raise Unintelligible
        self.close()
        if not equal(self._digest.digest(), digest):
            self._begin(self._the_begun)
            raise CbfsError(
                "what has come is not what was sent", "run the same command again: it is sent anew"
            )
        self._sync()
        self._look_into()
        write_file(self._folder / "whole", _WHOLE.pack(self.count, digest))

    def note_token(self, token: bytes) -> None:
        """The account lives here. Raises Unintelligible when it is not whole."""
        known = self._known()
        if known is None or not self.is_whole or not equal(token_check(token), known.check):
            raise Unintelligible
        write_file(self._folder / "token", token)

    # ----

    @property
    def _the_begun(self) -> _Begun:
        if self._begun is None:
            raise Unintelligible
        return self._begun

    def _known(self) -> _Begun | None:
        try:
            return decode_begun((self._folder / "begun").read_bytes())
        except FileNotFoundError:
            return None

    def _begin(self, begun: _Begun) -> None:
        """Begin with nothing. What was whole is so no more before anything of it goes."""
        self.close()
        if self._noted("whole"):
            (self._folder / "whole").unlink()
            sync_directory(self._folder)
        if self.is_there:
            shutil.rmtree(self._folder)
        make_directory(self._folder)
        make_directory(self._tree)
        write_file(self._folder / "begun", begun.encode())
        self._begun, self._manifest, self._files = begun, b"", ()
        self._digest, self._number, self._left, self.count = digesting(), 0, 0, 0

    def _look(self) -> None:
        """Find how far it has come before, and what the digest of that is."""
        begun = self._the_begun
        self._digest, self.count = digesting(), 0
        path = self._folder / "manifest"
        self._manifest = path.read_bytes()[: begun.manifest] if path.exists() else b""
        self._seen(self._manifest)
        if len(self._manifest) < begun.manifest:
            return
        self._read_manifest()
        for number, each in enumerate(self._files):
            path, left = self._path(each), each.size
            there = path.exists()
            if there:
                with path.open("rb") as file:
                    while left and (data := file.read(min(READ_SIZE, left))):
                        self._seen(data)
                        left -= len(data)
            if left or not there:
                self._open(number, each.size - left)
                return

    def _seen(self, data: bytes) -> None:
        self._digest.update(data)
        self.count += len(data)

    def _read_manifest(self) -> None:
        begun = self._the_begun
        self._files = decode_manifest(self._manifest)
        if begun.manifest + sum(each.size for each in self._files) != begun.size:
            raise Unintelligible

    def _path(self, each: CargoFile) -> Path:
        return self.root if each.name == ROOT else self._tree / each.name

    def _open(self, number: int, at: int = 0) -> None:
        """Go on with the file of this number, behind its first ``at`` bytes, or the next one in
        which something is missing."""
        self.close()
        for index in range(number, len(self._files)):
            each = self._files[index]
            path = self._path(each)
            _make_folders(self._tree, path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = open(os.open(path, flags, 0o600), "wb", closefd=True)  # noqa: PTH123, SIM115
            self._file.truncate(at)
            self._file.seek(at)
            self._number, self._left = index, each.size - at
            if self._left:
                return
            self.close()
            at = 0

    def _check_room(self, more: int) -> None:
        disk = os.statvfs(self._place)
        if disk.f_bavail * disk.f_frsize < more + ROOM_LEFT:
            raise CbfsError(
                f"the account needs {more // 1_000_000 + 1:,} MB more than this disk has room for",
                "make room, or choose another directory with --account",
            )

    def _sync(self) -> None:
        """Bring all that has come to the disk. Raises Unintelligible when something of it is not
        there."""
        paths = [self._path(each) for each in self._files]
        sizes = [each.size for each in self._files]
        if not paths or [path.stat().st_size for path in paths] != sizes:
            raise Unintelligible
        for path in (*paths, self._folder / "manifest"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for folder in sorted({above for path in paths for above in path.parents}):
            if folder.is_relative_to(self._tree):
                sync_directory(folder)
        for folder in (self._folder, self._place):
            sync_directory(folder)

    def _look_into(self) -> None:
        """Open what has come, to see that it can be done here. Raises CbfsError."""
        root_file = RootFile(self.root, self._unlock, SYSTEM_RANDOM.token, read_only=True)
        try:
            store = Store((self._tree / STORE).parent, root_file, SYSTEM_RANDOM, read_only=True)
        except BaseException:
            root_file.close()
            raise
        try:
            account = load_account(store)
            with store.read() as reader:
                leaving = read_leaving(reader)
        finally:
            store.close()
        offered = leaving is not None and leaving.stage is LeavingStage.OFFERED
        if account is None or leaving is None or not offered:
            raise Unintelligible
        if not equal(leaving.check, self._the_begun.check):
            raise Unintelligible
        self.name = account.name

    # when it lives

    def put_in_place(self) -> None:
        """Make an account of what has come and lives. Raises CbfsError."""
        if self.root.exists():
            if (self._place / ROOT).exists():
                raise CbfsError(
                    f"there is another account in {self._place}, and {self._folder} has one that"
                    " has come from another computer",
                    "move the other one away, and run the same command again",
                )
            self._files = decode_manifest((self._folder / "manifest").read_bytes())
            if (self._tree / STORE).exists():
                self._settle()
            when = (self._folder / "whole").stat().st_mtime_ns
            folders = {self._place}
            for number, each in enumerate(self._files):
                there, here = self._tree / each.name, self._place / each.name
                if each.name != ROOT and there.exists():
                    _make_folders(self._place, here)
                    os.utime(there, ns=(when + number, when + number))  # what waits, in its order
                    there.rename(here)
                folders.add(here.parent)
            for folder in folders:
                sync_directory(folder)
            self.root.rename(self._place / ROOT)
            sync_directory(self._place)
        shutil.rmtree(self._folder)
        sync_directory(self._place)

    def _settle(self) -> None:
        """The store is at home where it is, and has sessions that go on: it is no copy."""
        root_file = RootFile(self.root, self._unlock, SYSTEM_RANDOM.token)
        try:
            store = Store((self._tree / STORE).parent, root_file, SYSTEM_RANDOM)
        except BaseException:
            root_file.close()
            raise
        identity = identity_of(self._tree / STORE)

        def change(writer: Writer) -> None:
            writer.put(Table.META, Meta.PLACE, identity.encode())
            forget_leaving(writer)

        try:
            store.write(change)
            account = load_account(store)
        finally:
            store.close()
        self.name = account.name if account else ""


def _make_folders(base: Path, path: Path) -> None:
    """Make the folders of a path, down from one that is there."""
    for folder in reversed(path.parents):
        if folder.is_relative_to(base):
            make_directory(folder)
