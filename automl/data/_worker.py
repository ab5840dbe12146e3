"""A child process of :class:`automl.data._decoder.Decoder`: ``python -m automl.data._worker``.

Reads the side and the file of the squares, answers with nothing, then reads chunks from standard input and writes answers
to standard output until the input ends.
"""

from __future__ import annotations

import os
import sys

from automl.data._decoder import items_of, pack, read_block


def main() -> None:
    """Answer until nothing more comes."""
    # Whatever a library prints must not get between the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        told = read_block(sys.stdin.buffer)
        side, file = int.from_bytes(told[:4], "little"), os.open(os.fsdecode(told[4:]), os.O_WRONLY)
        out.write(bytes(4))  # a block of no bytes
        out.flush()
        while True:
            out.write(pack(*items_of(read_block(sys.stdin.buffer)), side, file))
            out.flush()
    except (EOFError, OSError):  # what cannot be written here is tried again, and told, by the parent
        os._exit(0)


if __name__ == "__main__":
    main()
