"""Three recorded steps of DAFormer, or of MIC on DAFormer's network or HRDA's, against this project's training path.

A file holds the release's settings, initial weights, those of the frozen ImageNet backbone, the batches, and for each
step losses, what was drawn, the teacher's logits and labels, and what was mixed; of the first step gradients too; and
the weights of student and teacher after the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.engine.hooks import TeacherEMAHook
from mmrs.registry import MODELS
from tests.recordings import Comparison, enlarged, relative, two_domain_batch, unpack

# Losses and sums relative, gradients to the tensor's largest magnitude, logits and parameters absolute, labels as the
# share of pixels that differ. `tied` are losses on pseudo-labels of a step in which two classes' logits at some pixel
# are closer than the tolerance of logits: its label may be either.
TOLERANCES = dict(
    losses=2e-6, tied=2e-5, labels=0, mixed=2e-6, logits=2e-5, gradients=1e-4, parameters=2e-6, teacher=2e-6
)
#: In HRDA's attention, layers in front of a normalisation have gradients that are rounding errors.
OF_HRDA = {**TOLERANCES, 'parameters': 5e-5, 'teacher': 5e-5}
#: The beginnings of the recorded names; those of HRDA have the loss of the detail apart.
LOSSES = {
    'decode': 'loss_seg',
    'src.loss_imnet_feat_dist': 'loss_distance',
    'mix.decode': 'loss_mixed',
    'masked.decode': 'loss_masked',
}
_ATTENTION = 'decode_head.scale_attention.'


@MODELS.register_module()
class FourConvolutions(nn.Module):
    """The recordings' backbone: its stages are the outputs of four strided convolutions, with GELU."""

    def __init__(self, widths: list[int], init_cfg: dict | None = None) -> None:
        super().__init__()
        bands = [3, *widths]
        sizes = [(7, 4, 3), (3, 2, 1), (3, 2, 1), (3, 2, 1)]
        self.stages = nn.ModuleList(nn.Conv2d(bands[i], width, *sizes[i]) for i, width in enumerate(widths))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = F.gelu(stage(images))
            maps.append(images)
        return maps


def recognises(recorded: dict) -> bool:
    """Whether a recording is of this form."""
    return isinstance(recorded.get('iterations'), list) and 'fd_lambda' in recorded.get('config', {})


def _is_hrda(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(_ATTENTION) for name in state)


def model_config(config: dict, state: dict[str, Tensor]) -> dict:
    """This project's model for a recording's settings; widths are those of its weights."""
    widths = [len(state[f'backbone.stages.{i}.weight']) for i in range(4)]

    def sizes(prefix: str) -> dict:
        embedding, last = (state[f'{prefix}{name}.weight'] for name in ('embed_layers.0.proj', 'conv_seg'))
        return dict(embed_dims=len(embedding), channels=last.shape[1])

    two = _is_hrda(state)
    backbone: dict = dict(type='FourConvolutions', widths=widths)
    head: dict = dict(
        type='DAFormerHead',
        in_channels=widths,
        in_index=[0, 1, 2, 3],
        **sizes('decode_head.head.' if two else 'decode_head.'),
        num_classes=config['num_classes'],
        dropout_ratio=0,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    )
    if two:
        backbone.update(type='MultiResolution', base='FourConvolutions', detail_size=config['hr_crop'][0])
        attention = dict(fusion='conv1', **sizes(_ATTENTION))
        head.update(type='HRDAHead', base='DAFormerHead', attention=attention, detail_weight=config['hr_loss_weight'])
    return dict(
        type='DACS',
        data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[0] * 3, std=[1] * 3),
        backbone=backbone,
        decode_head=head,
        masked_consistency=config['mask'] and dict(**config['mask'], augmentation=None),
        self_training=dict(threshold=config['pseudo_threshold']),
        feature_distance=dict(
            classes=config['fd_classes'], weight=config['fd_lambda'], min_ratio=config['fd_min_ratio']
        ),
        test_cfg=ConfigDict(mode='whole'),
    )


