"""Where the programs ``cbfs`` and ``mount.cbfs`` begin: what a process inherits is put in order
before anything else is imported, and whatever ends one of them ends it in words.

What is inherited from who starts a program can be anything: closed descriptors, which the next
file to be opened would take the place of; signals that are blocked or ignored; a umask by which
one's own files cannot be read; an encoding that has no letters for the names of files.
"""

import os
import signal
import sys
from io import TextIOWrapper
from types import TracebackType

from cbfs_host.complaints import complain, hint_of, say
from cbfs_host.entry import INTERRUPTED, fill_descriptors, read_in

PROGRAM = "cbfs"
"""How complaints begin, of ``mount.cbfs`` as well."""

FAILED = 1

_NEEDED = (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)
"""Signals that do what they usually do, whatever was inherited. SIGINT and SIGHUP stay ignored
when they are: so a shell starts what is to run in the background, and nohup(1) what is to stay."""


def cbfs() -> int:
    """Run the program ``cbfs``; its exit code."""
    return _begin("cbfs.commands.main")


def mount_cbfs() -> int:
    """Run the program ``mount.cbfs``; its exit code."""
    return _begin("cbfs.commands.mount.program")


def _begin(module: str) -> int:
    try:
        _put_in_order()
        code = _called(module)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = interrupted()
    except OSError as error:
        code = _failed(error)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is nothing left to interrupt
    return code


def _called(module: str) -> int:
    program = read_in(module, interrupted)
    try:
        return int(program.main())
    except SystemExit as end:  # of argparse
        return end.code if isinstance(end.code, int) else 0


def _put_in_order() -> None:
    fill_descriptors()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in _NEEDED:
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)
    sys.excepthook = _told
    sys.unraisablehook = _forgotten
    if sys.getfilesystemencoding() != "utf-8":  # a locale whose letters are few
        anew = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, anew)  # noqa: S606 - this very program
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A mistake of ours is told with its place; being interrupted is none."""
    if issubclass(kind, KeyboardInterrupt):
        interrupted()
    else:
        sys.__excepthook__(kind, error, trace)


def _forgotten(what: "sys.UnraisableHookArgs") -> None:
    if not isinstance(what.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(what)


def interrupted() -> int:
    """Say that Ctrl-C was typed, in a line of its own; the exit code for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say(("\n" if _at_terminal() else "") + f"{PROGRAM}: interrupted\n")
    return INTERRUPTED


def _failed(error: OSError) -> int:
    """What nobody has foreseen of files, in words."""
    why = (error.strerror or str(error)).lower()
    if isinstance(error, BrokenPipeError) and error.filename is None:
        _drop_output()  # who reads has seen enough
        return FAILED
    what = error.filename
    name = os.fsdecode(what) if isinstance(what, str | bytes) else "it could not be done"
    if isinstance(error, FileNotFoundError) and what is None:  # of getcwd
        name = "the working directory is gone"
    _drop_output()
    complain(PROGRAM, f"{name}: {why}", hint_of(error, ""))
    return FAILED


def _drop_output() -> None:
    """What could not be written must not be tried again at the end."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        return


def _at_terminal() -> bool:
    try:
        return os.isatty(2)
    except OSError:
        return False
