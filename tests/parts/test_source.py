"""A part is read from its source text: shared bases, constants, and what cannot be read."""

from __future__ import annotations

import pytest

from normbench.parts import source

BASE = """
class Norm(Options):
    error: ClassVar[type] = NormError
    bias: ClassVar[bool] = True
    label: ClassVar[str]

    def layer(self): ...
"""
SHARED = """
from normbench.norms._base import Norm

class Layer(nn.Module): ...

class Statistics(Norm):
    bias: ClassVar[bool] = False
    eps: float = option(1e-5, low=0)
    affine: bool = True

    def layer(self): ...
"""


def read(tmp_path, text):
    for name, content in {"_base": BASE, "_shared": SHARED, "foo": text}.items():
        (tmp_path / f"{name}.py").write_text(content)
    return source.read(tmp_path / "foo.py", "Norm")


@pytest.mark.parametrize(
    "head",
    [
        "from normbench.norms._shared import Statistics\nclass Foo(Statistics):",
        "from normbench.norms._shared import Statistics as Shared\nclass Foo(Shared):",
        "from normbench.norms import _shared\nclass Foo(_shared.Statistics):",
        "from mine import Mixin\nfrom normbench.norms._shared import Statistics\n"
        "class Foo(Mixin, Statistics):",
    ],
)
def test_what_a_shared_base_declares_is_the_parts_own(tmp_path, head):
    found = read(tmp_path, f"{head}\n    '''Foo.'''\n    eps: float = option(0.1, low=0)\n")
    assert (found.name, found.doc) == ("Foo", "Foo.")
    assert {key: each.default for key, each in found.options.items()} == {
        "eps": 0.1,
        "affine": True,
    }
    assert found.options["eps"].limits == {"low": 0}
    assert found.constants == {"bias": False}  # no fact without a value
    assert found.methods == {"layer"}


def test_the_base_of_a_kind_may_be_named_by_its_module(tmp_path):
    head = "from normbench.norms import _base\nclass Foo(_base.Norm):"
    assert read(tmp_path, f"{head}\n    eps: float = 1.0\n").constants == {"bias": True}


def test_defaults_and_limits_may_be_constants_of_the_file(tmp_path):
    text = "EPS = 1e-3\nLOW = 0\nPLACES = ('pre', 'post')\n" + (
        "from normbench.norms._base import Norm\nclass Foo(Norm):\n"
        "    places: ClassVar[tuple] = PLACES\n    eps: float = option(EPS, low=LOW)\n"
    )
    found = read(tmp_path, text)
    assert found.options["eps"].default == 1e-3 and found.options["eps"].limits == {"low": 0}
    assert found.constants["places"] == ("pre", "post")


@pytest.mark.parametrize(
    "value", ["option(tiny(), low=0)", "option(EPS)", "tiny()", "option()", "option(1, lowest=0)"]
)
def test_a_default_that_cannot_be_foundis_named_with_file_and_line(tmp_path, value):
    head = "from normbench.norms._base import Norm\nclass Foo(Norm):\n"
    with pytest.raises(TypeError, match=r"foo\.py, line 3: eps = .* must be literals or constants"):
        read(tmp_path, f"{head}    eps: float = {value}\n")


@pytest.mark.parametrize("classes", ["", "class A(Norm): ...\nclass B(Norm): ...\n"])
def test_a_file_with_no_class_or_two_is_refused(tmp_path, classes):
    count = classes.count("class")
    with pytest.raises(TypeError, match=rf"foo\.py has {count} classes derived from Norm, one is"):
        read(tmp_path, f"from normbench.norms._base import Norm\n{classes}")
