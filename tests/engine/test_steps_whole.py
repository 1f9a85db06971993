"""A step of a session counts as a whole or not at all, whatever fails while it is taken."""

from pathlib import Path

import pytest

from cbfs_common.messages.body import Note, Refs, encode_note
from cbfs_common.session.session import Session
from cbfs_common.session.states import Stage
from tests.engine.test_healing_time import turn
from tests.support.healing_world import World

READS = 40
"""More than how often a step looks how far sessions have come."""


class _Fault(Exception):
    pass


def test_a_step_that_fails_anywhere_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it has opened was lost: the envelope would be taken for a copy from then on."""
    world = World(tmp_path)
    world.begin(("alice", "bob"))
    alice, bob = world.clients["alice"], world.clients["bob"]
    for writer, other in ((alice, "bob"), (bob, "alice"), (alice, "bob")):
        writer.write((other,), b"hello")
        turn(world)
    batch = bob.context.sessions.batch()
    envelope = batch.seal(bob._begin(alice), "alice", encode_note(Note(Refs(), b"")), world.now)
    real, faults = vars(Session)["stage"].fget, 0
    for read in range(READS):
        steps = alice.context.sessions.batch()
        opened, left = steps.open(envelope, world.now // 1_000), read

        def stage(session: Session) -> Stage:
            nonlocal left
            left -= 1
            if left == -1:
                raise _Fault
            found: Stage = real(session)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Session, "stage", property(stage))
            try:
                steps.accept(opened, "bob", world.now)
            except _Fault:
                faults += 1
                assert not (steps._changed or steps._used or steps._lives or steps._gone)
    world.close()
    assert 2 < faults < READS
