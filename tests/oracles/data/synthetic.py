"""The synthetic set pixel by pixel, in Python's integers."""

import hashlib

import numpy as np

OPTIONS = [{"shape": [2, 9, 6], "classes": 3}]
CLASSES = ("0", "1", "2")
SIZES = (2000, 500, 500)
FIXED = "ecea11fe8f4a5b62513f475452fa02632a7ec6a4525fded241e04d3d475599cf"
REFUSED = [
    ({"train_size": 2001}, "data.train_size=2001: there are 2,000 .* try: .*=2000"),
    ({"shape": [28, 28]}, r"data.shape=\[28,28\]: has 2 numbers, needs channels.*\[3,32,32\]"),
    ({"shape": [3, 0, 32]}, r"data.shape=\[3, 0, 32\]: must be in 1 .. 128"),
    ({"classes": 1}, "data.classes=1: must be in 2 .. 100"),
]
MASK = 2**64 - 1


def prepare(folder):
    return {}


def source(folder, options):
    channels, height, width = options["shape"]
    classes = options["classes"]
    pattern, noise = draws("pattern"), draws("noise")
    contrast, down, across = draws("contrast"), draws("down"), draws("across")
    images = np.empty((3000, channels, height, width), "u1")
    for n in range(3000):
        dy = down(n) * (height // 8 + 1) // 256
        dx = across(n) * (width // 8 + 1) // 256
        for at in range(height * width * channels):
            y, x, c = at // channels // width, at // channels % width, at % channels
            row, column = (y + dy) % height * 4 // height, (x + dx) % width * 4 // width
            cell = pattern(((n % classes * 4 + row) * 4 + column) * channels + c) // 16 - 8
            value = noise(n * height * width * channels + at) // 4 - 32
            value += 128 + cell * (1 + contrast(n) // 64)
            images[n, c, y, x] = min(max(value, 0), 255)
    labels = np.arange(3000) % classes
    return {
        "train": (images[:2500], labels[:2500]),
        "val": (images[2000:2500], labels[2000:2500]),
        "test": (images[2500:], labels[2500:]),
    }


def draws(purpose):
    start = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "little")

    def draw(index):
        z = (start + index // 8 + 1) * 0x9E3779B97F4A7C15 & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return (z ^ z >> 31) >> 8 * (index % 8) & 255

    return draw
