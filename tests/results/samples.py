"""Results made by hand, for the tests of tables."""

import dataclasses

from normbench.results.groups import Result


def run(accuracy, state="finished", message=None, classes=10, **settings):
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    name = "-".join(f"{value}" for key, value in settings.items() if key != "seed")
    final = {} if accuracy is None else {"test/accuracy": accuracy, "gap/accuracy": 0.0}
    directory = f"outputs/runs/{name}/seed{settings.get('seed', 0)}"
    return Result(directory, settings, state, final, message, classes)


def seeded(accuracies, **settings):
    return [run(each, **settings, seed=seed) for seed, each in enumerate(accuracies)]


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


BN2, BN32 = [0.841, 0.80, 0.88], [0.970, 0.968, 0.972]
GN2, GN32 = [0.958, 0.962, 0.954], [0.966, 0.968, 0.967]
SWEEP = (
    seeded(BN2, norm="bn", batch=2)
    + seeded(BN32, norm="bn", batch=32)
    + seeded(GN2, norm="gn", batch=2)
    + seeded(GN32, norm="gn", batch=32)
)


def further(accuracies, **settings):
    """A run with further tests."""
    found = run(0.9, **settings)
    final = {f"test/accuracy/{name}": value for name, value in accuracies.items()}
    return dataclasses.replace(found, final={**found.final, **final}, tests=list(accuracies))
