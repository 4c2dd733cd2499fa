import numpy as np
import pytest
import torch

from mmrs.utils import CheckpointError, ConfigError, DataError, OutputError, UserError
from mmrs.utils.errors import (
    describe,
    report_errors,
    require,
    require_file,
    require_folder,
    require_number,
    require_one_of,
)


def caught(function, *args):
    with pytest.raises(Exception) as error:  # noqa: PT011
        function(*args)
    return error.value


@pytest.mark.parametrize('kind', [CheckpointError, ConfigError, DataError, OutputError])
def test_family(kind, capsys):
    @report_errors
    def main():
        raise kind('the file, and what to do')

    assert issubclass(kind, UserError)
    assert main() == 2
    assert capsys.readouterr().err == 'error: the file, and what to do\n'


def test_success_and_interrupt(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert report_errors(lambda: None)() == 0
    assert report_errors(lambda: 3)() == 3
    assert report_errors(interrupted)() == 130


def test_unexpected_errors_keep_their_traceback():
    def raised():
        raise ValueError('not on purpose')

    for function in (lambda: int('x'), lambda: {}['key'], lambda: torch.zeros(2) + torch.zeros(3), raised):
        with pytest.raises((ValueError, KeyError, RuntimeError)):
            report_errors(function)()


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv('MMRS_TRACEBACK', '1')

    @report_errors
    def main():
        raise DataError('x')

    with pytest.raises(DataError):
        main()


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        if self.deliberate:
            raise DataError('a.png: no such label')
        return int('x')


@pytest.mark.parametrize('deliberate', [True, False])
def test_errors_of_loader_workers(deliberate):
    dataset = Broken()
    dataset.deliberate = deliberate
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, multiprocessing_context='fork')
    error = caught(next, iter(loader))
    assert 'Traceback' in str(error)
    assert type(error) is (DataError if deliberate else ValueError)
    if deliberate:
        assert describe(error) == 'a.png: no such label'


def test_require_names_key_value_and_what_was_expected():
    require(True, 'model.bands', 3, 'anything')
    error = caught(require, False, 'model.bands', 'x', 'a list')
    assert isinstance(error, ConfigError)
    assert str(error) == "model.bands is 'x'; a list was expected"
    assert str(caught(require, False, 'bands', 0, 'numbers were')) == 'bands is 0; numbers were expected'


def test_require_one_of():
    require_one_of('edge', 'drop', ('drop', 'shift'))
    assert str(caught(require_one_of, 'edge', 'cut', ('drop', 'shift'))) == (
        "edge is 'cut'; one of drop, shift was expected"
    )


@pytest.mark.parametrize(
    ('value', 'bounds', 'valid'),
    [
        (1, dict(at_least=1), True),
        (1, dict(above=1), False),
        (0.5, dict(above=0, at_most=0.5), True),
        (0.5, dict(above=0, below=0.5), False),
        (2.0, dict(whole=True), False),
        (np.int64(2), dict(whole=True), True),
        (True, {}, False),
        ('1', {}, False),
        (None, {}, False),
        (float('nan'), {}, False),
        (float('inf'), dict(above=0), False),
    ],
)
def test_require_number(value, bounds, valid):
    if valid:
        require_number('gsd', value, **bounds)
    else:
        error = caught(lambda: require_number('gsd', value, **bounds))
        assert isinstance(error, ConfigError)
        assert f'gsd is {value!r}' in str(error)


def test_require_number_says_which():
    error = caught(lambda: require_number('share', 2, above=0, at_most=1))
    assert str(error) == 'share is 2; a number above 0 and of at most 1 was expected'
    error = caught(lambda: require_number('gsd', 0, above=0, unit='metres'))
    assert str(error) == 'gsd is 0; a number of metres above 0 was expected'


def test_require_files_and_folders(tmp_path):
    (tmp_path / 'file').touch()
    require_file(tmp_path / 'file', 'a list')
    require_folder(tmp_path, 'images')
    for check, path, found in (
        (require_file, tmp_path / 'none', 'no such file'),
        (require_file, tmp_path, 'is a folder'),
        (require_folder, tmp_path / 'none', 'no such folder'),
        (require_folder, tmp_path / 'file', 'is a file'),
    ):
        error = caught(check, path, 'a list')
        assert isinstance(error, DataError)
        assert str(error) == f'{path}: {found}; a list was expected there'
