"""The tables of a sweep as a terminal of 80 and of 120 columns shows them."""

# ruff: noqa: E501 (a screen of 120 columns is wider than our lines)

from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from results.samples import run, seeded

from normbench.display.screen import Screen
from normbench.results import against, compare, tables
from normbench.results.groups import Result
from normbench.results.tables import Table

VALUES = {
    ("none", 2): [0.902, 0.911, 0.905, 0.903, 0.904, 0.910, 0.12],
    ("none", 32): [0.921, 0.925, 0.919, 0.923, 0.92, 0.926, 0.922],
    ("bn", 2): [0.951, 0.962, 0.954, 0.953, 0.955, 0.96, 0.957],
    ("bn", 32): [0.971, 0.974, 0.969, 0.972, 0.97, 0.975, 0.973],
    ("gn", 2): [0.961, 0.971, 0.965, 0.962, 0.965, 0.971, 0.967],
    ("gn", 32): [0.97, 0.975, 0.97, 0.971, 0.972, 0.974, 0.972],
}


def sweep() -> list[Result]:
    """Seven seeds of three norms at two batch sizes; one is stuck, one diverged, one crashed."""
    results = [
        result
        for (norm, batch), values in VALUES.items()
        for result in seeded(values, norm=norm, batch=batch)
    ]
    results += seeded([None] * 3, norm="in", batch=2)
    results = [
        replace(result, state="diverged") if result.final == {} else result for result in results
    ]
    crashed = run(None, "failed", "MachineError: no memory left", norm="in", batch=32)
    return [*results, crashed]


