"""Writes the completions of all programs for bash, zsh and fish, from what their command lines may
say, into ``completions/``: ``./run completions``."""

import os
import sys
from argparse import Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "completions"
NAMES: Final = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}
"""How each shell calls the file for a program."""

_HOME: Final = "/home/of-who-reads"
"""Defaults in help are those of the reader, and not of who writes the files."""


def parsers() -> list[ArgumentParser]:
    """Of all programs, one each. Changes what this process takes for the user's home."""
    os.environ["HOME"] = _HOME
    os.environ.pop("XDG_DATA_HOME", None)
    os.environ["COLUMNS"] = "80"
    from cbfs.commands import main  # noqa: PLC0415 - defaults are looked up when it is read in
    from cbfs.commands.mount import options  # noqa: PLC0415
    from cbfs_names.commands import settings as names  # noqa: PLC0415
    from cbfs_server import settings as server  # noqa: PLC0415

    return [
        main.command_line(list(main.COMMANDS)),
        options.command_line(),
        server.command_line(),
        names.command_line(),
    ]


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, _SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def files() -> Iterator[tuple[str, str]]:
    """(path below ``completions/``, text) of each file."""
    import shtab  # noqa: PLC0415 - of the developers' environment alone

    for parser in parsers():
        for action in _actions(parser):
            if action.type is Path:
                action.complete = shtab.DIR if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        for shell, name in NAMES.items():
            text = shtab.complete(parser, shell)
            for home in _HOME, _HOME.replace("/", "\\/"):
                text = text.replace(home, "~")
            yield f"{shell}/{name.format(parser.prog)}", text.rstrip("\n") + "\n"


def main() -> int:
    """Write the files; the exit code."""
    for name, text in files():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
