"""The command `mmrs`: the tools, from any folder."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmrs import MissingMMStackError, __version__, require_mm_stack
from mmrs.utils.shipped import TOOLS

__all__ = ['commands', 'main']

#: Where the tools lie, and what of it a command says; the order is that of the list.
_FOLDERS = {
    '.': '', 'analysis_tools': '', 'dataset_converters': 'convert ', 'model_converters': 'convert ', 'deployment': '',
}  # fmt: skip

_USAGE = """\
usage: mmrs COMMAND ...          mmrs COMMAND --help says more
       mmrs completion bash > ~/.local/share/bash-completion/completions/mmrs

A configuration that comes with mmrs is called mmrs::NAME, from any folder:
       mmrs train mmrs::st_dasegnet/potsdam2vaihingen.py
       mmrs train mmrs::dacs/method.py --task potsdam2vaihingen --network segformer_mit-b5
"""

_COMPLETION = """\
_mmrs() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words
    [ "$command" = convert ] && [ "$COMP_CWORD" -gt 2 ] && command="convert ${COMP_WORDS[2]}"
    case "$COMP_CWORD $command" in
        "1 "*) words="FIRST" ;;
        "2 convert") words="CONVERTERS" ;;
        CASES
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _mmrs mmrs
"""


def commands() -> dict[str, Path]:
    """The tool of each command."""
    found = {}
    for folder, prefix in _FOLDERS.items():
        for path in sorted((TOOLS / folder).glob('*.py')):
            found[prefix + path.stem.removesuffix('_dataset').replace('_', '-')] = path
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool of a command; the exit status."""
    arguments, known = list(sys.argv[1:] if argv is None else argv), commands()
    if not arguments or arguments[0] in ('-h', '--help'):
        print(_USAGE, *(f'{name:28}{_summary(path)}' for name, path in known.items()), sep='\n')
        return 0
    if arguments[0] in ('-V', '--version'):
        print(f'mmrs {__version__}')
        return 0
    words = 2 if arguments[0] in ('convert', 'completion') else 1
    name, own = ' '.join(arguments[:words]), arguments[words:]
    if name not in known and name != 'completion bash':
        options = [key for key in known if key.startswith(f'{arguments[0]} ')]
        near = options or difflib.get_close_matches(name, known, n=3) or ['mmrs --help']
        print(f'error: there is no command {name}; did you mean {", ".join(near)}?', file=sys.stderr)
        return 2
    if name != 'doctor':
        try:
            require_mm_stack()
        except MissingMMStackError as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
    if name == 'completion bash':
        print(_completion(known), end='')
        return 0
    if '--help' in own or '-h' in own:
        print(_help(name, known[name]), end='')
        return 0
    return _run(name, known[name], own)


def _run(name: str, tool: Path, arguments: Sequence[str]) -> int:
    """Run a tool; the exit status."""
    sys.argv = [f'mmrs {name}', *arguments]  # it is called by the first word
    spec: Any = importlib.util.spec_from_file_location(tool.stem, tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.main(list(arguments)) or 0
    except SystemExit as end:  # argparse's
        return int(end.code or 0)


def _summary(tool: Path) -> str:
    """First line of a tool's docstring; the tool is not run, which takes seconds."""
    text = ast.get_docstring(ast.parse(tool.read_text(encoding='utf-8'))) or ''
    return text.partition('\n')[0]


def _help(name: str, tool: Path) -> str:
    """The help of a tool, with commands in its examples."""
    with redirect_stdout(io.StringIO()) as text:
        _run(name, tool, ['--help'])
    named = {f'python tools/{path.relative_to(TOOLS)}': f'mmrs {key}' for key, path in commands().items()}
    called = re.sub(r'python tools/\S+\.py', lambda found: named.get(found[0], found[0]), text.getvalue())
    return re.sub(r'(?<=\s)configs/(?=\S+\.py)', 'mmrs::', called)


def _completion(known: dict[str, Path]) -> str:
    first = sorted({name.split()[0] for name in known})
    converters = [name.split()[1] for name in known if name.startswith('convert ')]
    cases = []
    for name, tool in known.items():
        columns = re.findall(r'^  (-.*?)(?:  |$)', _help(name, tool), re.MULTILINE)
        options = sorted(set(re.findall(r'--[a-z][a-z-]*', ' '.join(columns))))
        cases.append(f'*" {name}") words="{" ".join(options)}" ;;')
    text = _COMPLETION.replace('FIRST', ' '.join(first)).replace('CONVERTERS', ' '.join(converters))
    return text.replace('CASES', '\n        '.join(cases))


if __name__ == '__main__':
    sys.exit(main())
