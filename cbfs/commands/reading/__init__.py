"""Commands that read what is there, and change nothing of it: how a mount is doing, messages for
scripts, history for programs that will outlive this one, and words for a shell to complete.

In come a mount, or an account that is mounted or not; out go lines, and files that hold together.
"""
