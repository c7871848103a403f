"""`lca completion`: a script that makes the shell complete commands, options and their values."""

from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from lca._commands.command import Command

SHELLS = ("bash", "zsh", "fish")


_HOW = {
    "bash": 'bash: put eval "$(lca completion bash)" in ~/.bashrc',
    "zsh": 'zsh: put eval "$(lca completion zsh)" in ~/.zshrc, after compinit',
    "fish": "fish: lca completion fish > ~/.config/fish/completions/lca.fish",
}


def completion_of(others: Sequence[Command]) -> Command:
    """The command that prints the script for itself and all others."""

    def run(args: Namespace) -> None:
        commands = (*others, command)
        print(_fish(commands) if args.shell == "fish" else _bash(commands, zsh=args.shell == "zsh"))

    about = "Print a script for completion in bash, zsh or fish."
    command = Command("completion", about, _add_arguments, run)
    return command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="; ".join(_HOW.values()))


def _bash(commands: Sequence[Command], *, zsh: bool) -> str:
    names = " ".join(command.name for command in commands)
    lines = ["autoload -U +X bashcompinit && bashcompinit"] if zsh else []
    lines += [
        "_lca() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" words=""',
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f'    words="{names} --help --version"',
        "  else",
        '    case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in',
    ]
    for command in commands:
        for option, values in _values(command):
            if option.startswith("-"):
                lines.append(f'      "{command.name} {option}") words="{" ".join(values)}";;')
    lines += ['      *) case "${COMP_WORDS[1]} $current" in']
    for command in commands:
        options = " ".join(option for action in _actions(command) for option in action.option_strings)
        lines.append(f'        "{command.name} -"*) words="{options}";;')
        for option, values in _values(command):
            if not option.startswith("-"):
                lines.append(f'        "{command.name} "*) words="{" ".join(values)}";;')
    lines += [
        "      esac;;",
        "    esac",
        "  fi",
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _lca lca",
    ]
    return "\n".join(lines)


def _fish(commands: Sequence[Command]) -> str:
    lines = []
    for command in commands:
        lines.append(
            f"complete -c lca -n __fish_use_subcommand -f -a {command.name} -d {_quoted(command.help)}"
        )
        values = dict(_values(command))
        inside = f"-n '__fish_seen_subcommand_from {command.name}'"
        for action in _actions(command):
            known = " ".join(next((values[o] for o in _names(action) if o in values), ()))
            words = f" -x -a {_quoted(known)}" if known else " -r" if action.nargs != 0 else ""
            names = [f" -{'l' if o[:2] == '--' else 's'} {o.lstrip('-')}" for o in action.option_strings]
            about = _quoted(str(action.help).partition(";")[0].replace("%(default)s", str(action.default)))
            if names:
                lines.append(f"complete -c lca {inside}{''.join(names)}{words} -d {about}")
            elif known:
                lines.append(f"complete -c lca {inside} -a {_quoted(known)}")
    return "\n".join(lines)


def _values(command: Command) -> Iterator[tuple[str, Sequence[str]]]:
    """The options, or positional arguments, whose values are known, with these values."""
    for action in _actions(command):
        for name in _names(action):
            if name in command.words or action.choices:
                yield name, command.words.get(name) or tuple(map(str, action.choices or ()))


def _names(action: Action) -> Sequence[str]:
    return action.option_strings or [action.dest]


def _actions(command: Command) -> list[Action]:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return [action for action in parser._actions if action.dest != SUPPRESS]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
