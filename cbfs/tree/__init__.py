"""What the mount shows, without FUSE: inodes, what may be done where, the bytes of files and what
programs have saved; in ``cbfs.tree.virtual`` what is made when somebody looks.

In come changes that programs make, and messages and people from the engine; out go names,
attributes, bytes and refusals. Entered by outbox, mount and commands.
"""
