"""normbench settles arguments about normalization and initialization by running the experiment.

The names are imported when they are first used, so that `import normbench` costs nothing; their
types stand in `__init__.pyi`.
"""

from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Config": "normbench.settings.schema:Config",
    "NormbenchError": "normbench.errors:NormbenchError",
    "Result": "normbench.results.groups:Result",
    "Runs": "normbench.sweeps.runs:Runs",
    "config": "normbench.api:config",
    "load": "normbench.api:load",
    "load_results": "normbench.api:load_results",
    "norms": "normbench.norms",
    "run": "normbench.api:run",
    "sweep": "normbench.api:sweep",
}
__all__ = ["__version__", *_WHERE]  # noqa: PLE0604  (all of them are strings)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'normbench' has no attribute {name!r}")
    import pkgutil

    return pkgutil.resolve_name(_WHERE[name])


def __dir__() -> list[str]:
    return __all__
