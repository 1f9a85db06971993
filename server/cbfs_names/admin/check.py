"""Looking for damage in the whole store of a name directory, while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from cbfs_common.errors import DecodeError
from cbfs_common.names.trees import Terminal
from cbfs_host.complaints import StoreError
from cbfs_names.limits import CHECK_BATCH
from cbfs_names.state.map_nodes import MapTree
from cbfs_names.state.store import Snapshot, StateStore


@dataclass(frozen=True, slots=True)
class CheckedState:
    """How many ``records`` there are and how many of them are ``damaged``; how many ``rounds``, and
    those among them that the log has ``not_logged`` as they are; how many ``names``, and those of
    which there is no proof (``not_proven``)."""

    records: int
    damaged: int
    rounds: int
    not_logged: int
    names: int
    not_proven: int

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not (self.damaged or self.not_logged or self.not_proven)


def check(store: StateStore, rest: Callable[[], None]) -> CheckedState:
    """Read every record, look for every round in the log, and prove every name. ``rest`` is called
    again and again. Blocks. Raises StoreError for what cannot be read at all."""
    records, damaged = store.check_records(rest)
    with store.read() as view:
        rounds = view.size()
    not_logged = names = not_proven = 0
    for start in range(0, rounds, CHECK_BATCH):
        with store.read() as view:
            for number in range(start, min(start + CHECK_BATCH, rounds)):
                rest()
                not_logged += not _is_logged(view, number)
    after: bytes | None = b""
    while after is not None:
        with store.read() as view:
            indices = view.indices(after, CHECK_BATCH)
            tree = MapTree(view.node, view.leaf)
            root_is_right = _has_root(view, tree)
            for index in indices:
                rest()
                names += 1
                not_proven += not (root_is_right and _is_proven(tree, index))
        after = indices[-1] + b"\0" if len(indices) == CHECK_BATCH else None
    return CheckedState(records, damaged, rounds, not_logged, names, not_proven)


def _is_logged(view: Snapshot, number: int) -> bool:
    try:
        leaf = view.block(number).round.digest()
        return leaf == view.lock(number) == view.log_hash(0, number)
    except (StoreError, DecodeError):
        return False


def _has_root(view: Snapshot, tree: MapTree) -> bool:
    try:
        tip = view.tip()
        if tip is not None:
            tree.check_root(tip.map_root)
    except (StoreError, DecodeError):
        return False
    return True


def _is_proven(tree: MapTree, index: bytes) -> bool:
    try:
        return tree.prove(index).terminal is Terminal.HERE
    except (StoreError, DecodeError, ValueError):
        return False