def drawn(table: Table | None, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    assert table

    class Terminal(io.StringIO):
        encoding = "utf-8"  # type: ignore[assignment]

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    Screen(stream=Terminal(), out=out, color=False).table(table)
    lines = out.getvalue().splitlines()
    return lines


SCREENS = {
    ("compared", 80): """\
 test accuracy, % by norm   batch 2                        batch 32
 none                       90.6 [90.2, 91.0] 1/7 failed   92.2 [92.0, 92.5]
 bn                         95.6 [95.2, 96.0]              97.2 [97.0, 97.4]
 gn                         96.6 [96.2, 97.0] *            97.2 [97.0, 97.4]
 in                         10.0 3/3 failed                failed
 * better than every other norm at the same batch (paired by seed, Holm, 5 %)
 batch 32: bn is better than none (+5.0 [+4.9, +5.0]) but not distinguishable
  from gn (+0.00 [-0.12, +0.12])
 pairing by seed: r = 0.81 to 0.98 between best and next, as good as 5.1 to 46.6
  times the seeds
 between best and next, differences below 0.14 points are not resolvable with 7
  seeds (80 % power); 0.069 would take 22
 mean and 95 % interval (Student t) of 7 seeds, given that a run trains; 0 of 7
  failures means at most 35 %
 seeds do not vary the test images, the split or the training images
 failures: 1 stuck at most 5 points above chance, 10.0 %: the share of the
  largest class; 3 diverged
 failed:  in  batch 32  seed 0: MachineError: no memory left
""",
    ("compared", 120): """\
 test accuracy, % by norm   batch 2                        batch 32
 none                       90.6 [90.2, 91.0] 1/7 failed   92.2 [92.0, 92.5]
 bn                         95.6 [95.2, 96.0]              97.2 [97.0, 97.4]
 gn                         96.6 [96.2, 97.0] *            97.2 [97.0, 97.4]
 in                         10.0 3/3 failed                failed
 * better than every other norm at the same batch (paired by seed, Holm, 5 %)
 batch 32: bn is better than none (+5.0 [+4.9, +5.0]) but not distinguishable from gn (+0.00 [-0.12, +0.12])
 pairing by seed: r = 0.81 to 0.98 between best and next, as good as 5.1 to 46.6 times the seeds
 between best and next, differences below 0.14 points are not resolvable with 7 seeds (80 % power); 0.069 would take 22
 mean and 95 % interval (Student t) of 7 seeds, given that a run trains; 0 of 7 failures means at most 35 %
 seeds do not vary the test images, the split or the training images
 failures: 1 stuck at most 5 points above chance, 10.0 %: the share of the largest class; 3 diverged
 failed:  in  batch 32  seed 0: MachineError: no memory left
""",
    ("differences", 80): """\
 test accuracy, points above none by norm
 batch 2   bn                              +5.0 [+4.9, +5.1] p 0.031
           gn                              +6.0 [+5.9, +6.1] p 0.031
           in                              -
 batch 32  bn                              +5.0 [+4.9, +5.0] p 0.016
           gn                              +5.0 [+4.8, +5.1] p 0.016
           in                              -
 difference and 95 % interval, paired by seed where both train; p: the larger of
  paired t (Holm) and exact sign flip
""",
    ("differences", 120): """\
 test accuracy, points above none by norm   batch 2                     batch 32
 bn                                         +5.0 [+4.9, +5.1] p 0.031   +5.0 [+4.9, +5.0] p 0.016
 gn                                         +6.0 [+5.9, +6.1] p 0.031   +5.0 [+4.8, +5.1] p 0.016
 in                                         -                           -
 difference and 95 % interval, paired by seed where both train; p: the larger of paired t (Holm) and exact sign flip
""",
    ("against", 80): """\
 points above none  difference         p t     p flip  P(better)  seeds  failed
 bn  batch 2        +5.0 [+4.9, +5.1]  <0.001  0.031   >0.99      6      0/7:1/7
 gn  batch 2        +6.0 [+5.9, +6.1]  <0.001  0.031   >0.99      6      0/7:1/7
 bn  batch 32       +5.0 [+4.9, +5.0]  <0.001  0.016   >0.99      7      0/7:0/7
 gn  batch 32       +5.0 [+4.8, +5.1]  <0.001  0.016   >0.99      7      0/7:0/7
 difference and 95 % interval over the seeds with which both train; p t: paired
  t, Holm over the arms at the same settings; p flip: exact sign flip;
  P(better): the same t as a posterior
""",
    ("against", 120): """\
 points above none   difference          p t      p flip   P(better)   seeds   failed
 bn  batch 2         +5.0 [+4.9, +5.1]   <0.001   0.031    >0.99       6       0/7:1/7
 gn  batch 2         +6.0 [+5.9, +6.1]   <0.001   0.031    >0.99       6       0/7:1/7
 bn  batch 32        +5.0 [+4.9, +5.0]   <0.001   0.016    >0.99       7       0/7:0/7
 gn  batch 32        +5.0 [+4.8, +5.1]   <0.001   0.016    >0.99       7       0/7:0/7
 difference and 95 % interval over the seeds with which both train; p t: paired t, Holm over the arms at the same
  settings; p flip: exact sign flip; P(better): the same t as a posterior
""",
}
TABLES = {"compared": compare.table, "differences": compare.differences, "against": against.table}


@pytest.mark.parametrize(("name", "columns"), SCREENS)
def test_a_sweep_looks_like_this(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    laid = compare.layout(sweep(), ["norm", "batch"])
    lines = drawn(TABLES[name](laid), columns, monkeypatch)
    assert "\n".join(lines) + "\n" == SCREENS[name, columns]
    assert max(map(len, lines)) <= columns


FORMS = {
    "markdown": """\
test accuracy, points above none by norm

| norm | batch 2 | batch 32 |
| --- | --- | --- |
| bn | +5.0 [+4.9, +5.1] p 0.031 | +5.0 [+4.9, +5.0] p 0.016 |
| gn | +6.0 [+5.9, +6.1] p 0.031 | +5.0 [+4.8, +5.1] p 0.016 |
| in | - | - |

- difference and 95 % interval, paired by seed where both train; p: the larger of paired t (Holm) and exact sign flip
""",
    "latex": r"""\par\noindent
test accuracy, points above none by norm

\smallskip
\begin{tabular}{lll}
\hline
norm & batch 2 & batch 32 \\
\hline
bn & +5.0 [+4.9, +5.1] p 0.031 & +5.0 [+4.9, +5.0] p 0.016 \\
gn & +6.0 [+5.9, +6.1] p 0.031 & +5.0 [+4.8, +5.1] p 0.016 \\
in & - & - \\
\hline
\end{tabular}

{\footnotesize difference and 95 \% interval, paired by seed where both train; p: the larger of paired t (Holm) and exact sign flip\par}
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_written_like_this(form: str) -> None:
    table = compare.differences(compare.layout(sweep(), ["norm", "batch"]))
    assert table
    assert getattr(tables, form)(table) == FORMS[form]


def test_what_is_not_a_terminal_gets_lines_of_any_length() -> None:
    out = io.StringIO()
    Screen(stream=out, out=out).table(compare.table(compare.layout(sweep(), ["norm", "batch"])))
    assert out.getvalue() == (SCREENS["compared", 120])


HOSTILE = r"a_b\input{x}%$&#^~|<>{}"


def test_text_of_the_user_is_no_command_of_latex() -> None:
    cell = tables.TableCell(HOSTILE)
    text = tables.latex(tables.Table(HOSTILE, ("[x", "*"), ((cell, cell),), notes=(HOSTILE,)))
    body = text.replace(r"\\", "")
    assert not re.search(
        r"(?<!\\)[%$&#_](?![<>|]?\$| )", re.sub(r"\$[<>|]\$", "", body).replace(" & ", " ")
    )
    assert r"\input" not in text
    assert text.count("{") == text.count("}")
    assert "\n{}[x & {}*" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_table_of_latex_compiles_without_packages(tmp_path: Path) -> None:
    cell = tables.TableCell(HOSTILE)
    hostile = tables.Table(HOSTILE, ("[x", "*"), ((cell, cell),), notes=(HOSTILE,))
    laid = compare.layout(sweep(), ["norm", "batch"])
    found = [compare.table(laid), compare.differences(laid), against.table(laid), hostile]
    body = "\n".join(tables.latex(table) for table in found if table)
    text = rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "all.tex").write_text(text)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_table_of_latex_closes_what_it_opens_and_fills_its_columns() -> None:
    cell = tables.TableCell(HOSTILE)
    hostile = tables.Table(HOSTILE, ("a", "b"), ((cell, cell),), notes=(HOSTILE,))
    for table in (hostile, compare.table(compare.layout(sweep(), ["norm", "batch"]))):
        text = tables.latex(table)
        bare = re.sub(r"\\[\\{}$&%#_]", "", text)  # what is left is markup
        depths = accumulate({"{": 1, "}": -1}.get(char, 0) for char in bare)
        assert [*depths][-1] == 0 and bare.count("$") % 2 == 0
        assert re.findall(r"\\(begin|end){tabular}", text) == ["begin", "end"]
        (found,) = re.findall(r"{tabular}{([lr]+)}\n(.*)\\end{tabular}", text, re.DOTALL)
        columns, body = found
        rows = [row for row in body.replace("\\hline\n", "").split("\\\\\n") if row]
        assert len(rows) == 1 + len(table.rows)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