def batches(inputs: dict) -> Iterator[dict]:
    """The recorded batches, normalised, in the form that a data loader yields."""
    for source, target, labels in zip(inputs['source_u8'], inputs['target_u8'], inputs['label_u8']):
        source, target, labels = (enlarged(x, inputs['repeat']) for x in (source, target, labels))
        yield two_domain_batch((source.float() - 128) / 64, labels, (target.float() - 118) / 60)


def build(recorded: dict, **options: Any) -> Any:
    """The model with the recording's weights."""
    initial = unpack(recorded['initial_state'])
    model: Any = MODELS.build({**model_config(recorded['config'], initial), **options})
    missing, unexpected = model.load_state_dict(initial, strict=False)
    own = [name for name in missing if not name.startswith(('teacher', 'feature_distance')) and 'tracked' not in name]
    assert not own, own
    assert not unexpected, unexpected
    model.feature_distance.load_state_dict(unpack(recorded['imagenet_backbone']))
    return model


class Watched:
    """What a step has drawn from the recording, and what was seen of it."""

    def __init__(self, model: Any, config: dict) -> None:
        self.valid: Tensor | None = None
        self.logits = self.pseudo = self.mixed = None
        self._rows, self._label = (config['ignore_top'], config['ignore_bottom']), model.teacher.pseudo_label
        model.mixing.draw, model.teacher.pseudo_label = self.draw_classes, self.pseudo_label
        model.mixing.register_forward_hook(lambda _module, _inputs, mixed: setattr(self, 'mixed', mixed))
        model.backbone.draw = self.draw_offset
        if model.masked_consistency is not None:
            model.masked_consistency.mask.draw = lambda images: next(self._masks)

    def begin(self, step: dict, valid: Tensor | None) -> None:
        """Draw from a recorded step; `valid`, ``(N, 1, h, w)``, are the pixels that weigh something."""
        self.step, self.valid = step, valid
        self._offsets, self._masks = iter(step['crop_draws'] or ()), iter(step['mask_rand'] or ())

    def draw_offset(self, number: int) -> int:
        """That of the part of the image that is seen in detail; the release never draws the last one."""
        low, high, drawn = next(self._offsets)
        assert low <= drawn < high <= number
        return drawn

    def draw_classes(self, labels: Tensor) -> Tensor:
        """The recorded choice, as a table of values."""
        union = torch.tensor(self.step['union_of_batch'])
        return torch.stack([torch.isin(torch.arange(256), union[chosen]) for _, chosen in self.step['choice']])

    def pseudo_label(self, logits: Tensor, valid: Tensor | None = None) -> Any:
        """The release ignores rows at the top and bottom of a street scene, or what is not valid, once all have been
        counted.
        """
        self.logits, pseudo = logits, self._label(logits, valid)
        weight, (top, bottom) = pseudo.weight.clone(), self._rows
        weight[:, :top] = weight[:, weight.shape[1] - bottom :] = 0
        if self.valid is not None:
            weight *= self.valid[:, 0]
        self.pseudo = pseudo._replace(weight=weight)
        return self.pseudo


def compare_step(log: dict[str, Tensor], seen: Any, expected: dict, i: int, result: Comparison) -> None:
    """Compare what a step logs and what it has seen."""
    first, second = seen.logits.topk(2, 1).values.unbind(1)
    tied = bool((first - second < TOLERANCES['logits']).any())
    for name, own in LOSSES.items():
        parts = [v for key, v in expected['log_vars'].items() if key.startswith(name) and '.acc' not in key]
        if bool(parts) != (own in log):
            result.add('losses', float('inf'), f'step {i}: {name} is in one of the two only')
        elif parts:
            value = torch.tensor(parts).nan_to_num(0).sum()  # the release divides by no cell
            kind = 'tied' if tied and own in ('loss_mixed', 'loss_masked') else 'losses'
            result.add(kind, relative(log[own], value, 1e-12), f'step {i}: {name}')
    result.add('mixed', relative(log['confident_share'], expected['q'], 1e-12), f'step {i}: share')
    sample = seen.logits[..., 3::16, 3::16]
    result.add('logits', float((sample - expected['ema_logits_sample']).abs().max()), f'step {i}: teacher')
    for name, value in (('sum', seen.logits), ('abs_sum', seen.logits.abs())):
        error = relative(value.double().sum(), expected[f'ema_logits_{name}'], 1e-12)
        result.add('losses', error, f'step {i}: teacher {name}')
    for name, label in (('pseudo', seen.pseudo.label), ('mixed', seen.mixed.label)):
        different = label[:, 4::8, 4::8] != expected[f'{name}_label_coarse']
        result.add('labels', float(different.float().mean()), f'step {i}: {name}')
    magnitude = float(seen.mixed.images.abs().sum())
    error = abs(float(seen.mixed.images.double().sum()) - expected['mixed_image_sum']) / magnitude
    result.add('mixed', error, f'step {i}: images')
    error = relative(seen.mixed.weight.mean(), expected['mixed_weight_mean'], 1e-12)
    result.add('mixed', error, f'step {i}: weights')


