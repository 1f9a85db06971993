"""What a stranger asks, as text that is safe to show."""

from collections.abc import Callable

from cbfs.interface import MessageRequest
from cbfs.messages.file_names import moment
from cbfs.messages.plain_text import shown_line, shown_lines

LINES_MAX = 40
"""Lines of a first message that are shown."""


def request_text(request: MessageRequest, me: str, label: Callable[[str], str]) -> str:
    """The file ``message`` of a request. What the stranger chose is indented, one line stays one
    line, and no character of it does anything to a terminal. ``me``: one's own name; ``label``:
    what people are shown as."""
    shown = label(request.name)
    others = [label(who) for who in request.participants if who not in (me, request.name)]
    whom = f"you, with {', '.join(others)}" if others else "you"
    more = request.messages - 1
    lines = [
        f"{shown} has written to {whom}",
        f"first received: {moment(request.since):%Y-%m-%d %H:%M} UTC",
    ]
    if request.subject:
        lines.append(f"subject: {shown_line(request.subject)}")
    lines += ["", *_content(request), ""]
    if more:
        lines.append(f"... and {more} more message{'s' if more > 1 else ''}.")
    lines += [
        f"Accept, and see all:     mv requests/{shown} contacts/",
        f"Decline:                 rmdir requests/{shown}",
        f"Never hear of them:      touch requests/{shown}/blocked",
        f"{shown} is told of none of this, nor that the message has come.",
    ]
    return "\n".join(lines) + "\n"


def _content(request: MessageRequest) -> list[str]:
    if request.folder:
        return [f"    (a folder, {request.file_name}, {request.size} bytes)"]
    try:
        text = request.head.decode()
    except UnicodeDecodeError as error:
        cut = error.start >= len(request.head) - 3 and request.size > len(request.head)
        text = request.head[: error.start].decode() if cut else "\0"
    if "\0" in text:
        return [f"    (a file, {request.file_name or 'without a name'}, {request.size} bytes)"]
    found = shown_lines(text)
    lines = [f"    {line}" for line in found[:LINES_MAX]]
    if len(found) > LINES_MAX or request.size > len(request.head):
        lines.append("    ...")
    return lines
