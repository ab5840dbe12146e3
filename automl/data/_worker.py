"""A child process of :class:`automl.data._decoder.Decoder`: ``python -m automl.data._worker SIDE``.

Reads chunks from standard input and writes answers to standard output until the input ends.
"""

from __future__ import annotations

import os
import sys

from automl.data._decoder import items_of, pack, read_block


def main(side: int) -> None:
    """Answer until nothing more comes."""
    # Whatever a library prints must not get between the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        while True:
            out.write(pack(items_of(read_block(sys.stdin.buffer)), side))
            out.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
