"""The outbox: when a file or folder is finished, and how it becomes a message, or what is wrong
with it.

In come changes of the tree, and the clock; out go submissions to the engine, and error files.
Stands on tree, interface, messages, problems and storage. Entered by mount and commands.
"""

FACE = ("loop", "outbox", "programs", "submission", "sync_send")
