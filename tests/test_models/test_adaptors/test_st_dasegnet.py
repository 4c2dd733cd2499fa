import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.models.adaptors.st_dasegnet_release import convert_release
from mmrs.registry import MODELS
from mmrs.utils import CheckpointError, ConfigError
from tests import parity

GOLDEN = Path(__file__).resolve().parents[2] / 'data' / 'golden'
CHANNELS = [8, 16, 16, 32]


def config(**changes):
    """ST-DASegNet on a tiny MiT with stride 16, whose last map of a 96 px crop is 6 px."""
    cfg = dict(
        type='STDASegNet',
        data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[0] * 3, std=[1] * 3),
        backbone=dict(
            type='EfficientMiT',
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            patch_sizes=[7, 3, 3, 3],
            strides=[4, 2, 2, 1],
            sr_ratios=[8, 4, 2, 1],
            out_indices=(0, 1, 2, 3),
            drop_path_rate=0.1,
        ),
        neck=dict(type='DomainDisentangledNeck', in_channels=CHANNELS),
        decode_head=dict(
            type='EfficientSegformerHead',
            in_channels=[8, 16, 16, 40],
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=4,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
        ),
        discriminator=dict(type='PatchDiscriminator', in_channels=32, num_conv=1, base_channels=4),
        gan_loss=dict(type='GANLoss', loss_weight=0.005),
        self_training=dict(teacher='decoder_only', class_weight=[1.0, 1.0, 2.0, 2.0]),
        test_cfg=dict(mode='whole'),
    )
    for key, value in changes.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) else value
    return cfg


def resnet_config():
    """The same on a tiny ResNet with the DeepLabV3+ head, which reads the first and the last stage."""
    cfg = config(discriminator=dict(num_conv=2))
    cfg['backbone'] = dict(
        type='ResNetV1c',
        depth=18,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        stem_channels=8,
        base_channels=4,
    )
    cfg['neck']['in_channels'] = [4, 8, 16, 32]
    cfg['decode_head'] = dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=40,
        in_index=3,
        channels=8,
        dilations=(1, 12, 24, 36),
        c1_in_channels=4,
        c1_channels=4,
        num_classes=4,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    )
    return cfg


def batch(n=2, size=96, target_size=None, labelled_target=False):
    generator = torch.Generator().manual_seed(0)

    def domain(size, labelled):
        images = [torch.randn(3, size, size, generator=generator) for _ in range(n)]
        samples = [SegDataSample() for _ in images]
        for sample in samples:
            label = torch.randint(0, 4, (1, size, size), generator=generator)
            if labelled:
                sample.gt_sem_seg = PixelData(data=label)
        return dict(inputs=images, data_samples=samples)

    return dict(source=domain(size, True), target=domain(target_size or size, labelled_target))


def loss_of(model, data):
    return model(**model.data_preprocessor(data, True), mode='loss')


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    if model.teacher is not None:
        model.update_teacher(0.0)
    return model.train()


@pytest.mark.parametrize('name', ['train_mit64_decoder_only_t.pt', 'train_res18_decoder_only_t.pt'])
def test_training_matches_the_release(name, capsys):
    assert parity.main([str(GOLDEN / name)]) == 0, capsys.readouterr().out


def test_parity_notices_a_wrong_step(monkeypatch, capsys):
    """Real and fake exchanged in the discriminators."""
    original = parity.MODELS.module_dict['GANLoss'].forward

    def exchanged(self, score, target_is_real, is_discriminator=False):
        return original(self, score, target_is_real != is_discriminator, is_discriminator)

    monkeypatch.setattr(parity.MODELS.module_dict['GANLoss'], 'forward', exchanged)
    assert parity.main([str(GOLDEN / 'train_mit64_decoder_only_t.pt')]) == 1
    assert 'FAIL' in capsys.readouterr().out


