"""Where the program cbfs-names begins."""

from cbfs_host.entry import begin


def main() -> int:
    """Run the program ``cbfs-names``; its exit status."""
    return begin("cbfs-names", "cbfs_names.commands.main")