def compare(recorded: dict, folder: Path, **options: Any) -> Comparison:
    """Train as the recording did, comparing everything that it holds.

    Args:
        recorded: Contents of the file.
        folder: Unused: the file has its batches.
        **options: Of the model, which change nothing that is compared.
    """
    result, config = (
        Comparison(OF_HRDA if _is_hrda(unpack(recorded['initial_state'])) else TOLERANCES),
        recorded['config'],
    )
    noisy, inputs = {*recorded['noise_params'], *recorded['noise_buffers']}, recorded['inputs']
    model = build(recorded, **options).train()
    given = recorded['optimizer']
    optimizer = dict(type=given['type'], **{key: given[key] for key in ('lr', 'betas', 'weight_decay', 'eps')})
    keys = dict(norm=dict(decay_mult=0.0), head=dict(lr_mult=given['head_lr_mult']))
    wrapper: Any = build_optim_wrapper(
        model, dict(type='OptimWrapper', optimizer=optimizer, paramwise_cfg=dict(custom_keys=keys))
    )
    hook, seen = TeacherEMAHook(decay=config['alpha']), Watched(model, config)
    gradients: dict[str, Tensor] = {}
    step = wrapper.step

    def recording_step(**kwargs: Any) -> None:
        gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        step(**kwargs)

    wrapper.step = recording_step
    for i, (expected, batch) in enumerate(zip(recorded['iterations'], batches(inputs))):
        seen.begin(expected, enlarged(inputs['valid_u8'][i], inputs['repeat']) if 'valid_u8' in inputs else None)
        hook.before_train_iter(SimpleNamespace(iter=i, model=model), i, batch)  # type: ignore[arg-type]
        log = {name: value.detach() for name, value in model.train_step(batch, wrapper).items()}
        compare_step(log, seen, expected, i, result)
        for name, value in unpack(expected['grads'] or {}).items():
            if name not in noisy:
                result.add('gradients', relative(gradients[name], value, 1e-12), name)
        for name, norm in (expected['grad_norms'] or {}).items():
            if name not in noisy:
                result.add('gradients', relative(gradients[name].norm(), norm, 1e-12), f'norm of {name}')

    for kind, prefix in (('parameters', ''), ('teacher', 'teacher.')):
        own = model.state_dict()
        for name, value in unpack(recorded[f'{"params" if not prefix else "teacher"}_final']).items():
            if name not in noisy:
                result.add(kind, float((own[prefix + name] - value).abs().max()), name)
    model.load_state_dict(unpack(recorded['params_final']), strict=False)  # for those that move by rounding errors
    compare_inference(model, batch['target']['inputs'][0], recorded['inference_eval'], result)
    return result


@torch.no_grad()
def compare_inference(model: Any, image: Tensor, expected: dict, result: Comparison) -> None:
    """Compare the student's prediction, in evaluation mode."""
    logits = model.eval().inference(image[None], [dict(ori_shape=image.shape[1:], img_shape=image.shape[1:])])
    result.add('logits', float((logits[..., 1::8, 1::8] - expected['logits_sample']).abs().max()), 'prediction')
    result.add('losses', relative(logits.abs().double().sum(), expected['logits_abs_sum'], 1e-12), 'prediction')
