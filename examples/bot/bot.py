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
        draft = MOUNT / "tmp" / f"answer-{time.time_ns()}"
        draft.write_text(answer(link.read_text(errors="replace")) + "\n")
        draft.rename(MOUNT / "outbox" / link.resolve().parent.name / draft.name)
    time.sleep(1)
