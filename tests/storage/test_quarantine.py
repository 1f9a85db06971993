"""What is kept of envelopes that could not be read, whatever stands in a record."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cbfs.messages.queues import quarantine
from cbfs.messages.queues.quarantine import Keeping, QuarantinedEnvelope, Why
from cbfs.storage.encoding import u64
from cbfs.storage.store import Table
from tests.support.stores import open_store


@given(st.sampled_from(Why), st.binary(min_size=16, max_size=16), st.binary(max_size=40))
def test_what_is_kept_comes_back(why: Why, session: bytes, envelope: bytes) -> None:
    kept = QuarantinedEnvelope(envelope, why, session)
    assert quarantine._decode(kept.encode()) == kept


@given(st.binary(max_size=60))
def test_no_record_is_beyond_reading(data: bytes) -> None:
    found = quarantine._decode(data)
    assert found.envelope == data[17:]
    assert found.why.value == data[:1] or found.why is Why.LATER


def test_a_reason_of_a_later_version_hides_nothing(tmp_path: Path) -> None:
    """The envelope can be tried again, as can those beside it."""
    store = open_store(tmp_path)
    later = u64(2**40) + bytes(32)
    store.write(lambda writer: Keeping(writer).keep(QuarantinedEnvelope(b"before", Why.NOISE)))
    store.write(lambda writer: writer.put(Table.QUARANTINE, later, b"z" + bytes(16) + b"later"))
    with store.read() as reader:
        keys = quarantine.newest(reader)
        assert [quarantine.envelope_at(reader, key) for key in keys] == [b"before", b"later"]
        assert [quarantine.reason_at(reader, key) for key in keys] == [Why.NOISE, Why.LATER]
    store.close()
