"""Fixtures that several tests share."""

from tests.tornet import system_tor, tor_network

__all__ = ["system_tor", "tor_network"]
