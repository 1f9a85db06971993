"""``cbfs sendmail``: the command line of sendmail, by which mail programs hand over a message.

In come the words of a command line and a message of RFC 5322; out go drafts in the outbox of the
account's mount, or, while there is none, a sealed message in its spool, and an exit code of
sysexits.h. ``options``, ``letter`` and ``reading`` are pure. And ``cbfs send``, which puts files
into the outbox of a mount and waits until they have left. Only commands enters.
"""
