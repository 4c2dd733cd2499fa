import pytest
import torch

from mmrs.geo.classes import load_classes
from mmrs.utils import CheckpointError, ConfigError, DataError, OutputError, UserError
from mmrs.utils.errors import describe, is_user_error, report_errors


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
    for function in (lambda: int('x'), lambda: {}['key'], lambda: torch.zeros(2) + torch.zeros(3)):
        with pytest.raises((ValueError, KeyError, RuntimeError)):
            report_errors(function)()


def test_checks_of_the_package_are_for_the_user(tmp_path):
    error = caught(load_classes, tmp_path / 'nothing.yaml')
    assert type(error) is FileNotFoundError
    assert is_user_error(error)
    assert not is_user_error(caught((tmp_path / 'nothing').read_text))


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
    assert is_user_error(error) is deliberate
    if deliberate:
        assert describe(error) == 'a.png: no such label'
