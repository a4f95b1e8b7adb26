"""Every part has its code, its YAML and its oracle, and the three agree; for each kind of part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from contracts.cases import own

from normbench.parts import registry
from normbench.parts.options import Options, declarations
from normbench.settings.fields import AUTO

ORACLES = Path(__file__).parents[1] / "oracles"
PARTS = [(group, name) for group in registry.KINDS for name in own(group)]
PRESETS = [
    (group, name)
    for group in registry.KINDS
    for name in registry.choices(group)
    if name not in registry.names(group) and (group, name) != ("activation", AUTO)
]
INTERPOLATION = re.compile(r"\$\{(\w+)\}")

each_group = pytest.mark.parametrize("group", registry.KINDS)
each_part = pytest.mark.parametrize(("group", "name"), PARTS)
each_preset = pytest.mark.parametrize(("group", "name"), PRESETS)


def packaged(path):
    """The values of a YAML file as Hydra reads them: `1e-5` is a number; not what it composes."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(registry.configs() / path), resolve=False)
    return {key: value for key, value in values.items() if key != "defaults"}


def settled(value):
    """Replace `${key}` by the packaged default of that setting of the run."""
    if isinstance(value, dict):
        return {key: settled(each) for key, each in value.items()}
    found = INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
    return packaged("train.yaml")[found[1]] if found else value


@each_group
def test_code_and_oracles_have_the_same_names(group):
    found = {path.stem for path in (ORACLES / registry.KINDS[group][0]).glob("[!_]*.py")}
    assert found == set(own(group))


@each_part
def test_a_part_has_a_yaml_with_all_its_options_and_their_defaults(group, name):
    values = settled(packaged(f"{group}/{name}.yaml"))
    options = registry.facts(group, name).options
    assert values == {"name": name, **{key: each.default for key, each in options.items()}}
    for key, declared in options.items():
        assert type(values[key]) is type(declared.default), key


@each_part
def test_a_part_is_explained_in_its_docstring(group, name):
    facts = registry.facts(group, name)
    assert facts.summary and "\n" not in facts.summary
    doc = "".join(each.__doc__ or "" for each in registry.find(group, name).__mro__)
    for option in facts.options:
        assert re.search(rf"\b{option.removesuffix('_share')}\b", doc), option


@each_part
def test_a_part_is_read_without_import_as_it_is_when_imported(group, name):
    facts, kind = registry.facts(group, name), registry.find(group, name)
    assert issubclass(kind, Options) and kind.__dataclass_params__.frozen
    assert list(facts.options.values()) == declarations(kind)
    for key, value in facts.constants.items():
        assert getattr(kind, key) == value, key
    for hook in facts.methods:
        assert any(hook in vars(parent) for parent in kind.__mro__[: -len(Options.__mro__)])


@each_part
def test_the_defaults_of_a_part_are_accepted_by_it(group, name):
    registry.find(group, name)()


@each_part
def test_bad_values_are_refused_with_the_key_of_the_option(group, name):
    kind = registry.find(group, name)
    for declared in declarations(kind):
        with pytest.raises(kind.error, match=rf"{group}\.{declared.name}="):
            kind(**{declared.name: {}})


@each_preset
def test_a_further_yaml_presets_options_of_a_part_or_a_chain(group, name):
    values = settled(packaged(f"{group}/{name}.yaml"))
    facts = registry.facts(group, values.pop("name"))
    flat = {
        f"{key}.{inner}" if isinstance(value, dict) else key: each
        for key, value in values.items()
        for inner, each in (value.items() if isinstance(value, dict) else [("", value)])
    }
    assert flat.keys() == facts.options.keys()
    for key, value in flat.items():
        assert facts.options[key].check(value) == value, key


@each_preset
def test_a_chain_has_the_name_of_its_members(group, name):
    named = packaged(f"{group}/{name}.yaml")["name"]
    assert named == name if "+" in named or "+" in name else named in registry.names(group)
