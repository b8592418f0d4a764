"""Pixels mean what a viewer shows, however they are stored."""

import io
import json
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

import anodetect
from anodetect.data import readers
from anodetect.data.orientation import of_exif, upright
from anodetect.errors import ImageError
from anodetect.record import directories

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17), dtype=np.uint16)
ORIENTATION = 0x0112


def saved(array, kind, mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(array, bits, colour_type, *chunks):
    """A PNG as its specification lays it out; `array` has bytes or big-endian words."""
    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def read(content, name):
    return readers.decode_image(content, name)


def expected(array):
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


# -- Orientation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_makes_of_exif(orientation):
    image = Image.fromarray(COLOUR)
    image.getexif()[ORIENTATION] = orientation
    shown = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(upright(COLOUR, orientation), shown)
    assert shown.shape[:2] == ((12, 17) if orientation < 5 else (17, 12))


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_an_orientation_is_a_short_or_a_long(orientation, order, kind):
    value = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", orientation).ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    header = mark + struct.pack(f"{order}HIHHHI", 42, 8, 1, ORIENTATION, kind, 1)
    exif = b"Exif\0\0" + header + value + bytes(4)
    assert of_exif(exif) == orientation
    content = saved(COLOUR, "webp", lossless=True, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read(content, "a.webp"), expected(shown))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_read_upright(orientation):
    blocks = np.kron(GREY, np.ones((8, 8), np.uint8))  # which JPEG keeps
    exif = exif_of(orientation)
    found = read(saved(blocks, "jpeg", quality=100, exif=exif), "a.jpg")[0]
    assert np.abs(found - upright(blocks, orientation).astype(float)).max() < 4
    for array in (GREY, COLOUR):
        want = expected(upright(array, orientation))
        assert np.array_equal(read(saved(array, "png", exif=exif), "a.png"), want)
    lossless = saved(COLOUR, "webp", lossless=True, exif=exif)
    assert np.array_equal(read(lossless, "a.webp"), expected(upright(COLOUR, orientation)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [None, "separate"])
def test_a_tiff_is_read_upright(orientation, planar):
    tag = [(ORIENTATION, 3, 1, orientation, True)]
    if planar is None:
        for array in (GREY, DEEP, DEEP.astype(np.float32)):
            found = read(tiff(array, extratags=tag), "a.tif")
            assert np.array_equal(found, upright(array, orientation)[None])
    stored = COLOUR if planar is None else np.moveaxis(COLOUR, -1, 0)
    content = tiff(stored, photometric="rgb", planarconfig=planar, extratags=tag)
    assert np.array_equal(read(content, "a.tif"), expected(upright(COLOUR, orientation)))


@pytest.mark.parametrize("orientation", [3, 6])
def test_sixteen_bit_png_is_read_upright(orientation):
    exif = chunk(b"eXIf", exif_of(orientation).tobytes().removeprefix(b"Exif\0\0"))
    content = png(DEEP.astype(">u2"), 16, 0, exif)
    assert np.array_equal(read(content, "a.png")[0], upright(DEEP, orientation))


def test_a_mask_is_read_upright(tmp_path):
    mask = np.where(GREY > 128, np.uint8(255), np.uint8(0))
    (tmp_path / "m.png").write_bytes(saved(mask, "png", exif=exif_of(8)))
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), np.rot90(mask) > 0)


def test_a_png_mask_that_is_called_jpg_has_lost_nothing(tmp_path):
    classes = RNG.choice(np.array([0, 60, 200], np.uint8), (12, 17))
    (tmp_path / "m.jpg").write_bytes(saved(classes, "png"))
    assert np.array_equal(readers.read_mask(tmp_path / "m.jpg"), classes > 0)
    (tmp_path / "m.webp").write_bytes(saved(np.minimum(classes, 1), "webp", lossless=True))
    assert np.array_equal(readers.read_mask(tmp_path / "m.webp"), classes > 0)


