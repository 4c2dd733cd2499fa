import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmrs.utils.errors import ConfigError
from tests.conformance import IGNORED, Trainer

STILL = {'model.decode_head.dropout_ratio': 0.0, 'model.backbone.drop_path_rate': 0.0}


def cross_entropy(logits, labels):
    """Sum over labelled pixels over the number of all pixels, which is what the tiny runs' loss is."""
    logits = F.interpolate(logits, labels.shape[-2:], mode='bilinear', align_corners=False).double().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    own = np.take_along_axis(p, np.where(labels == IGNORED, 0, labels)[:, None], 1)[:, 0]
    return -np.log(own)[labels != IGNORED].sum() / labels.size


@pytest.fixture
def seen(monkeypatch):
    """A trainer, what its network and its contrast are given, and what comes of the classifier."""

    def build(name, options=None):
        trainer, record = Trainer(name, {**STILL, **(options or {})}), dict(images=[], logits=[])
        model = trainer.model
        extract, head = model.extract_feat, model.decode_head.forward
        monkeypatch.setattr(model, 'extract_feat', lambda images: record['images'].append(images) or extract(images))

        def classify(stages):
            record['logits'].append(head(stages))
            return record['logits'][-1]

        monkeypatch.setattr(model.decode_head, 'forward', classify)
        if model.contrast is not None:
            forward = model.contrast.forward

            def contrast(features, logits, label):
                record.update(features=features, label=label)
                return forward(features, logits, label)

            monkeypatch.setattr(model.contrast, 'forward', contrast)
        return trainer, record

    return build


def normalized(trainer, batch):
    return trainer.model.data_preprocessor(batch, True)['inputs']


def test_labels_of_both_domains_count_alike(seen):
    """In one pass, so that batch normalisation sees them together; and however few pixels of an image are labelled."""
    trainer, record = seen('source and labelled')
    batch = trainer.batch(0)
    for sample in batch['labelled']['data_samples']:
        sample.gt_sem_seg.data[:, 8:] = IGNORED
    losses = trainer.losses(batch)
    assert set(losses) == {'loss_seg', 'loss_labelled'}
    inputs = normalized(trainer, batch)
    assert torch.equal(record['images'][0], torch.cat((inputs['source'], inputs['labelled'])))
    logits = record['logits'][0].detach()
    for name, own in (('loss_seg', 'source'), ('loss_labelled', 'labelled')):
        labels = np.concatenate([sample.gt_sem_seg.data.numpy() for sample in batch[own]['data_samples']])
        expected = cross_entropy(logits[:2] if own == 'source' else logits[2:], labels) / 2
        assert losses[name].item() == pytest.approx(expected, rel=1e-5)


def test_a_mean_teacher_pastes_nothing(seen):
    trainer, record = seen('mean teacher', {'model.mixing.augmentation': None})
    batch = trainer.batch(0)
    losses = trainer.losses(batch)
    inputs = normalized(trainer, batch)
    assert torch.equal(record['images'][0][4:], inputs['target'])
    # The teacher is the student yet: its labels, and the share of pixels that it is sure of as their weight.
    with torch.no_grad():
        teacher = trainer.model.teacher.logits(inputs['target'])
    confidence, label = teacher.softmax(1).max(1)
    share = (confidence >= 0.3).double().mean().item()
    assert 0 < share < 1
    expected = share * cross_entropy(record['logits'][0][4:].detach(), label.numpy())
    assert losses['loss_mixed'].item() == pytest.approx(expected, rel=1e-5)
    assert losses['confident_share'].item() == pytest.approx(share)


def test_classes_of_either_domain_are_pasted(seen):
    pasted = dict(source=0, labelled=0)
    for seed in range(6):
        trainer, record = seen('few labels', {'model.mixing': dict(share=1.0)})
        batch = trainer.batch(seed)
        torch.manual_seed(seed)
        trainer.losses(batch)
        inputs = normalized(trainer, batch)
        for mixed, target in zip(record['images'][0][4:], inputs['target']):
            changed = (mixed != target).any(0)
            for name in pasted:
                pasted[name] += any(
                    bool(changed.any()) and torch.equal(mixed[:, changed], donor[:, changed]) for donor in inputs[name]
                )
    assert sum(pasted.values()) == 12
    assert min(pasted.values()) > 0


@pytest.mark.parametrize('hidden', [False, True])
def test_what_is_contrasted(seen, hidden):
    """The classifier's input; labels at its resolution, those of the teacher where it is sure of pixels with data."""
    confident = 0.25
    trainer, record = seen('few labels', {'model.mixing': dict(share=0.0), 'model.contrast.confident': confident})
    batch = trainer.batch(0, valid='target' if hidden else None)
    trainer.losses(batch)
    logits = record['logits'][0].detach()
    torch.testing.assert_close(trainer.model.decode_head.conv_seg(record['features']).detach(), logits)
    labels = torch.cat(
        [sample.gt_sem_seg.data for name in ('source', 'labelled') for sample in batch[name]['data_samples']]
    )
    stride = labels.shape[-1] // logits.shape[-1]
    middle = slice(stride // 2, None, stride)
    assert torch.equal(record['label'][:4], labels[:, middle, middle])
    with torch.no_grad():
        confidence, label = trainer.model.teacher.logits(normalized(trainer, batch)['target']).softmax(1).max(1)
    sure = confidence >= confident
    if hidden:
        sure &= torch.cat([sample.valid_map.data for sample in batch['target']['data_samples']])
    assert 0 < sure.float().mean() < 1
    assert torch.equal(record['label'][4:], label.masked_fill(~sure, IGNORED)[:, middle, middle])


def test_without_a_source(seen):
    trainer, record = seen('few labels')
    batch = trainer.batch(0)
    del batch['source']
    losses = trainer.losses(batch)
    assert set(losses) == {'loss_labelled', 'loss_mixed', 'loss_contrast', 'confident_share'}
    labels = np.concatenate([sample.gt_sem_seg.data.numpy() for sample in batch['labelled']['data_samples']])
    expected = cross_entropy(record['logits'][0][:2].detach(), labels)
    assert losses['loss_labelled'].item() == pytest.approx(expected, rel=1e-5)


def test_mixing_takes_a_teacher():
    with pytest.raises(ConfigError, match=r'model\.mixing.*self_training'):
        Trainer('source and labelled', {'model.mixing': dict(share=0.5)})
