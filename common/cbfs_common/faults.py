"""Faults of our own, told for a log: where they are, and nothing of what was being handled."""

from collections.abc import Iterator
from types import TracebackType

_FRAMES_MAX = 40
_CAUSES_MAX = 8


def trace_of(error: BaseException) -> str:
    """Class and place of an error and of those it follows from, a line each: the text of an error,
    and of a source line, may hold a key, a name or a word of a message."""
    return "\n".join(_lines(error, _CAUSES_MAX))


def _lines(error: BaseException, left: int) -> Iterator[str]:
    yield type(error).__name__
    for place in list(_places(error.__traceback__))[-_FRAMES_MAX:]:
        yield f"  {place}"
    if left == 0:
        return
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions[:_CAUSES_MAX]:
            yield from _lines(each, left - 1)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield "while handling or because of"
        yield from _lines(cause, left - 1)


def _places(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        code = trace.tb_frame.f_code
        yield f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
