"""Random operations on one file, each compared with plain bytes, in the manner of fsx."""

import mmap
import os
from pathlib import Path
from random import Random

SIZE_MAX = 200_000


class FileModel:
    """``steps`` differ from run to run with the seed only, so that a failure can be played again.
    What has been done is in ``log``."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._random = Random(seed)
        self._expected = bytearray()
        self.log: list[str] = []
        path.write_bytes(b"")
        self._file = os.open(path, os.O_RDWR)

    def steps(self, count: int) -> None:
        """Raises AssertionError at the first wrong byte."""
        choices = (
            *(self._write, self._write, self._write, self._read, self._read, self._truncate),
            *(self._append, self._map, self._reopen, self._rename, self._replace),
        )
        for _ in range(count):
            self._random.choice(choices)()

    def close(self) -> None:
        """The last look at all of it, through a handle of its own."""
        os.close(self._file)
        self._check("whole", self._path.read_bytes(), 0, SIZE_MAX * 2)
        self._path.unlink()

    def _range(self, end: int) -> tuple[int, int]:
        start = self._random.randrange(end + 1)
        return start, self._random.randrange(1, 40_000)

    def _check(self, what: str, got: bytes, start: int, size: int) -> None:
        if got != self._expected[start : start + size]:
            raise AssertionError(f"{self._path}: {what} at {start}, {size}: {self.log[-12:]}")

    def _write(self) -> None:
        start, size = self._range(SIZE_MAX - 40_000)
        data = self._random.randbytes(size)
        self.log.append(f"write {start} {size}")
        if os.pwrite(self._file, data, start) != size:
            raise AssertionError("a short write")
        self._expected.extend(bytes(max(0, start - len(self._expected))))
        self._expected[start : start + size] = data

    def _append(self) -> None:
        if len(self._expected) > SIZE_MAX:
            return
        data = self._random.randbytes(self._random.randrange(1, 3000))
        self.log.append(f"append {len(data)}")
        with self._path.open("ab") as file:
            file.write(data)
        self._expected += data

    def _read(self) -> None:
        start, size = self._range(len(self._expected))
        self._check("read", os.pread(self._file, size, start), start, size)

    def _truncate(self) -> None:
        size = self._random.randrange(SIZE_MAX)
        self.log.append(f"truncate {size}")
        if self._random.random() < 0.5:
            os.ftruncate(self._file, size)
        else:
            os.truncate(self._path, size)
        del self._expected[size:]
        self._expected.extend(bytes(size - len(self._expected)))

    def _map(self) -> None:
        if not self._expected:
            return
        self.log.append("mmap")
        with mmap.mmap(self._file, len(self._expected)) as view:
            start = self._random.randrange(len(self._expected))
            data = self._random.randbytes(min(5000, len(self._expected) - start))
            self._check("mapped", view[:], 0, len(view))
            view[start : start + len(data)] = data
            view.flush()
        self._expected[start : start + len(data)] = data

    def _reopen(self) -> None:
        self.log.append("reopen")
        os.close(self._file)
        if os.stat(self._path).st_size != len(self._expected):  # noqa: PTH116
            raise AssertionError(f"{self._path}: a wrong size: {self.log[-12:]}")
        self._file = os.open(self._path, os.O_RDWR)

    def _rename(self) -> None:
        self.log.append("rename")
        other = self._path.with_name(self._path.name + ".x")
        self._path.rename(other)
        self._check("renamed", other.read_bytes(), 0, SIZE_MAX * 2)
        other.rename(self._path)

    def _replace(self) -> None:
        """As editors save; what is open goes on being read until it is closed."""
        self.log.append("replace")
        fresh = self._path.with_name(self._path.name + ".new")
        data = self._random.randbytes(self._random.randrange(50_000))
        fresh.write_bytes(data)
        fresh.replace(self._path)
        self._check("unlinked", os.pread(self._file, SIZE_MAX * 2, 0), 0, SIZE_MAX * 2)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR)
        self._expected = bytearray(data)
