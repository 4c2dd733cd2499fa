from importlib import import_module

import pytest

from tests.tiny_runs import REPOSITORY

TOOLS = [path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / 'tools').glob('**/*.py'))]


@pytest.mark.parametrize('path', [path for path in TOOLS if path.parent.name != 'dataset_converters'], ids=str)
def test_help_has_examples(path, capsys):
    with pytest.raises(SystemExit) as end:
        import_module('.'.join(path.with_suffix('').parts)).main(['--help'])
    assert end.value.code == 0
    assert f'python {path.as_posix()}' in capsys.readouterr().out
