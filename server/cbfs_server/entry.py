"""Where the program cbfs-server begins."""

from cbfs_host.entry import begin


def main() -> int:
    """Run the program ``cbfs-server``; its exit status."""
    return begin("cbfs-server", "cbfs_server.cli")
