"""Runs this project's training path on a recorded training of a released method and compares the two.

Usage: python tests/parity.py FILE [FILE ...]

The keys of a file say whose recording it is: `FORMS` lists what is known. One of ST-DASegNet, which this file compares,
holds the release's configuration, its initial state, the batches' name and, for each step, losses, parameters,
gradients and pseudo-labels (tests/data/golden/README.md). Exit status 1 means that an error exceeds its tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from mmrs.engine.hooks import TeacherEMAHook
from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.models.adaptors.st_dasegnet_release import convert_release, rename_release
from mmrs.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where a script finds `tests`

from tests import parity_adversarial, parity_daformer
from tests.recordings import Comparison, enlarged, relative, two_domain_batch

# Largest errors that pass: losses and logits relative to the tensor's largest magnitude or 1, gradients to its largest,
# parameters absolute, pseudo-label weights absolute and labels as the share of pixels that differ.
TOLERANCES = dict(losses=5e-6, parameters=2e-5, gradients=1e-4, pseudo=1e-5, logits=1e-5)
LOSSES = {
    'loss_ce': 'loss_seg_s2s',
    'loss_ce_seg_s2t': 'loss_seg_s2t',
    'loss_ce_seg_t2s': 'loss_pseudo_t2s',
    'loss_ce_seg_t2t': 'loss_pseudo_t2t',
    'loss_gan_F_t2s_ds_seg': 'loss_adv_t2s',
    'loss_gan_F_s2t_dt_seg': 'loss_adv_s2t',
    'loss_gan_F_s2s_ds': 'loss_disc_source_real',
    'loss_gan_F_t2s_ds': 'loss_disc_source_fake',
    'loss_gan_F_t2t_dt': 'loss_disc_target_real',
    'loss_gan_F_s2t_dt': 'loss_disc_target_fake',
}
BACKBONES = {'MixVisionTransformer': 'EfficientMiT'}
HEADS = {'SegformerHead': 'EfficientSegformerHead'}
TEACHERS = {'decoder_only_t': 'decoder_only', 'single_t': 'single_target'}


def _plain_batch_norm(cfg: dict) -> dict:
    """In one process the release's SyncBN is BN."""
    return {**cfg, 'norm_cfg': dict(cfg['norm_cfg'], type='BN')} if 'norm_cfg' in cfg else dict(cfg)


def model_config(release: dict) -> dict:
    """This project's model configuration for the release's."""

    def backbone(cfg: dict) -> dict:
        return {**_plain_batch_norm(cfg), 'type': BACKBONES.get(cfg['type'], cfg['type'])}

    def head(cfg: dict) -> dict:
        loss = dict(type='PixelMeanCrossEntropyLoss', **{k: v for k, v in cfg['loss_decode'].items() if 'weight' in k})
        return {**_plain_batch_norm(cfg), 'type': HEADS.get(cfg['type'], cfg['type']), 'loss_decode': loss}

    def discriminator(cfg: dict) -> dict:
        return dict(type='PatchDiscriminator', **{k: cfg[k] for k in ('in_channels', 'num_conv', 'base_channels')})

    def pair(build, name: str) -> dict:
        return dict(source=build(release[f'{name}_s']), target=build(release[f'{name}_t']))

    neck, teaching = release['dsk_neck'], release['cross_EMA']
    return dict(
        type='STDASegNet',
        backbone=pair(backbone, 'backbone'),
        # The release's neck over several stages ignores its own `r`.
        neck=dict(
            type='DomainDisentangledNeck',
            in_channels=neck['in_channels'],
            variant=neck['dsk_type'],
            reduction=8,
            min_channels=neck['L'],
        ),
        decode_head=pair(head, 'decode_head'),
        discriminator=pair(discriminator, 'discriminator'),
        gan_loss=release['discriminator_s']['gan_loss'],
        self_training=dict(
            teacher=TEACHERS[teaching['type']],
            weight=teaching['training_ratio'],
            threshold=teaching['pseudo_threshold'],
            rare_threshold=teaching['pseudo_rare_threshold'],
            class_weight=teaching['pseudo_class_weight'],
            batch_statistics=True,
            buffers='own',
        ),
        data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[0] * 3, std=[1] * 3),
        test_cfg=dict(mode='whole'),
    )


