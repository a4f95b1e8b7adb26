"""Gives a picture as viewers show it: turned, on white, of 8 bits, and no larger than needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # the tag of EXIF
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # modes of grey pixels of 0 .. 65535
FINER = 2  # a JPEG is decoded at no less than so many times the side that it is scaled to
REDUCED = "reduced"


def orientation(image: Image) -> int:
    """Read how a picture is to be turned, 1 to 8 as in EXIF; 1, as it is, where nothing says so."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode all of it to look behind the pixels
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # metadata may be anything; the pixels may be sound all the same
        return 1
    return found if found in range(1, 9) else 1


def reduce(image: Image, side: int | None) -> bool:
    """Let a JPEG that is to be scaled to `side` be decoded at a half, quarter or eighth."""
    before = image.size
    if side and image.format == "JPEG":
        image.draft(None, (FINER * side, FINER * side))
    return image.size != before


def viewed(image: Image, side: int | None) -> tuple[Image, str]:
    """Return the picture as it is shown, and the names of what had to be done for it.

    Args: side: to which its central square will be scaled; None: not at all.
    """
    from PIL.Image import Transpose

    done = [REDUCED] if reduce(image, side) else []
    image.load()  # what is damaged is found here
    turn = orientation(image)
    if image.mode in WIDE:
        image, done = _of_8_bits(image), [*done, "16 bits"]
    elif image.has_transparency_data:
        image, blended = _on_white(image)
        done += ["on white"] * blended
    if turn != 1:
        turns = {
            2: Transpose.FLIP_LEFT_RIGHT,
            3: Transpose.ROTATE_180,
            4: Transpose.FLIP_TOP_BOTTOM,
            5: Transpose.TRANSPOSE,
            6: Transpose.ROTATE_270,
            7: Transpose.TRANSVERSE,
            8: Transpose.ROTATE_90,
        }
        image, done = image.transpose(turns[turn]), [*done, f"turned {turn}"]
    return image, " ".join(done)


def _of_8_bits(image: Image) -> Image:
    """Scale pixels of 0 .. 65535 to 0 .. 255, rounded to the nearest."""
    import numpy as np
    import PIL.Image

    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_white(image: Image) -> tuple[Image, bool]:
    """Blend a picture over white, and tell whether anything of it was transparent."""
    import PIL.Image

    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        return image, False
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    return PIL.Image.alpha_composite(white, layers).convert("RGB"), True
