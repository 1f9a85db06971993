"""The state of the directory on disk: names, map, log, blocks, keys and the largest time that is
known. In come operations and what a round changes; out go transactions, heads and proofs. Stands on
no other room. Every other room may enter.
"""

FACE = (
    "block",
    "keys",
    "map_nodes",
    "replay",
    "round_log",
    "store",
    "tables",
    "timekeeping",
    "waiting",
)