def optim_config(release: dict, names: list[str]) -> dict:
    """Joint optimizer configuration for the release's one optimizer per part.

    Args:
        release: The release's optimizer configurations.
        names: The release's parameter names. Each parameter becomes a custom key of its own.
    """

    def joint(parts: list[str], prefix: str) -> dict:
        base = {k: v for k, v in release[parts[0]].items() if k != 'paramwise_cfg'}
        keys = {}
        for name in names:
            part, _, inner = name.partition('.')
            if part not in parts:
                continue
            cfg = release[part]
            rules = cfg.get('paramwise_cfg', {}).get('custom_keys', {})
            rule = next((rules[k] for k in sorted(rules, key=lambda k: (-len(k), k)) if k in inner), {})
            key = dict(lr_mult=cfg['lr'] * rule.get('lr_mult', 1) / base['lr'])
            if base.get('weight_decay'):
                key['decay_mult'] = cfg['weight_decay'] * rule.get('decay_mult', 1) / base['weight_decay']
            keys[rename_release(name).removeprefix(f'{prefix}.')] = key
        return dict(optimizer=base, paramwise_cfg=dict(custom_keys=keys))

    discriminators = ['discriminator_s', 'discriminator_t']
    return dict(
        segmentor=joint([part for part in release if part not in discriminators], 'segmentor'),
        discriminator=joint(discriminators, 'discriminator'),
    )


def batches(inputs: dict) -> list[dict]:
    """The recorded two-domain batches, normalised, in the form that a data loader yields."""

    return [
        two_domain_batch(
            source=(enlarged(batch['img_u8'], inputs['k_img']).float() - 128) / 64,
            labels=enlarged(batch['label_u8'], inputs['k_lab'])[:, 0],
            target=(enlarged(batch['B_img_u8'], inputs['k_img']).float() - 118) / 60,
        )
        for batch in inputs['iters']
    ]


def compare_logits(model: torch.nn.Module, cases: dict, state: str, result: Comparison) -> None:
    """Compare a recording's inference cases of the ``init`` or the ``final`` state."""
    model.eval()
    for name, case in cases.items():
        if not name.startswith(state):
            continue
        model.test_cfg = ConfigDict(mode='whole')
        if 'crop' in case:
            model.test_cfg = ConfigDict(mode='slide', crop_size=[case['crop']] * 2, stride=[case['stride']] * 2)
        with torch.no_grad():
            logits = model.inference(case['x'], [dict(ori_shape=case['x'].shape[2:])])
        if 'prob' in case:
            result.add('logits', relative(logits.softmax(1), case['prob'], 1), name)
        elif 'logits_stride2' in case:
            result.add('logits', relative(logits[..., ::2, ::2], case['logits_stride2'], 1), name)
        else:
            result.add('logits', relative(logits, case['logits'], 1), name)


def is_st_dasegnet(recorded: dict) -> bool:
    """Whether a recording is of ST-DASegNet."""
    return 'cross_EMA' in recorded.get('config', {})