def test_a_bmp_mask_whose_alpha_was_never_filled_in(tmp_path):
    truth = np.zeros((*GREY.shape, 3), np.uint8)
    truth[2:5, 3:9] = 255
    for alpha in (0, 255):
        (tmp_path / "m.bmp").write_bytes(bmp(truth, np.full(GREY.shape, alpha, np.uint8)))
        assert np.array_equal(readers.read_mask(tmp_path / "m.bmp"), truth[..., 0] > 0)


@pytest.mark.parametrize(
    "exif",
    [
        None,
        b"",
        b"Exif\0\0",
        b"Exif\0\0junk",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0ab",
        b"MM\0*\0\0\0\x08\0\x02\0\x01",
    ],
)
def test_damaged_exif_is_as_none(exif):
    assert of_exif(exif) == 1
    content = saved(COLOUR, "jpeg", **({"exif": exif} if exif else {}))
    assert read(content, "a.jpg").shape == (3, 12, 17)


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_does_not_exist_leaves_the_image(value):
    assert np.array_equal(upright(GREY, value), GREY)


@pytest.mark.parametrize("quality", [10, 50, 90, 100])
def test_a_grey_webp_is_grey_again(quality):
    blocks = np.kron(GREY, np.ones((8, 8), np.uint8))
    found = read(saved(blocks, "webp", quality=quality), "a.webp")
    assert found.shape == (1, *blocks.shape)
    assert np.median(np.abs(found[0] - blocks.astype(float))) < 30 - quality / 4
    colours = read(saved(np.kron(COLOUR, np.ones((8, 8, 1), np.uint8)), "webp"), "a.webp")
    assert len(colours) == 3


# -- Transparency ----------------------------------------------------------------------------------


def in_use(value):
    """GREY without this value but at one place, or without it."""
    array = np.where(value == GREY, np.uint8(value + 1), GREY)
    array[3, 4] = value
    return array


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type", [0, 2])
def test_a_transparent_value_is_refused_where_a_pixel_has_it(bits, colour_type):
    array = in_use(77) if colour_type == 0 else np.dstack([in_use(77)] * 3)
    stored = array if bits == 8 else (array.astype(np.uint16) * 257).astype(">u2")
    value = 77 if bits == 8 else 77 * 257
    channels = (array.ndim == 3 and 3) or 1
    transparent = chunk(b"tRNS", struct.pack(">H", value) * channels)
    with pytest.raises(ImageError, match="partly transparent"):
        read(png(stored, bits, colour_type, transparent), "a.png")

    array = np.where(array == 77, np.uint8(78), array)  # nobody has the value now
    stored = array if bits == 8 else (array.astype(np.uint16) * 257).astype(">u2")
    found = read(png(stored, bits, colour_type, transparent), "a.png")
    assert np.array_equal(found, expected(stored.astype(np.uint16)))


