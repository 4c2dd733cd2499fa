import numpy as np
import pytest
import torch

from mmrs.utils import ConfigError
from tests import parity_daformer
from tests.conformance import Trainer

QUIET = {'model.decode_head.dropout_ratio': 0.0, 'model.backbone.drop_path_rate': 0.0}


def test_three_steps_on_hrda_equal_the_release(golden):
    recorded = golden('uda_mic_steps.pt')
    assert parity_daformer.recognises(recorded)
    result = parity_daformer.compare(recorded, None)
    assert result.passed, str(result)
    assert result.errors['parameters'][0] > 0


@pytest.mark.parametrize('options', [dict(masked_consistency=dict(block=16, augmentation=None, weight=0.99))], ids=str)
def test_another_method_is_told_from_the_release(golden, options):
    result = parity_daformer.compare(golden('uda_mic_steps.pt'), None, **options)
    assert not result.passed
    assert result.errors['losses'][0] > 1e-3


def test_the_student_learns_the_teachers_view_where_it_sees_little():
    """By hand: the teacher labels the whole image, in its own colours; hidden blocks are 0 to the student."""
    trainer = Trainer('mic', {**QUIET, 'model.masked_consistency.augmentation': None})
    model = trainer.model
    drawn = torch.rand(2, 1, 4, 4)
    model.masked_consistency.mask.draw = lambda images: drawn
    batch = trainer.batch(0, valid='target')
    found = trainer.losses(batch)

    data = model.data_preprocessor(batch, True)
    images = data['inputs']['target']
    valid = np.concatenate([sample.valid_map.data.numpy() for sample in data['data_samples']['target']])
    hidden = np.kron(drawn[:, 0].numpy() <= 0.7, np.ones((16, 16), bool))
    masked = images.masked_fill(torch.from_numpy(hidden)[:, None], 0)
    with torch.no_grad():
        teacher = model.teacher.decode_head(model.teacher.backbone(images))
        student = model.decode_head(model.extract_feat(masked))

    def probabilities(logits):
        logits = torch.nn.functional.interpolate(logits, images.shape[-2:], mode='bilinear').double().numpy()
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    confidence, label = probabilities(teacher).max(1), probabilities(teacher).argmax(1)
    share = (confidence >= 0.3)[valid].mean()
    of_label = np.take_along_axis(probabilities(student), label[:, None], 1)[:, 0]
    expected = (-np.log(of_label) * share * valid).mean()
    assert 0.05 < share < 1
    assert found['loss_masked'].item() == pytest.approx(expected, rel=1e-4)


def test_without_it_no_number_is_another():
    """An option that is off draws nothing, and takes no part in what the others learn."""
    with_it, without = Trainer('mic', QUIET), Trainer('mic', {**QUIET, 'model.masked_consistency': None})
    batch = with_it.batch(0)
    found, plain = with_it.losses(batch), without.losses(batch)
    assert set(found) - set(plain) == {'loss_masked'}
    assert all(torch.equal(found[name], plain[name]) for name in ('loss_seg', 'loss_mixed', 'confident_share'))


def test_its_weight_is_a_factor_and_nonsense_is_refused():
    losses = []
    for weight in (1.0, 0.25):
        trainer = Trainer('mic', {**QUIET, 'model.masked_consistency.weight': weight})
        losses.append(trainer.losses(trainer.batch(0))['loss_masked'].item())
    assert losses[1] == pytest.approx(0.25 * losses[0], rel=1e-6)
    with pytest.raises(ConfigError, match=r'masked_consistency\.weight'):
        Trainer('mic', {'model.masked_consistency.weight': -1})


def test_both_students_of_st_dasegnet_learn_the_pseudo_labels_of_the_whole_image():
    """With nothing hidden, no colour changed and all classes pasted, losses are those that there are already."""
    options = {
        **QUIET,
        'model.masked_consistency': dict(ratio=0.0, block=16, augmentation=None, weight=0.5),
        'model.mixing': dict(share=1.0, weight=2.0, augmentation=None),
        'model.self_training.weight': 0.25,
    }
    trainer = Trainer('st_dasegnet mixed masked', options)
    batch = trainer.batch(0)
    for sample in batch['source']['data_samples']:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 255] = 3
    found = trainer.losses(batch)
    for student in 'st':
        assert found[f'loss_masked_t2{student}'].item() == pytest.approx(
            2 * found[f'loss_pseudo_t2{student}'].item(), rel=1e-5
        )
        assert found[f'loss_mixed_m2{student}'].item() == pytest.approx(
            2 * found[f'loss_seg_s2{student}'].item(), rel=1e-5
        )


@pytest.mark.parametrize(('name', 'other'), [('masked_consistency', 'mixing'), ('mixing', 'masked_consistency')])
def test_without_pseudo_labels_there_is_nothing_to_learn(name, other):
    with pytest.raises(ConfigError, match=rf'model\.{name}.*self_training'):
        Trainer('st_dasegnet mixed masked', {'model.self_training': None, f'model.{other}': None})
