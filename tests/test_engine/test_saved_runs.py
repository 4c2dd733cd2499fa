import zipfile

import pytest
import torch

from mmrs.engine.saved_runs import damage, newest_checkpoint, own_checkpoints, remove_unfinished
from mmrs.utils.errors import CheckpointError


def save(folder, *names):
    generator = torch.Generator().manual_seed(0)
    for name in names:
        torch.save(dict(state_dict=dict(weight=torch.randn(2000, generator=generator))), folder / name)


def names(paths):
    return [path.name for path in paths]


def test_every_cut_and_every_changed_weight_is_noticed(tmp_path):
    save(tmp_path, 'iter_1.pth')
    path = tmp_path / 'iter_1.pth'
    assert damage(path) is None
    whole = path.read_bytes()
    for length in [0, 1, 100, *range(0, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert damage(path), length
    with zipfile.ZipFile(tmp_path / 'copy.zip', 'w'), zipfile.ZipFile(tmp_path / 'iter_1.pth', 'w'):
        pass
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        (info,) = (info for info in archive.infolist() if info.file_size == 8000)
    start = whole.index(torch.load(path, weights_only=True)['state_dict']['weight'].numpy().tobytes())
    assert start > info.header_offset
    for place in range(start, start + 8000, 397):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert 'checksum' in damage(path), place
        torch.load(path, weights_only=True)  # does not notice


def test_the_newest_is_that_of_the_highest_number(tmp_path, capsys):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / 'nothing') is None
    save(tmp_path, 'iter_1000.pth', 'iter_900.pth', 'best_mIoU_iter_2000.pth', 'other.pth', '.iter_3000.7.part.pth')
    assert names(own_checkpoints(tmp_path)) == ['iter_1000.pth', 'iter_900.pth']
    assert newest_checkpoint(tmp_path).name == 'iter_1000.pth'
    (tmp_path / 'last_checkpoint').write_text('')  # the run was killed in writing it
    assert newest_checkpoint(tmp_path).name == 'iter_1000.pth'
    remove_unfinished(tmp_path)
    assert not list(tmp_path.glob('.*'))
    assert len(list(tmp_path.glob('*.pth'))) == 4


def test_damaged_ones_are_passed_over_with_a_warning(tmp_path, caplog):
    save(tmp_path, 'iter_1.pth', 'iter_2.pth', 'iter_3.pth')
    (tmp_path / 'iter_3.pth').write_bytes((tmp_path / 'iter_3.pth').read_bytes()[:5000])
    (tmp_path / 'iter_2.pth').write_bytes(b'')
    with caplog.at_level('WARNING', 'mmengine'):
        assert newest_checkpoint(tmp_path).name == 'iter_1.pth'
    (tmp_path / 'iter_1.pth').write_bytes(b'<html>')
    with pytest.raises(CheckpointError, match=r'is whole: iter_3\.pth, iter_2\.pth, iter_1\.pth are damaged'):
        newest_checkpoint(tmp_path)


def test_checkpoints_of_other_names_are_found_by_the_pointer(tmp_path):
    save(tmp_path, 'step-7.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/since/step-7.pth\n')
    assert newest_checkpoint(tmp_path).name == 'step-7.pth'
    (tmp_path / 'step-7.pth').unlink()
    with pytest.raises(CheckpointError, match=r'last_checkpoint names step-7\.pth, which is not there'):
        newest_checkpoint(tmp_path)
