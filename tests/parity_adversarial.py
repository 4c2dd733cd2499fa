"""Three recorded steps of AdvEnt, MinEnt and AdaptSegNet, on one level or two, against this project's training path.

A file holds initial weights of a network of two convolutions and two classifiers and of two discriminators, the
batches, and for each of its `cases` losses, the gradients of the first step, and the weights after the last one. The
name of a case says the method. Where a release also runs the classifier and the discriminator of a level that nothing
is learnt from, these are not compared: here they do not exist.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.optim import PolyLR
from torch import Tensor, nn

from mmrs.engine.optimizers import JointOptimWrapper, JointOptimWrapperConstructor
from mmrs.models.data_preprocessor import DomainAdaptationDataPreprocessor
from mmrs.registry import MODELS
from tests.recordings import Comparison, enlarged, relative, two_domain_batch, unpack

# Parameters absolute, gradients relative to the tensor's largest magnitude; AdaptSegNet prints losses with 3 digits.
TOLERANCES = dict(losses=1e-6, printed=5.1e-4, gradients=1e-5, parameters=1e-6, discriminators=5e-6)
HEADS = dict(main='decode_head', aux='auxiliary_head')
NAMES = {'b': 'backbone.b', 'head1': 'auxiliary_head.conv_seg', 'head2': 'decode_head.conv_seg'}
ITERATIONS = 250000


@MODELS.register_module()
class TwoConvolutions(nn.Module):
    """The recordings' network: its stages are the outputs of two strided convolutions, with ReLU."""

    def __init__(self, in_channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.b1 = nn.Conv2d(in_channels, widths[0], 3, 2, 1)
        self.b2 = nn.Conv2d(widths[0], widths[1], 3, 2, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.b1(images).relu()
        return [first, self.b2(first).relu()]


@MODELS.register_module()
class UnpaddedPreprocessor(DomainAdaptationDataPreprocessor):
    """The recorded images of the target are smaller than those of the source, and stay so."""

    def forward(self, data: dict, training: bool = False) -> dict:
        forward = super().forward
        single = {domain: forward({domain: batch}, training) for domain, batch in data.items()}
        return {key: {d: batch[key][d] for d, batch in single.items()} for key in ('inputs', 'data_samples')}


def method_of(case: str) -> dict[str, Any]:
    """The settings of this project's adaptor for a case, but for its network."""
    several = 'single' not in case
    if case.startswith('minent'):
        return dict(weights=dict(decode_head=0.001, auxiliary_head=0.0002 * several))
    gan_loss = dict(type='GANLoss', real_label_val=0.0, fake_label_val=1.0, discriminator_weight=0.5)
    if case.startswith('advent'):
        weights, input_map = dict(decode_head=0.001, auxiliary_head=0.0002 * several), 'self_information'
    else:
        squares = case.endswith('ls')
        gan_loss['gan_type'] = 'lsgan' if squares else 'vanilla'
        weights = dict(decode_head=0.01 if squares else 0.001, auxiliary_head=0.0002 * several)
        input_map = 'softmax'
    return dict(weights=weights, input_map=input_map, gan_loss=gan_loss, discriminator=dict(type='OutputDiscriminator'))


def model_config(case: str, recorded: dict) -> dict:
    """The whole model: widths are those of the recorded weights."""
    state, method = recorded['model_initial'], method_of(case)
    widths = len(state['b1.bias']), len(state['b2.bias'])

    def head(level: int, weight: float) -> dict:
        return dict(
            type='mmseg.FCNHead', in_channels=widths[level], channels=widths[level], in_index=level, num_convs=0,
            concat_input=False, dropout_ratio=0.0, num_classes=len(state['head2.bias']), align_corners=True,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=weight),
        )  # fmt: skip

    if 'discriminator' in method:
        method['discriminator']['base_channels'] = len(next(iter(recorded['d_initial'][1].values())))
    return dict(
        type='OutputSpaceAlignment',
        backbone=dict(type='TwoConvolutions', in_channels=state['b1.weight'].shape[1], widths=widths),
        decode_head=head(1, 1.0),
        auxiliary_head=head(0, 0.1 if method['weights']['auxiliary_head'] else 0.0),
        data_preprocessor=dict(type='UnpaddedPreprocessor', mean=[0] * 3, std=[1] * 3),
        test_cfg=dict(mode='whole'),
        **method,
    )


def own_name(name: str) -> str:
    """This project's name of a parameter of the recorded network."""
    return next(name.replace(theirs, own, 1) for theirs, own in NAMES.items() if name.startswith(theirs))


def optimizers(model: nn.Module, rates: tuple[float, float]) -> JointOptimWrapper:
    """As published, with the recorded rates of the backbone and of the heads."""
    heads = dict(custom_keys=dict(head=dict(lr_mult=rates[1] / rates[0])))
    sgd = dict(type='SGD', lr=rates[0], momentum=0.9, weight_decay=5e-4)
    parts = dict(segmentor=dict(optimizer=sgd, paramwise_cfg=heads))
    if model.discriminator is not None:
        parts['discriminator'] = dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)))
    return JointOptimWrapperConstructor(parts)(model)


