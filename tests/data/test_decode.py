from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl.data import DecodeError, decode_image, squash
from automl.data._decode import MAX_PIXELS, array_image, image_size

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_grey_becomes_three_equal_channels() -> None:
    out = np.asarray(decode_image(encoded(Image.fromarray(GREY))))
    assert out.shape == (16, 16, 3)
    assert (out == GREY[:, :, None]).all()


def test_transparent_pixels_are_laid_over_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0] = (200, 10, 10, 255)
    pixels[1, 1] = (0, 0, 0, 128)
    out = np.asarray(decode_image(encoded(Image.fromarray(pixels))))
    assert out[0, 0].tolist() == [200, 10, 10]
    assert out[3, 3].tolist() == [255, 255, 255]
    assert abs(int(out[1, 1, 0]) - 127) <= 1


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_grey_and_palette_with_alpha_are_laid_over_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("LA", (3, 3), (40, 0))
    if mode == "PA":
        image = image.convert("RGBA").convert("P")
        image.info["transparency"] = image.getpixel((0, 0))
        image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))
    else:
        image.save(tmp_path / "a.png")
    assert (np.asarray(decode_image(tmp_path / "a.png")) == 255).all()


def test_palette_is_resolved() -> None:
    image = Image.fromarray(np.full((5, 5, 3), (10, 200, 30), np.uint8)).convert(
        "P", palette=Image.Palette.ADAPTIVE
    )
    assert np.asarray(decode_image(encoded(image)))[2, 2].tolist() == [10, 200, 30]


def test_one_bit_is_black_and_white() -> None:
    out = np.asarray(decode_image(encoded(Image.fromarray(GREY > 100))))
    assert set(np.unique(out)) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_by_257(kind: str) -> None:
    values = GREY.astype(np.uint16) * 257
    out = np.asarray(decode_image(encoded(Image.fromarray(values), kind)))
    assert (out[:, :, 0] == GREY).all()


def test_dark_sixteen_bit_image_stays_dark() -> None:
    out = np.asarray(decode_image(encoded(Image.fromarray(np.full((4, 4), 4095, np.uint16)))))
    assert (out == 16).all()


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [((0.0, 1.0), 0, 255), ((0.0, 255.0), 0, 255), ((-3.0, 5.0), 0, 255), ((0, 65535.0), 0, 255)],
)
def test_floats_are_brought_to_bytes(values: tuple[float, float], low: int, high: int) -> None:
    array = np.full((4, 4), values[1], np.float32)
    array[0] = values[0]
    out = np.asarray(decode_image(encoded(Image.fromarray(array), "TIFF")))
    assert (out.min(), out.max()) == (low, high)


def test_floats_that_are_not_finite_are_black() -> None:
    array = np.full((4, 4), 0.5, np.float32)
    array[0, 0] = np.nan
    assert np.asarray(decode_image(encoded(Image.fromarray(array), "TIFF")))[0, 0, 0] == 0


def test_cmyk() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = np.asarray(decode_image(encoded(image, "JPEG", quality=100)))[4, 4]
    assert red[0] > 200
    assert red[1] < 60


def test_exif_orientation_is_applied() -> None:
    array = np.zeros((10, 20, 3), np.uint8)
    array[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    out = np.asarray(decode_image(encoded(Image.fromarray(array), "JPEG", exif=exif, quality=95)))
    assert out.shape == (20, 10, 3)
    assert out[2, 5, 0] > 200
    assert out[18, 5, 0] < 50


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    out = np.asarray(decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    assert out[3, 3].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "damaged|not an image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 5, "damaged|not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_no_image_has_a_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_image(content)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        decode_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_image_has_a_reason(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DecodeError, match="damaged"):
        decode_image(whole[: len(whole) // 2])


def test_missing_file_and_folder_have_a_reason(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="does not exist"):
        decode_image(tmp_path / "none.png")
    with pytest.raises(DecodeError):
        decode_image(tmp_path)


def test_decompression_bomb_is_refused_from_its_header() -> None:
    bomb = encoded(Image.new("1", (20_000, 10_001)))
    assert MAX_PIXELS < 20_000 * 10_001
    with pytest.raises(DecodeError, match="200 megapixels"):
        decode_image(bomb)
    assert image_size(bomb) is None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(1)
    noise = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = np.frombuffer(encoded(noise, kind), np.uint8)
        for _ in range(30):
            hurt = whole.copy()
            hurt[generator.integers(0, len(hurt), 4)] = generator.integers(0, 256, 4)
            try:
                assert decode_image(hurt.tobytes()).mode == "RGB"
            except DecodeError as error:
                assert str(error)


def test_arrays_of_one_three_and_four_channels() -> None:
    assert array_image(GREY).mode == "RGB"
    assert array_image(GREY[:, :, None]).size == (16, 16)
    clear = np.zeros((4, 4, 4), np.uint8)
    assert (np.asarray(array_image(clear)) == 255).all()


def test_squash_goes_step_by_step() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    twice = image.resize((32, 32), Image.Resampling.BILINEAR).resize((8, 8), Image.Resampling.BILINEAR)
    assert (np.asarray(squash(image, [32, 8])) == np.asarray(twice)).all()
