"""The base of all methods, and a method of a few lines that shows that it is enough."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData

from mmrs.apis import evaluate, export_onnx
from mmrs.models.adaptors import Adaptor
from mmrs.models.adaptors.base import SHARES, share_title
from mmrs.models.checks import check_losses, check_model
from mmrs.models.parts import SelfTraining
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests.conformance import EFFICIENT, plain
from tests.entropy_minimisation import EntropyMinimisation
from tests.test_models.test_adaptors.test_st_dasegnet import AUXILIARY, LOVASZ, batch, resnet_config
from tests.test_models.test_adaptors.test_st_dasegnet import config as st_dasegnet
from tests.tiny_runs import quick_start, write_clips  # noqa: F401
from tools import predict, train


def toy(**changes):
    cfg = st_dasegnet()
    keep = {key: cfg[key] for key in ('data_preprocessor', 'backbone', 'decode_head', 'test_cfg')}
    keep['decode_head'] = dict(keep['decode_head'], in_channels=[8, 16, 16, 32], dropout_ratio=0.0)
    return dict(type=EntropyMinimisation, weight=0.1, **{**keep, **changes})


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MODELS.build(toy()).train()


def loss_of(model, data):
    return model(**model.data_preprocessor(data, True), mode='loss')


def test_losses_by_hand(model):
    data = model.data_preprocessor(batch(), True)
    for sample in data['data_samples']['source']:
        sample.gt_sem_seg.data[:, :9] = 255
    model.backbone.eval()
    losses = model(**copy.deepcopy(data), mode='loss')
    images, samples = data['inputs'], data['data_samples']
    expected = model.decode_head.loss_by_feat(
        model.decode_head(model.extract_feat(images['source'])), samples['source']
    )
    assert losses['loss_seg'].item() == pytest.approx(expected['loss_ce'].item(), rel=1e-5)
    p = model.decode_head(model.extract_feat(images['target'])).detach().double().softmax(1).numpy()
    entropy = -(p * np.log(p)).sum(1).mean() / math.log(4)
    assert losses['share_entropy'].item() == pytest.approx(entropy, rel=1e-5)
    assert losses['loss_entropy'].item() == pytest.approx(0.1 * entropy, rel=1e-5)


def test_auxiliary_heads_learn_from_the_labels_too():
    heads = [dict(AUXILIARY, dropout_ratio=0.0), dict(AUXILIARY, in_index=1, dropout_ratio=0.0)]
    model = MODELS.build(toy(auxiliary_head=heads)).train()
    features = [torch.randn(2, c, 96 // s, 96 // s) for c, s in zip((8, 16, 16, 32), (4, 8, 16, 16))]
    samples = batch()['source']['data_samples']
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    found = model.supervised_losses(features, labels)['loss_aux']
    expected = sum(head.loss_by_feat(head(features), samples)['loss_ce'] for head in model.auxiliary_head)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_valid_pixels_are_those_of_their_domain(model):
    data = batch()
    valid = torch.ones(1, 96, 96, dtype=torch.bool)
    valid[..., 50:] = False
    data['target']['data_samples'][1].valid_map = PixelData(data=valid)
    source, target = model.domains(**model.data_preprocessor(data, True))
    assert source.valid is None
    assert target.valid[0].all()
    assert torch.equal(target.valid[1], valid[0])


def test_one_image_is_too_few_for_a_pooling_head():
    cfg = resnet_config()
    head = dict(cfg['decode_head'], in_channels=32)
    model = MODELS.build(toy(backbone=cfg['backbone'], decode_head=head))
    with pytest.raises(ConfigError, match=r'set train_dataloader\.batch_size to 2 or more'):
        loss_of(model.train(), batch(n=1))
    assert all(value.isfinite() for value in loss_of(model.eval(), batch(n=1)).values())


def test_names_that_would_be_left_out_are_refused(model):
    losses = {'loss_seg': torch.zeros(()), 'entropy': torch.zeros(())}
    model.losses = lambda source, target: losses
    with pytest.raises(ValueError, match=r'EntropyMinimisation\.losses returns entropy, which would be left out'):
        loss_of(model, batch())
    for name in ('share_entropy', 'confident_share', 'disc_accuracy_source', 'accuracy_of_pseudo_labels'):
        losses = {'loss_seg': torch.zeros(()), name: torch.zeros(())}
        assert loss_of(model, batch()) == losses
        # What it allows is not summed up.
        assert model.parse_losses(losses)[1].keys() == {'loss', 'loss_seg', name}


def test_titles_of_shares():
    assert share_title('confident_share') == 'confident target pixels'
    assert share_title('disc_accuracy_target') == 'discriminator accuracy, target'
    assert share_title('share_entropy') == 'share, entropy'
    assert share_title('loss_seg') is share_title('mIoU') is None
    assert all(share_title(f'{name}x') for name in SHARES)


def test_a_method_has_to_say_its_losses():
    with pytest.raises(TypeError, match='losses'):
        Adaptor(toy()['backbone'], toy()['decode_head'])


def test_the_teacher_follows_all_that_predicts(model):
    with pytest.raises(ConfigError, match='no teacher'):
        model.update_teacher(0.5)
    model.teacher = SelfTraining(model.taught(), 4)
    assert {name.split('.')[1] for name in model.state_dict() if name.startswith('teacher.')} == {
        'backbone',
        'decode_head',
    }
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 1
    before = copy.deepcopy(model.teacher.state_dict())
    model.update_teacher(0.75)
    for name, value in model.backbone.named_parameters():
        expected = 0.75 * before[f'backbone.{name}'] + 0.25 * value
        torch.testing.assert_close(model.teacher.get_parameter(f'backbone.{name}'), expected)
    assert model.pseudo_terms == [[0]]
    # What pseudo-labels cannot be learnt by is found out before training.
    model.decode_head.loss_decode = MODELS.build(LOVASZ)
    del model.__dict__['pseudo_terms']
    with pytest.raises(ConfigError, match='LovaszLoss'):
        check_losses(model)


def test_it_passes_the_checks_of_a_model(model):
    check_model(model)
    check_losses(model)
    head = dict(toy()['decode_head'], in_channels=[8, 16, 16, 64])
    with pytest.raises(ConfigError, match=r'model\.decode_head\.in_channels'):
        check_model(MODELS.build(toy(decode_head=head)))


# Through the tools ---------------------------------------------------------------------------------------------------


def test_it_trains_predicts_and_exports(tmp_path, capsys):
    clips = write_clips(tmp_path / 'clips', size=96)
    config = plain(type='EntropyMinimisation', weight=0.1)(tmp_path / 'toy.py', clips, clips)
    found = Config.fromfile(config)
    found.merge_from_dict(EFFICIENT)
    found.dump(config)
    assert train.main([str(config), '--work-dir', str(tmp_path / 'run')]) == 0
    checkpoint = tmp_path / 'run' / 'iter_2.pth'
    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    for record in records[:2]:
        assert record['loss'] == pytest.approx(record['loss_seg'] + record['loss_entropy'], rel=1e-5)
        assert record['loss_entropy'] == pytest.approx(0.1 * record['share_entropy'], rel=1e-5)
    assert 0 <= evaluate(config, checkpoint, tmp_path / 'test')['mIoU'] <= 100
    image = next((clips / 'img_dir' / 'val').iterdir())
    assert predict.main([str(config), str(checkpoint), str(image), '-o', str(tmp_path / 'map.png')]) == 0
    onnx = pytest.importorskip('onnx', reason='pip install onnx')
    pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
    assert max(export_onnx(config, checkpoint, tmp_path / 'toy.onnx').values()) < 1e-4
    assert [node.name for node in onnx.load(tmp_path / 'toy.onnx').graph.output] == ['probabilities', 'logits']
