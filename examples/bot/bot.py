#!/usr/bin/env python3
"""bot.py: answers every message with its words in reverse order."""

import os
import time
from pathlib import Path

MOUNT = Path(os.environ.get("CBFS_MOUNT", "~/chat")).expanduser()


def answer(text: str) -> str:
    return " ".join(reversed(text.split()))


while True:
    for link in sorted((MOUNT / "unread").iterdir()):
        if link.is_dir():  # a message may be a folder: that is not for us
            link.unlink()
            continue
        folder = link.resolve().parent.name
        draft = MOUNT / "tmp" / f"answer-{time.time_ns()}"
        draft.write_text(answer(link.read_text(errors="replace")) + "\n")  # and the link is gone
        draft.rename(MOUNT / "outbox" / folder / draft.name)
    time.sleep(1)
