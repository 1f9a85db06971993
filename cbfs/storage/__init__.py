"""The sealed store: records in LMDB under a tree of keys, so that what is erased is gone; its
root's key, the encoding of records, faults that no error of ours stands for, and what is left after
damage.

In come a directory and a key; out go transactions. Knows nothing of what the records mean. Every
room may enter but network; it enters none.
"""

FACE = ("encoding", "faults", "lmdb_pages", "records", "root_key", "salvage", "store")
