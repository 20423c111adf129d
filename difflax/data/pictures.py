"""From what a picture file means to uint8 pixels: the one decoder of data, images to edit and masks.

What counts is what a viewer shows, not the bytes that are stored: the orientation of EXIF is applied, colours
are brought to sRGB by the file's ICC profile, numbers of other depths than 8 bits are scaled and not clipped,
a palette is looked up, transparency is laid over a stated colour, and of an animation the first frame is
taken. A mask is numbers and not colours: it is read by the same rules without colour management, over black.

Pillow reads the files, but of its 43 formats only those in `FORMATS`: some others start programs (Ghostscript
for EPS) or read further files. Its readers raise whatever the bytes lead them to, which becomes one
`BadExample` here.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from difflax.core.files import is_file
from difflax.core.types import BadExample

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""The formats that are read, by their names in Pillow, with the suffixes of their files."""

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

OTHER_SUFFIXES = (
    *(
        ".heic",
        ".heif",
        ".jxl",
        ".psd",
        ".xcf",
        ".svg",
        ".eps",
        ".ps",
        ".pdf",
        ".ico",
        ".tga",
        ".exr",
        ".hdr",
    ),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
"""Of pictures that are not read, so that they are not left out in silence."""

MAX_PIXELS = 89_478_485  # of one picture: where Pillow begins to warn, 358 MB while it is decoded
MAX_PICTURE_BYTES = 2**29  # of one file

BLACK = 0

Colour = tuple[int, int, int]
"""Red, green and blue of sRGB, 0 to 255."""

WHITE: Colour = (255, 255, 255)

VERSION = 2
"""Of what `decode` and `fit` make of a file: raise it when that changes, and what is cached is made anew."""

# The limit above is checked by `_open`, which has a line of its own to say. Of what else is odd in a file, of
# metadata for the most part, Pillow warns with a line each.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Pixels = UInt8[np.ndarray, "h w c"]


def decode(data: bytes, where: str, background: Colour = WHITE) -> Pixels:
    """An encoded picture as one grey channel or RGB in sRGB.

    Args:
        data: in one of `FORMATS`.
        where: the file or record, for the error.
        background: what transparency is laid over; a grey picture over a grey one stays grey.

    Raises:
        BadExample: the bytes are no such picture, are cut short, or would be too large.
    """
    with _named(where):
        return _pixels(_open(data), background)


def decode_plain(data: bytes, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """RGB as Pillow's ``convert("RGB")`` has it, without EXIF's orientation, colour profile or opacity. This
    is what the reference implementations of metrics read, and no picture is the same to a viewer; arguments
    as for `decode`.
    """
    with _named(where):
        return np.array(_open(data).convert("RGB"))


def decode_mask(data: bytes, where: str) -> UInt8[np.ndarray, "h w"]:
    """An encoded mask as grey levels, see `mask_pixels`; arguments as for `decode`."""
    with _named(where):
        return _mask_pixels(_open(data))


def decode_alpha(data: bytes, where: str) -> UInt8[np.ndarray, "h w 1"]:
    """The opacity of an encoded picture, 255 everywhere if it has none; arguments as for `decode`."""
    with _named(where):
        return np.asarray(_opacity(_upright(_open(data))))[..., None]


def size_of(data: bytes, where: str) -> tuple[int, int]:
    """Height and width of what `decode` gives, and the same errors; arguments as for `decode`."""
    with _named(where):
        picture = _upright(_open(data))
        return picture.height, picture.width


def picture_pixels(picture: Image.Image, where: str) -> Pixels:
    """As `decode`, of a picture that Pillow has opened."""
    with _named(where):
        return _pixels(picture, WHITE)


def mask_pixels(picture: Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """The grey levels of a mask that Pillow has opened: luma (ITU-R 601) where it has colours; what is
    transparent is black.
    """
    with _named(where):
        return _mask_pixels(picture)


def read_bytes(path: epath.Path, where: str | None = None) -> bytes:
    """The contents of a picture's file.

    Args:
        where: the file as the user named it, for the error; its path by default.

    Raises:
        BadExample: they cannot be read, or are more than `MAX_PICTURE_BYTES`.
    """
    where = where or str(path)
    try:
        if path.is_dir():
            raise BadExample(f"{where} is a folder and no picture: remove or rename it")
        if not is_file(path):
            raise BadExample(f"{where}: no such file")
        with path.open("rb") as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise BadExample(f"{where} cannot be read: {error}") from error
    if len(data) > MAX_PICTURE_BYTES:
        raise BadExample(f"{where} has more than {MAX_PICTURE_BYTES >> 20} MB: make the picture smaller")
    return data


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except (BadExample, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadExample(
            f"{where} cannot be read as an image of a format that is meant ({', '.join(FORMATS)}): replace or"
            " remove it"
        ) from error
    except Exception as error:
        # Any: Pillow's readers raise what the bytes lead them to, from SyntaxError to struct.error.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadExample(f"{where} cannot be read as an image ({reason}): replace or remove it") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # A Pillow may have been built without some of them.
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    picture = Image.open(io.BytesIO(data), formats=_formats())
    check_pixels(picture.height, picture.width)
    picture.load()
    return picture


def check_pixels(height: int, width: int) -> None:
    """Raises ValueError for a picture of more than `MAX_PIXELS`, with what it would need."""
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{height} × {width} pixels would need {4e-9 * height * width:.3g} GB of memory, and"
            f" {MAX_PIXELS / 1e6:.0f} million pixels are the most: make it smaller"
        )


def _pixels(picture: Image.Image, background: Colour) -> Pixels:
    picture = _upright(picture)
    colours, alpha = _in_srgb(picture), _opacity(picture)
    if picture.has_transparency_data:
        behind = Image.new("RGB", picture.size, background)
        if len(set(background)) > 1:
            colours = colours.convert("RGB")
        colours = Image.composite(colours, behind.convert(colours.mode), alpha)
    return np.array(colours).reshape(colours.height, colours.width, -1)


def _mask_pixels(picture: Image.Image) -> UInt8[np.ndarray, "h w"]:
    picture = _upright(picture)
    grey, alpha = _colours(picture).convert("L"), _opacity(picture)
    return np.array(Image.composite(grey, Image.new("L", grey.size, BLACK), alpha))


def _upright(picture: Image.Image) -> Image.Image:
    """The picture of 8 bits a channel as a viewer turns it."""
    picture.load()
    if picture.mode.startswith(("I", "F")):
        picture = _in_8_bits(picture)
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert(picture.mode.upper())
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        # Metadata that cannot be read turn nothing, as in every viewer.
        return picture


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """One channel of 16 or 32 bits, or of floating point, as 8 bits; black and white stay what they are.

    The range of whole numbers is that of their type (TIFF 6.0, section 8), of floating point [0, 1]. Colours
    of more than 8 bits have been cut to their upper 8 by Pillow.
    """
    numbers = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    if picture.mode == "F":
        white = 1.0
    else:
        unsigned = tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        if bits == 32 and unsigned:
            numbers = numbers.view(np.uint32)
        white = 2.0 ** (bits if unsigned else bits - 1) - 1
    low, high = float(numbers.min()), float(numbers.max())
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"its numbers run from {low:g} to {high:g} where black is 0 and white {white:g}: scale them"
        )
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        numbers = white - numbers
    levels = np.rint(np.multiply(numbers, 255 / white, dtype=np.float32))
    made = Image.fromarray(levels.astype(np.uint8))
    made.info = {key: picture.info[key] for key in ("exif", "icc_profile", "xmp") if key in picture.info}
    if isinstance(see_through := picture.info.get("transparency"), int):
        made.putalpha(Image.fromarray(np.where(numbers == see_through, 0, 255).astype(np.uint8)))
    return made


_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _WHITE_IS_ZERO = 258, 262, 339, 0  # tags of TIFF 6.0


def _opacity(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return Image.new("L", picture.size, 255)
    return picture.convert("RGBA").getchannel("A")


def _colours(picture: Image.Image) -> Image.Image:
    """The colours of a picture without its opacity, as stored but for a palette: "L", "RGB", or of print."""
    return _WITHOUT_OPACITY.get(picture.mode, lambda picture: picture.convert("RGB"))(picture)


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L")


def _by_rgba(picture: Image.Image) -> Image.Image:
    # By way of RGBA, as a palette's transparency may be a list.
    return picture.convert("RGBA").convert("RGB")


_WITHOUT_OPACITY: dict[str, Callable[[Image.Image], Image.Image]] = {
    **dict.fromkeys(("1", "L", "LA"), _grey),
    **dict.fromkeys(("P", "PA", "RGBA", "RGBX"), _by_rgba),
    "LAB": lambda picture: ImageCms.applyTransform(picture, _from_lab()),
    "CMYK": lambda picture: picture,
}
"""What makes the colours of a picture, by its mode; those of all others are converted to "RGB"."""


def _in_srgb(picture: Image.Image) -> Image.Image:
    """The colours as "L" or "RGB" in sRGB: by the ICC profile, or as if they were sRGB where there is none
    that fits them.
    """
    colours = _colours(picture)
    profile = picture.info.get("icc_profile")
    to_srgb = _transform(profile, colours.mode) if profile else None
    made = colours if to_srgb is None else ImageCms.applyTransform(colours, to_srgb)
    # Grey in, grey out: of three equal channels "L" is any of them.
    return made.convert(_SPACES[colours.mode].shown)


class _Space(NamedTuple):
    """The colour space that a profile must be of, and the mode in which sRGB is shown."""

    profile: str
    shown: str


_SPACES = {"L": _Space("GRAY", "L"), "RGB": _Space("RGB", "RGB"), "CMYK": _Space("CMYK", "RGB")}
"""By the mode of a picture's colours."""


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode].profile:
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        # As in every viewer: a profile that cannot be read changes nothing.
        return None


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
