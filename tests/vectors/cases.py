"""How makers write cases down: see README.rst for what stands in the files."""

from collections.abc import Mapping
from typing import Any

Case = dict[str, Any]
File = dict[str, list[Case]]
"""Cases by their kinds."""


def shown(value: Any) -> Any:
    """A value as it stands in a file."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return value


def case(name: str, **fields: Any) -> Case:
    """A case with these fields: what is given, and what it gives or its error."""
    return {"name": name, **{key: shown(value) for key, value in fields.items()}}


def cases(field: str, made: Mapping[str, Any], **more: Any) -> list[Case]:
    """Cases that differ in one field."""
    return [case(name, **{field: value}, **more) for name, value in made.items()]


def changed(base: str, offset: int, xor: str = "01") -> dict[str, Any]:
    """Bytes of an earlier case of the kind with some changed."""
    return {"base": base, "offset": offset, "xor": xor}
