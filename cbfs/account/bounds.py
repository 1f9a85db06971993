"""Between what the settings of an account may be. Command lines keep to them as well, and so this
imports nothing.
"""

GRACE, GRACE_MAX = 1.0, 3600.0
"""Seconds: the default, and the most."""

FILE_SIZE_MIN = 65_536
"""Bytes that one may always write: swap files of editors count."""

PACE_MIN, PACE_MAX = 10, 86_400
"""Seconds: each turn takes a fresh circuit of Tor."""

STAGGER_MIN, STAGGER_MAX = 1, 3_600
"""Seconds."""

QUOTA_MIN, QUOTA_MAX = 16 << 20, 1 << 50
"""Bytes of a quota."""
