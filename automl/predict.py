"""Label images with an exported model: onnxruntime, numpy and Pillow; no torch."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from PIL import Image

from automl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from automl.data._depth import Ranges

MODEL_FILE = "model.onnx"
LABELS_FILE = "labels.json"


def predict_files(
    run_folder: str | os.PathLike[str],
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    threads: int = 1,
    batch: int = 16,
) -> pd.DataFrame:
    """Label image files with the exported model of a run.

    Args:
        run_folder: folder with ``model.onnx`` and ``labels.json``.
        paths: files, folders (all images below them) and patterns such as ``new/*.png``.
        threads: CPU threads.
        batch: images at a time.

    Returns:
        one row per file in the order given: ``file``, ``label``, ``probability`` (of that label; with an operating
        point inside the model it need not be the largest one), ``probability[CLASS]`` of each class, and ``error``,
        which is None where the file could be read.

    Raises:
        InputError: the run folder has no usable model, or a folder or pattern holds no image.
    """
    return Predictor(run_folder, threads=threads).predict(expand(paths), batch=batch)


class Predictor:
    """A loaded model.

    Args:
        run_folder: folder with ``model.onnx`` and ``labels.json``.
        threads: CPU threads.

    Raises:
        InputError: a file is missing or damaged, or the two do not fit each other.
    """

    def __init__(self, run_folder: str | os.PathLike[str], *, threads: int = 1) -> None:
        if threads < 1:
            raise InputError(f"threads is {threads}; it is at least 1")
        self.folder, self.threads = Path(run_folder).expanduser(), threads
        self.class_names, self.resize, self._ranges = read_labels(self.folder)
        path = self.folder / MODEL_FILE
        if not path.is_file():
            raise InputError(f"{self.folder} has no {MODEL_FILE}; give the folder of a finished run")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            side = self._session.get_inputs()[0].shape[1]
            classes = next(o.shape[1] for o in self._session.get_outputs() if o.name == "probabilities")
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(f"{path} cannot be used ({line}); copy it from the run again") from None
        if (isinstance(side, int) and side != self.resize[-1]) or (
            isinstance(classes, int) and classes != len(self.class_names)
        ):
            raise InputError(f"{path} and {LABELS_FILE} beside it are not of the same run; copy both again")

    def predict(self, images: Iterable[Any], *, batch: int = 16) -> pd.DataFrame:
        """Label images; columns as in :func:`predict_files`.

        Args:
            images: paths, or uint8 arrays ``[H, W]`` or ``[H, W, 1|3|4]``, which are called ``image[0]``, ``image[1]``, ….
            batch: images at a time.

        Raises:
            InputError: an array is not an image.
        """
        import pandas as pd

        if batch < 1:
            raise InputError(f"batch is {batch}; it is at least 1")
        names: list[str] = []
        errors: list[str | None] = []
        labels: list[int] = []
        rows: list[np.ndarray] = []
        for part in _batches(images, batch):
            read = list(self._map(self._read, part))
            good = [pixels for pixels, _ in read if pixels is not None]
            found: Iterator[tuple[np.ndarray, Any]] = iter(())
            if good:
                probabilities, label = self._session.run(
                    ["probabilities", "label"], {"images": np.stack(good)}
                )
                found = zip(probabilities, label, strict=True)
            for (position, item), (pixels, error) in zip(part, read, strict=True):
                names.append(f"image[{position}]" if isinstance(item, np.ndarray) else os.fspath(item))
                errors.append(error)
                row, chosen = (
                    next(found) if pixels is not None else (np.full(len(self.class_names), np.nan), -1)
                )
                rows.append(np.asarray(row, dtype=np.float32))
                labels.append(int(chosen))
        table = np.stack(rows) if rows else np.zeros((0, len(self.class_names)), np.float32)
        # As objects, since names of files and folders that are no UTF-8 are no texts for pandas.
        file, label_names, reasons = (
            pd.Series(column, dtype=object)
            for column in (names, [self.class_names[i] if i >= 0 else None for i in labels], errors)
        )
        probability = pd.Series(
            [float(row[i]) if i >= 0 else np.nan for row, i in zip(table, labels, strict=True)], dtype=float
        )
        parts = [file, label_names, probability, pd.DataFrame(table), reasons]
        frame = pd.concat(parts, axis=1, ignore_index=True)
        each = [f"probability[{name}]" for name in self.class_names]
        frame.columns = pd.Index(["file", "label", "probability", *each, "error"], dtype=object)
        return frame

    def _map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if self.threads == 1 or len(items) == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            yield from pool.map(work, items)

    def _read(self, item: tuple[int, Any]) -> tuple[np.ndarray | None, str | None]:
        """Pixels uint8 ``[R, R, 3]``, or the reason why there are none."""
        from automl.data._decode import DecodeError, array_image, decode_image, squash

        position, source = item
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or not (
                source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (1, 3, 4))
            ):
                raise InputError(
                    f"image[{position}] is {source.dtype} {list(source.shape)}; an array is uint8 [H, W] or [H, W, 1|3|4]"
                )
            if not source.size:
                return None, "no pixels"
            image: Image.Image = array_image(source)
        else:
            try:
                if Path(source).is_dir():
                    return None, "is a folder"
                image = decode_image(Path(source), ranges=self._ranges)
            except DecodeError as error:
                return None, str(error)
        return np.asarray(squash(image, self.resize), dtype=np.uint8), None


def read_labels(folder: Path) -> tuple[list[str], list[int], Ranges]:
    """Class names, the sides of the successive squashes and the ranges of deep greys from ``labels.json``.

    Raises:
        InputError: the file is missing, damaged, or of a newer version.
    """
    from automl.data._depth import check_ranges

    path = folder / LABELS_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["schema_version"] != 1:
            raise InputError(
                f"{path} has schema_version {about['schema_version']}; this version of automl reads 1"
            )
        names, sides = about["classes"], about["resize"]
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise ValueError("classes is not a list of names")
        if not (isinstance(sides, list) and sides and all(type(s) is int and 1 <= s <= 4096 for s in sides)):
            raise ValueError("resize is not a list of sides in pixels")
        ranges = check_ranges(about.get("ranges", {}))  # which earlier versions did not write
    except FileNotFoundError:
        below = sorted(found.parent.name for found in folder.glob(f"limits-*/{LABELS_FILE}"))
        hint = f"one of {', '.join(below[:5])} in it" if below else "the folder of a finished run"
        raise InputError(f"{folder} has no {LABELS_FILE}; give {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be used ({' '.join(str(error).split())}); copy it from the run again"
        ) from None
    return names, sides, ranges


