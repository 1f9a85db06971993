"""The kernel's edge: FUSE requests and their errno, open files, the notifier that lets programs see
changes, the quota, and mounts of a single conversation.

In come requests of the kernel; out go calls on the tree and the outbox, and answers. The only room
that knows pyfuse3, beside the command that mounts. Only commands enters.
"""
