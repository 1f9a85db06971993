"""Fixtures that several tests share."""

from tests.tornet import tor_network

__all__ = ["tor_network"]