def expand(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Files, the images below folders, and what patterns match, in the order given.

    A file that does not exist stays, so that it is reported beside the others.

    Raises:
        InputError: nothing was given, or a folder or pattern holds no image.
    """
    from automl.data._decode import EXTENSIONS

    found: list[str] = []
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        text = os.fspath(given)
        if os.path.isdir(text):
            inside = list(_images_below(text, EXTENSIONS))
            if not inside:
                raise InputError(
                    f"folder '{text}' holds no image; known endings: {', '.join(sorted(EXTENSIONS))}"
                )
            found.extend(inside)
        elif not os.path.lexists(text) and glob.has_magic(text):
            matches = sorted(glob.glob(text, recursive=True))
            files = [m for m in matches if not os.path.isdir(m)]
            for folder in () if files else matches:
                files.extend(_images_below(folder, EXTENSIONS))
            if not files:
                raise InputError(
                    f"nothing matches '{text}'; give image files, folders, or a pattern such as new/*.png"
                )
            found.extend(files)
        else:
            found.append(text)
    if not found:
        raise InputError("no images were given; name image files, folders, or a pattern such as new/*.png")
    return found


def _images_below(folder: str, endings: frozenset[str]) -> Iterator[str]:
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in endings:
                yield os.path.join(base, name)


def _batches(images: Iterable[Any], size: int) -> Iterator[list[tuple[int, Any]]]:
    part: list[tuple[int, Any]] = []
    for item in enumerate(images):
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
