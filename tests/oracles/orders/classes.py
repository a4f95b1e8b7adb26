"""So many classes in each batch, and as many images of each, to within one."""

OPTIONS = [{}, {"classes": 1}, {"classes": 5}]
REFUSED = [
    ({"classes": 16}, "order.classes=16: toys has 10 classes"),
    ({"classes": 10}, "batch=9 has no room"),
    ({"classes": 1, "sizes": [5, 60, 8]}, None),
    ({"classes": 2, "sizes": [60, 60, 1]}, None),
    ({"classes": 3, "sizes": [60, 60, 1]}, "2 of 3 classes have so many (the largest has 60)"),
    ({"classes": 3, "sizes": [60, 60, 1]}, "try: order.classes=2"),
    ({"classes": 2, "sizes": [4, 4, 4, 0]}, "try: order.classes=3"),
    ({"classes": 2, "sizes": [4, 4]}, "try: batch=8"),
]


def check(counts, batch, **options):
    classes = options.get("classes", 2)
    for row in counts:
        there = row[row > 0]
        assert len(there) == classes
        assert there.max() - there.min() <= 1
