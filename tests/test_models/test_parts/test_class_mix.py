from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmrs.models.adaptors import Domain
from mmrs.models.parts import ClassMixing, PseudoLabel, class_mix, draw_classes

GOLDEN = torch.load(Path(__file__).resolve().parents[2] / 'data/golden/uda_classmix.pt', weights_only=True)


def table(values) -> torch.Tensor:
    return torch.stack([torch.zeros(256, dtype=torch.bool).index_fill_(0, v, True) for v in values])


def test_equals_the_release():
    labels = GOLDEN['source_label'][:, 0]
    source = Domain(GOLDEN['source_image'], None, labels, [])
    target = Domain(GOLDEN['target_image'], None, None, [])
    pseudo = PseudoLabel(GOLDEN['pseudo_label'], GOLDEN['pseudo_weight'], torch.tensor(0.5))
    mixed = class_mix(source, target, pseudo, table(GOLDEN['chosen']))
    assert torch.equal(mixed.from_source, GOLDEN['masks'].bool())
    assert torch.equal(mixed.images, GOLDEN['mixed_image'])
    assert torch.equal(mixed.label, GOLDEN['mixed_label'])
    assert torch.equal(mixed.weight, GOLDEN['mixed_weight'])
    assert torch.equal(pseudo.weight, GOLDEN['pseudo_weight'])  # which a masked image may need too


def test_half_of_the_classes_of_each_image_are_drawn():
    labels = torch.full((len(GOLDEN['n_chosen_rule']) + 1, 8, 8), 255)
    for image, (candidates, _) in zip(labels, GOLDEN['n_chosen_rule']):
        image[:2] = torch.arange(16).view(2, 8) % candidates * 20
    drawn = draw_classes(labels)
    assert drawn.sum(1).tolist() == [chosen for _, chosen in GOLDEN['n_chosen_rule']] + [0]
    assert not drawn[:, 255].any()
    for image, chosen in zip(labels, drawn):
        assert set(chosen.nonzero().flatten().tolist()) <= set(image.unique().tolist())


@pytest.mark.parametrize(('share', 'number'), [(0.5, 2), (0.25, 1), (1.0, 4), (0.0, 0)])
def test_each_class_is_drawn_equally_often(share, number):
    labels = torch.tensor([[0, 2, 3, 5, 255]]).repeat(20000, 1)[:, None]
    torch.manual_seed(0)
    drawn = draw_classes(labels, share).float()
    assert torch.equal(drawn.sum(1), torch.full((20000,), float(number)))
    assert drawn.mean(0)[[0, 2, 3, 5]].numpy() == pytest.approx(np.full(4, number / 4), abs=0.015)


def test_labels_are_ignored_by_any_number():
    head = SimpleNamespace(ignore_index=-100)
    labels = torch.tensor([[[-100, 1], [1, -100]]])
    images = torch.ones(1, 1, 2, 2)
    source, target = Domain(images, None, labels, []), Domain(-images, None, None, [])
    pseudo = PseudoLabel(torch.zeros_like(labels), torch.full((1, 2, 2), 0.5), torch.tensor(0.5))
    mixed = ClassMixing(share=1.0)(source, target, pseudo, SimpleNamespace(decode_head=head))
    assert mixed.label.tolist() == [[[0, 1], [1, 0]]]
    assert mixed.images.flatten().tolist() == [-1, 1, 1, -1]
