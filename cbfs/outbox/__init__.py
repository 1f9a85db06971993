"""The outbox: when a file or folder is finished, and how it becomes a message, or what is wrong
with it.

In come changes of the tree, and the clock; out go submissions to the engine, and error files.
Stands on tree and what the tree stands on. Entered by mount and commands.
"""

FACE = ("loop", "outbox", "submission", "sync_send")
