"""Picture files of every oddity against Pillow's own EXIF, ICC and alpha, scikit-image, and closed forms."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import skimage
import tifffile
from difflax.core.types import BadExample
from difflax.data import pictures
from difflax.data.pictures import decode, decode_alpha, decode_mask, read_bytes, size_of
from etils import epath
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

RNG = np.random.default_rng(0)
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]
NOISE = RNG.integers(0, 256, (24, 36, 4), np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE).resize((36, 24), Image.Resampling.BICUBIC, (0, 0, 4, 3)))
COLOURS = SMOOTH[..., :3]


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def of(data):
    return Image.open(io.BytesIO(data))


def apart(one, other):
    assert one.shape == other.shape, (one.shape, other.shape)
    return int(np.abs(one.astype(int) - other).max())


LOSSLESS = ["PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000"]


@pytest.mark.parametrize("form", LOSSLESS)
def test_colours_are_those_that_were_saved(form):
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(COLOURS), form, **options), "x"), COLOURS)
    grey = Image.fromarray(COLOURS[..., 0])
    if form != "WEBP":
        np.testing.assert_array_equal(decode(encoded(grey, form), "x"), COLOURS[..., :1])


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_formats_are_read_as_pillow_reads_them(form):
    data = encoded(Image.fromarray(COLOURS), form)
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(of(data).convert("RGB")))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(form, orientation):
    """As EXIF 2.3 says it, by turning an array, and as Pillow does."""
    exif = Image.Exif()
    exif[274] = orientation
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    data = encoded(Image.fromarray(COLOURS), form, exif=exif, **options.get(form, {}))
    turned = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, -1),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOURS),
    }[orientation]
    got = decode(data, "x")
    assert apart(got, turned) <= (6 if form in ("JPEG", "AVIF") else 0)
    np.testing.assert_array_equal(got, np.asarray(ImageOps.exif_transpose(of(data)).convert("RGB")))
    assert size_of(data, "x") == turned.shape[:2]
    assert decode_mask(data, "x").shape == turned.shape[:2]
    assert decode_alpha(data, "x").shape[:2] == turned.shape[:2]


def test_exif_that_cannot_be_read_turns_nothing():
    data = encoded(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, "x"), COLOURS)


def profile_bytes(name):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def matrix_profile(columns, gamma):
    """An ICC v2 display profile of D50 primaries [3, 3] and one gamma (ICC.1:2001, section 6)."""
    fixed = lambda value: struct.pack(">i", round(value * 65536))  # noqa: E731
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + b"".join(map(fixed, (0.9642, 1.0, 0.8249))),
    }
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), np.transpose(columns), strict=True):
        tags[name] = b"XYZ " + bytes(4) + b"".join(map(fixed, column))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return icc(b"RGB ", tags)


def grey_profile(gamma):
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    white = b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    return icc(
        b"GRAY", {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white, b"kTRC": curve}
    )


def icc(space, tags):
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


# Of sRGB, adapted to D50 (IEC 61966-2-1; Lindbloom).
SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE_TO_XYZ = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)


def in_srgb(linear):
    """IEC 61966-2-1: 8 bits of linear light."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def in_pillows_srgb(picture, profile):
    profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")


def test_icc_profile_of_colours():
    """Against the matrices of the standard, and Pillow's colour management."""
    profile = matrix_profile(ADOBE_TO_XYZ, 2.2)
    data = encoded(Image.fromarray(COLOURS), "PNG", icc_profile=profile)
    got = decode(data, "x")
    linear = (COLOURS / 255) ** 2.19921875 @ (np.linalg.inv(SRGB_TO_XYZ) @ ADOBE_TO_XYZ).T
    np.testing.assert_allclose(got, in_srgb(linear), atol=2)
    np.testing.assert_array_equal(got, np.asarray(in_pillows_srgb(Image.fromarray(COLOURS), profile)))
    assert apart(got, COLOURS) > 10


