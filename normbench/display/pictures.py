"""Draws images of a data set: as characters for a terminal, and as a sheet of examples."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from normbench.errors import shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from normbench.data._base import Array, Dataset

RAMP = " .:-=+*#%@"  # from black to white
COLUMNS = 18  # characters across a picture; four of them fit into 80
EXAMPLES = 10  # in a row of the sheet
SIDE = 64  # pixels up to which a small image is enlarged in the sheet


def characters(image: Array, columns: int = COLUMNS) -> list[str]:
    """Draw an image, uint8 (H, W, C), in characters twice as high as wide, black as blanks."""
    import numpy as np
    from PIL.Image import Resampling

    height, width = image.shape[:2]
    size = columns, max(1, round(columns * height / width / 2))
    grey = np.asarray(_picture(image).convert("L").resize(size, Resampling.BOX), np.float64)
    low, high = grey.min(), grey.max()
    levels = (grey - low) / max(1.0, high - low) * (len(RAMP) - 1)
    return ["".join(RAMP[round(level)] for level in row) for row in levels.tolist()]


def sheet(loaded: Dataset) -> Image:
    """Draw the first training images of each class, one class per row behind its name."""
    from PIL import Image, ImageDraw, ImageFont

    _, height, width = loaded.shape
    scale = max(1, SIDE // max(height, width))
    height, width = scale * height + 2, scale * width + 2
    font = ImageFont.load_default()
    margin = 8 + round(max(font.getlength(name) for name in loaded.classes))
    size = margin + EXAMPLES * width, len(loaded.classes) * height
    drawn = Image.new("RGB", size, "white")
    for row, name in enumerate(loaded.classes):
        ImageDraw.Draw(drawn).text((4, row * height + height // 2 - 6), name, "black", font)
        for column, image in enumerate(_examples(loaded, row, EXAMPLES)):
            enlarged = _picture(image).resize((width - 2, height - 2), Image.Resampling.NEAREST)
            drawn.paste(enlarged, (margin + column * width, row * height + 1))
    return drawn


def tiles(images: Array) -> Image:
    """Draw images, uint8 (N, H, W, C), side by side in as many rows as they are abreast."""
    from PIL import Image

    count, height, width = images.shape[:3]
    scale = max(1, SIDE // max(height, width))
    height, width = scale * height + 2, scale * width + 2
    abreast = math.ceil(math.sqrt(count))
    drawn = Image.new("RGB", (abreast * width, -(-count // abreast) * height), "white")
    for place, image in enumerate(images):
        enlarged = _picture(image).resize((width - 2, height - 2), Image.Resampling.NEAREST)
        drawn.paste(enlarged, (place % abreast * width, place // abreast * height))
    return drawn


def png(drawn: Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    out = io.BytesIO()
    drawn.save(out, "PNG")
    return out.getvalue()


def gallery(loaded: Dataset, columns: int) -> Iterator[str]:
    """Yield the lines of pictures side by side, each below the name of its class."""
    pictures = []
    for place, name in enumerate(loaded.classes):
        for image in _examples(loaded, place, 1):
            pictures.append([shown(name)[:COLUMNS], *characters(image)])
    abreast = max(1, (columns + 2) // (COLUMNS + 2))
    for start in range(0, len(pictures), abreast):
        for line in zip(*pictures[start : start + abreast], strict=True):
            yield "  ".join(text.ljust(COLUMNS) for text in line).rstrip()
        yield ""


def _examples(loaded: Dataset, place: int, count: int) -> Iterator[Array]:
    """Yield the first training images of a class, uint8 (H, W, C)."""
    for index in (loaded.train.labels == place).nonzero()[:count, 0].tolist():
        yield loaded.train.images[index].permute(1, 2, 0).numpy()


def _picture(image: Array) -> Image:
    from PIL import Image

    return Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
