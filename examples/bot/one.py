#!/usr/bin/env python3
"""one.py CHAT: the same bot for the one conversation that a sandbox has, see README.rst."""

import os
import sys
import time
from pathlib import Path

CHAT = Path(sys.argv[1])


def answer(text: str) -> str:
    return " ".join(reversed(text.split()))


answered = None
while True:
    (folder,) = (CHAT / "conversations").iterdir()
    messages = [path for path in folder.glob("*Z-*") if path.is_file()]  # it may be a folder
    last = max(messages, default=None)
    if last and last != answered and os.getxattr(last, "user.cbfs.state") == b"received":
        draft = CHAT / "tmp" / f"answer-{time.time_ns()}"
        draft.write_text(answer(last.read_text(errors="replace")) + "\n")
        draft.rename(CHAT / "outbox" / folder.name / draft.name)
        answered = last
    time.sleep(1)
