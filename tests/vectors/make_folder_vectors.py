"""What tests/vectors/folder.json holds; see tests.vectors.make_vectors."""

from typing import Any

import msgpack


def folder_table(rows: object) -> bytes:
    """The beginning of a folder's content, of whatever rows."""
    packed: bytes = msgpack.packb(rows)
    return len(packed).to_bytes(4, "big") + packed


def folder() -> dict[str, Any]:
    rows = [[0, "a.txt", 5], [0, "deep", None], [2, "b", 0], [2, "Grüße", 7], [0, "empty", None]]
    good = folder_table(rows)

    def changed(at: int, *row: object) -> bytes:
        return folder_table([*rows[:at], list(row), *rows[at + 1 :]])

    deep = [[depth, "d", None] for depth in range(16)]
    heads = {
        "empty": b"",
        "no table": bytes(4),
        "shorter than it says": good[:-1],
        "longer than it says": good + b"\0",
        "a table too long": (2**20 + 1).to_bytes(4, "big"),
        "a map": folder_table({}),
        "no entries": folder_table([]),
        "no file": folder_table([[0, "a", None]]),
        "a row too short": folder_table([[0, "a"]]),
        "a row too long": folder_table([[0, "a", 5, 0]]),
        "parent a file": changed(2, 1, "b", 0),
        "parent itself": changed(2, 3, "b", 0),
        "parent later": changed(2, 5, "b", 0),
        "parent negative": changed(2, -1, "b", 0),
        "parent true": changed(2, True, "b", 0),
        "name twice": changed(3, 2, "b", 7),
        "name empty": changed(3, 2, "", 7),
        "name .": changed(3, 2, ".", 7),
        "name ..": changed(3, 2, "..", 7),
        "name with a slash": changed(3, 2, "../x", 7),
        "name with a NUL": changed(3, 2, "x\0", 7),
        "name too long": changed(3, 2, "é" * 128, 7),
        "name bytes": changed(3, 2, b"x", 7),
        "name not UTF-8": good.replace("Grüße".encode(), b"Gr\xff\xff\xff\xffe"),
        "size negative": changed(3, 2, "x", -7),
        "size true": changed(3, 2, "x", True),
        "size too large": changed(3, 2, "x", 2**26 + 1),
        "too deep": folder_table([*deep, [16, "f", 12]]),
        "too many": folder_table([[0, f"{i}", 0] for i in range(4_097)]),
    }
    refused: list[dict[str, Any]] = [
        {"name": name, "head": head.hex(), "size": len(head) + 12} for name, head in heads.items()
    ]
    for name, size in (("a byte too many", 13), ("a byte too few", 11), ("nothing behind", 0)):
        refused.append({"name": name, "head": good.hex(), "size": len(good) + size})
    return {
        "head": good.hex(),
        "size": len(good) + 12,
        "entries": rows,
        "starts": [len(good) + start for start in (0, 5, 5, 5, 12)],
        "refused": refused,
    }