def batches(recorded: dict) -> list[dict]:
    inputs, factor = recorded['inputs'], recorded['sizes']['repeat']
    return [
        two_domain_batch(
            source=(enlarged(source, factor).float() - 128) / 64,
            labels=enlarged(label, factor),
            target=(enlarged(target, factor).float() - 110) / 64,
        )
        for source, label, target in zip(inputs['source_u8'], inputs['label_u8'], inputs['target_u8'])
    ]


def losses_of(log: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """What the releases print: each loss without its weight, of AdvEnt's discriminators the half of the target."""
    found = {}
    for (level, head), number in zip(HEADS.items(), '21'):
        if head not in weights:
            continue
        seg = log['loss_seg'] if level == 'main' else log['loss_aux'] / 0.1
        found.update({f'loss_seg_src_{level}': seg, f'loss_seg{number}': seg})
        if f'share_entropy_{head}' in log:
            found[f'loss_ent_{level}'] = log[f'share_entropy_{head}']
            continue
        adversarial = log[f'loss_adv_{head}'] / weights[head]
        real, fake = (log[f'loss_disc_{head}_{kind}'] for kind in ('real', 'fake'))
        found.update({f'loss_adv_trg_{level}': adversarial, f'loss_adv{number}': adversarial})
        found.update({f'loss_d_{level}': fake, f'loss_D{number}': real + fake})
    return found


def compare_gradients(
    case: str, recorded: dict, levels: dict[str, dict[str, str]], found: dict[str, Tensor | None], result: Comparison
) -> None:
    """Those of the first step; of the discriminators some are recorded."""
    expected = {own_name(name): value for name, value in recorded['grad'].items()}
    for names, own in zip(levels.values(), recorded['d_grad']):
        expected.update({names[name]: value for name, value in own.items() if name in names})
    for name, gradient in found.items():
        if name in expected and gradient is not None:
            result.add('gradients', relative(gradient, expected[name], 1e-12), f'{case}: {name}')
        elif name in expected or not (gradient is None or name.startswith('discriminator')):
            result.add('gradients', float('inf'), f'{case}: {name} has a gradient in one of the two only')


def compare_case(case: str, recorded: dict, result: Comparison) -> None:
    """Train as a case did."""
    expected = recorded['cases'][case]
    model = MODELS.build(model_config(case, recorded))
    state = model.state_dict()
    for name, value in recorded['model_initial'].items():
        if own_name(name) in state:
            state[own_name(name)].copy_(value)
    levels = {}  # recorded names of each discriminator's parameters, in the order of its own
    for head, initial in zip(('auxiliary_head', 'decode_head'), recorded['d_initial']):
        own = [name for name in state if name.startswith(f'discriminator.{head}.')]
        levels[head] = dict(zip(initial, own))
        for name, key in levels[head].items():
            state[key].copy_(initial[name])
    gradients: dict[str, Tensor | None] = {}
    wrapper = optimizers(model, tuple(expected['first_step']['lr']))
    schedules = [
        PolyLR(part, power=0.9, eta_min=0.0, begin=0, end=ITERATIONS + 1, by_epoch=False) for part in wrapper.values()
    ]
    step = wrapper.step

    def recording_step(**kwargs: object) -> None:
        gradients.update({name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()})
        step(**kwargs)

    wrapper.step = recording_step
    model.train()
    printed = 'losses' not in expected
    logs = expected['losses_rounded_to_3_digits' if printed else 'losses']
    for i, (batch, losses) in enumerate(zip(batches(recorded), logs)):
        log = model.train_step(batch, wrapper)
        for name, value in losses_of(log, model.weights).items():
            if name in losses:
                kind = 'printed' if printed else 'losses'
                result.add(kind, relative(value.detach(), losses[name], 1), f'{case}, step {i}: {name}')
        if i == 0:
            compare_gradients(case, expected['first_step'], levels, gradients, result)
        for schedule in schedules:
            schedule.step()
    state = model.state_dict()
    for name, value in expected['params_final'].items():
        if own_name(name) in state:
            result.add('parameters', float((state[own_name(name)] - value).abs().max()), f'{case}: {name}')
    for names, final in zip(levels.values(), expected['d_final']):
        for name, key in names.items():
            result.add('discriminators', float((state[key] - final[name]).abs().max()), f'{case}: {key}')


def recognises(recorded: dict) -> bool:
    """Whether a recording is of this form."""
    return {'model_initial', 'd_initial', 'inputs', 'cases'} <= recorded.keys()


def compare(recorded: dict, folder: Path) -> Comparison:
    """Train as each case of a recording did, and compare what it holds."""
    recorded, result = unpack(recorded), Comparison(TOLERANCES)
    for case in recorded['cases']:
        compare_case(case, recorded, result)
    return result
