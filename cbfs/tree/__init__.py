"""What the mount shows, without FUSE: nodes and their numbers, what may be done where, the bytes of
files and what programs have saved; in ``cbfs.tree.virtual`` what is made when somebody looks.

In come changes that programs make, and messages and people from the engine; out go names,
attributes, bytes and refusals. Stands on interface, contacts, messages, account, problems and
storage. Entered by outbox, mount and commands; begin reading at ``cbfs.tree.tree``, and at
``cbfs.tree.changes`` for what programs do.
"""

FACE = (
    "changes",
    "file_contents",
    "inodes",
    "nodes",
    "processes",
    "restore",
    "rules",
    "texts",
    "times",
    "tree",
    "unsent",
    "virtual.conversation_folder",
    "virtual.mail.letter",
    "virtual.mail.mails",
    "virtual.mail.pieces",
    "virtual.metadata_file",
    "virtual.virtual_directory",
    "watchers",
    "write_buffer",
    "xattrs",
)
