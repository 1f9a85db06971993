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
    "mail_ids",
    "marks.doubts",
    "marks.mail_notes",
    "marks.mail_pages",
    "model",
    "name_pages",
    "order",
    "petnames",
    "queues.blobs",
    "queues.delivery_queue",
    "queues.incomplete",
    "queues.note_queue",
    "queues.progress",
    "queues.quarantine",
    "search_index",
    "transcript",
)
