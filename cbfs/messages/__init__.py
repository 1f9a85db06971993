"""Conversations, messages and queues as records of the store, without a network and without a
mount.

In come a transaction of the store and values that have been checked; out go conversations,
messages, contents, lists and search results. Stands on storage. The engine's rooms, the mount's
rooms and commands enter.
"""

FACE = (
    "content",
    "conversations",
    "file_names",
    "history",
    "lifetimes",
    "listings",
    "lost_state",
    "model",
    "order",
    "petnames",
    "progress",
    "queues.delivery_queue",
    "queues.incomplete",
    "queues.note_queue",
    "queues.quarantine",
    "search_index",
    "transcript",
)
