"""Files of a data set in a scratch folder, and tables that name them as often as is wanted."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """Files of a data set with their labels, in ``folder`` or below."""

    folder: Path
    names: list[str]
    labels: list[str]

    def some(self, rows: Sequence[int]) -> Files:
        """Only these."""
        return Files(self.folder, [self.names[r] for r in rows], [self.labels[r] for r in rows])

    def spread(self, count: int) -> Files:
        """``count`` of them, evenly spaced; where there are fewer, again from the first on."""
        import numpy as np

        have = len(self.names)
        picked = (
            np.linspace(0, have - 1, count).astype(int) if count <= have else np.arange(count) % have
        )  # fmt: skip
        return self.some(picked.tolist())

    def table(self, path: Path) -> Path:
        """Write a manifest beside the files."""
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["path", "label"])
            writer.writerows(zip(self.names, self.labels, strict=True))
        return path

    def paths(self) -> list[str]:
        """Absolute files."""
        return [str(self.folder / name) for name in self.names]


def gather(source: str, folder: Path) -> Files:
    """Make the files of a data set available below ``folder``: links to files, or what an npz file holds.

    Pixels of an npz file are written as PNG.

    Raises:
        InputError: nothing can be learned from the source.
    """
    import numpy as np
    from PIL import Image

    from automl.data._npz import NpzReader
    from automl.data._sources import list_source

    listing = list_source(source)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    names = [f"files/{at:07d}" for at in range(len(listing.names))]
    if listing.paths:
        for name, path in zip(names, listing.paths, strict=True):
            os.symlink(os.path.realpath(path), folder / name)
    else:
        reader = NpzReader(listing.source, listing.kind, folder / "unpacked")
        for at, name in enumerate(names):
            item = reader[at]
            if isinstance(item, np.ndarray):
                Image.fromarray(item.squeeze()).save(folder / name, format="PNG", compress_level=1)
            else:
                (folder / name).write_bytes(item)
        del reader
        shutil.rmtree(folder / "unpacked", ignore_errors=True)
    return Files(folder, names, [listing.class_names[c] for c in listing.labels])
