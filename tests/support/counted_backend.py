"""The fake backend's mount, which writes each request of the kernel to its standard error, as
libfuse does when it is to be debugged: those as well that no handler of ours sees."""

import sys

import pyfuse3

import cbfs.commands.mount.program
import cbfs.commands.mount.serving
from tests.support.fake_backend import running

if __name__ == "__main__":
    begin = pyfuse3.init
    vars(pyfuse3)["init"] = lambda operations, mountpoint, options: begin(
        operations, mountpoint, options | {"debug"}
    )
    vars(cbfs.commands.mount.serving)["running"] = running
    sys.argv += ["--foreground"]
    sys.exit(cbfs.commands.mount.program.main())