def with_width(content, width):
    """A PNG with another width in its header."""
    header = content[12:16] + struct.pack(">I", width) + content[20:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("used", [True, False])
def test_grey_of_few_bits_is_stretched_and_checked(bits, used):
    values = RNG.integers(0, 2**bits - 1, (12, 16))  # without the highest
    if used:
        values[2, 3] = 2**bits - 1
    places = np.arange(bits)[::-1]
    packed = np.packbits(((values[..., None] >> places) & 1).reshape(12, -1), axis=1)
    content = png(packed, bits, 0, chunk(b"tRNS", struct.pack(">H", 2**bits - 1)))
    content = with_width(content, 16)
    if used:
        with pytest.raises(ImageError, match="partly transparent"):
            read(content, "a.png")
    else:
        assert np.array_equal(read(content, "a.png")[0], values * 255 // (2**bits - 1))


@pytest.mark.parametrize("used", [True, False])
def test_a_transparent_entry_of_a_palette(used):
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    index = RNG.integers(0, 3, (12, 17), dtype=np.uint8)
    index[1, 1] = 3 if used else 0
    chunks = [chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", b"\xff\xff\xff\x00")]
    content = png(index, 8, 3, *chunks)
    if used:
        with pytest.raises(ImageError, match="partly transparent"):
            read(content, "a.png")
    else:
        assert np.array_equal(read(content, "a.png"), expected(palette[index]))


@pytest.mark.parametrize("bits", [8, 16])
def test_gamma_and_profiles_of_a_png_change_nothing(bits):
    stored = GREY if bits == 8 else DEEP.astype(">u2")
    chunks = [chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"sBIT", b"\x05")]
    assert np.array_equal(read(png(stored, bits, 0, *chunks), "a.png")[0], stored)


def bmp(array, alpha, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000), version=108):
    """A BMP of 32 bits with masks of its channels, V4 or V5."""
    rows = np.dstack([array[::-1, :, ::-1], alpha[::-1]]).tobytes()
    height, width = array.shape[:2]
    info = struct.pack("<IiiHHIIiiII", version, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0)
    info += struct.pack("<IIII", *masks) + bytes(version - 56)
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + rows


@pytest.mark.parametrize("version", [108, 124])
@pytest.mark.parametrize("name", ["a.bmp", "a.dib"])
def test_bmp_whose_alpha_was_never_filled_in_is_opaque(version, name):
    for value in (0, 255):
        alpha = np.full(GREY.shape, value, np.uint8)
        content = bmp(COLOUR, alpha, version=version)
        assert np.array_equal(read(content, name), expected(COLOUR))
    with pytest.raises(ImageError, match="partly transparent"):
        read(bmp(COLOUR, GREY, version=version), name)


# -- Palettes, bits, colours -----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("png", "a.png"), ("tiff", "a.tif"), ("bmp", "a.bmp")])
def test_palettes_are_their_colours(kind, name):
    index = RNG.integers(0, 5, (12, 17), dtype=np.uint8)
    colours = RNG.integers(0, 256, (5, 3), dtype=np.uint8)
    for palette in (colours, np.repeat(colours[:, :1], 3, axis=1)):
        image = Image.frombytes("P", (17, 12), index.tobytes())
        image.putpalette(palette.tobytes())
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found = read(buffer.getvalue(), name)
        if (palette == palette[:, :1]).all():
            assert np.array_equal(found, palette[index][None, ..., 0])
        else:
            assert np.array_equal(found, expected(palette[index]))


def test_the_palette_of_a_tiff_may_have_eight_or_sixteen_bits():
    index = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
    eight = RNG.integers(0, 256, (3, 256), dtype=np.uint16)
    for colormap, want in (
        (eight * 257, eight),
        (eight * 256, eight),
        (eight, eight),
        (eight * 257 + 1 - eight // 255, eight * 257 + 1 - eight // 255),
    ):
        content = tiff(index, photometric="palette", colormap=colormap)
        assert np.array_equal(read(content, "a.tif"), want[:, index])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("png", "a.png"), ("tiff", "a.tif"), ("bmp", "a.bmp"), ("gif", "a.gif"), ("ppm", "a.pnm")],
)
def test_black_and_white_are_0_and_255(kind, name):
    white = GREY > 128
    assert np.array_equal(read(saved(white, kind), name)[0], white * 255)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_stretched_to_eight_in_tiff_as_in_png(bits):
    few = GREY >> (8 - bits)
    for photometric, want in (("minisblack", few), ("miniswhite", 2**bits - 1 - few)):
        content = tiff(few, bitspersample=bits, photometric=photometric)
        assert np.array_equal(read(content, "a.tif")[0], want * (255 // (2**bits - 1)))


def test_more_than_eight_bits_are_not_stretched():
    twelve = GREY.astype(np.uint16) << 4
    for photometric, want in (("minisblack", twelve), ("miniswhite", 4095 - twelve)):
        content = tiff(twelve, bitspersample=12, photometric=photometric)
        assert np.array_equal(read(content, "a.tif")[0], want)


def test_fax_where_white_is_0():
    white = GREY > 128
    for packed in (tiff(~white, photometric="miniswhite"), saved_fax(white)):
        assert np.array_equal(read(packed, "a.tif")[0], white * 255)


def saved_fax(white):
    buffer = io.BytesIO()
    Image.fromarray(white).save(buffer, "tiff", compression="group4", tiffinfo={262: 0})
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16"])
def test_where_white_is_0_integers_are_inverted_in_the_range_of_their_type(dtype):
    limits = np.iinfo(dtype)
    array = RNG.integers(limits.min, limits.max, (12, 17), dtype=dtype, endpoint=True)
    content = tiff(array, photometric="miniswhite")
    want = limits.max - array.astype(np.int64) + limits.min
    assert np.array_equal(read(content, "a.tif")[0], want)
    if dtype == "uint8":
        assert np.array_equal(want, 255 - np.asarray(Image.open(io.BytesIO(tiff(array)))))


def test_where_white_is_0_floats_have_no_range_and_are_refused():
    content = tiff(DEEP.astype(np.float32), photometric="miniswhite")
    with pytest.raises(ImageError, match="MinIsWhite"):
        read(content, "a.tif")


def test_ycbcr_is_converted_as_pillow_does():
    content = saved(COLOUR, "tiff", "YCbCr")
    want = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(read(content, "a.tif"), expected(want))

    blocks = np.kron(COLOUR[:2, :2], np.ones((16, 16, 1), np.uint8))
    content = saved(blocks, "tiff", "YCbCr", compression="jpeg", quality=100)
    assert tifffile.TiffFile(io.BytesIO(content)).pages.first.photometric == 6
    assert np.abs(read(content, "a.tif") - expected(blocks).astype(float)).max() < 6


def test_ycbcr_of_another_coding_is_refused_by_name():
    content = saved(COLOUR, "tiff", "YCbCr")
    plain = struct.pack("<HHIHH", 530, 3, 2, 1, 1)
    assert plain in content
    subsampled = content.replace(plain, struct.pack("<HHIHH", 530, 3, 2, 2, 2))
    video = content.replace(struct.pack("<II", 255, 1), struct.pack("<II", 235, 1), 1)
    assert video != content
    for odd in (subsampled, video):
        with pytest.raises(ImageError, match="YCbCr colours in an unusual coding; convert"):
            read(odd, "a.tif")


CMYK = np.dstack([COLOUR, GREY])
ODD_COLOURS = {
    "cmyk jpeg": (saved(COLOUR, "jpeg", "CMYK"), "a.jpg", "CMYK"),
    "cmyk tiff": (saved(COLOUR, "tiff", "CMYK"), "a.tif", "CMYK"),
    "cmyk planar": (
        tiff(np.moveaxis(CMYK, -1, 0), photometric="separated", planarconfig="separate"),
        "a.tif",
        "CMYK",
    ),
    "lab": (saved(COLOUR, "tiff", "LAB"), "a.tif", "LAB"),
    "icc lab": (tiff(COLOUR, photometric="icclab"), "a.tif", "LAB"),
    "cfa": (tiff(DEEP, photometric="cfa"), "a.tif", "CFA"),
}


@pytest.mark.parametrize("name", ODD_COLOURS)
def test_other_colours_are_refused_by_name(name):
    content, file, reason = ODD_COLOURS[name]
    with pytest.raises(ImageError, match=f"{reason}.*convert to RGB or grey"):
        read(content, file)


# -- Bit depth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp", "a.tif", "a.gif", "a.png"])
def test_bytes_of_another_image_format_are_decoded_as_what_they_are(name):
    deep = np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]])
    assert np.array_equal(read(imagecodecs.png_encode(deep), name), expected(deep))
    assert np.array_equal(read(tiff(DEEP), name), DEEP[None])
    assert np.array_equal(read(saved(GREY, "bmp"), name), GREY[None])


