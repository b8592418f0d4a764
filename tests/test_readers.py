import io
import sys

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image, ImageOps

from anodetect.data import readers
from anodetect.errors import ImageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)


def test_twelve_bit_ramp_keeps_its_levels(tmp_path):
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    image = readers.read_image(tmp_path / "ramp.png")
    assert image.dtype == np.float32
    assert len(np.unique(image)) == 4096
    assert np.array_equal(image[0], ramp)


def test_sixteen_bit_colour_png_is_not_squeezed(tmp_path):
    array = RNG.integers(0, 65536, (16, 9, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_encode(array))
    assert np.array_equal(readers.read_image(tmp_path / "a.png"), np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("array", [GREY, COLOUR])
def test_lossless_formats_round_trip(tmp_path, suffix, array):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(array).save(path)
    expected = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    assert np.array_equal(readers.read_image(path), expected)


def test_jpeg_is_close(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    Image.fromarray(smooth).save(tmp_path / "a.JPG", quality=95)
    assert np.abs(readers.read_image(tmp_path / "a.JPG")[0] - smooth).max() < 8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff_types(tmp_path, dtype, compression):
    array = (
        (RNG.normal(size=(20, 30)) * 50 + (0 if np.dtype(dtype).kind in "if" else 120))
        .clip(-1000)
        .astype(dtype)
    )
    tifffile.imwrite(tmp_path / "a.tiff", array, compression=compression)
    assert np.allclose(readers.read_image(tmp_path / "a.tiff")[0], array)


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3), (9, 11, 1), (3, 9, 11), (1, 9, 11)])
def test_npy_layouts(tmp_path, shape):
    array = RNG.normal(size=shape)
    np.save(tmp_path / "a.npy", array)
    image = readers.read_image(tmp_path / "a.npy")
    assert image.shape == ((3 if 3 in shape else 1), 9, 11)
    if len(shape) == 3 and shape[-1] == 3:
        assert np.allclose(image, np.moveaxis(array, -1, 0))


def test_palette_opaque_alpha_and_bilevel_become_plain(tmp_path):
    Image.fromarray(COLOUR).quantize(8).save(tmp_path / "p.png")
    assert readers.read_image(tmp_path / "p.png").shape == (3, 12, 10)
    Image.fromarray(np.dstack([COLOUR, np.full((12, 10), 255, np.uint8)])).save(
        tmp_path / "rgba.png"
    )
    assert np.array_equal(readers.read_image(tmp_path / "rgba.png"), np.moveaxis(COLOUR, -1, 0))
    Image.fromarray(GREY > 128).save(tmp_path / "1.png")
    assert set(np.unique(readers.read_image(tmp_path / "1.png"))) <= {0, 255}


def gif_frames():
    return [Image.fromarray(RNG.integers(0, 256, (12, 10), dtype=np.uint8)) for _ in range(3)]


def animated_png():
    buffer, frames = io.BytesIO(), gif_frames()
    frames[0].save(buffer, "png", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def encoded(array, kind, mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_claiming(shape):
    header = npy(np.zeros((8, 8)))
    return header.replace(
        b"(8, 8), }" + b" " * (len(str(shape)) - 6), (str(shape) + ", }").encode()
    )


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


translucent = np.dstack([COLOUR, np.full((12, 10), 100, np.uint8)])
whole = encoded(GREY, "png")
BAD = {
    "empty": (b"", ".png", "empty"),
    "truncated": (whole[: len(whole) // 2], ".png", "damaged"),
    "text": (b"hello", ".png", "not a readable image"),
    "executable": (b"MZ\x90\x00" * 100, ".jpg", "not a readable image"),
    "cmyk": (encoded(COLOUR, "jpeg", "CMYK"), ".jpg", "CMYK"),
    "transparent": (encoded(translucent, "png"), ".png", "transparent"),
    "animated": (animated_png(), ".png", "animated"),
    "pages": (
        tiff(np.zeros((4, 20, 20), np.uint8), photometric="minisblack"),
        ".tif",
        "multi-page",
    ),
    "one pixel": (encoded(GREY[:1, :1], "png"), ".png", "1×1"),
    "nan": (npy(np.full((9, 9), np.nan)), ".npy", "NaN"),
    "infinite": (tiff(np.array([[np.inf] * 9] * 9, np.float32)), ".tif", "infinite"),
    "objects": (npy(np.array([["a"] * 9] * 9)), ".npy", "numbers"),
    "complex": (npy(np.zeros((9, 9), complex)), ".npy", "numbers"),
    "five channels": (npy(np.zeros((5, 9, 9))), ".npy", "channels"),
    "huge claim": (npy_claiming((10**6, 10**6)), ".npy", "pixels"),
    "truncated tiff": (tiff(np.zeros((64, 64), np.uint16))[:100], ".tif", "damaged"),
    "truncated npy": (npy(np.zeros((64, 64)))[:200], ".npy", "damaged"),
    "suffix": (whole, ".xyz", "format"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_reason(name):
    content, suffix, reason = BAD[name]
    with pytest.raises(ImageError, match=reason) as caught:
        readers.decode_image(content, f"a{suffix}")
    assert "\n" not in str(caught.value)


def test_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(np.zeros((64, 64), np.uint8), "png")
    claimed = bomb[:16] + (10**5).to_bytes(4, "big") * 2 + bomb[24:]
    import zlib

    crc = zlib.crc32(claimed[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="pixels"):
        readers.decode_image(claimed[:29] + crc + claimed[33:], "a.png")


def test_pickled_array_is_never_opened(tmp_path):
    np.save(
        tmp_path / "a.npy", np.array([{"a": 1}] * 81, dtype=object).reshape(9, 9), allow_pickle=True
    )
    with pytest.raises(ImageError):
        readers.read_image(tmp_path / "a.npy")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        readers.read_image(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="regular"):
        readers.read_image(tmp_path / "folder.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_damaged_files_by_the_thousand_do_not_end_the_process(tmp_path, dtype):
    """A decoder lost a reference to None with each, until Python aborted."""
    content = png_encode(np.arange(400, dtype=dtype).reshape(20, 20))
    damaged = content[: len(content) // 2]
    before = sys.getrefcount(None)
    for _ in range(200):
        with pytest.raises(ImageError, match="damaged"):
            readers.decode_image(damaged, "a.png")
    assert sys.getrefcount(None) > before - 100


def test_a_png_of_eight_bits_is_what_pillow_reads(tmp_path):
    rng = np.random.default_rng(0)
    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 4), ("LA", 2)):
        array = rng.integers(0, 256, (20, 24, channels)).astype(np.uint8)
        array[..., 3:] = 255
        array[..., 1:] = 255 if channels == 2 else array[..., 1:]
        picture = Image.fromarray(array.squeeze(), mode)
        for number, orientation in enumerate((1, 6)):
            exif = Image.Exif()
            exif[0x112] = orientation
            path = tmp_path / f"{mode}{number}.png"
            picture.save(path, exif=exif)
            with Image.open(path) as opened:
                expected = np.asarray(ImageOps.exif_transpose(opened)).reshape(
                    24 if number else 20, -1, channels
                )
            found = np.moveaxis(readers.read_image(path), 0, -1)
            assert np.array_equal(found, expected[..., : found.shape[-1]])
