"""How much of its file a store takes: df asks for it, and nearly every program with a window."""

from pathlib import Path

import pytest

from cbfs.storage.store import Store, Table
from tests.support.stores import open_store


def test_lmdb_is_asked_once_after_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    measured = Store._measured

    def counted(store: Store) -> tuple[int, int]:
        nonlocal asked
        asked += 1
        return measured(store)

    monkeypatch.setattr(Store, "_measured", counted)
    store = open_store(tmp_path)
    before = 0
    for number in range(1, 4):
        data = bytes(100_000)
        store.write(lambda writer, n=number, d=data: writer.put(Table.META, b"%d" % n, d))  # type: ignore[misc]
        found = [store.space() for _ in range(5)]
        assert asked == number
        assert len(set(found)) == 1
        assert found[0][0] >= before + 100_000
        before = found[0][0]
    store.write(lambda writer: writer.delete(Table.META, b"1"))
    used, left = store.space()
    assert used <= before - 90_000
    assert left >= 90_000
    store.close()