def compare_st_dasegnet(recorded: dict, folder: Path) -> Comparison:
    """Train as the recording did, comparing everything that it holds."""
    inputs = torch.load(folder / recorded['inputs_file'], weights_only=True)
    initial = recorded['initial_state']
    model = MODELS.build(model_config(recorded['config']))
    model.load_state_dict(convert_release(initial, model))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    optim_wrapper = JointOptimWrapperConstructor(
        optim_config(recorded['optimizer'], [name for name in initial if rename_release(name) in trained])
    )(model)
    hook = TeacherEMAHook(decay=recorded['config']['cross_EMA']['decay'], copy_at_start=False)
    result = Comparison(TOLERANCES)
    compare_logits(model, recorded['inference'], 'init', result)

    seen = {}
    step, pseudo = optim_wrapper.step, model.make_pseudo_label

    def recording_step(**kwargs: object) -> None:
        seen['grads'] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        step(**kwargs)

    def recording_pseudo(*args: object) -> tuple:
        seen['pseudo'] = pseudo(*args)
        return seen['pseudo']

    optim_wrapper.step, model.make_pseudo_label = recording_step, recording_pseudo
    skipped = set(recorded['noise_params'])
    if model.teacher_type == 'single_target':
        # The release runs the source student on the target once more there, which moves these buffers twice.
        moved_twice = ('backbone_s', 'decode_head_s', 'cross_EMA')
        skipped |= {name for name in initial if 'running_' in name and name.startswith(moved_twice)}

    model.train()
    for i, (expected, batch) in enumerate(zip(recorded['iterations'], batches(inputs))):
        hook.before_train_iter(SimpleNamespace(iter=i, model=model), i, batch)
        log = {name: value.detach() for name, value in model.train_step(batch, optim_wrapper).items()}
        logged = {name: float(log[own]) for name, own in LOSSES.items()}
        for name in ('loss_ce_seg_t2s', 'loss_ce_seg_t2t'):  # logged unweighted by the release
            logged[name] /= model.pseudo_weight
        for name, value in logged.items():
            result.add('losses', relative(value, expected['log_vars'][name], 1), f'step {i}: {name}')
        total = sum(float(log[own]) for own in list(LOSSES.values())[:4])
        result.add('losses', relative(total, expected['loss'], 1), f'step {i}: total of the segmentation losses')

        state = model.state_dict()
        for name, value in expected['params'].items():
            if name not in skipped:
                error = float((state[rename_release(name)] - value).abs().max())
                result.add('parameters', error, f'step {i}: {name}')
        if i == 0:
            noisy = set(recorded['noise_grads'])
            for name, value in expected['grads'].items():
                if name not in noisy:
                    error = relative(seen['grads'][rename_release(name)], value, 1e-12)
                    result.add('gradients', error, name)
        untouched = [name for name in expected['no_grad'] if rename_release(name) in seen['grads']]
        result.add('gradients', float('inf') if untouched else 0.0, f'{untouched[:1]} has a gradient')

        label, weight = seen['pseudo'].label, seen['pseudo'].weight
        subsampled = slice(None, None, label.shape[-1] // expected['pseudo_label'].shape[-1])
        different = label[:, subsampled, subsampled] != expected['pseudo_label'].squeeze(1)
        result.add('pseudo', float(different.float().mean()), f'step {i}: labels')
        error = float((weight[:, subsampled, subsampled] - expected['pseudo_weight']).abs().max())
        result.add('pseudo', error, f'step {i}: weights')
        result.add('pseudo', abs(float(log['confident_share']) - expected['pseudo_ratio']), f'step {i}: share')

    if recorded['final_state'] is not None:
        # Elements with an analytically zero gradient end up to 2 lr apart (Adam), so logits start from the record.
        model.load_state_dict(convert_release(recorded['final_state'], model))
        compare_logits(model, recorded['inference'], 'final', result)
    return result


#: For each form of recordings whether a file has it, by its keys, and what trains and compares; it is given the file's
#: contents and its folder.
FORMS: list[tuple[Callable[[dict], bool], Callable[[dict, Path], Comparison]]] = [
    (is_st_dasegnet, compare_st_dasegnet),
    (parity_adversarial.recognises, parity_adversarial.compare),
    (parity_daformer.recognises, parity_daformer.compare),
]


def run(path: Path) -> Comparison:
    """Compare a recording with this project's training.

    Raises:
        ValueError: It is none of a known form.
    """
    recorded = torch.load(path, weights_only=True)
    for recognises, compare in FORMS:
        if recognises(recorded):
            init_default_scope('mmrs')
            return compare(recorded, path.parent)
    raise ValueError(f'{path} is no recording of a known form: it has the keys {", ".join(map(str, recorded))}')


def main(argv: list[str] | None = None) -> int:
    """Compare each file; return 0 if all are within tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE', help='recorded training, *.pt')
    results = [(path, run(path)) for path in parser.parse_args(argv).files]
    for path, result in results:
        print(f'{path.name}: {result}')
    return 0 if all(result.passed for _, result in results) else 1


if __name__ == '__main__':
    sys.exit(main())
