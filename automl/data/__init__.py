"""Images and labels from many formats: decoded once, split fairly, checked and reported."""

from __future__ import annotations

from automl.data._cache import default_cache_dir
from automl.data._checks import DataReport
from automl.data._dataset import Dataset, load_dataset
from automl.data._decode import DecodeError, decode_image, squash
from automl.data._levels import ImageLevel
from automl.data._splits import proportional_order

__all__ = [
    "DataReport",
    "Dataset",
    "DecodeError",
    "ImageLevel",
    "decode_image",
    "default_cache_dir",
    "load_dataset",
    "proportional_order",
    "squash",
]
