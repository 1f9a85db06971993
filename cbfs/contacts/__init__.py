"""Who is who: the contacts of an account and how much is known of each, looking them up,
fingerprints to compare, the sessions with their devices, and the monitor that keeps up with the
directory.

In come names, and keys as the directory proves them; out go contacts that one may write to, or what
stands in the way. Stands on names, storage and problems. Entered by the engine's rooms, by the tree
and by commands.
"""

FACE = (
    "contact",
    "contacts",
    "fingerprint",
    "former_keys",
    "held_session",
    "lives",
    "look_up",
    "monitor",
    "prekey_secrets",
    "sessions",
    "user_names",
    "words",
)
