"""Mounts of a single conversation: a process of their own, which shows what the account's mount
tells it and hands back what is written."""
