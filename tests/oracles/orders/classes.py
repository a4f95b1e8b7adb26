"""So many classes in each batch, and as many images of each, to within one."""

OPTIONS = [{}, {"classes": 1}, {"classes": 5}]
REFUSED = [
    ({"classes": 16}, "order.classes=16: toys has 10 classes"),
    ({"classes": 10}, "batch=9 has no room"),
]


def check(counts, batch, **options):
    classes = options.get("classes", 2)
    for row in counts:
        there = row[row > 0]
        assert len(there) == classes
        assert there.max() - there.min() <= 1
