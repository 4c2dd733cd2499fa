"""Checkpoints made to run code, by each way of reading them."""

from __future__ import annotations

import argparse
import io
import logging
import pickle
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmrs.registry import WEIGHT_INITIALIZERS
from mmrs.utils import CheckpointError
from mmrs.weights import download, read_checkpoint, trusting_checkpoints
from mmrs.weights import reading as module

HISTORY_BUFFER = ('mmengine.logging.history_buffer', 'HistoryBuffer')
GETATTR = ('builtins', 'getattr')
ATTACK = "open('attacked', 'w')"


@pytest.fixture(params=[False, True], ids=['own unpickler', "torch's"])
def folder(request, tmp_path, monkeypatch):
    """Both ways, where this version of torch has both; the attacks write into the folder."""
    if request.param and not module._TAKES_NAMES:
        pytest.skip('this torch cannot name what it may load')
    monkeypatch.setattr(module, '_TAKES_NAMES', request.param)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Call:
    """A call in a pickle; the function is a name (module, name) or what another call returns."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


def program(value) -> bytes:
    """The operations that put a value onto pickle's stack."""
    if isinstance(value, Call):
        return program(value.function) + b'(' + b''.join(map(program, value.arguments)) + b'tR'
    if isinstance(value, tuple):
        return b'c%s\n%s\n' % tuple(part.encode() for part in value)
    if isinstance(value, dict):
        return b'}(' + b''.join(program(part) for item in value.items() for part in item) + b'u'
    return b'X' + len(value).to_bytes(4, 'little') + value.encode()


def in_zip(path, content: bytes, **extra: bytes):
    """A checkpoint with these operations in place of its content."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, 'w') as target:
        for name in source.namelist():
            target.writestr(name, b'\x80\x02' + content + b'.' if name.endswith('data.pkl') else source.read(name))
            root = name.split('/')[0]
        for name, payload in extra.items():
            target.writestr(f'{root}/{name}', payload)
    return path


def refused(path, message=''):
    with pytest.raises(CheckpointError, match=message or None):
        read_checkpoint(path)
    with pytest.raises(CheckpointError):
        CheckpointLoader.load_checkpoint(str(path))
    assert not (path.parent / 'attacked').exists()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    ('reduced', 'message'),
    [
        ((subprocess.check_output, (['touch', 'attacked'],)), 'check_output'),
        ((exec, (ATTACK,)), 'exec'),
        ((eval, (ATTACK,)), 'eval'),
        ((getattr, (np.ndarray, 'tofile')), 'getattr on'),
        ((torch.save, ({}, 'attacked')), 'save'),
        ((np.save, ('attacked', 1)), 'save'),
    ],
)
def test_calls(folder, reduced, message, zipped):
    content = dict(state_dict={}, x=Reduced(*reduced))
    torch.save(content, folder / 'evil.pth', _use_new_zipfile_serialization=zipped)
    refused(folder / 'evil.pth', f'evil.pth is refused.*{message}')


def test_attributes_do_not_lead_to_everything(folder):
    """From an attribute of a class that is allowed to the globals of its module and Python's functions."""
    get = Call(GETATTR, HISTORY_BUFFER, '__getattribute__')
    scope = Call(get, Call(GETATTR, HISTORY_BUFFER, 'update'), '__globals__')
    builtins = Call(Call(get, scope, '__getitem__'), '__builtins__')
    attack = Call(Call(Call(get, builtins, '__getitem__'), 'eval'), ATTACK)
    refused(in_zip(folder / 'a.pth', program(attack)), 'getattr on .* is refused')
    for name in ('__getattribute__', '__class__', '__init__', 'update', '__reduce_ex__', '__subclasses__'):
        refused(in_zip(folder / 'b.pth', program(Call(GETATTR, HISTORY_BUFFER, name))), 'getattr on')
    # Not called either: what is allowed to be named.
    refused(in_zip(folder / 'c.pth', program(Call(Call(GETATTR, HISTORY_BUFFER, 'mean'), 'x'))), 'refused')


def test_classes_are_not_changed(folder):
    """A state for a class instead of one of its objects."""
    before = dict(vars(HistoryBuffer))
    state = b'N' + program(dict(mean='mine', update='mine')) + b'\x86b'
    refused(in_zip(folder / 'a.pth', program(HISTORY_BUFFER) + state), 'refused')
    refused(in_zip(folder / 'b.pth', program(GETATTR) + state), 'refused')
    assert dict(vars(HistoryBuffer)) == before


def test_log_buffers_with_a_payload(folder):
    evil = HistoryBuffer()
    evil.__dict__.update(x=Reduced(eval, (ATTACK,)))
    torch.save(dict(message_hub=evil), folder / 'evil.pth')
    refused(folder / 'evil.pth', 'eval')
    # In place of its state.
    new = program(HISTORY_BUFFER) + b')\x81'
    refused(in_zip(folder / 'state.pth', new + program(Call(('builtins', 'eval'), ATTACK)) + b'b'), 'eval')


def test_arrays_of_objects(folder):
    for number, array in enumerate(
        (np.array([Reduced(eval, (ATTACK,))]), np.zeros(1, [('a', object)]), np.zeros(2, 'V8'))
    ):
        torch.save(dict(x=array), folder / f'{number}.pth')
        refused(folder / f'{number}.pth')
    torch.save(dict(x=np.array([{}])), folder / 'objects.pth')
    refused(folder / 'objects.pth', "numpy.dtype 'O8' is refused")


def test_a_second_pickle_is_not_read(folder):
    payload = pickle.dumps(Reduced(eval, (ATTACK,)))
    path = in_zip(folder / 'a.pth', program(dict(w='x')), **{'other.pkl': payload, 'data.pkl.pkl': payload})
    assert read_checkpoint(path) == dict(w='x')
    assert not (folder / 'attacked').exists()


@pytest.mark.parametrize('link', [False, True])
def test_the_tar_format(folder, link):
    members = dict.fromkeys(('storages', 'tensors', 'pickle'), pickle.dumps(Reduced(eval, (ATTACK,))))
    with tarfile.open(folder / 'evil.pth', 'w') as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
            info.size = 0 if link else len(content)
            tar.addfile(info, io.BytesIO(content))
    refused(folder / 'evil.pth', 'tar format')


def test_torchscript(folder):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), folder / 'script.pth')
    refused(folder / 'script.pth', 'TorchScript archive, which holds a program')


@pytest.mark.parametrize('number', [2**20, 2**30, -1])
def test_more_values_than_the_file_has(folder, number):
    """Reading them would be reading the process's memory."""
    torch.save(dict(w=torch.arange(4.0)), folder / 'whole.pth')
    with zipfile.ZipFile(folder / 'whole.pth') as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('data.pkl'))
        content = archive.read(name)
    assert content.count(b'K\x04t') == 1
    lie = content.replace(b'K\x04t', b'J' + number.to_bytes(4, 'little', signed=True) + b't')
    with zipfile.ZipFile(folder / 'whole.pth') as source, zipfile.ZipFile(folder / 'evil.pth', 'w') as target:
        for info in source.infolist():
            target.writestr(info, lie if info.filename == name else source.read(info))
    refused(folder / 'evil.pth')


@pytest.mark.filterwarnings('ignore')
def test_huge_and_deep_ones(folder):
    huge = Call(('numpy', 'ndarray'), 'x').function  # an array of 2**60 values
    shape = b'(\x8a\x08' + (2**60).to_bytes(8, 'little') + b't'
    refused(
        in_zip(
            folder / 'a.pth', b'cnumpy.core.multiarray\n_reconstruct\n(' + program(huge) + shape + program('d') + b'tR'
        )
    )
    refused(in_zip(folder / 'b.pth', b']' * 50_000 + b'a' * 49_999))


# With --trust-checkpoint ----------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(folder):
    """A checkpoint that holds an object, as other projects write them."""
    path = folder / 'foreign.pth'
    torch.save(
        dict(state_dict={'weight': torch.full((1, 1), 3.0), 'bias': torch.ones(1)}, args=argparse.Namespace(lr=1)), path
    )
    return path


def test_a_foreign_checkpoint_is_loaded_if_trusted(foreign, logged):
    refused(foreign, r'holds an object of argparse\.Namespace.*--trust-checkpoint \(trust_checkpoint=True\)')
    logged.clear()
    with trusting_checkpoints():
        assert read_checkpoint(foreign)['args'].lr == 1
    (record,) = logged.records
    assert record.levelno == logging.WARNING
    assert str(foreign) in record.getMessage()
    assert 'argparse.Namespace' in record.getMessage()
    refused(foreign)


def test_a_safe_one_is_loaded_safely_all_the_same(folder, logged, monkeypatch):
    torch.save(dict(w=torch.ones(1)), folder / 'safe.pth')
    monkeypatch.setattr(module, '_load_everything', None)
    with trusting_checkpoints():
        assert read_checkpoint(folder / 'safe.pth')['w'] == 1
    assert not logged.records


def test_trust_ends_with_the_block_and_within(foreign):
    with trusting_checkpoints():
        with trusting_checkpoints(False):
            refused(foreign)
        with pytest.raises(ZeroDivisionError), trusting_checkpoints(False):
            raise ZeroDivisionError
        assert read_checkpoint(foreign)
    with pytest.raises(ZeroDivisionError), trusting_checkpoints():
        raise ZeroDivisionError
    refused(foreign)


def test_trust_holds_for_pretrained_files_but_not_for_downloads(foreign, monkeypatch):
    init_default_scope('mmrs')
    start = WEIGHT_INITIALIZERS.build(dict(type='Pretrained', checkpoint=str(foreign)))
    layer = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match='Namespace'):
        start(layer)
    with trusting_checkpoints():
        start(layer)
    assert layer.weight.item() == 3
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(foreign.parent))
    (foreign.parent / 'checkpoints').mkdir()
    foreign.rename(foreign.parent / 'checkpoints' / foreign.name)
    assert download(f'https://example.org/{foreign.name}').is_file()
    with trusting_checkpoints(), pytest.raises(CheckpointError, match='Namespace'):
        CheckpointLoader.load_checkpoint(f'https://example.org/{foreign.name}')


def test_trusted_ones_that_cannot_be_read(folder):
    in_zip(folder / 'a.pth', b'cno_such_package\nThing\n)R')
    in_zip(folder / 'b.pth', program(Call(('builtins', 'int'), 'x')))
    with trusting_checkpoints():
        with pytest.raises(CheckpointError, match=r'a\.pth is no readable .*ModuleNotFoundError.*no_such_package'):
            read_checkpoint(folder / 'a.pth')
        with pytest.raises(CheckpointError, match=r'b\.pth is no readable .*ValueError'):
            read_checkpoint(folder / 'b.pth')