def test_integers_of_32_bits_are_kept_or_refused():
    held = np.arange(0, 12 * 17 * 256, 256, dtype=np.uint32).reshape(12, 17) + np.uint32(2**31)
    assert np.array_equal(read(tiff(held), "a.tif")[0].astype(np.uint32), held)
    for dtype in (np.uint32, np.int64, np.float64):
        close = GREY.astype(dtype) + dtype(2**31 - (dtype == np.int64))
        with pytest.raises(ImageError, match=f"{np.dtype(dtype)} values around .* closer together"):
            read(tiff(close) if dtype != np.int64 else npy(close), "a.tif")


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_deep_jpeg_2000_in_colour_is_not_squeezed():
    deep = np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]])
    content = imagecodecs.jpeg2k_encode(deep, level=0, reversible=True, codecformat="jp2")
    assert np.array_equal(read(content, "a.jp2"), expected(deep))
    content = saved(COLOUR, "JPEG2000")
    assert np.array_equal(read(content, "a.jp2"), expected(COLOUR))


ROW = b"0 1 0 1 1 0 0 1 "
BITS = np.array([[0, 1, 0, 1, 1, 0, 0, 1]] * 8)
MAPS = {
    "P1": (b"P1\n# made by hand\n8 8\n" + ROW * 8, 255 - 255 * BITS),
    "P1 joined": (b"P1 8 8\n" + ROW.replace(b" ", b"") * 8, 255 - 255 * BITS),
    "P2": (b"P2\n8 8\n15\n" + b"15 6 5 4\n3 2 1 0 " * 8, [[255, 102, 85, 68, 51, 34, 17, 0]] * 8),
    "P2 of 10 bits": (
        b"P2\n8 8\n999\n" + b"999 6 5 4\n3 2 1 0 " * 8,
        [[999, *range(6, -1, -1)]] * 8,
    ),
    "P4": (b"P4\n8 8\n" + bytes([0b01011001] * 8), 255 - 255 * BITS),
    "P5": (b"P5 8 8 255\n" + bytes(range(64)), np.arange(64).reshape(8, 8)),
}


