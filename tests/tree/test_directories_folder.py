"""directories/ without a mount: what is shown late to those who watch."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from cbfs.interface import Backend
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import ROOT, Folder
from cbfs.tree.rules import Area
from cbfs.tree.virtual.directories_folder import DirectoriesFolder
from cbfs.tree.watchers import Watchers
from cbfs_common.names.policy import Policy, parse_policy
from tests.tree.test_dispatch import Slow

VECTORS = Path(__file__).parents[1] / "vectors" / "names-policies.json"


def test_a_directory_that_was_removed_before_it_is_shown_stays_away() -> None:
    """cp POLICY directories/, and rm at once: whoever watches has seen neither yet."""
    policies: list[Policy] = [_policy()]
    backend = SimpleNamespace(directories=SimpleNamespace(policies=lambda: tuple(policies)))
    root = Folder(ROOT, Area.DIRECTORIES, 0)
    numbers = iter(range(1_000, 2_000))
    folder = DirectoriesFolder(
        root, cast(Backend, backend), lambda *_read: b"", lambda: next(numbers), Inodes(root)
    )
    assert root.entries.keys() == {_policy().namespace}
    policies.clear()
    folder.show(Watchers())
    watchers, slow = Watchers(), Slow()
    watchers.revealer = slow
    policies.append(_policy())
    folder.show(watchers)
    policies.clear()
    folder.show(watchers)
    for change in slow.waiting:
        change()
    assert not root.entries


def _policy() -> Policy:
    return parse_policy(json.loads(VECTORS.read_text())["policy"][0]["policy"])
