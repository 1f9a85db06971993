"""Writes an sdist anew: by the order of names, with the time of SOURCE_DATE_EPOCH, of nobody,
so that the same tree gives the same bytes."""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path


def repacked(data: bytes, when: int) -> bytes:
    """A tar.gz with the same files, whose time is ``when``, in seconds since 1970."""
    plain = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(plain.getvalue(), mtime=when)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.write_bytes(repacked(place.read_bytes(), int(os.environ["SOURCE_DATE_EPOCH"])))
