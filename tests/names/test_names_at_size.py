"""The directory that the benchmarks fill, at a small size: honest, whole, and taken up again."""

from pathlib import Path

import pytest

from cbfs_common.names.entry import Keys, decode_entry, name_index
from cbfs_common.primitives import sign_public
from cbfs_names.processes.single import Embedded
from cbfs_names.state.round_log import Outcome
from tests.bench import names_at_size
from tests.bench.names_at_size import directory, make_directory, name_of, owner_of

NAMES, BATCH = 50, 8


class Stopped(Exception):
    """The loader was ended."""


@pytest.mark.parametrize("end", (0, 1, 2, 5, 7))
def test_what_was_cut_off_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    monkeypatch.setattr(names_at_size, "BATCH", BATCH)
    done, round_ = [0], Embedded.round

    def stop(self: Embedded, pending: list[bytes], now: int) -> Outcome:
        if done[0] == end:
            raise Stopped
        done[0] += 1
        return round_(self, pending, now)

    with monkeypatch.context() as patched:
        patched.setattr(Embedded, "round", stop)
        with pytest.raises(Stopped):
            make_directory(tmp_path, NAMES)
    make_directory(tmp_path, NAMES)
    make_directory(tmp_path, NAMES)
    with directory(tmp_path) as (store, _, here), store.read() as view:
        assert view.size() == 1 + NAMES // BATCH + 2, "one more for the first, one for the last"
        for number in range(NAMES):
            found = view.entry(name_index(here, name_of(number)))
            assert found is not None
            assert decode_entry(found).owners == Keys(1, (sign_public(owner_of(number)),))
