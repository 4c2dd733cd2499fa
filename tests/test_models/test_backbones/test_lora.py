"""Low-rank adaptation of linear layers: what trains, what is loaded, and what predicts."""

import copy

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmrs.apis import init_model
from mmrs.models.backbones.lora import LoRALinear, add_lora, merge_lora
from mmrs.models.backbones.vit import PlainViT
from mmrs.utils.errors import CheckpointError
from mmrs.weights import load_matching
from tests.conformance import Trainer, changes

TINY = dict(patch_size=4, embed_dims=8, depth=2, num_heads=2, pos_grid=4, layer_scale=1.0)
LORA = dict(rank=2, alpha=6.0, projections=('q', 'v', 'fc1'))


def pair(seed: int = 0) -> tuple[PlainViT, PlainViT]:
    """A plain network, and the same with low-rank parts, as they start."""
    torch.manual_seed(seed)
    plain = PlainViT(**TINY)
    adapted = PlainViT(**TINY, lora=LORA)
    load_matching(adapted, plain.state_dict(), 'plain', strict=True)
    return plain.eval(), adapted.eval()


def trained(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def test_the_start_is_the_plain_network():
    plain, adapted = pair()
    images = torch.randn(2, 3, 20, 24)
    assert torch.equal(plain(images)[0], adapted(images)[0])
    assert sum(isinstance(module, LoRALinear) for module in adapted.modules()) == 6
    assert {name.split('.')[-1] for name, p in adapted.named_parameters() if p.requires_grad} == {'lora_a', 'lora_b'}


@pytest.mark.parametrize('bias', [True, False])
def test_formula_and_merging(bias):
    torch.manual_seed(0)
    linear = nn.Linear(5, 7, bias=bias).double()
    network = nn.Sequential(linear)
    add_lora(network, rank=3, alpha=12.0, projections=('0',))
    layer = trained(network)[0]
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    w, a, b = (t.detach().numpy() for t in (linear.weight, layer.lora_a, layer.lora_b))
    expected = x.numpy() @ (w + 4.0 * b @ a).T + (linear.bias.detach().numpy() if bias else 0)
    assert layer(x).detach().numpy() == pytest.approx(expected, abs=1e-12)
    merge_lora(network)
    assert network.state_dict().keys() == nn.Sequential(nn.Linear(5, 7, bias=bias)).state_dict().keys()
    assert layer(x).detach().numpy() == pytest.approx(expected, abs=1e-12)
    layer.merge()  # nothing is left to be added
    assert layer(x).detach().numpy() == pytest.approx(expected, abs=1e-12)


def test_merged_weights_are_those_of_a_plain_network():
    plain, adapted = pair()
    trained(adapted)
    images = torch.randn(2, 3, 20, 24)
    expected = adapted(images)[0]
    assert not torch.allclose(expected, plain(images)[0], atol=1e-2)
    merged = copy.deepcopy(adapted)
    merge_lora(merged)
    for network in (plain, adapted):  # a merged file fits the network with low-rank parts, too
        load_matching(network, merged.state_dict(), 'merged', strict=True)
        torch.testing.assert_close(network(images)[0], expected, rtol=0, atol=1e-5)


def test_a_checkpoint_means_what_it_meant_in_training():
    adapted = trained(pair()[1])
    images, state = torch.randn(1, 3, 20, 24), adapted.state_dict()
    other = PlainViT(**TINY, lora=dict(LORA, alpha=60.0)).eval()
    load_matching(other, state, 'adapted', strict=True)
    torch.testing.assert_close(other(images)[0], adapted(images)[0])
    for network in (PlainViT(**TINY), PlainViT(**TINY, lora=dict(LORA, rank=1))):
        with pytest.raises(CheckpointError, match='lora_b'):
            load_matching(network, state, 'adapted')


def test_a_file_with_parts_of_them_is_incomplete():
    _, adapted = pair()
    state = adapted.state_dict()
    del state['blocks.0.attn.q.lora_a']
    with pytest.raises(CheckpointError, match=r'blocks\.0\.attn\.q\.lora_a'):
        load_matching(pair(1)[1], state, 'cut', strict=True)


# In a model ----------------------------------------------------------------------------------------------------------


def on_vit(**options):
    """What puts a tiny transformer into the configuration of a tiny run."""

    def change(config: Config) -> None:
        config.model.backbone = dict(type='PlainViT', **{**TINY, 'pyramid': dict(channels=4), **options})

    return change


MODES = {'frozen': dict(frozen=True), 'lora': dict(lora=LORA), 'full': {}}


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('method', ['st_dasegnet single_target', 'feature regression'])
def test_what_trains_and_what_the_optimizer_knows(method, mode):
    trainer = Trainer(method, change=on_vit(**MODES[mode], drop_path_rate=0.3))
    trainer.step(trainer.batch(0))  # after it, a teacher is a copy
    before = trainer.state()['model']
    trainer.step(trainer.batch(1))
    changed = changes(before, trainer.state()['model'])
    learning = {'frozen': ('pyramid.',), 'lora': ('pyramid.', '.lora_'), 'full': ('',)}[mode]
    backbones = [name for name in before if 'backbone.' in name and not name.startswith('reference.')]
    backbones = [name for name in backbones if not name.endswith('lora_scale')]
    assert {name for name in backbones if any(part in name for part in learning)} == changed & set(backbones)
    assert not any(name.startswith('reference.') for name in changed)
    state = trainer.optimizer.state_dict()
    known = sum(len(part['state']) for part in ([state] if 'state' in state else state.values()))
    assert known == sum(parameter.requires_grad for parameter in trainer.model.parameters())


def test_a_reference_that_was_trained_whole_teaches_a_student_with_low_rank_parts(tmp_path):
    plain = Trainer('source only', {'model.backbone.type': 'EfficientMiT'}, change=on_vit())
    torch.save(dict(state_dict=plain.model.state_dict()), tmp_path / 'reference.pth')
    reference = {'model.reference': str(tmp_path / 'reference.pth')}
    model = Trainer('feature regression', change=on_vit(lora=LORA), options=reference).model
    model.init_weights()
    images = torch.randn(1, 3, 64, 64)
    for network in (model, model.reference.network):
        for found, expected in zip(network.backbone.eval()(images), plain.model.backbone.eval()(images)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_prediction_is_that_of_merged_weights(tmp_path):
    trainer = Trainer('source only', change=on_vit(lora=LORA))
    meta = dict(dataset_meta=dict(classes=tuple('abcdef'), palette=[[0] * 3] * 6))
    file = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=trainer.model.state_dict(), meta=meta), file)
    model = init_model(copy.deepcopy(trainer.config), file, 'cpu')
    assert not [name for name in model.state_dict() if 'lora' in name]
    images, metas = torch.randn(1, 3, 64, 64), [dict(img_shape=(64, 64))]
    with torch.no_grad():
        expected = trainer.model.eval().encode_decode(images, metas)
        torch.testing.assert_close(model.encode_decode(images, metas), expected, rtol=1e-4, atol=1e-4)
    without = copy.deepcopy(trainer.config)
    del without.model.backbone['lora']
    with pytest.raises(CheckpointError, match=r'model\.backbone\.lora'):
        init_model(without, file, 'cpu')
