"""Wrong command lines: exact messages, exit codes, and nothing created."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from normbench.cli.main import main
from normbench.settings.rules import too_large

ALL = "    (all settings: normbench train --help)"
OPTIONS = "    (names and options)"

# words of `normbench train`, exit code, the two lines of each mistake
REFUSED: list[tuple[str, int, list[tuple[str, str]]]] = [
    (
        "norm=gm bach=2",
        2,
        [
            ("norm=gm: no norm has this name", "norm=gn    (all names: normbench list norms)"),
            ("bach=2: no setting has this name", "batch=2" + ALL),
        ],
    ),
    *[
        (
            text,
            2,
            [
                (
                    f"{text}: no setting has this name",
                    fix + ALL if "=" in fix else f"normbench {fix}",
                )
            ],
        )
        for text, fix in {
            "pin_memory=true": "train --help    (all settings)",
            "save=true": "train --help    (all settings)",
            "patience=3": "train --help    (all settings)",
            "num_layers=4": "model=mlp model.depth=4",
            "dropout_rate=0.2": "dropout=0.2",
            "gradient_clip_val=1": "clip=1",
        }.items()
    ],
    ("batch=two", 2, [("batch=two: is not an integer", "batch=64")]),
    ("seeds=many", 2, [("seeds=many: is not an integer or auto", "seeds=1")]),
    ("seeds=aut", 2, [("seeds=aut: is not an integer or auto", "seeds=1")]),  # auto: of sweeps
    ("-m norm=bn,gn seeds=aut", 2, [("seeds=aut: is not an integer or auto", "seeds=auto")]),
    ("batch=2.5", 2, [("batch=2.5: is not an integer", "batch=64")]),
    (
        "seed=-1 batch=0 dropout=1",
        2,
        [
            ("seed=-1: must be in 0 .. 2147483647", "seed=0"),
            ("batch=0: must be in 1 .. 1000000", "batch=1"),
            ("dropout=1: must be at least 0 and below 1", "dropout=0.0"),
        ],
    ),
    ("groups=2", 2, [("groups=2: no setting has this name", "norm=gn norm.groups=2" + ALL)]),
    ("lr=0.1", 2, [("lr=0.1: no setting has this name", "optimizer.lr=0.1" + ALL)]),
    (
        "norm=bn norm.groups=3",
        2,
        [("norm.groups=3: norm=bn has no such option", "norm=gn norm.groups=3")],
    ),
    (
        "norm=gn norm.groups=3",
        2,
        [
            (
                "norm.groups=3: 16 channels do not divide into 3 groups (divisors: 1, 2, 4, 8, 16)",
                "norm.groups=2",
            )
        ],
    ),
    (
        "batch=2 batch=4",
        2,
        [("batch: is given twice", "batch=VALUE once, or batch=A,B with -m for a sweep")],
    ),
    ("batch=2,4", 2, [("batch=2,4: is a list: several runs", "normbench train -m batch=2,4")]),
    *[
        (
            prefix + text,
            2,
            [
                (
                    f"{text if len(text) <= 80 else text[:77] + '...'}: is nested too deep",
                    f"{fix}    (brackets in a value: at most 10 deep)",
                )
            ],
        )
        for depth in (11, 150, 3000)
        for prefix in ("", "-m ", "--cfg job ", "--info searchpath ")
        for text, fix in (
            ("batch=" + "[" * depth + "2" + "]" * depth, "batch=64"),
            ("norm.eps=" + "[" * depth, "batch=2"),
            ("batch=" + "{a:" * depth + "2" + "}" * depth, "batch=64"),
            ("batch=" + "sort(" * depth + "2" + ")" * depth, "batch=64"),
            ("batch=" + "${" * depth + "batch" + "}" * depth, "batch=64"),
            ("shifts=" + "[" * depth + "]" * depth, "'shifts=[]'"),
            ("norm=" + "[" * depth + "]" * depth, "norm=bn"),
            ("hydra.job.name=" + "[" * depth + "]" * depth, "batch=2"),
        )
    ],
    ("batch=[[2]]", 2, [("batch=[[2]]: is not an integer", "batch=64")]),
    (
        "+x=1",
        2,
        [
            (
                "+x=1: no setting can be added, deleted or moved",
                "normbench train --help    (all settings)",
            )
        ],
    ),
    (
        "steps=5 epochs=2",
        2,
        [("epochs=2: the length is given twice, steps=5 says it too", "steps=5 alone")],
    ),
    (
        "examples=640 epochs=2",
        2,
        [("epochs=2: the length is given twice, examples=640 says it too", "examples=640 alone")],
    ),
    (
        "eval_every=0.5 eval_every_steps=20",
        2,
        [
            (
                "eval_every=0.5: the time between validations is given twice, "
                "eval_every_steps=20 says it too",
                "eval_every_steps=20 alone",
            )
        ],
    ),
    ("gpus=0", 2, [("gpus=0: must be in 1 .. 512", "gpus=1")]),
    ("gpus=1000", 2, [("gpus=1000: must be in 1 .. 512", "gpus=1")]),
    ("lanes=0", 2, [("lanes=0: must be in 1 .. 1024", "lanes=1")]),
    (
        "lanes=2 gpus=2",
        2,
        [
            (
                "lanes=2: gpus=2 trains each run in several processes, not several runs in one",
                "lanes=auto",
            )
        ],
    ),
    (
        "lanes=2 capture=off",
        2,
        [("lanes=2: capture=off records no steps that could be made together", "lanes=1")],
    ),
    (
        "batch=10 gpus=4",
        2,
        [("batch=10: does not divide over gpus=4 workers", "batch=8 or batch=12")],
    ),
    (
        "lr=0.1 gpus=3 batch=2",  # 64, the default, does not divide either
        2,
        [
            (
                "lr=0.1: no setting has this name",
                "optimizer.lr=0.1" + ALL,
            ),
            ("batch=2: does not divide over gpus=3 workers", "batch=3"),
        ],
    ),
    (
        "gpus=2 norm_batch=128",
        2,
        [("norm_batch=128: cannot be made up from 2 workers with 32 examples", "norm_batch=64")],
    ),
    (
        "batch=32 gpus=4 norm_batch=7",
        2,
        [("norm_batch=7: cannot be made up from 4 workers with 8 examples", "norm_batch=8")],
    ),
    (
        "model=mlp batch=3 norm_batch=2",
        2,
        [("norm_batch=2: cannot be made up from 1 worker with 3 examples", "norm_batch=3")],
    ),
    (
        "batch=32 gpus=4 norm_batch=24",
        2,
        [("norm_batch=24: cannot be made up from 4 workers with 8 examples", "norm_batch=16")],
    ),
    (
        "dist.port=29500",
        2,
        [("dist.port=29500: gpus=1 has no workers that meet", "dist.port=null")],
    ),
    ("gpus=2 dist.port=80", 2, [("dist.port=80: must be in 1024 .. 65535", "dist.port=1024")]),
    (
        "norm=cbn norm_batch=global",
        2,
        [
            (
                "norm_batch=global: norm=cbn takes no statistics over other sets of samples",
                "norm_batch=worker",
            )
        ],
    ),
    (
        "batch=10 accumulate=4",
        2,
        [("batch=10: does not divide over accumulate=4 micro-batches", "batch=8 or batch=12")],
    ),
    ("optimizer.lr=nan", 2, [("optimizer.lr=nan: is not a finite number", "optimizer.lr=0.03")]),
    (
        "optimizer.lr=${oc.env:HOME}",
        2,
        [
            (
                "optimizer.lr=${oc.env:HOME}: resolvers are not allowed in settings",
                "optimizer.lr=VALUE",
            )
        ],
    ),
    (
        "placement=preact",
        2,
        [("placement=preact: model=cnn has no residual blocks for it", "placement=pre")],
    ),
    (
        "batch=100000",
        2,
        [("batch=100000: is more than the 55000 training images of mnist", "batch=55000")],
    ),
    ("norm.name=gn", 2, [("norm.name=gn: the norm is chosen by norm=NAME", "norm=gn")]),
    (
        "hydra/launcher=slurmy",
        2,
        [
            (
                "hydra/launcher=slurmy: no launcher of this name is installed",
                "hydra/launcher=normbench",
            )
        ],
    ),
    (
        "norm=bn batch=1 model=mlp",
        2,
        [
            (
                "batch=1: norm=bn: input (1, 100) leaves 1 value per channel to take statistics "
                "of, at least 2 are needed",
                "batch=2",
            )
        ],
    ),
    (
        "norm=in model=mlp",
        2,
        [("norm=in: (N, C) has no positions to take statistics over", "norm=ln or model=cnn")],
    ),
    (
        "data=imagefolder data.path=nowhere",
        3,
        [
            (
                "nowhere: there is no such folder",
                "data.path=DIR with DIR/train/CLASS/*.png and DIR/test/CLASS/*.png",
            )
        ],
    ),
    (
        "data.train_size=60000",
        2,
        [
            (
                "data.train_size=60000: there are 55,000 training images beside those for "
                "validation",
                "data.train_size=55000",
            )
        ],
    ),
    (
        "activation=rellu",
        2,
        [
            (
                "activation=rellu: no activation has this name",
                "activation=relu    (all names: normbench list activations)",
            )
        ],
    ),
    (
        "norm.eps=-1 init.mode=fan",
        2,
        [
            ("norm.eps=-1: must be at least 0", "norm.eps=0"),
            ("init.mode=fan: is none of fan_in, fan_out", "init.mode=fan_in"),
        ],
    ),
    (
        "norm=wn init=zeros batch=2048",
        2,
        [("norm=wn: 16 of 16 rows of the weight are zero", "init=kaiming_normal")],
    ),
    (
        "norm=evonorm_b0 model=rnn",
        2,
        [("norm=evonorm_b0: is its own activation, and model=rnn needs tanh", "norm=ln")],
    ),
    (
        "norm=none norm_batch=4",
        2,
        [
            (
                "norm_batch=4: norm=none takes no statistics over other sets of samples",
                "norm_batch=worker",
            )
        ],
    ),
    (
        "shifts=[contrst*2,invert]",
        2,
        [
            (
                "shifts=[contrst*2,invert]: contrst*2 is none of invert, brightness+A, "
                "brightness-A, contrast*A, noise+A",
                "'shifts=[contrast*2,invert]'",
            )
        ],
    ),
    (
        "shifts=[blur,brightness*2,inverted,noise-0.25]",
        2,
        [
            (
                "shifts=[blur,brightness*2,inverted,noise-0.25]: blur is none of invert, "
                "brightness+A, brightness-A, contrast*A, noise+A",
                "'shifts=[brightness+0.5,invert,noise+0.5]'",
            )
        ],
    ),
    (
        "shifts=[invert,contrast*0.5,contrast*.50,invert]",
        2,
        [
            (
                "shifts=[invert,contrast*0.5,contrast*.50,invert]: contains a duplicate",
                "'shifts=[invert,contrast*0.5]'",
            )
        ],
    ),
    ("shifts=invert", 2, [("shifts=invert: is not a list of words", "'shifts=[invert]'")]),
    (
        "blank_steps=3 test_blank_steps=[0,3]",
        2,
        [
            ("blank_steps=3: model=cnn reads no sequence", "model=rnn"),
            ("test_blank_steps=[0,3]: model=cnn reads no sequence", "model=rnn"),
        ],
    ),
    (
        "model=lstm test_blank_steps=[3,0,3]",
        2,
        [("test_blank_steps=[3,0,3]: contains a duplicate", "'test_blank_steps=[3,0]'")],
    ),
    (
        "model=rnn test_blank_steps=3",
        2,
        [("test_blank_steps=3: is not a list of integers", "'test_blank_steps=[3]'")],
    ),
    (
        "model=rnn blank_steps=2 inputs=whitened",
        2,
        [
            (
                "inputs=whitened: scales each pixel of an image by itself, and blank steps have "
                "none",
                "inputs=standardized or blank_steps=0",
            )
        ],
    ),
    (
        "inputs=whitened data=synthetic data.shape=[3,64,64]",
        2,
        [
            (
                "inputs=whitened: 3x64x64 = 12288 features are more than 4096",
                "inputs=per_feature",
            )
        ],
    ),
    (
        "mix=inverted data.train_size=10 batch=2",
        2,
        [("mix=inverted: 10 images of 10 classes do not make two domains", "mix=none")],
    ),
    (
        "-m norm=bn,gm batch=2,two",
        2,
        [
            ("norm=gm: no norm has this name", "norm=gn    (all names: normbench list norms)"),
            ("batch=two: is not an integer", "batch=64"),
        ],
    ),
    ("-m seed=range(0,0)", 2, [("seed=range(0,0): is an empty list", "seed=0")]),
    (
        "-m seed=range(0,20000)",
        2,
        [("max_cells=10000: this sweep has 20,000 cells", "max_cells=20000")],
    ),
    (
        "-m seed=range(0,100000000)",
        2,
        [
            (
                "seed=range(0,100000000): has 100,000,000 values, and a sweep at most 100,000 "
                "cells",
                "'seed=range(0,10)'",
            )
        ],
    ),
    (
        "-m seed=tag(a,range(0,100000000))",
        2,
        [
            (
                "seed=tag(a,range(0,100000000)): has 100,000,000 values, and a sweep at most "
                "100,000 cells",
                "'seed=range(0,10)'",
            )
        ],
    ),
    (
        "-m optimizer.lr=range(0.1,1,1e-9)",
        2,
        [
            (
                "optimizer.lr=range(0.1,1,1e-9): has 900,000,000 values, and a sweep at most "
                "100,000 cells",
                "'optimizer.lr=range(0.1,10.1)'",
            )
        ],
    ),
    ("-m seed=range(0,9,0)", 2, [("seed=range(0,9,0): has a step of 0", "'seed=range(0,9)'")]),
    (
        "-m seed=range(0,1000) batch=range(1,1000)",
        2,
        [
            (
                "max_cells=10000: this sweep has 999,000 cells",
                "shorter lists: at most 100,000 cells with max_cells=100000",
            )
        ],
    ),
    (
        "-m seed=range(0,20) seeds=10000",
        2,
        [
            (
                "seeds=10000: this sweep has 200,000 runs, and a sweep at most 100,000",
                "seeds=5000",
            )
        ],
    ),
    (
        "-m model=mlp model.width=range(1,202) tune=lr tune_seeds=100",
        2,
        [
            (
                "tune_seeds=100: the tuning has 100,500 runs, and a sweep at most 100,000",
                "tune_seeds=99",
            )
        ],
    ),
    ("-m norm=glob(zzz*)", 2, [("norm=glob(zzz*): is an empty list", "norm=agc,alexnet_lrn")]),
    ("order_foo=3", 2, [("order_foo=3: no setting has this name", "normbench list orders" + ALL)]),
    (
        "order_alpha=",
        2,
        [("order.alpha=: order=iid has no such option", "order=dirichlet order.alpha=0.3")],
    ),
    (
        "dist={port:3}",
        2,
        [("dist={port:3}: no setting has this name", "dist.port=null" + ALL)],
    ),
    ("norm_laye=x", 2, [("norm_laye=x: no setting has this name", "normbench list norms" + ALL)]),
    ("seedds=gn", 2, [("seedds=gn: no setting has this name", "seeds=1" + ALL)]),
    (
        "wnit.base=zeros",
        2,
        [("wnit.base=zeros: no setting has this name", "init=autoencoder init.base=zeros" + ALL)],
    ),
    (
        "wnit.base=gn",
        2,
        [
            (
                "wnit.base=gn: no setting has this name",
                "init=autoencoder init.base=kaiming_normal" + ALL,
            )
        ],
    ),
    (
        "model=torchvisqon",
        2,
        [
            (
                "model=torchvisqon: no model has this name",
                "model=torchvision    (all names: normbench list models)",
            )
        ],
    ),
    ("outputs=", 2, [("outputs=: is empty", "outputs=outputs")]),
    (
        "data.path=~/x",
        2,
        [("data.path='~/x': data=mnist has no such option", "normbench list data" + OPTIONS)],
    ),
    ("data.root=", 2, [("data.root=: is empty", "data.root=null")]),
    (
        "--experimental-rerun=x",
        2,
        [
            (
                "--experimental-rerun=x: is not offered: it would run a stored file",
                "normbench train --help",
            )
        ],
    ),
]


@pytest.mark.parametrize(("words", "code", "mistakes"), REFUSED, ids=[each[0] for each in REFUSED])
def test_a_wrong_command_line_gets_its_message_and_creates_nothing(
    words: str,
    code: int,
    mistakes: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words.split(" ")]) == code
    said = capsys.readouterr()
    expected = "\n".join(f"normbench: error: {why}\n  try: {fix}" for why, fix in mistakes)
    assert said.err == expected + "\n"
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_list_longer_than_any_sweep_is_not_even_read() -> None:
    assert too_large("batch=" + ",".join(["2"] * 100_000)) is None
    mistake = too_large("batch=" + ",".join(["2"] * 100_001))
    assert mistake and (mistake.why, mistake.fix) == (
        "has 100,001 values, and a sweep at most 100,000 cells",
        "batch=64",
    )


def test_a_suggestion_with_blanks_is_tried_and_shown_as_one_must_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "my pictures" / place).mkdir(parents=True)
        for number in range(20):
            picture = Image.new("L", (8, 8), number)
            picture.save(tmp_path / "my pictures" / place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "-m",
        "data=imagefolder",
        "data.path=my pictures, (1)",
        "batch=2",
        "model=mlp",
    ]
    (tmp_path / "my pictures").rename("my pictures, (1)")
    assert main(words) == 2
    first, fix = capsys.readouterr().err.splitlines()
    assert first.endswith(": cannot be read as KEY=VALUE")
    (suggested,) = shlex.split(fix.removeprefix("  try: ").partition("    ")[0])
    assert main([*words[:3], suggested, *words[4:], "dry_run=true"]) == 0
    capsys.readouterr()
    (tmp_path / "my pictures, (1)").rename("my pictures")
    words = ["train", "data.path=my pictures", "batch=2", "model=mlp"]
    assert main(words) == 2
    *_, fix = capsys.readouterr().err.splitlines()
    suggested = shlex.split(fix.removeprefix("  try: "))
    assert suggested == ["data=imagefolder", "data.path='my pictures'"]
    assert main(["train", *suggested, *words[2:], "steps=2", "-q"]) == 0


DEEP = r"norm=mine: \S+/norm/mine\.yaml is nested too deep"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name: [", r"norm=mine: \S+/norm/mine\.yaml line 1 is not YAML: "),
        ("name: gn\n\tgroups: 2", r"norm=mine: \S+/norm/mine\.yaml line 2 is not YAML: "),
        ("name: gn\nname: bn", r"norm=mine: \S+/norm/mine\.yaml line 2 is not YAML: "),
        ("name: !!python/name:os.system", r"norm=mine: \S+/norm/mine\.yaml line 1 is not YAML: "),
        (b"name: gn\n# caf\xe9", r"norm=mine: \S+/norm/mine\.yaml line 2 is not UTF-8"),
        ("name: gn".encode("utf-16"), r"norm=mine: \S+/norm/mine\.yaml line 1 is not UTF-8"),
        ("name: \x00", r"norm=mine: \S+/norm/mine\.yaml is not YAML: "),
        ("name: gn\ngroups: " + "9" * 5000, r"norm=mine: \S+/norm/mine\.yaml is not YAML: "),
        ("- gn", r"norm=mine: \S+/norm/mine\.yaml line 1 begins a list"),
        (
            "name: gn\ngroups: " + "[" * 3000 + "]" * 3000,
            DEEP,
        ),
        (
            "name: gn\ngroups: " + "[" * 300 + "]" * 300,
            DEEP,
        ),
        (
            "\n".join(" " * k + "a:" for k in range(300)),
            DEEP,
        ),
        ("name: gn\ngroups: " + "${" * 300 + "batch" + "}" * 300, DEEP),
    ],
)
def test_a_user_s_own_file_that_cannot_be_read_is_refused(
    text: str | bytes, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "norm/mine.yaml"
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["train", "norm=mine", "--config-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert re.match(f"normbench: error: {why}", message) and len(message.splitlines()) == 2


def test_a_missing_gpu_is_refused_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "device=cuda"]) == 4
    assert capsys.readouterr().err == (
        "normbench: error: device=cuda: this machine has no such device\n  try: device=cpu\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sweep"],
            "normbench: error: sweep: is not a command\n"
            "  try: normbench train -m norm=bn,gn batch=2,32",
        ),
        (
            ["trian"],
            "normbench: error: trian: no command has this name\n"
            "  try: normbench train    (all commands: normbench --help)",
        ),
        (
            ["list", "norms", "gm"],
            "normbench: error: gm: no norm has this name\n  try: normbench list norms gn",
        ),
    ],
)
def test_other_wrong_words(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["list", "norm"], "'norm'"),
        (["data", "lst"], "'lst'"),
    ],
)
def test_what_argparse_refuses_names_the_word_and_the_help(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"normbench: error: {words[0]}: ") and named in first
    assert second == f"  try: normbench {words[0]} --help"


def test_a_spelling_error_does_not_import_torch() -> None:
    code = (
        "import sys; from normbench.cli.main import main; code = main(['train', 'norm=gm']); "
        "sys.exit(1 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 2