def test_icc_profile_of_grey_and_of_transparent_pictures():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    got = decode(encoded(Image.fromarray(grey), "PNG", icc_profile=grey_profile(1.5)), "x")
    assert got.shape == (16, 16, 1)
    np.testing.assert_allclose(got[..., 0], in_srgb((grey / 255) ** 1.5), atol=4)
    np.testing.assert_array_equal(
        got[..., 0], np.asarray(in_pillows_srgb(Image.fromarray(grey), grey_profile(1.5)))[..., 0]
    )
    profile = matrix_profile(ADOBE_TO_XYZ, 2.2)
    opaque = decode(encoded(Image.fromarray(COLOURS), "PNG", icc_profile=profile), "x")
    seen = decode(encoded(Image.fromarray(SMOOTH), "PNG", icc_profile=profile), "x")
    alpha = SMOOTH[..., 3:].astype(float) / 255
    np.testing.assert_allclose(seen, opaque * alpha + 255 * (1 - alpha), atol=1)


def test_an_srgb_profile_changes_nothing_and_a_wrong_one_neither():
    data = encoded(Image.fromarray(COLOURS), "PNG", icc_profile=profile_bytes("sRGB"))
    assert apart(decode(data, "x"), COLOURS) <= 1
    for wrong in (b"no profile", grey_profile(1.0), profile_bytes("LAB")):
        np.testing.assert_array_equal(
            decode(encoded(Image.fromarray(COLOURS), "PNG", icc_profile=wrong), "x"), COLOURS
        )


def test_masks_are_numbers_and_have_no_colours():
    data = encoded(Image.fromarray(COLOURS[..., 0]), "PNG", icc_profile=grey_profile(1.0))
    np.testing.assert_array_equal(decode_mask(data, "x"), COLOURS[..., 0])