def test_batch_of_one_with_aspp():
    with pytest.raises(ConfigError, match=r'set train_dataloader\.batch_size to 2 or more'):
        loss_of(build(resnet_config()), batch(n=1))


def test_single_target_teacher_averages_teacher_and_source_student():
    model = build(config(self_training=dict(teacher='single_target', class_weight=None)))
    with torch.no_grad():
        for p in model.teacher.parameters():
            p.mul_(1.5)
    data = model.data_preprocessor(batch(), True)
    images = data['inputs']['target']
    segmentor = model.segmentor.train()
    for module in segmentor.modules():  # what the teacher must not have
        if isinstance(module, nn.Dropout2d) or type(module).__name__ == 'DropPath':
            module.eval()
    features = segmentor.extract([images])[0]
    pseudo = model.make_pseudo_label(images, features, segmentor.neck(*features))
    teacher_backbone, teacher_head = (
        copy.deepcopy(segmentor.backbone['target']),
        copy.deepcopy(segmentor.decode_head['target']),
    )
    with torch.no_grad():
        for p in [*teacher_backbone.parameters(), *teacher_head.parameters()]:
            p.mul_(1.5)
        for_source, for_target = segmentor.neck(features[0], teacher_backbone(images))
        logits = (segmentor.decode_head['source'](for_source) + teacher_head(for_target)) / 2
        logits = nn.functional.interpolate(logits, images.shape[2:], mode='bilinear')
    assert torch.equal(pseudo.label, logits.argmax(1))


def test_a_student_that_helps_to_teach_has_no_dropout_and_keeps_its_statistics():
    model = build(config(self_training=dict(teacher='single_target', class_weight=None)))
    model.segmentor.decode_head['source'].dropout.p = 0.9
    images = model.data_preprocessor(batch(), True)['inputs']['target']
    with torch.no_grad():
        features = model.segmentor.extract([images])[0]
        disentangled = model.segmentor.neck(*features)
    before = copy.deepcopy(model.segmentor.decode_head['source'].state_dict())
    first, second = (model.make_pseudo_label(images, features, disentangled) for _ in range(2))
    assert len(first.label.unique()) > 1
    assert torch.equal(first.label, second.label)
    after = model.segmentor.decode_head['source'].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_domains_may_differ_in_size():
    losses = loss_of(build(config()), batch(size=96, target_size=128))
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize('norm_eval', [True, False])
def test_one_pass_serves_both_domains_unless_it_takes_statistics(norm_eval):
    cfg = resnet_config()
    cfg['backbone']['norm_eval'] = norm_eval
    model, calls = build(cfg), []
    backbone = model.segmentor.backbone['source']
    backbone.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64)
    together = model.segmentor.extract(images)
    assert len(calls) == (1 if norm_eval else 2)
    for found, batch_ in zip(together, images):
        (alone,) = model.segmentor.extract([batch_])
        for own, other in zip([*found[0], *found[1]], [*alone[0], *alone[1]]):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_without_adaptation_it_trains_on_the_source_alone():
    model = build(config(discriminator=None, self_training=None))
    data = batch()
    losses = loss_of(model, data['source'])
    assert set(losses) == {'loss_seg_s2s', 'loss_seg_s2t'}
    joint = JointOptimWrapperConstructor(dict(segmentor=dict(optimizer=dict(type='SGD', lr=0.1)), discriminator=None))(
        model
    )
    before = copy.deepcopy(model.segmentor.state_dict())
    model.train_step(data['source'], joint)
    assert any(not torch.equal(value, before[name]) for name, value in model.segmentor.state_dict().items())


def test_prediction_is_the_mean_of_both_heads_without_teachers():
    model = build(config()).eval()
    images = torch.randn(1, 3, 100, 72)
    with torch.no_grad():
        for p in model.teacher.parameters():
            p.fill_(float('nan'))
        logits = model.encode_decode(images, [])
        features = model.segmentor.neck(
            model.segmentor.backbone['source'](images), model.segmentor.backbone['target'](images)
        )
        heads = [head(f) for head, f in zip(model.segmentor.heads, features)]
        expected = nn.functional.interpolate((heads[0] + heads[1]) / 2, (100, 72), mode='bilinear')
    torch.testing.assert_close(logits, expected)


