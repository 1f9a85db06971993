"""The version of all programs of cbfs."""

from typing import Final

VERSION: Final = "0.2.0"
