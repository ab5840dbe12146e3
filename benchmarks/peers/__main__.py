"""Install peers: ``python -m benchmarks.peers [NAME …]``; without a name, what there is."""

from __future__ import annotations

import sys

from automl.errors import InputError
from benchmarks.peers import PEERS, folder_of, install


def main(names: list[str]) -> int:
    """Exit codes: 0 installed or listed, 2 a name is unknown or pip failed."""
    if not names:
        for name, peer in PEERS.items():
            there = "installed" if (folder_of(name) / "installed.json").is_file() else "not installed"
            print(f"{name}: {peer.title} ({there})")
        return 0
    try:
        for name in names:
            print(f"{name} is in {install(name)}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
