"""From the mailbox to the history: envelopes are fetched, opened, reassembled and kept; requests of
strangers, notes of peers, and prekeys.

In come pushes of the home server; out go messages in the store, and what peers are to be told.
Stands on sending and all that sending stands on, and on account. Entered by the engine, and by
commands to sign up at a server.
"""

FACE = (
    "compositions",
    "copies",
    "lost_state",
    "mailbox",
    "message_requests",
    "prekeys",
    "receiver",
    "signing_up",
)
