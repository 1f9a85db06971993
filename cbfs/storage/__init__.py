"""The sealed store: records in LMDB under a tree of keys, so that what is erased is gone; its
root's key, the encoding of records, files that a power loss leaves whole, and what is left after
damage.

In come a directory and a key; out go transactions. Knows nothing of what the records mean. Every
room may enter.
"""
