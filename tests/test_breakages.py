"""The deliberate breakages of :mod:`tests.breakages` still fit the code, and the script tells what is noticed."""

import re
import subprocess

import pytest

from tests import breakages
from tests.breakages import BREAKAGES, REPOSITORY, Breakage, broken

TREE = {
    'code.py': 'def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n',
    'test_code.py': 'import code_under_test as code\n\n\ndef test_double():\n    assert code.double(3) == 6\n',
}


@pytest.mark.parametrize('breakage', BREAKAGES, ids=[breakage.name for breakage in BREAKAGES])
def test_it_fits_the_code(breakage):
    """Tests that fail because a name or a bracket is missing would prove nothing."""
    text = (REPOSITORY / breakage.file).read_text()
    compile(broken(text, breakage), breakage.file, 'exec')
    for test in breakage.tests:
        assert (REPOSITORY / test.split('::')[0]).is_file()


def test_names_are_unique():
    assert len({breakage.name for breakage in BREAKAGES}) == len(BREAKAGES)


def breakage(name, old, new):
    return Breakage(name, 'code_under_test.py', old, new, ('test_code.py',), 'no reason')


@pytest.fixture
def tree(tmp_path):
    """A repository with one file, of which half is tested."""
    (tmp_path / 'code_under_test.py').write_text(TREE['code.py'])
    (tmp_path / 'test_code.py').write_text(TREE['test_code.py'])
    (tmp_path / 'ignored.py').write_text('')
    (tmp_path / '.gitignore').write_text('ignored.py\n')
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    return tmp_path


def test_what_is_noticed(tree, monkeypatch, capsys):
    monkeypatch.setattr(breakages, 'REPOSITORY', tree)
    cases = [
        breakage('tested', '2 * x', '3 * x'),
        breakage('untested', 'x / 2', 'x / 3'),
        breakage('stale', 'x / 5', 'x / 6'),
        breakage('twice', 'return', 'yield'),
        breakage('no-program', 'def half(x):', 'def half(x'),
    ]
    monkeypatch.setattr(breakages, 'BREAKAGES', cases)
    assert breakages.main(['--jobs', '2']) == 1
    said = capsys.readouterr().out
    rows = {line.split('│')[1].strip(): line for line in said.splitlines() if line.count('│') > 2}
    assert 'passed' in rows['(none)']
    assert 'test_code.py::test_double' in rows['tested']
    assert 'NOT NOTICED: passed' in rows['untested']
    assert 'stands 0 times' in rows['stale']
    assert 'stands 2 times' in rows['twice']
    assert 'NOT NOTICED: pytest ended with' in rows['no-program']
    assert '1 of 5 breakages noticed' in said
    assert breakages.main(['--only', 'tested']) == 0
    assert (tree / 'code_under_test.py').read_text() == TREE['code.py']


def test_tests_that_fail_anyhow_notice_nothing(tree, monkeypatch, capsys):
    (tree / 'code_under_test.py').write_text(TREE['code.py'].replace('2 *', '4 *'))
    monkeypatch.setattr(breakages, 'REPOSITORY', tree)
    monkeypatch.setattr(breakages, 'BREAKAGES', [breakage('tested', '4 * x', '3 * x')])
    assert breakages.main([]) == 1
    assert 'FAILS WITHOUT A BREAKAGE: test_code.py::test_double' in capsys.readouterr().out


def test_tests_without_end(tree, monkeypatch, capsys):
    monkeypatch.setattr(breakages, 'REPOSITORY', tree)
    case = breakage('endless', 'return 2 * x', 'while True: pass')
    monkeypatch.setattr(breakages, 'BREAKAGES', [case])
    assert breakages.main(['--timeout', '3']) == 1
    assert 'no end after 3 s' in capsys.readouterr().out


def test_unknown_name(capsys):
    with pytest.raises(SystemExit):
        breakages.main(['--only', 'nothing'])
    assert f'there is no breakage nothing; there are {BREAKAGES[0].name}' in capsys.readouterr().err


def test_list(capsys):
    assert breakages.main(['--list']) == 0
    said = capsys.readouterr().out
    assert all(breakage.name in said for breakage in BREAKAGES)


def test_contributors_are_told_of_all():
    told = set(re.findall(r'`([a-z0-9]+(?:-[a-z0-9]+)+)`', (REPOSITORY / 'CONTRIBUTING.md').read_text()))
    assert {breakage.name for breakage in BREAKAGES} <= told
