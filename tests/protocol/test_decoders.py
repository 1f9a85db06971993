"""Any bytes give a value or one of our errors, in bounded memory. The table is that of ./run fuzz,
which looks for longer and is guided."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing.decoders import DECODERS, SIZE_MAX, samples, try_it

SAMPLES = samples()
MEMORY_MAX = 8 * 1024 * 1024
"""Bytes that a decoder may take for SIZE_MAX of input."""


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A good one of some kind with a few bytes changed, cut, doubled or put in."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.binary(max_size=9))
        data[at : at + draw(st.sampled_from([0, len(what), len(what) + 1, len(data)]))] = what
    return bytes(data[:SIZE_MAX])


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.one_of(st.binary(max_size=300), changed()))
def test_any_bytes_give_a_value_or_an_error_of_ours(name: str, data: bytes) -> None:
    try_it(name, data)


@pytest.mark.parametrize("name", DECODERS)
def test_no_input_takes_much_memory(name: str) -> None:
    large = [bytes([byte]) * SIZE_MAX for byte in (0, 0x7F, 0x91, 0xDD, 0xDF, 0xFF)]
    tracemalloc.start()
    try:
        for data in (*SAMPLES, *large, b"\xdd\xff\xff\xff\xff" * 4_000, b"[[" * 10_000):
            try_it(name, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX
