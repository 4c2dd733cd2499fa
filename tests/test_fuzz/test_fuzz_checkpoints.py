"""Any bytes as a checkpoint give weights or an error of ours, and run nothing."""

from __future__ import annotations

import io
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MessageHub

from mmrs.engine.saved_runs import require_resumable
from mmrs.weights import read_checkpoint, state_dict_of
from mmrs.weights import reading as module
from tests.fuzzing import broken, ours


@cache
def checkpoint_file(zipped):
    hub = MessageHub.get_instance('fuzz')
    hub.update_scalar('train/loss', np.float32(1.5))
    state = dict(
        meta=dict(iter=3, palette=np.zeros((2, 3), np.uint8)),
        state_dict=dict(w=torch.arange(6.0).view(2, 3), b=torch.ones(2, dtype=torch.float16)),
        message_hub=hub.state_dict(),
        optimizer=dict(state={0: dict(step=torch.tensor(3.0))}, param_groups=[dict(lr=0.1, betas=(0.9, 0.999))]),
    )
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz') / 'fuzz.pth'


def read(path):
    with ours():
        state = read_checkpoint(path)
        weights = state_dict_of(state, path)
        assert all(torch.is_tensor(weight) for weight in weights.values())
        sum(float(weight.double().sum()) for weight in weights.values() if weight.numel() < 1e6)
        require_resumable(state, path)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('zipped', [False, True])
@given(data=st.data())
def test_broken_checkpoints(path, zipped, own, data):
    path.write_bytes(data.draw(broken(st.just(checkpoint_file(zipped)))))
    with pytest.MonkeyPatch.context() as patch:
        if own:
            patch.setattr(module, '_TAKES_NAMES', False)
        read(path)


# What a pickle of protocol 2 is made of, and the names in a checkpoint.
names = [*module._known_types(), 'torch._utils._rebuild_tensor_v2', 'torch.FloatStorage', 'collections.OrderedDict']
names += ['os.system', 'builtins.eval', 'builtins.getattr', 'torch._tensor._rebuild_from_type_v2', 'torch.Tensor']
texts = st.sampled_from(['', 'touch attacked', 'storage', 'cpu', '0', 'f4', 'O8', '__globals__', 'mean', '<', 'latin1'])
operations = st.one_of(
    st.sampled_from(
        [b'(', b')', b']', b'}', b't', b'\x85', b'\x86', b'\x87', b'N', b'R', b'b', b'\x81', b's', b'u', b'a']
    ),
    st.sampled_from([b'e', b'Q', b'0', b'2', b'o', b'\x88', b'\x8f', b'\x93', b'q\x00', b'h\x00', b'K\x01', b'K\x04']),
    st.sampled_from(names).map(lambda name: 'c{}\n{}\n'.format(*name.rsplit('.', 1)).encode()),
    texts.map(lambda text: b'X' + len(text).to_bytes(4, 'little') + text.encode()),
    st.integers(-(2**31), 2**31 - 1).map(lambda number: b'J' + number.to_bytes(4, 'little', signed=True)),
)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('own', [False, True])
@given(program=st.lists(operations, max_size=20).map(b''.join))
def test_any_program_of_pickle(path, own, program):
    """As the content of a legacy file, which is a row of pickles."""
    header = b''.join(pickle.dumps(value, 2) for value in (torch.serialization.MAGIC_NUMBER, 1001, {}))
    path.write_bytes(header + b'\x80\x02' + program + b'.' + pickle.dumps([], 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        if own:
            patch.setattr(module, '_TAKES_NAMES', False)
        read(path)
    assert not (path.parent / 'attacked').exists()
