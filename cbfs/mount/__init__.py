"""The kernel's edge: FUSE requests and their errno, open files and attributes, the view that shows
the engine's news, the notifier that lets programs see changes, the quota, how a mount begins and
ends, mounts of a single conversation, and mounts on other machines.

In come requests of the kernel, and news of the engine; out go calls on the tree and the outbox, and
answers. Stands on outbox, tree, interface, messages, problems and storage; the only room that knows
pyfuse3. Entered by commands.
"""

FACE = (
    "lifecycle",
    "mount_table",
    "mounting",
    "view",
    "single.connection",
    "single.process",
    "single.wire",
    "remote.ssh.address",
    "remote.process",
)
