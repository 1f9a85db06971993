"""What all naive readers of vectors stand on: an error by its name in the text, fields one behind
another, and MessagePack in its one encoding, by hand. Nothing of cbfs_common."""

from typing import Any


class Wrong(Exception):
    """What must be refused, with the name of the error in the protocol's text."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def named(error: Exception) -> str:
    """The name of an error. Any other is a fault of the reader."""
    if not isinstance(error, Wrong):
        raise error
    return error.name


def need(right: bool, name: str = "malformed") -> None:
    """Refuse what is not right."""
    if not right:
        raise Wrong(name)


class Bytes:
    """Fields one behind another."""

    def __init__(self, data: bytes, wrong: str = "malformed") -> None:
        self.rest = data
        self.wrong = wrong

    def take(self, size: int) -> bytes:
        need(size <= len(self.rest), self.wrong)
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def u(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def short(self) -> bytes:
        return self.take(self.u(1))

    def long(self) -> bytes:
        return self.take(self.u(2))

    def end(self) -> None:
        need(not self.rest, self.wrong)


def messagepack(data: bytes) -> Any:
    """The one value that ``data`` is."""
    fields = Bytes(data)
    value = _value(fields)
    fields.end()
    return value


_INTEGERS = {
    0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, False),
    0xD0: (1, True), 0xD1: (2, True), 0xD2: (4, True), 0xD3: (8, True),
}  # fmt: skip
_LENGTHS = {
    0xC4: (1, 0), 0xC5: (2, 256), 0xC6: (4, 65_536),
    0xD9: (1, 32), 0xDA: (2, 256), 0xDB: (4, 65_536),
    0xDC: (2, 16), 0xDD: (4, 65_536),
}  # fmt: skip
"""Bytes of the length, and the least that is written so."""


def _value(fields: Bytes) -> Any:
    code = fields.u(1)
    if code < 0x80:
        return code
    if code >= 0xE0:
        return code - 256
    if code in {0xC0, 0xC2, 0xC3}:
        return {0xC0: None, 0xC2: False, 0xC3: True}[code]
    if code in _INTEGERS:
        return _integer(fields, *_INTEGERS[code])
    if 0x90 <= code < 0xA0:
        return [_value(fields) for _ in range(code & 0x0F)]
    if 0xA0 <= code < 0xC0:
        return _text(fields.take(code & 0x1F))
    need(code in _LENGTHS)
    size, least = _LENGTHS[code]
    length = fields.u(size)
    need(least <= length <= len(fields.rest))
    if code in {0xDC, 0xDD}:
        return [_value(fields) for _ in range(length)]
    return fields.take(length) if code < 0xD0 else _text(fields.take(length))


def _integer(fields: Bytes, size: int, signed: bool) -> int:
    number = int.from_bytes(fields.take(size), "big", signed=signed)
    if signed:
        shorter = -32 if size == 1 else -(1 << 8 * size // 2 - 1)
        need(number < shorter)
    else:
        need(number >= (128 if size == 1 else 1 << 8 * size // 2))
    return number


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Wrong("malformed") from None


def is_number(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def is_bytes(value: Any, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value.encode()) <= most
