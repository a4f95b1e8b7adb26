"""What differs among recorded runs: compared, across, or confounding."""

from results.samples import run

from normbench.results import differing


def cell(seed=0, **settings):
    usual = {"model": "mlp", "norm": "bn", "norm__eps": 1e-5, "batch": 2, "optimizer__lr": 0.1}
    result = run(0.9, seed=seed, **{**usual, **settings})
    return result


BN = {"norm": "bn", "norm__eps": 1e-5}
GN = {"norm": "gn", "norm__eps": 1e-5, "norm__groups": 8}
FRN = {"norm": "frn", "norm__eps": 1e-6}


def test_what_follows_from_the_name_of_a_part_does_not_vary():
    cells = [cell(seed, **norm) for norm in (BN, GN, FRN) for seed in (0, 1)]
    assert differing.varying(cells) == ["norm"]


def test_options_in_which_arms_of_one_name_differ_are_told_behind_it():
    cells = [cell(**norm) for norm in (BN, GN, {**GN, "norm__groups": 4})]
    found = differing.differing(cells, "norm")
    assert [result.settings["norm"] for result in found.results] == [
        "bn",
        "gn(groups=8)",
        "gn(groups=4)",
    ]
    assert (found.keys, found.confounders) == (["norm"], {})


def test_an_arm_without_any_run_has_no_options():
    cells = [cell(**GN), cell(**{**GN, "norm__groups": 4}), run(None, "planned", norm="in")]
    cells[-1].settings["norm.groups"] = 3
    names = [result.settings["norm"] for result in differing.differing(cells, "norm").results]
    assert names == ["gn(groups=8)", "gn(groups=4)", "in"]


def test_an_option_alone_is_a_key_of_its_own():
    cells = [cell(**{**GN, "norm__groups": groups}) for groups in (2, 4)]
    assert differing.varying(cells) == ["norm.groups"]


def test_a_setting_that_varies_with_every_arm_stands_across():
    cells = [cell(**norm, batch=batch) for norm in (BN, GN) for batch in (2, 32)]
    found = differing.differing(cells, "norm")
    assert (found.keys, found.confounders) == (["norm", "batch"], {})


def test_a_setting_that_goes_with_the_arm_confounds():
    cells = [cell(**BN, epochs=1), cell(**GN, epochs=2)]
    found = differing.differing(cells, "norm")
    assert found.keys == ["norm"]
    assert found.confounders == {"epochs": {"bn": ["1"], "gn": ["2"]}}
    other = differing.differing(cells, "epochs")
    assert (other.keys, other.confounders) == (["epochs"], {"norm": {"1": ["bn"], "2": ["gn"]}})


def test_a_rate_that_was_tuned_per_cell_confounds_where_arms_differ_in_it():
    rates = {("bn", 2): 0.1, ("bn", 32): 0.3, ("gn", 2): 0.1, ("gn", 32): 0.1}
    cells = [cell(norm=norm, batch=batch, optimizer__lr=lr) for (norm, batch), lr in rates.items()]
    found = differing.differing(cells, "norm")
    assert found.keys == ["norm", "batch"]
    assert found.confounders == {"optimizer.lr": {"bn": ["0.1", "0.3"], "gn": ["0.1"]}}


def test_what_follows_from_a_key_across_does_not_confound():
    cells = [
        cell(norm=norm, batch=batch, steps=640 // batch)
        for norm in ("bn", "gn")
        for batch in (2, 32)
    ]
    found = differing.differing(cells, "norm")
    assert (found.keys, found.confounders) == (["norm", "batch"], {})


def test_beside_the_keys_of_a_sweep_stands_what_arms_do_not_share():
    cells = [cell(norm="bn", activation="relu"), cell(norm="frn", activation="tlu")]
    assert differing.beside(cells, "norm", ["norm"]) == {
        "activation": {"bn": ["relu"], "frn": ["tlu"]}
    }
