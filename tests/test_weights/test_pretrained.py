"""What starts from a pre-training: all that it has trained fits, or it is an error."""

import pytest
import torch
from torch import nn

from mmrs.utils.errors import CheckpointError
from mmrs.weights import load_matching
from mmrs.weights.matching import CheckedPretrainedInit


def network(width=4, head=4, **parts):
    """A segmentor as far as names go, with weights that are drawn."""
    decode_head = nn.ModuleDict(dict(fusion=nn.Linear(width, head), conv_seg=nn.Linear(head, 3)))
    return nn.ModuleDict(dict(backbone=nn.Linear(2, width), decode_head=decode_head, **parts))


def pretext(*parts):
    return nn.ModuleDict({part: nn.Linear(4, 4) for part in parts})


@pytest.fixture
def pretrained():
    return network(pretext=pretext('backbone', 'decode_head')).state_dict()


def taken(model, before, weights):
    """The names of what a model has of some weights; nothing else has changed."""
    own = {key: value for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert all(torch.equal(value, weights[key]) for key, value in own.items())
    return {key.rpartition('.')[0] for key in own}


def load(model, weights, **options):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    match = load_matching(model, weights, 'file.pth', **options)
    return match, taken(model, before, weights)


def test_a_method_starts_with_all_but_the_classifier(pretrained, logged):
    model = network(discriminator=nn.Linear(4, 1), auxiliary_head=nn.Linear(4, 3))
    match, own = load(model, pretrained)
    assert own == {'backbone', 'decode_head.fusion'}
    assert 'pre-training' in logged.text
    # By which inference knows that nothing has trained it.
    parts = ('decode_head.conv_seg', 'discriminator', 'auxiliary_head')
    assert set(match.missing) == {f'{part}.{kind}' for part in parts for kind in ('weight', 'bias')}


def test_a_decode_head_that_was_not_trained_is_left_out():
    weights = network(pretext=pretext('backbone')).state_dict()
    assert load(network(), weights)[1] == {'backbone'}
    assert load(network(head=9), weights)[1] == {'backbone'}


@pytest.mark.parametrize(
    ('model', 'named'),
    [
        (dict(head=9), 'decode_head.fusion.weight'),
        (dict(width=9), 'backbone.weight'),
    ],
)
def test_another_network_is_an_error(model, named, pretrained):
    with pytest.raises(CheckpointError, match=named) as error:
        load_matching(network(**model), pretrained, 'file.pth')
    assert "prefix='backbone.'" in str(error.value)


def test_parts_that_the_model_lacks_or_has_more_of_are_an_error(pretrained):
    with pytest.raises(CheckpointError, match='neck'):
        load_matching(network(), {**pretrained, 'neck.weight': torch.zeros(1)}, 'file.pth')
    more = network()
    more.decode_head['second'] = nn.Linear(4, 4)
    with pytest.raises(CheckpointError, match=r'decode_head\.second'):
        load_matching(more, pretrained, 'file.pth')
    with pytest.raises(CheckpointError, match='init_cfg'):  # whose names begin otherwise
        load_matching(nn.ModuleDict(dict(segmentor=network())), pretrained, 'file.pth')


def test_a_model_of_two_students_takes_the_backbone_for_both(pretrained):
    model = nn.ModuleDict(
        dict(segmentor=nn.ModuleDict(dict(a=nn.Linear(2, 4), b=nn.Linear(2, 4), neck=nn.Linear(4, 4))))
    )
    model.pretrained_places = dict(backbone=('segmentor.a', 'segmentor.b'))
    load_matching(model, pretrained, 'file.pth')
    for student in 'ab':
        assert torch.equal(model['segmentor'][student].weight, pretrained['backbone.weight'])
    model['segmentor']['b'] = nn.Linear(2, 5)
    with pytest.raises(CheckpointError, match=r'segmentor\.b\.weight'):
        load_matching(model, pretrained, 'file.pth')


def test_a_pretraining_goes_on_with_all_of_it(pretrained):
    model = network(pretext=pretext('backbone', 'decode_head'))
    match, own = load(model, pretrained, strict=True)
    assert match.complete
    assert own == {'backbone', 'decode_head.fusion', 'decode_head.conv_seg', 'pretext.backbone', 'pretext.decode_head'}
    with pytest.raises(CheckpointError, match='conv_seg'):  # a run of a method is none of a pre-training
        load_matching(network(), pretrained, 'file.pth', strict=True)


def test_a_backbone_alone_starts_from_it_completely_or_not_at_all(pretrained, tmp_path):
    file = tmp_path / 'pretrained.pth'
    torch.save(dict(state_dict=pretrained), file)
    start = CheckedPretrainedInit(checkpoint=str(file), prefix='backbone.')
    backbone = nn.Linear(2, 4)
    start(backbone)
    assert torch.equal(backbone.weight, pretrained['backbone.weight'])
    with pytest.raises(CheckpointError, match='backbone'):
        start(nn.Linear(2, 5))

    # What a pre-training lacks, ImageNet's weights may lack.
    class More(nn.Linear):
        def __init__(self):
            super().__init__(2, 4)
            self.extra = nn.Linear(1, 1)

    with pytest.raises(CheckpointError, match='extra'):
        start(More())
    torch.save(dict(state_dict={key: pretrained[key] for key in pretrained if 'pretext' not in key}), file)
    start(More())