@pytest.mark.parametrize("name", MAPS)
def test_portable_maps(name):
    content, want = MAPS[name]
    assert np.array_equal(read(content, "a.pnm")[0], want)


def test_portable_maps_of_sixteen_bit_colour():
    deep = np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]])
    content = b"P6\n17 12\n65535\n" + deep.astype(">u2").tobytes()
    assert np.array_equal(read(content, "a.ppm"), expected(deep))
    with pytest.raises(ImageError, match="above 9"):
        read(b"P5 8 8 9\n" + bytes(range(64)), "a.pgm")
    with pytest.raises(ImageError, match="too early"):
        read(content[:-1], "a.ppm")


# -- Several pictures in one file ------------------------------------------------------------------


def test_the_first_picture_of_an_mpo():
    buffer, blocks = io.BytesIO(), np.kron(GREY, np.ones((8, 8), np.uint8))
    first, other = (Image.fromarray(each) for each in (blocks, 255 - blocks[:40, :40]))
    first.save(buffer, "MPO", save_all=True, append_images=[other], quality=100)
    found = read(buffer.getvalue(), "a.jpg")
    assert found.shape == (1, *blocks.shape)
    assert np.abs(found[0] - blocks.astype(float)).max() < 4


def pages(*arrays, **options):
    """A TIFF of pages with their NewSubfileType."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as file:
        for array, subfile in arrays:
            file.write(array, subfiletype=subfile, metadata=None, photometric="minisblack")
    return buffer.getvalue()


SMALL = DEEP[::2, ::2].copy()
BESIDE = [(DEEP[::4, ::4].copy(), 1), (GREY > 128, 4), (GREY[::4, ::4] > 9, 5), (SMALL, 1)]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_picture_among_thumbnails_and_masks(place, bigtiff):
    content = pages(*BESIDE[:place], (DEEP, 0), *BESIDE[place:], bigtiff=bigtiff)
    assert np.array_equal(read(content, "a.tif")[0], DEEP)


@pytest.mark.parametrize("ome", [False, True])
def test_the_full_resolution_of_a_pyramid_below_its_page(ome):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=ome) as file:
        file.write(DEEP, subifds=2, photometric="minisblack")
        file.write(DEEP[::2, ::2].copy(), subfiletype=1, photometric="minisblack")
        file.write(DEEP[::4, ::4].copy(), subfiletype=1, photometric="minisblack")
    assert np.array_equal(read(buffer.getvalue(), "a.tif")[0], DEEP)


def test_the_picture_below_a_preview():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(
            GREY[::2, ::2].copy(), subifds=1, subfiletype=1, photometric="minisblack", metadata=None
        )
        file.write(DEEP, subfiletype=0, photometric="minisblack", metadata=None)
    assert np.array_equal(read(buffer.getvalue(), "a.tif")[0], DEEP)


def test_several_pages_are_refused():
    for content in (pages((DEEP, 0), (DEEP, 0)), pages((DEEP, 2), (DEEP, 2), (SMALL, 1))):
        with pytest.raises(ImageError, match=r"multi-page \(2 pages\)"):
            read(content, "a.tif")


@pytest.mark.parametrize("imagej", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_a_stack_with_one_header_is_refused_as_several_pages(count, imagej):
    buffer = io.BytesIO()
    stack = np.stack([DEEP] * count)
    tifffile.imwrite(buffer, stack, imagej=imagej, truncate=True, photometric="minisblack")
    with pytest.raises(ImageError, match=rf"multi-page \({count} pages\)"):
        read(buffer.getvalue(), "a.tif")


def test_one_picture_with_such_a_header_is_an_image():
    for array in (DEEP, COLOUR):
        buffer = io.BytesIO()
        photometric = "rgb" if array.ndim == 3 else "minisblack"
        tifffile.imwrite(buffer, array, truncate=True, photometric=photometric)
        assert np.array_equal(read(buffer.getvalue(), "a.tif"), expected(array))


def test_further_channels_are_not_called_transparency():
    infrared = np.dstack([COLOUR, GREY])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, infrared, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(ImageError, match="4 channels, and the last one is not said to be transp"):
        read(buffer.getvalue(), "a.tif")
    for shape in ((3, 40, 4), (20, 30, 2)):
        buffer = io.BytesIO()
        np.save(buffer, np.arange(np.prod(shape)).reshape(shape))
        with pytest.raises(ImageError, match=f"{shape[-1]} channels; one or three are expected"):
            read(buffer.getvalue(), "a.npy")


def test_a_gif_of_one_frame_is_an_image_and_an_animation_is_not():
    colours = Image.fromarray(COLOUR).quantize(16)
    buffer = io.BytesIO()
    colours.save(buffer, "gif")
    assert np.array_equal(
        read(buffer.getvalue(), "a.gif"), expected(np.asarray(colours.convert("RGB")))
    )
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for kind in ("gif", "webp", "png"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="animated"):
            read(buffer.getvalue(), f"a.{kind}")


def test_sizes_maps_and_regions_are_those_of_the_upright_image(pca_run, tmp_path):
    stored = np.kron(GREY, np.ones((4, 4), np.uint8))  # 48 rows, 68 columns
    folder, out = tmp_path / "in", tmp_path / "s"
    folder.mkdir()
    (folder / "a.png").write_bytes(saved(stored, "png", exif=exif_of(6)))
    anodetect.score(pca_run, [str(folder)], out, far=0.2, heatmaps=["tiff", "png", "regions"])

    (row,) = directories.read(out).rows
    assert (row.width, row.height) == (48, 68)
    assert tifffile.imread(out / row.heatmap).shape == (68, 48)
    for overlay in out.glob("heatmaps/*.png"):
        with Image.open(overlay) as picture:
            assert picture.size == (48, 68)
    (listed,) = json.loads((out / "regions.json").read_text())["images"]
    assert (listed["width"], listed["height"]) == (48, 68)