def test_lab():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(Image.fromarray(COLOURS), srgb, lab, outputMode="LAB")
    data = encoded(picture, "TIFF")
    back = ImageCms.profileToProfile(of(data), lab, srgb, outputMode="RGB")
    np.testing.assert_array_equal(decode(data, "x"), np.asarray(back))
    assert np.abs(decode(data, "x").astype(int) - COLOURS).mean() < 1.5
    np.testing.assert_array_equal(decode_mask(data, "x"), np.asarray(back.convert("L")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_other_colour_spaces(mode, form):
    picture, tolerance = Image.fromarray(COLOURS).convert(mode), {"TIFF": 3, "JPEG": 12}[form]
    data = encoded(picture, form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
    assert apart(decode(data, "x"), COLOURS) <= tolerance


def test_transparency_is_laid_over_white():
    data = encoded(Image.fromarray(SMOOTH), "PNG")
    right = Image.alpha_composite(Image.new("RGBA", (36, 24), "white"), Image.fromarray(SMOOTH)).convert(
        "RGB"
    )
    assert apart(decode(data, "x"), np.asarray(right)) <= 1
    np.testing.assert_array_equal(decode_alpha(data, "x")[..., 0], SMOOTH[..., 3])


@pytest.mark.parametrize("mode", ["LA", "P", "L", "1", "I;16", "RGB"])
def test_every_kind_of_transparency(mode):
    """One colour, or level, or number of the palette, is clear; or there is a channel of opacity."""
    hole = np.zeros((8, 8), bool)
    hole[2:5, 1:7] = True
    options = {"transparency": 0}
    if mode == "LA":
        options = {}
        picture = Image.merge("LA", [Image.new("L", (8, 8), 100), Image.fromarray(~hole * np.uint8(255))])
    elif mode == "P":
        picture = Image.fromarray(np.where(hole, 0, 1).astype(np.uint8), "P")
        picture.putpalette([9, 9, 9, 100, 100, 100])
    elif mode == "I;16":
        picture = Image.fromarray(np.where(hole, 0, 100 * 257).astype(np.uint16))
    elif mode == "1":
        picture = Image.fromarray(~hole)
    elif mode == "L":
        picture = Image.fromarray(np.where(hole, 0, 100).astype(np.uint8))
    else:
        picture = Image.fromarray(np.where(hole, 0, 100).astype(np.uint8)[..., None].repeat(3, -1))
        options = {"transparency": (0, 0, 0)}
    data = encoded(picture, "PNG", **options)
    seen = 255 if mode == "1" else 100
    got = decode(data, "x")
    np.testing.assert_array_equal(got, np.where(hole, 255, seen)[..., None].repeat(got.shape[-1], -1))
    np.testing.assert_array_equal(decode_alpha(data, "x")[..., 0], np.where(hole, 0, 255))
    np.testing.assert_array_equal(decode_mask(data, "x"), np.where(hole, 0, seen))
    assert got.shape[-1] == (3 if mode in ("P", "RGB") else 1)


def test_a_palette_with_many_opacities():
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
    picture.putpalette(RNG.integers(0, 256, 192, np.uint8).tolist())
    data = encoded(picture, "PNG", transparency=bytes(range(0, 256, 4)))
    whole = of(data).convert("RGBA")
    right = Image.alpha_composite(Image.new("RGBA", (8, 8), "white"), whole).convert("RGB")
    assert apart(decode(data, "x"), np.asarray(right)) <= 1
    np.testing.assert_array_equal(decode_alpha(data, "x")[..., 0].ravel(), np.arange(0, 256, 4))


DEEP = {
    "uint16": np.arange(256, dtype=np.uint16) * 257,
    "uint32": np.arange(256, dtype=np.uint32) * 16843009,
    "int16": (np.arange(128, dtype=np.int16) * 258),
    "int32": (np.arange(128, dtype=np.int32) * 16909320),
    "float32": np.arange(256, dtype=np.float32) / 255,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_tiffs_are_scaled_as_scikit_image_scales_them(name):
    """Written by another library; scikit-image halves the range of signed numbers as it is here."""
    numbers = DEEP[name].reshape(-1, 16)
    file = io.BytesIO()
    tifffile.imwrite(file, numbers, photometric="minisblack")
    got = decode(file.getvalue(), "x")
    right = skimage.util.img_as_ubyte(tifffile.imread(io.BytesIO(file.getvalue())))
    assert apart(got[..., 0], right) <= 1
    if not name.startswith("int"):
        np.testing.assert_array_equal(got.ravel(), np.arange(256))
    np.testing.assert_array_equal(decode_mask(file.getvalue(), "x"), got[..., 0])


def test_deep_tiffs_in_which_white_is_zero_or_bytes_are_swapped():
    for numbers, options in (
        (DEEP["uint16"].reshape(16, 16), {"photometric": "minisblack", "byteorder": ">"}),
        (DEEP["uint16"][::-1].reshape(16, 16), {"photometric": "miniswhite"}),
        (DEEP["float32"][::-1].reshape(16, 16), {"photometric": "miniswhite"}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, numbers, **options)
        np.testing.assert_array_equal(decode(file.getvalue(), "x").ravel(), np.arange(256))


def test_deep_pngs():
    grey = Image.fromarray(DEEP["uint16"].reshape(16, 16))
    np.testing.assert_array_equal(decode(encoded(grey, "PNG"), "x").ravel(), np.arange(256))
    for colour_type, channels in ((2, 3), (4, 2), (6, 4)):
        pixels = RNG.integers(0, 256, (5, 7, channels), np.uint8)
        if channels != 3:
            pixels[..., -1] = 255
        got = decode(png_of_16_bits(pixels.astype(np.uint16) * 257, colour_type), "x")
        right = pixels if channels == 3 else pixels[..., :-1].repeat(3 if channels == 2 else 1, -1)
        np.testing.assert_array_equal(got, right)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits(pixels, colour_type):
    """By the specification of PNG, sections 5 and 9."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("numbers", [[-0.1, 1.0], [0.0, 1.1], [0.0, np.nan], [0.0, 255.0]])
def test_floating_point_that_is_no_light_is_refused_and_not_clipped(numbers):
    data = encoded(Image.fromarray(np.array([numbers], np.float32)), "TIFF")
    with pytest.raises(BadExample, match="its numbers run from"):
        decode(data, "floats.tif")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_counts(form):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    data = encoded(first, form, save_all=True, append_images=[second])
    assert of(data).n_frames == 2
    assert apart(decode(data, "x"), np.broadcast_to(np.uint8([200, 0, 0]), (8, 8, 3))) <= 3


def test_a_photograph_of_several_pictures_gives_the_first():
    first, second = (Image.new("RGB", size, colour) for size, colour in (((16, 8), "red"), ((4, 4), "blue")))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decode(data, "x").shape == (8, 16, 3)


def long_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * 1_200_000, zip=True)
    return encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=info)


def huge(width, height):
    rows = zlib.compress(b"\0" * ((width // 8 + 1) * 64), 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"

BROKEN = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"no picture", "no picture of a format|of a format that is meant"),
    "1.2 MB of text": (long_text, "too large|MAX_TEXT_CHUNK"),
    "144 megapixels": (lambda: huge(12_000, 12_000), "12000 × 12000 pixels would need 0.576 GB"),
    "192 megapixels": (lambda: huge(20_000, 9_600), "exceeds limit|would need"),
    "50,000 by 50,000": (lambda: huge(50_000, 50_000), "exceeds limit|would need"),
    "no pixels": (lambda: huge(0, 0), "cannot be read"),
    "encapsulated PostScript": (lambda: EPS, "of a format that is meant"),
    "PSD": (lambda: b"8BPS\0\1" + bytes(100), "of a format that is meant"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("reader", [decode, decode_mask, decode_alpha, size_of])
def test_broken_pictures_are_one_line(name, reader):
    make, says = BROKEN[name]
    with pytest.raises(BadExample, match=says) as raised:
        reader(make(), "dir/a.png")
    line = str(raised.value)
    assert line.startswith("dir/a.png ") and "\n" not in line and len(line) < 500


def test_pillow_says_nothing_beside_the_line(tmp_path):
    """Its warnings of large pictures and of odd metadata would each be two lines more."""
    (tmp_path / "a.png").write_bytes(huge(12_000, 12_000))
    odd = encoded(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    (tmp_path / "b.png").write_bytes(odd)
    code = (
        "import sys, pathlib; from difflax.core.types import BadExample; from difflax.data import pictures\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(pictures.decode(pathlib.Path(path).read_bytes(), path).shape)\n"
        "    except BadExample as error: print(error)\n"
    )
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert "0.576 GB" in first and second == "(24, 36, 3)"


def test_eps_starts_no_program(monkeypatch):
    def start(*arguments, **options):
        raise AssertionError(f"{arguments} was started")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, start)
    with pytest.raises(BadExample):
        decode(EPS, "a.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_cut_short_or_with_other_bytes_anywhere(form):
    """A picture or one `BadExample`, whatever the bytes."""
    whole = encoded(Image.fromarray(NOISE[..., :3]), form)
    files = [whole[:length] for length in np.linspace(0, len(whole) - 1, 25).astype(int)]
    for _ in range(60):
        data = bytearray(whole)
        for place in RNG.integers(0, min(len(data), 400), 4):
            data[place] = RNG.integers(256)
        files.append(bytes(data))
    for data in files:
        try:
            assert decode(data, "a.png").dtype == np.uint8
        except BadExample as error:
            assert "\n" not in str(error) and len(str(error)) < 500
    with pytest.raises(BadExample):
        decode(whole[: len(whole) // 2], "half.png")


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("b.png", tmp_path / "a.png")
    os.symlink("a.png", tmp_path / "b.png")
    for name, says in (
        ("folder.png", "is a folder"),
        ("pipe.png", "no such file"),
        ("none.png", "no such file"),
        ("a.png", "no such file|cannot be read"),
        ("x" * 300, "cannot be read|no such file"),
        ("nul\0", "cannot be read|no such file"),
    ):
        with pytest.raises(BadExample, match=says):
            read_bytes(epath.Path(tmp_path) / name)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x" * 1001)
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 1000)
    with pytest.raises(BadExample, match="more than"):
        read_bytes(epath.Path(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["chelsea.png", "rocket.jpg", "coffee.png", "camera.png", "page.png"])
def test_photographs(name):
    path = epath.Path(skimage.__file__).parent / "data" / name
    if not path.exists():
        pytest.skip(f"scikit-image's {name} is not installed with it")
    picture = ImageOps.exif_transpose(Image.open(path))
    if profile := picture.info.get("icc_profile"):
        picture = in_pillows_srgb(picture, profile)
    got = decode(path.read_bytes(), name)
    right = np.atleast_3d(np.asarray(picture))
    assert apart(got, right[..., : got.shape[-1]]) <= 1
