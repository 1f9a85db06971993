"""A format that changes has a new number, and an upgrade from the one before."""

import pytest

from tests.golden.layouts import LAYOUTS, Format, codes_of, formats

FORMATS = formats()
CHANGED = (
    "{name} is not what its format {number} is: see Change a record in CONTRIBUTING.rst."
    " What the number says is in {file}"
)


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.name)
def test_a_record_is_what_the_number_of_its_format_says(each: Format) -> None:
    said = CHANGED.format(name=each.name, number=each.number, file=each.file)
    assert each.file.exists(), said
    assert each.layout() == each.file.read_text(), said


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.name)
def test_each_format_that_was_is_upgraded(each: Format) -> None:
    """Up to that of now without a gap, from the oldest whose layout is kept."""
    kept = {
        int(number)
        for file in LAYOUTS.glob("*.txt")
        for name, _, number in [file.stem.rpartition("-")]
        if name == each.name
    }
    assert max(kept) == each.number
    assert set(range(min(kept), each.number)) <= each.upgraded
    assert each.upgraded <= set(range(each.number))


def test_the_layouts_are_those_of_stores_that_there_are() -> None:
    names = {file.stem.rpartition("-")[0] for file in LAYOUTS.iterdir()}
    assert names == {each.name for each in FORMATS}


CODEC = '''
class Kept:
    def encode(self) -> bytes:
        """For the store."""
        return pack(self.name, self.number)

def put(writer, number):
    writer.put(Table.META, b"key", pack(number))
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("self.name, self.number", "self.number, self.name"),
        ("self.name, self.number", "self.name, self.number, 0"),
        ("pack(number)", "pack(number, 1)"),
    ],
)
def test_a_change_of_a_record_is_seen(before: str, after: str) -> None:
    assert before in CODEC
    changed = CODEC.replace(before, after)
    assert list(codes_of(changed, "m")) != list(codes_of(CODEC, "m"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("For the store.", "A record."),
        ("-> bytes", "-> object"),
        ("def put", "# says why\ndef put"),
        ("Table.META", "Table.A"),
    ],
)
def test_what_is_no_change_of_a_record_is_none(before: str, after: str) -> None:
    assert before in CODEC
    changed = CODEC.replace(before, after)
    assert list(codes_of(changed, "m")) == list(codes_of(CODEC, "m"))
