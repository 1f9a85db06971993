"""From the mailbox to the history: envelopes are fetched, opened, reassembled and kept; requests of
strangers, notes of peers, and prekeys.

In come pushes of the home server; out go messages in the store, and what is due to peers. Stands on
sending and all that sending stands on. Only the engine enters.
"""
