"""`normbench completion`: the scripts of shells, and what fits the end of a line, for them.

A generated script knows the words of a parser on the day it is written. Here most words
depend on others (`norm.groups=` is offered behind `norm=gn`, and `norm=` with each part that is
installed), so the scripts ask this command with the line as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator

from normbench.cli.list import KINDS, PRESETS
from normbench.cli.main import VERBS
from normbench.cli.parser import Parser
from normbench.parts import registry
from normbench.parts.options import Declared, written
from normbench.settings import declared, fields

EXAMPLES = (
    'eval "$(normbench completion bash)"           in ~/.bashrc; the same for zsh',
    "normbench completion fish | source            in ~/.config/fish/config.fish",
)
SHELLS = ("bash", "zsh", "fish")
OVERRIDDEN = ("train", "summary", "bench")  # commands that take settings
SCRIPTS = {
    "bash": """\
# normbench completion for bash: source this, or put it into ~/.bashrc as
#   eval "$(normbench completion bash)"
_normbench() {
    local line=${COMP_LINE:0:COMP_POINT} word cut
    word=${line##* }
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$(normbench completion query -- "$line" 2>/dev/null)" -- "$word"))
    if [[ $COMP_WORDBREAKS == *=* && $word == *=* ]]; then  # bash has cut the word at the =
        cut=${word%=*}=
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
complete -o default -F _normbench normbench
""",
    "zsh": """\
#compdef normbench
# normbench completion for zsh: put it into ~/.zshrc, after compinit, as
#   eval "$(normbench completion zsh)"
_normbench() {
    local -a found
    found=(${(f)"$(normbench completion query -- "${LBUFFER}" 2>/dev/null)"})
    compadd -S '' -Q -a found
}
compdef _normbench normbench
""",
    "fish": """\
# normbench completion for fish: put it into ~/.config/fish/config.fish as
#   normbench completion fish | source
complete -c normbench -f -a '(normbench completion query -- (commandline -cp) 2>/dev/null)'
""",
}


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("completion", "Print the script that completes words.", EXAMPLES)
    made.add_argument("shell", choices=(*SHELLS, "query"), metavar="SHELL")
    made.add_argument("line", nargs="?", default="", help="for query: the line to its cursor")
    return made


def run(words: list[str]) -> int:
    """Print the script of a shell, or what fits the end of a line, for that script."""
    options = parser().parsed(words)
    if options.shell == "query":
        print("\n".join(offers(options.line)))
    else:
        print(SCRIPTS[options.shell], end="")
    return 0


def offers(line: str) -> list[str]:
    """List what can stand in place of the last word of `line`, the command up to the cursor."""
    *before, word = line.split(" ")
    words = [given for given in before[1:] if given]
    offered: Iterator[str] | list[str]
    if not words:
        offered = list(VERBS)
    elif words[0] in OVERRIDDEN:
        offered = _settings(words[1:], word)
    elif words[0] == "list":
        given = [kind for kind in words[1:] if kind in KINDS]
        offered = registry.names(KINDS[given[0]]) if given else [*KINDS, PRESETS]
        offered = list(registry.presets()) if PRESETS in words[1:] else offered
    elif words[0] == "data":
        offered = registry.names("data") if words[1:] else ["list", "download", "verify", "show"]
    elif words[0] == "completion":
        offered = [] if words[1:] else list(SHELLS)
    else:
        offered = []
    return sorted({text for text in offered if text.startswith(word)})


def _settings(before: list[str], word: str) -> Iterator[str]:
    """Yield whole words: keys with their `=`, or a key with each of its values."""
    key, equals, value = word.partition("=")
    if not equals:
        yield from (f"{key}=" for key in _keys(before))
        return
    start = f"{key}={value[: value.rfind(',') + 1]}"  # of a comma list, the last is completed
    yield from (start + text for text in _values(key, before))


def _keys(before: list[str]) -> Iterator[str]:
    yield from (*registry.KINDS, "experiment")
    yield from declared.defaults()
    for group in registry.KINDS:
        yield from (f"{group}.{option}" for option in _options(group, before))


def _options(group: str, before: list[str]) -> dict[str, Declared]:
    """Return the options of the part that the line chooses, or of the default one."""
    given = [word.partition("=")[2] for word in before if word.startswith(f"{group}=")]
    name = given[-1] if given else declared.default_parts()[group]
    known = registry.names(group)
    options: dict[str, Declared] = {}
    for part in name.split(","):
        if all(member in known for member in part.split("+")):
            options |= fields.declared_options(group, part)
    return options


def _values(key: str, before: list[str]) -> list[str]:
    if key in registry.KINDS or key == "experiment":
        return registry.choices(key) if key in registry.KINDS else list(registry.presets())
    group, _, option = key.partition(".")
    if option:
        known = _options(group, before) if group in registry.KINDS else {}
        return _words(known[option]) if option in known else []
    typed = {setting.name: setting for setting in declared.declared_keys()}
    if key not in typed:
        return []
    return list(dict.fromkeys([*_words(typed[key]), written(declared.defaults()[key])]))


def _words(declared: Declared) -> list[str]:
    if "bool" in declared.type:
        return ["true", "false"]
    null = ["null"] if "None" in declared.type else []
    return [*declared.limits.get("choices", ()), *null]