def test_two_class_lists_of_one_pair_may_differ_in_weights_only():
    cfg = config()
    cfg['decode_head']['target'] = dict(loss_decode=dict(class_weight=[1.0, 2.0, 3.0, 4.0]))
    model = MODELS.build(cfg)
    assert model.segmentor.heads[0].loss_decode.class_weight is None
    assert model.segmentor.heads[1].loss_decode.class_weight.tolist() == [1, 2, 3, 4]
    cfg['decode_head']['target'] = dict(num_classes=5)
    with pytest.raises(ConfigError, match='num_classes is 4 for the source head, 5 for'):
        MODELS.build(cfg)


def test_crop_too_small_for_the_discriminator():
    with pytest.raises(ConfigError, match='use crops of at least 96 px'):
        loss_of(build(config()), batch(size=80))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(self_training=dict(teacher='whole')), "expected 'decoder_only' or 'single_target'"),
        (dict(self_training=dict(class_weight=[1.0])), 'has 1 entries for 4 classes'),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config(**changes))


def test_update_without_a_teacher():
    with pytest.raises(ConfigError, match='no teacher'):
        MODELS.build(config(self_training=None)).update_teacher(0.5)


class TestConverter:
    @pytest.fixture
    def recorded(self, golden):
        return golden('train_mit64_decoder_only_t.pt')

    def test_leftovers_are_refused(self, recorded):
        model = MODELS.build(parity.model_config(recorded['config']))
        state = {**recorded['initial_state'], 'ema_backbone.weight': torch.zeros(1)}
        with pytest.raises(
            CheckpointError, match=r'1 tensors of the checkpoint have no place(.|\n)*ema_backbone.weight'
        ):
            convert_release(state, model)

    def test_missing_tensors_are_named(self, recorded):
        model = MODELS.build(parity.model_config(recorded['config']))
        state = {k: v for k, v in recorded['initial_state'].items() if not k.startswith('dsk_neck.dsk_neck2')}
        with pytest.raises(CheckpointError, match='not in the checkpoint'):
            convert_release(state, model)

    def test_shapes_are_compared(self, recorded):
        model = MODELS.build(parity.model_config(recorded['config']))
        state = {**recorded['initial_state'], 'decode_head_s.conv_seg.bias': torch.zeros(7)}
        with pytest.raises(CheckpointError, match=r'\(7,\) in the checkpoint, \(6,\) in the model'):
            convert_release(state, model)


def test_prior_neutral_training_leaves_pseudo_labels_as_they_are():
    cfg = config(self_training=dict(teacher='decoder_only', threshold=0.1, rare_threshold=0.1))
    plain = build(cfg).eval()
    cfg['decode_head']['loss_decode'] = dict(
        type='PriorNeutralLoss', loss=cfg['decode_head']['loss_decode'], shares=[0.7, 0.1, 0.1, 0.1]
    )
    neutral = build(cfg).eval()
    losses, others = loss_of(plain, batch()), loss_of(neutral, batch())
    changed = {name for name, value in losses.items() if not torch.equal(value, others[name])}
    assert changed == {'loss_seg_s2s', 'loss_seg_s2t'}
    assert losses['loss_pseudo_t2t'] > 0


# Several losses, auxiliary heads, one output channel ----------------------------------------------------------------

DICE = dict(type='mmseg.DiceLoss', loss_name='loss_dice', loss_weight=3.0)
LOVASZ = dict(type='mmseg.LovaszLoss', reduction='none')
TVERSKY = dict(type='mmseg.TverskyLoss')
OWN = dict(type='PixelMeanCrossEntropyLoss')


