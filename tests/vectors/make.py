"""Writes tests/vectors/*.json, all of them. Run it after a change of the protocol: what has not
changed must stay as it is. A test holds the files equal to what this makes.

    .venv/bin/python -m tests.vectors.make
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.vectors import (
    make_answers,
    make_blobs,
    make_checks,
    make_ed25519,
    make_marks,
    make_messages,
    make_names,
    make_primitives,
    make_rounds,
    make_server,
    make_sessions,
    make_transport,
)

FOLDER = Path(__file__).parent

FILES: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    **make_primitives.FILES,
    **make_messages.FILES,
    **make_sessions.FILES,
    **make_ed25519.FILES,
    **make_transport.FILES,
    **make_server.FILES,
    **make_marks.FILES,
    **make_blobs.FILES,
    **make_names.FILES,
    **make_rounds.FILES,
    **make_checks.FILES,
    **make_answers.FILES,
}


def text_of(file: str) -> str:
    """What ``file``.json holds: a line for each field of a case, however much is in it."""
    kinds = {
        _text(kind): "[\n" + ",\n".join(map(_case, cases)) + "\n ]"
        for kind, cases in FILES[file]().items()
    }
    return "{\n" + ",\n".join(f" {kind}: {cases}" for kind, cases in kinds.items()) + "\n}\n"


def _case(case: Mapping[str, Any]) -> str:
    fields = (f"   {_text(name)}: {_text(value)}" for name, value in case.items())
    return "  {\n" + ",\n".join(fields) + "\n  }"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write all files."""
    for file in FILES:
        (FOLDER / f"{file}.json").write_text(text_of(file))


if __name__ == "__main__":
    main()
