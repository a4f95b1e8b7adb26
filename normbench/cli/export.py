"""`normbench export`: the weights of a finished run as a plain safetensors file."""

from __future__ import annotations

from pathlib import Path

from normbench.cli.parser import Parser, screen
from normbench.errors import FileRefused, Mistake, Refused

EXAMPLES = ("normbench export outputs/runs/NAME/seed0 -o weights.safetensors",)


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Write the weights of a finished run for safetensors.torch.load_file."
    made = Parser("export", text, EXAMPLES)
    made.add_argument("run", metavar="RUN", help="folder of one seed")
    made.add_argument("-o", metavar="FILE", dest="file", help="ends in .safetensors")
    return made


def run(words: list[str]) -> int:
    """Write the weights of a run by the names that torch gives them, and say what they are of.

    Returns: 0.
    Raises: Refused if the words name no such file; FileRefused if the run is not finished, damaged
        or without weights, or the file is there already; MachineError.
    """
    options = parser().parsed(words)
    shown, file = screen(options), Path(options.file or "")
    directory = Path(options.run)
    if file.suffix != ".safetensors":
        fix = f"normbench export {directory} -o weights.safetensors"
        given = f"-o {file}" if options.file else "export"
        raise Refused(Mistake(given, "names no .safetensors file to write", fix))
    if file.exists() or file.is_symlink():
        raise FileRefused(str(file), "is there already", f"-o {file.stem}-2.safetensors")
    from normbench.runs import weights
    from normbench.runs.export import export
    from normbench.runs.reader import read_status
    from normbench.runs.stored import finished

    config, status = finished(directory), read_status(directory) or {}
    weights.check(config.directory, status["state_sha256"])
    about = export(config, file)
    shown.document({"command": "export", "file": str(file), **about})
    shown.note(f"{about['tensors']} tensors, {about['numbers']:,} numbers: {file}")
    shown.note(f"inputs: {about['inputs']}")
    return 0