def labelled(label):
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=label)
    return sample


@pytest.mark.parametrize(
    'losses',
    [
        [OWN, DICE],
        [dict(type='PixelMeanCrossEntropyLoss', class_weight=[1.0, 2.0, 0.5, 1.0]), LOVASZ, TVERSKY],
        dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
        dict(type='mmseg.CrossEntropyLoss', reduction='none'),
        dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True),
        [dict(type='FocalLoss'), OWN],
    ],
)
def test_source_loss_is_what_mmsegs_head_makes_of_the_logits(losses):
    quiet = dict(backbone=dict(drop_path_rate=0.0))
    model = build(config(decode_head=dict(loss_decode=losses, dropout_ratio=0.0), **quiet))
    data = model.data_preprocessor(batch(), True)
    samples = data['data_samples']['source']
    for sample in samples:
        sample.gt_sem_seg.data[:, :9] = 255
    found = model(**data, mode='loss')
    features = model.segmentor.neck(*model.segmentor.extract([data['inputs']['source']])[0])
    for student, head, logits in zip('st', model.segmentor.heads, model.segmentor.decode(features)):
        theirs = head.loss_by_feat(logits, samples)
        expected = sum(value.mean() for name, value in theirs.items() if name.startswith('loss'))
        assert found[f'loss_seg_s2{student}'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_pseudo_labels_are_learnt_by_the_terms_that_weigh_pixels():
    both = build(config(decode_head=dict(loss_decode=[DICE, OWN])))
    alone = build(config(decode_head=dict(loss_decode=OWN)))
    assert both.pseudo_terms == [[1], [1]]
    images, logits = batch(), torch.randn(2, 4, 24, 24)
    label = torch.stack([s.gt_sem_seg.data[0] for s in images['source']['data_samples']])
    weight = torch.rand(2, 96, 96)
    for model in (both, alone):
        model.segmentor.decode = lambda features: (logits, 2 * logits)
    expected = alone._segmentation_losses('x', None, label, weight)
    assert both._segmentation_losses('x', None, label, weight) == expected
    # On labels all terms count.
    assert both._segmentation_losses('x', None, label)['xs'] > alone._segmentation_losses('x', None, label)['xs'] + 1
    # A teacher that is sure of nothing teaches nothing.
    both.teacher.threshold = 1.1
    del both.segmentor.decode
    losses = loss_of(both, images)
    assert losses['confident_share'] == 0
    assert losses['loss_pseudo_t2s'] == losses['loss_pseudo_t2t'] == 0


def test_what_is_left_to_the_source_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr('mmrs.models.losses.head_loss.print_log', lambda message, **_: said.append(message))
    model = build(config(decode_head=dict(loss_decode=OWN, target=dict(loss_decode=[OWN, LOVASZ]))))
    for _ in range(2):
        loss_of(model, batch())
    assert len(said) == 1
    assert said[0].startswith('model.decode_head.loss_decode.1 (LovaszLoss): ')
    copied = copy.deepcopy(model)
    assert copied.pseudo_terms == [[0], [0]]


@pytest.mark.parametrize('losses', [LOVASZ, TVERSKY, [DICE, LOVASZ]])
def test_losses_that_ignore_weights_do_not_learn_pseudo_labels(losses):
    name = 'DiceLoss' if isinstance(losses, list) else losses['type'].removeprefix('mmseg.')
    with pytest.raises(ConfigError, match=rf'model\.decode_head\.loss_decode.*{name}.*self_training'):
        loss_of(build(config(decode_head=dict(loss_decode=losses))), batch())
    # Without a teacher there is nothing to weigh.
    losses = loss_of(build(config(decode_head=dict(loss_decode=losses), self_training=None)), batch())
    assert losses['loss_seg_s2s'].isfinite()


def test_pixel_samplers_choose_where_the_source_teaches():
    """The hardest pixels of the source only, as in mmseg's heads."""
    sampler = dict(type='mmseg.OHEMPixelSampler', thresh=0.2, min_kept=100)
    model = build(config(decode_head=dict(sampler=sampler, dropout_ratio=0.0)))
    images = batch()
    label = torch.stack([s.gt_sem_seg.data[0] for s in images['source']['data_samples']])
    logits = torch.randn(2, 4, 96, 96)
    model.segmentor.decode = lambda features: (logits, logits)
    found = model._segmentation_losses('x', None, label)['xs']
    head = model.segmentor.heads[0]
    expected = head.loss_by_feat(logits, images['source']['data_samples'])['loss_ce']
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    head.sampler = None
    assert model._segmentation_losses('x', None, label)['xs'] > 1.1 * found


AUXILIARY = dict(
    type='mmseg.FCNHead',
    in_channels=16,
    in_index=2,
    channels=4,
    num_convs=1,
    num_classes=4,
    norm_cfg=dict(type='BN'),
    loss_decode=dict(type='mmseg.CrossEntropyLoss', loss_weight=0.4),
)


@pytest.mark.parametrize('several', [False, True])
def test_auxiliary_heads_learn_from_source_labels_on_the_students_own_stages(several):
    other = dict(AUXILIARY, in_index=1, target=dict(loss_decode=dict(loss_weight=0.7)))
    heads = [AUXILIARY, other] if several else AUXILIARY
    plain, model = build(config()), build({**config(), 'auxiliary_head': heads})
    assert len(model.segmentor.auxiliary_head) == 1 + several
    assert set(plain.state_dict()) < set(model.state_dict())
    losses = loss_of(model, batch())
    names = {name for name in losses if name.startswith('loss_aux')}
    assert names == {'loss_aux_s2s', 'loss_aux_s2t'}
    moved = {}
    for name in names:
        gradients = torch.autograd.grad(
            losses[name], [p for p in model.parameters() if p.requires_grad], retain_graph=True, allow_unused=True
        )
        trained = [n for n, p in model.named_parameters() if p.requires_grad]
        moved[name] = {n for n, g in zip(trained, gradients) if g is not None and g.abs().sum() > 0}
    for name, domain in (('loss_aux_s2s', 'source'), ('loss_aux_s2t', 'target')):
        parts = {n.removeprefix('segmentor.').split('.')[0] for n in moved[name]}
        assert parts == {'backbone', 'auxiliary_head'}
        assert all(f'.{domain}.' in n for n in moved[name])


def test_auxiliary_loss_by_hand():
    model = build({**config(), 'auxiliary_head': [AUXILIARY, dict(AUXILIARY, in_index=1)]})
    features = tuple([torch.randn(2, c, 96 // s, 96 // s) for c, s in zip(CHANNELS, (4, 8, 16, 16))] for _ in 'st')
    label = torch.randint(0, 4, (2, 96, 96))
    label[:, :7] = 255
    model.segmentor.auxiliary_head.eval()  # dropout
    found = model._auxiliary_losses(features, label)
    for student, domain, stages in zip('st', ('source', 'target'), features):
        total = 0.0
        for pair, index in zip(model.segmentor.auxiliary_head, (2, 1)):
            logits = nn.functional.interpolate(pair[domain](stages).detach().double(), (96, 96), mode='bilinear')
            log_p = logits.log_softmax(1).gather(1, label.clamp(max=3)[:, None])[:, 0]
            total += 0.4 * float(-(log_p * (label != 255)).sum() / label.numel())
            assert pair[domain].in_index == index
        assert found[f'loss_aux_s2{student}'].item() == pytest.approx(total, rel=1e-5)


def binary_config(**changes):
    head = dict(num_classes=2, out_channels=1, threshold=0.4, loss_decode=OWN)
    return config(decode_head=head, self_training=dict(class_weight=[1.0, 2.0]), **changes)


@pytest.mark.parametrize('loss', [OWN, dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True), dict(type='FocalLoss')])
@pytest.mark.parametrize('teacher', ['decoder_only', 'single_target'])
def test_binary_training(loss, teacher):
    cfg = binary_config()
    cfg['decode_head']['loss_decode'] = loss
    cfg['self_training']['teacher'] = teacher
    model = build(cfg)
    model.teacher.threshold = 0.5
    data = batch()
    for sample in data['source']['data_samples']:
        sample.gt_sem_seg.data.clamp_(max=1)
    losses = loss_of(model, data)
    assert losses['confident_share'] == 1
    total = sum(value for name, value in losses.items() if name.startswith('loss'))
    total.backward()
    assert total.isfinite()
    assert losses['loss_pseudo_t2s'] > 0
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_binary_step_is_that_of_two_channels():
    """Heads with the logits (0, z): losses, pseudo-labels and predictions are those of z alone."""
    one = build(binary_config())
    cfg = binary_config()
    cfg['decode_head'].update(out_channels=2, threshold=None)
    two = build(cfg)
    state = one.state_dict()
    for name, value in state.items():
        if 'conv_seg' in name:
            state[name] = torch.cat((torch.zeros_like(value), value))
    two.load_state_dict(state)
    for model in (one, two):
        model.teacher.threshold = 0.51
        for module in model.modules():
            if isinstance(module, (nn.Dropout, nn.Dropout2d)) or type(module).__name__ == 'DropPath':
                module.eval()
    data = batch()
    for sample in data['source']['data_samples']:
        sample.gt_sem_seg.data.clamp_(max=1)
    losses = [loss_of(model, copy.deepcopy(data)) for model in (one, two)]
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert value.item() == pytest.approx(losses[1][name].item(), rel=1e-4, abs=1e-6), name
    assert 0 < losses[0]['confident_share'] < 1


@pytest.mark.parametrize('mode', [dict(mode='whole'), dict(mode='slide', crop_size=(64, 64), stride=(48, 48))])
def test_binary_prediction_is_the_sigmoid_over_the_threshold(mode):
    model = build({**binary_config(), 'test_cfg': ConfigDict(mode)}).eval()
    images = torch.randn(2, 3, 96, 112)
    metas = [dict(img_shape=(96, 112), ori_shape=(96, 112)) for _ in images]
    samples = model.predict(images, [SegDataSample(metainfo=dict(meta)) for meta in metas])
    with torch.no_grad():
        probability = model.inference(images, metas).double().sigmoid()
    assert probability.shape == (2, 1, 96, 112)
    cut = float(probability.median())
    model.decode_head.threshold = cut
    samples = model.predict(images, [SegDataSample(metainfo=dict(meta)) for meta in metas])
    for sample, p in zip(samples, probability):
        labels = sample.pred_sem_seg.data
        sure = (p - cut).abs() > 1e-6
        assert torch.equal(labels[sure].bool(), (p > cut)[sure])
        assert {0, 1} == set(labels.unique().tolist())


@pytest.mark.parametrize('key', ['threshold', 'out_channels'])
def test_heads_whose_logits_cannot_be_averaged(key):
    cfg = binary_config()
    cfg['decode_head']['target'] = dict(threshold=0.7) if key == 'threshold' else dict(out_channels=2, threshold=0.4)
    with pytest.raises(ConfigError, match=rf'decode_head\.{key} is .* for the source head, .* for the target'):
        MODELS.build(cfg)


def test_stages_counted_from_the_last_and_ones_that_there_are_not():
    cfg = resnet_config()
    cfg['decode_head']['in_index'] = -1
    model = build(cfg)
    assert model.segmentor.neck.used_stages == (0, 3)
    assert all(p.requires_grad for p in model.segmentor.neck.stages[3].parameters())
    cfg['decode_head']['in_index'] = 4
    with pytest.raises(ConfigError, match=r'in_index reads stage 4, but .* has 4 stages'):
        MODELS.build(cfg)
