"""The limits of a server that runs, which its operator looks at and changes."""

import argparse
from typing import Any

from cbfs_host.admin import Asked, Lines, Value, Verb
from cbfs_host.admin_command import Subcommands, ask, show
from cbfs_host.complaints import HostError
from cbfs_host.rereading import Rereading


class LiveLimits:
    """Answers operators; what they change holds until the program ends or the file is read
    again."""

    def __init__(self, rereading: Rereading) -> None:
        self._rereading = rereading

    @property
    def verb(self) -> Verb:
        """How it is asked: without words, or with the name of a limit and its new value."""
        return Verb(self._answer, 0, 2)

    async def _answer(self, words: tuple[str, ...], _file: int) -> Lines:
        if len(words) == 1:
            raise HostError(
                f"{words[0]} needs a value", "limits NAME VALUE; limits alone shows all"
            )
        if words:
            self._rereading.change(*words)
        return tuple((name, _shown(value)) for name, value in self._rereading.live())


def _shown(value: Any) -> Value:
    return value if value is None or isinstance(value, int | str) else str(value)


def add_limits(commands: Subcommands) -> None:
    """Add the command that shows and changes limits."""
    parser = commands.add_parser(
        "limits", help="show the limits, or change one until the server ends or reads its file"
    )
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument("value", metavar="VALUE", nargs="?")
    parser.set_defaults(run=_limits)


def _limits(got: argparse.Namespace) -> None:
    words = tuple(word for word in (got.name, got.value) if word is not None)
    show(ask(got.place, Asked("limits", words)), as_json=False)
