"""Accounts and exports of format 2, as the cbfs of commit 70e89ed made them, brought into a store
of format 8.

In come the records of before; out go those of format 8, from which later upgrades go on. What is
read, and what is written, is frozen here: the records of now are none of this room's. Stands on
storage. Entered by account and commands.
"""

FACE = ("bringing", "old_export", "old_store")
