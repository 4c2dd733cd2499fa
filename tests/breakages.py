"""Shows that the test suite notices when the method is broken on purpose.

Each breakage changes one line of a scratch copy of the working tree (what git tracks or would track) and runs the tests
that are expected to notice. The tree itself is never touched.

Usage:
    python tests/breakages.py                             all of them, a few minutes
    python tests/breakages.py --list                      what there is, and why each matters
    python tests/breakages.py --only teacher-swapped      this one; may be given several times
    python tests/breakages.py --jobs 4 --all-tests        four at once, each with the whole suite until a test fails

Exit status 1: a breakage went unnoticed, its text is no longer in its file, or tests fail without any breakage.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmrs.utils.progress import progress_bar

REPOSITORY = Path(__file__).resolve().parents[1]


class Breakage(NamedTuple):
    """One change that the tests have to notice.

    `old` stands exactly once in `file`; `tests` are files, or ids of tests, those that say most about it first; `why`
    is what the change does to a training.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str


def _in_file(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str, str]) -> list[Breakage]:
    return [Breakage(name, file, old, new, tests, why) for name, why, old, new in changes]


MODELS, MODEL_TESTS = 'mmrs/models', 'tests/test_models'
CONFORMANCE = 'tests/test_conformance.py'
EVERY_METHOD = tuple(
    f'{CONFORMANCE}::test_{claim}'
    for claim in (
        'each_loss_moves_its_parts_and_no_others',
        'what_trains_gets_a_gradient_and_what_is_frozen_none',
        'target_labels_change_nothing',
        'pixels_without_data_have_no_part',
    )
)
DISENTANGLED = (f'{MODEL_TESTS}/test_adaptors/test_st_dasegnet.py', *EVERY_METHOD)
REGRESSION = (f'{MODEL_TESTS}/test_adaptors/test_feature_regression.py', *EVERY_METHOD)

BREAKAGES: list[Breakage] = [
    # ST-DASegNet
    *_in_file(
        f'{MODELS}/adaptors/st_dasegnet.py',
        DISENTANGLED,
        (
            'fake-of-the-other-student',
            'discriminators compare two students on one image instead of two domains in one student',
            'features[1 - i][i][-1]',
            'features[i][1 - i][-1]',
        ),
        (
            'teacher-swapped',
            "each teacher reads the other student's half of the features",
            'teacher.source(disentangled[0]) + teacher.target(disentangled[1])',
            'teacher.target(disentangled[0]) + teacher.source(disentangled[1])',
        ),
        (
            'teacher-of-the-wrong-head',
            "the single-target teacher follows the source's head, which never learns the target's look",
            "decode_head=self.segmentor.decode_head['target'])",
            "decode_head=self.segmentor.decode_head['source'])",
        ),
        (
            'borrowed-as-a-student',
            'the source student teaches with dropout, and its running statistics see the target twice',
            'with borrowed_as_teacher(student, teacher.batch_statistics):',
            'if True:',
        ),
        (
            'pseudo-loss-at-full-weight',
            'wrong pseudo-labels count as much as labels',
            'self.pseudo_weight * value',
            'value',
        ),
        (
            'pseudo-labels-by-all-terms',
            'Dice and its like count the pixels in full that the teacher is not sure of',
            'else self.pseudo_terms',
            'else [None, None]',
        ),
        (
            'pseudo-weights-dropped',
            'whether the teacher is sure of a pixel makes no difference',
            'logits, label, weight, chosen,',
            'logits, label, None, chosen,',
        ),
        (
            'pseudo-labels-under-the-sources-shares',
            'prior-neutral training changes the loss on pseudo-labels, too',
            'disentangled, pseudo.label, pseudo.weight, False',
            'disentangled, pseudo.label, pseudo.weight, True',
        ),
        (
            'auxiliary-heads-exchanged',
            "each head reads the other student's stages",
            "zip(heads.values(), 'st', features)",
            "zip(heads.values(), 'st', features[::-1])",
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/base.py',
        (f'{MODEL_TESTS}/test_adaptors/test_adaptor_base.py', *DISENTANGLED),
        (
            'mask-of-the-source',
            'target pixels without data are looked for where the source has none',
            'domain_of(inputs[name], data_samples[name]',
            "domain_of(inputs[name], data_samples['source']",
        ),
        (
            'target-labels-leak',
            'where the target happens to have labels, they are learnt from: scores that no user gets',
            'inputs[name], data_samples[name], name',
            'inputs[name], data_samples['
            "'target' if name == 'source' and 'gt_sem_seg' in data_samples.get('target', [{}])[0] else name], name",
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/adversary.py',
        (f'{MODEL_TESTS}/test_parts/test_adversary.py', *DISENTANGLED),
        (
            'real-fake-swapped',
            "D_s and D_t learn to take their own domain's features for fake",
            'target_is_real=is_real',
            'target_is_real=not is_real',
        ),
        (
            'fake-not-detached',
            "the discriminator's loss on fakes reaches the students and undoes the generator's",
            'fake = fake.detach()',
            'fake = 1 * fake',
        ),
        (
            'real-not-detached',
            "the discriminator's loss on real features reaches the students",
            'self.input_map(real.detach())',
            'self.input_map(real)',
        ),
        (
            'generator-moves-discriminator',
            "the generator's loss teaches the discriminator to be fooled",
            'key: value.detach() for key, value in module',
            'key: value for key, value in module',
        ),
        (
            'generator-wants-fake',
            'the students learn to keep the domains apart',
            'gan_loss(fooled, target_is_real=True)',
            'gan_loss(fooled, target_is_real=False)',
        ),
        (
            'no-spatial-softmax',
            'discriminators see how strong features are, not where they are',
            'self.input_map(real.detach()), self.input_map(fake)',
            'real.detach(), fake',
        ),
        (
            'information-in-another-unit',
            'the entropy of a pixel depends on how many classes there are',
            ' / math.log(log_p.shape[1])',
            ' / math.log(2)',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/output_space.py',
        (f'{MODEL_TESTS}/test_adaptors/test_output_space.py',),
        (
            'empty-pixels-discriminated',
            'a discriminator tells the domains apart by the shapes of what has no data',
            'logits if domain.valid is None else logits.masked_fill(~domain.valid[:, None], 0)',
            'logits',
        ),
        (
            'weight-of-a-level-forgotten',
            'misleading a discriminator counts a thousand times as much as the labels do',
            'self.weights[name] * losses',
            'losses',
        ),
        (
            'predictions-at-their-own-size',
            'a discriminator sees a sixteenth of the pixels, and patches sixteen times as large',
            'F.interpolate(logits, domain.images.shape[-2:], ',
            'F.interpolate(logits, logits.shape[-2:], ',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/fada.py',
        (f'{MODEL_TESTS}/test_adaptors/test_fada.py',),
        (
            'features-towards-the-target',
            "the backbone learns to give the target's features away",
            '_cross_entropy(fooled, soft[1], 0, target)',
            '_cross_entropy(fooled, soft[1], 1, target)',
        ),
        (
            'sure-labels-uncut',
            'a discriminator is pushed to be sure of a class without end',
            '.softmax(1).clamp(max=self.most)',
            '.softmax(1)',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/gan_loss.py',
        (f'{MODEL_TESTS}/test_adaptors/test_output_space.py',),
        (
            'accuracy-of-the-other-side',
            'a discriminator that is always right is said to be always wrong',
            'self.real_label_val < self.fake_label_val',
            'False',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/head_loss.py',
        DISENTANGLED,
        (
            'sampler-ignored',
            'all pixels teach where the hardest ones were asked for',
            'if weight is None and head.sampler is not None:',
            'if False:',
        ),
    ),
    *_in_file(
        f'{MODELS}/segmentors/dual_student.py',
        DISENTANGLED,
        (
            'target-student-alone-predicts',
            'half of the network takes no part',
            '(logits[0] + logits[1]) / 2',
            'logits[1]',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/self_training.py',
        (f'{MODEL_TESTS}/test_parts/test_self_training.py', *DISENTANGLED),
        (
            'class-weights-off-by-one',
            'the weight of a rare class goes to its neighbour in the list',
            'class_weight.to(logits.dtype)[label]',
            'class_weight.to(logits.dtype).roll(1)[label]',
        ),
        (
            'threshold-flipped',
            'the less sure the teacher, the more it counts',
            'confidence >= threshold',
            'confidence < threshold',
        ),
        (
            'rare-threshold-flipped',
            'unsure pixels get the weight of their class, sure ones half',
            'confidence >= rare_threshold',
            'confidence < rare_threshold',
        ),
        (
            'share-counts-nodata',
            'images with a border of nothing weigh less',
            'if valid is None:',
            'if True:',
        ),
        (
            'nodata-is-labelled',
            'the students learn what the teacher sees in nothing',
            'weight = weight * valid',
            'pass',
        ),
    ),
    *_in_file(
        f'{MODELS}/backbones/vit.py',
        (f'{MODEL_TESTS}/test_backbones/test_vit.py', f'{MODEL_TESTS}/test_backbones/test_lora.py'),
        (
            'registers-have-a-place',
            'the tokens without a place are turned like patches, each by the angle of another one',
            'F.pad(angles, (0, 0, self.num_prefix, 0))',
            'F.pad(angles, (0, 0, 0, self.num_prefix))',
        ),
        (
            'frozen-backbone-drops-paths',
            'a frozen backbone in training mode gives other features for the same image each time',
            'super().train(mode and not self.frozen)',
            'super().train(mode)',
        ),
    ),
    *_in_file(
        f'{MODELS}/backbones/vit_weights.py',
        (f'{MODEL_TESTS}/test_backbones/test_vit.py',),
        (
            'class-position-lost',
            'the class token of DINOv2 starts without its position embedding',
            "named['cls_token'] + positions[:, :1]",
            "named['cls_token']",
        ),
        (
            'gate-and-input-exchanged',
            'the halves of a packed SwiGLU change places: the pretrained features are gone',
            'named[gate], named[first] = named.pop(key).chunk(2)',
            'named[first], named[gate] = named.pop(key).chunk(2)',
        ),
    ),
    *_in_file(
        f'{MODELS}/backbones/lora.py',
        (f'{MODEL_TESTS}/test_backbones/test_lora.py',),
        (
            'lora-merged-without-its-factor',
            'maps come from other weights than those that were validated',
            'self.weight += self.lora_scale * (self.lora_b @ self.lora_a)',
            'self.weight += self.lora_b @ self.lora_a',
        ),
        (
            'lora-trains-all',
            'the pretrained weights train beside the low-rank parts',
            '    network.requires_grad_(False)\n',
            '    pass\n',
        ),
    ),
    *_in_file(
        f'{MODELS}/binary.py',
        (f'{MODEL_TESTS}/test_losses/test_losses.py', f'{MODEL_TESTS}/test_parts/test_self_training.py', *DISENTANGLED),
        (
            'binary-classes-exchanged',
            'the one output is taken for that of the first class: pseudo-labels and maps are inverted',
            'torch.zeros_like(logits), logits',
            'logits, torch.zeros_like(logits)',
        ),
        (
            'binary-class-alone',
            'confidence is 1 everywhere and every pixel of the first class',
            'if logits.shape[1] == 1 else logits',
            'if False else logits',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/probing.py',
        (f'{MODEL_TESTS}/test_losses/test_probing.py',),
        (
            'weights-per-image-pass',
            'a loss that weighs whole images passes for one that weighs pixels',
            ', (elsewhere, first))',
            ')',
        ),
        (
            'wrong-is-as-good-as-right',
            'a loss that learns the opposite of the labels is accepted',
            'if not right < wrong:',
            'if False:',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/focal.py',
        (f'{MODEL_TESTS}/test_losses/test_losses.py',),
        (
            'focal-on-easy-pixels',
            'easy pixels count most',
            'F.logsigmoid(-right)).exp()',
            'F.logsigmoid(right)).exp()',
        ),
    ),
    *_in_file(
        f'{MODELS}/decode_heads/hrda_head.py',
        (f'{MODEL_TESTS}/test_decode_heads/test_hrda_head.py',),
        (
            'detail-where-there-is-none',
            'outside of the part that was seen in detail, the context weighs less, and nothing takes its place',
            'attention = box.insert(box.crop(attention, 2 * stride), context.shape[-2:], 2 * stride)',
            'attention = attention.clone()',
        ),
        ('windows-summed', 'where windows overlap, the detail outweighs the context', 'total / count', 'total'),
    ),
    *_in_file(
        f'{MODELS}/backbones/multi_resolution.py',
        (f'{MODEL_TESTS}/test_backbones/test_multi_resolution.py',),
        (
            'last-rows-never-in-detail',
            'the end of each image is never seen in detail, as in the release',
            '(side - own) // unit + 1',
            'max((side - own + 1) // unit, 1)',
        ),
        (
            'teacher-sees-one-part',
            'pseudo-labels have no detail but in one part, drawn at random',
            'if self.training:  # what',
            'if True:  # what',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/patch_mask.py',
        (f'{MODEL_TESTS}/test_parts/test_patch_mask.py',),
        ('blocks-kept-for-hidden', 'little is hidden where much was to be', 'drawn > self.ratio', 'drawn < self.ratio'),
    ),
    *_in_file(
        f'{MODELS}/parts/masked_consistency.py',
        (f'{MODEL_TESTS}/test_adaptors/test_mic.py',),
        ('nothing-hidden', 'the student sees all that the teacher sees', 'self.mask(images)', 'images'),
        (
            'masked-weights-dropped',
            'what has no data, and what the teacher is not sure of, counts in full behind the blocks',
            'pseudo.label, pseudo.weight, terms',
            'pseudo.label, None, terms',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/views.py',
        (f'{MODEL_TESTS}/test_parts/test_views.py',),
        (
            'mirrored-in-the-wrong-place',
            'other ground counts as the same wherever a view is flipped',
            'x + width * flip_x',
            'x',
        ),
        (
            'views-of-different-ground',
            'two views of a window may show nothing in common, and are to be alike',
            '(common.clamp(min=0).prod(-1) / smaller / self.min_overlap)',
            '(0 * common.prod(-1) / smaller / self.min_overlap)',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/contrast.py',
        (f'{MODEL_TESTS}/test_losses/test_contrast.py',),
        (
            'neighbours-as-negatives',
            'a forest is to differ from the forest beside it',
            'own if excluded is None else excluded | own',
            'own',
        ),
        (
            'negatives-of-one-view',
            'a cell need not differ from other ground in the other view, which it is compared with',
            'torch.cat([own @ own.mT, own @ other.mT], -1)',
            'torch.cat([own @ own.mT, own @ own.mT], -1)',
        ),
    ),
    *_in_file(
        f'{MODELS}/pretraining/contrast.py',
        (f'{MODEL_TESTS}/test_pretraining/test_contrast_method.py',),
        (
            'cells-read-as-they-lie',
            'cells are to be alike that show different ground',
            'there = move(to_second, here)',
            'there = here',
        ),
    ),
    *_in_file(
        'mmrs/weights/matching.py',
        ('tests/test_weights/test_pretrained.py',),
        (
            'started-in-part',
            'a network of another size starts from a few weights of a pre-training, with no more than a warning',
            'if (strict or pretrained) and not fits:',
            'if strict and not fits:',
        ),
    ),
    *_in_file(
        'mmrs/datasets/transforms/ground_crop.py',
        ('tests/test_datasets/test_ground_crop.py',),
        (
            'crops-all-in-one-place',
            'windows of a raster count as the same ground, however far apart they are',
            'x0 + right * left',
            'x0',
        ),
    ),
    *_in_file(
        f'{MODELS}/tta.py',
        (f'{MODEL_TESTS}/test_tta.py',),
        (
            'sigmoid-twice',
            'nearly every pixel is above the threshold, as in mmseg',
            'logits if binary else',
            'logits.sigmoid() if binary else',
        ),
    ),
    *_in_file(
        f'{MODELS}/teacher.py',
        (f'{MODEL_TESTS}/test_teacher.py', *DISENTANGLED),
        (
            'teacher-forgets',
            'alpha and 1 - alpha exchanged: a copy of the student',
            'theirs, 1 - alpha)',
            'theirs, alpha)',
        ),
        ('teacher-drops-out', 'pseudo-labels with the noise of dropout', 'child.training = False', 'pass'),
        (
            'borrowed-student-keeps-a-trace',
            "the source student's statistics move when it helps to teach",
            'norm.track_running_stats = False',
            'norm.track_running_stats = True',
        ),
    ),
    *_in_file(
        'mmrs/engine/hooks/teacher_ema.py',
        ('tests/test_engine/test_teacher_ema.py',),
        (
            'teacher-after-the-step',
            'the teacher of a step has seen it already',
            'def before_train_iter(\n        self, runner: Runner, batch_idx: int, data_batch',
            'def after_train_iter(\n        self, runner: Runner, batch_idx: int, outputs: object = None, data_batch',
        ),
        (
            'teacher-counts-for-itself',
            'a resumed run starts its teacher anew, with alpha 0',
            '1 - 1 / (runner.iter + 1)',
            '1 - 1 / (vars(self).update(n=vars(self).get("n", 0) + 1) or self.n)',
        ),
    ),
    *_in_file(
        f'{MODELS}/necks/domain_disentangled.py',
        (f'{MODEL_TESTS}/test_necks/test_domain_disentangled.py', *DISENTANGLED),
        (
            'dsm-halves-swapped',
            'published weights give other features',
            'share * x_s, (1 - share) * x_t',
            '(1 - share) * x_s, share * x_t',
        ),
        (
            'dum-likes-instead-of-unlikes',
            'channels are mixed with those they resemble',
            '(-energy_s)',
            'energy_s',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/gan_loss.py',
        (f'{MODEL_TESTS}/test_losses/test_losses.py', *DISENTANGLED),
        (
            'score-boundary-at-nought',
            'with lsgan the logged accuracy says 50 % of a discriminator that is never wrong',
            'if has_labels else 0.0',
            'if False else 0.0',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/head_loss.py',
        (f'{MODEL_TESTS}/test_decode_heads/test_hrda_head.py',),
        (
            'detail-trusts-all-pseudo-labels',
            'in the detail, pixels count in full that the teacher is not sure of',
            'weight = None if weight is None else crop(weight)',
            'weight = None',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/cross_entropy.py',
        (f'{MODEL_TESTS}/test_losses/test_losses.py', *DISENTANGLED),
        (
            'mean-of-labelled-pixels',
            'another balance between labels and pseudo-labels than the published one',
            'loss / label.numel()',
            'loss / (label != ignore_index).sum()',
        ),
    ),
    *_in_file(
        f'{MODELS}/data_preprocessor.py',
        (f'{MODEL_TESTS}/test_data_preprocessor.py',),
        (
            'statistics-swapped',
            "each domain is normalised by the other's mean and deviation",
            "'source' if name == 'source' else 'target', training",
            "'target' if name == 'source' else 'source', training",
        ),
    ),
    # Feature regression
    *_in_file(
        f'{MODELS}/parts/frozen_copy.py',
        (f'{MODEL_TESTS}/test_parts/test_frozen_copy.py', *REGRESSION),
        (
            'reference-learns',
            'the reference is no fixed point any more',
            'self.requires_grad_(False)',
            'pass',
        ),
        (
            'reference-in-training-mode',
            "the reference's features depend on the batch, and its statistics move",
            'super().train(False)',
            'super().train(mode)',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/feature_regression.py',
        REGRESSION,
        (
            'frozen-head-in-training-mode',
            'the frozen head follows the statistics of the target',
            'self.decode_head.train(mode and self.train_decode_head)',
            'self.decode_head.train(mode)',
        ),
        (
            'student-sees-the-source',
            'it learns to be what it is, and nothing of the target',
            'extract_features(self, target.images,',
            'extract_features(self, source.images,',
        ),
        (
            'features-not-normalised',
            'stages with large activations drown the others',
            '(spread(student), spread(reference), valid',
            '(student, reference, valid',
        ),
        (
            'masks-swapped',
            "what one image hides is looked for in the other's",
            'valid[0], valid[1])',
            'valid[1], valid[0])',
        ),
        (
            'validation-moves-the-spread',
            'how often one validates changes the training',
            'if training:\n                spread',
            'if True:\n                spread',
        ),
        ('feature-weights-ignored', 'all stages count alike', '= self.weights[name] * self.loss', '= self.loss'),
    ),
    *_in_file(
        f'{MODELS}/losses/feature_regression.py',
        (f'{MODEL_TESTS}/test_losses/test_feature_regression_loss.py',),
        (
            'reference-gets-gradient',
            'a head that both share learns to make the task easy',
            'reference.detach()',
            'reference',
        ),
        ('no-best-match', 'local tolerance forgives nothing', 'closer = candidate < best', 'closer = candidate > best'),
    ),
    # What both see
    *_in_file(
        'mmrs/datasets/domain_adaptation.py',
        ('tests/test_datasets/test_domain_adaptation.py',),
        (
            'fixed-pairs',
            'a source image always meets the same target image',
            'np.random.randint(len(self.target))',
            'index % len(self.target)',
        ),
        (
            'target-labels-are-loaded',
            'nobody is told that the target pipeline loads labels',
            "if 'gt_sem_seg' in target['data_samples']",
            'if False',
        ),
    ),
    *_in_file(
        'mmrs/datasets/samplers/rare_class.py',
        ('tests/test_datasets/test_rare_class.py',),
        ('rare-classes-avoided', 'the most frequent class is drawn', 'exponent = (1 - share)', 'exponent = share'),
        (
            'few-classes-at-the-published-temperature',
            'of six classes the rarest is drawn 96 times out of 100',
            'temperature = 0.1 if len(classes) < _FEW else 0.01',
            'temperature = 0.01',
        ),
    ),
    # Few labels
    *_in_file(
        f'{MODELS}/parts/pixel_contrast.py',
        (f'{MODEL_TESTS}/test_parts/test_pixel_contrast.py',),
        (
            'sure-pixels-contrasted',
            'pixels that the network is sure of are moved, and hard ones stay',
            'flat.masked_fill(own >= self.sure, number)',
            'flat.masked_fill(own < self.sure, number)',
        ),
        (
            'prototypes-of-the-batch-alone',
            'a rare class has the prototype of the few pixels that a batch shows',
            'torch.where(self.seen & shown, self.momentum,',
            'torch.where(self.seen & shown, 0.0,',
        ),
        (
            'negatives-of-the-own-class',
            'pixels of a class are pushed away from each other',
            'torch.eye(len(count), dtype=torch.bool, device=count.device) | (count == 0)',
            '(count == 0).expand(len(count), -1)',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/few_labels.py',
        (f'{MODEL_TESTS}/test_adaptors/test_few_labels.py',),
        (
            'unsure-pixels-contrasted',
            'classes are defined by what the teacher guesses',
            'mixed.label.masked_fill(~(sure | mixed.from_source), 255)',
            'mixed.label',
        ),
        (
            'labels-of-the-target-by-number',
            'the labels of a sparsely labelled target count less than those of the source',
            'loss / len(known)',
            "loss / (1 if name == 'source' else 2 * len(known))",
        ),
    ),
    *_in_file(
        'mmrs/datasets/domain_adaptation.py',
        ('tests/test_datasets/test_domain_adaptation.py',),
        (
            'labelled-drawn-with-the-rest',
            'which labelled image comes depends on how the others are augmented',
            'with seeded(seed):',
            'if seed >= 0:',
        ),
        (
            'void-windows-drawn',
            'a step learns from windows of a raster that nobody labelled',
            'return np.flatnonzero(labelled)',
            'return np.arange(len(labelled))',
        ),
    ),
    *_in_file(
        'mmrs/apis/labelled_images.py',
        ('tests/test_apis/test_labelled_images.py',),
        (
            'learnt-images-are-scored',
            'the images whose labels are learnt are those of the test',
            'if common := sorted(images[path] for path in learnt.keys() & images.keys()):',
            'if common := sorted(images[path] for path in ()):',
        ),
    ),
    # Self-training on mixed images
    *_in_file(
        f'{MODELS}/adaptors/dacs.py',
        (f'{MODEL_TESTS}/test_adaptors/test_dacs.py',),
        (
            'prior-on-the-whole-mixed-image',
            'prior-neutral training changes the loss on the pseudo-labels of a mixed image, too',
            'from_source=mixed.from_source',
            'from_source=True',
        ),
        (
            'mixed-weights-dropped',
            'whether the teacher is sure of a pixel makes no difference',
            'mixed.label, mixed.weight, terms',
            'mixed.label, None, terms',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/class_mix.py',
        (f'{MODEL_TESTS}/test_parts/test_class_mix.py',),
        (
            'ignored-pixels-pasted',
            'half of what is pasted may have no label, and hides pixels of the target that have one',
            'shown[:, ignore_index] = False',
            'pass',
        ),
        (
            'pasted-at-the-teachers-weight',
            'labels of pasted pixels count as little as the pseudo-labels below them',
            'pseudo.weight.masked_fill(pasted, 1)',
            'pseudo.weight',
        ),
    ),
    *_in_file(
        f'{MODELS}/recomputation.py',
        (
            f'{MODEL_TESTS}/test_decode_heads/test_daformer_head.py',
            'tests/test_engine/test_activation_checkpointing.py',
        ),
        (
            'statistics-updated-twice',
            'running statistics of what is computed again move twice per step',
            'norm.momentum = 0.0',
            'pass',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/strong_augmentation.py',
        (f'{MODEL_TESTS}/test_parts/test_strong_augmentation.py',),
        (
            'brightness-multiplied',
            'dark images hardly change: it is what newer versions of the library do that the releases used',
            'images + (own[change][:, None] - 1)',
            'images * own[change][:, None]',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/early_backward.py',
        (f'{MODEL_TESTS}/test_parts/test_early_backward.py',),
        (
            'early-gradients-unscaled',
            'with accumulated gradients the source counts several times as much as the target',
            'gradient * incoming for',
            'gradient.clone() for',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/feature_distance.py',
        (f'{MODEL_TESTS}/test_parts/test_feature_distance.py',),
        (
            'distance-of-no-cell',
            'the loss is no number where a batch shows none of the classes, and no step is taken',
            'mask.sum().clamp(min=1)',
            'mask.sum()',
        ),
    ),
    *_in_file(
        'configs/_base_/schedules/adamw_40k.py',
        ('tests/test_engine/test_schedules.py',),
        (
            'norms-decay',
            'normalisation layers shrink, which the published schedule spares them',
            "'norm': dict(decay_mult=0.0)",
            "'norm': dict(decay_mult=1.0)",
        ),
    ),
    *_in_file(
        'configs/_base_/schedules/sgd_40k.py',
        ('tests/test_engine/test_schedules.py',),
        ('no-momentum', 'the published schedule with a tenth of its steps', 'momentum=0.9', 'momentum=0.0'),
    ),
    # Runs that can be trusted
    *_in_file(
        'mmrs/datasets/stream.py',
        ('tests/test_datasets/test_sample_stream.py',),
        (
            'samples-all-alike',
            'every sample is augmented with the same random numbers',
            'seeded(draw.seed, draw.position, attempt)',
            'seeded(draw.seed, 0, attempt)',
        ),
    ),
    *_in_file(
        'mmrs/engine/loops.py',
        (f'{CONFORMANCE}::test_a_run_that_was_killed_and_resumed_equals_one_that_was_not',),
        (
            'resumed-data-from-the-start',
            'a run that is resumed often sees the beginning of its data again and again',
            'skipped = self._samples_drawn // get_world_size()',
            'skipped = 0',
        ),
    ),
    *_in_file(
        'mmrs/engine/runner.py',
        (f'{CONFORMANCE}::test_a_run_that_was_killed_and_resumed_equals_one_that_was_not',),
        ('resumed-random-numbers', 'dropout goes on with other numbers than it would have', '_restore(states)', 'pass'),
    ),
    *_in_file(
        'mmrs/engine/hooks/preflight.py',
        (f'{CONFORMANCE}::test_a_run_with_a_preflight_equals_one_without[source only]',),
        (
            'trial-moves-statistics',
            'the running statistics begin with those of a batch that is trained on later',
            'buffer.copy_(before)',
            'pass',
        ),
        ('trial-draws-numbers', 'a run with a trial is another run', 'with runner.aside():', 'if True:'),
    ),
    *_in_file(
        'mmrs/engine/hooks/preflight.py',
        ('tests/test_engine/test_preflight_hook.py::test_the_gradients_of_a_step_that_has_begun_stay',),
        (
            'trial-keeps-gradients',
            'the first step counts a batch twice where gradients are accumulated',
            'parameter.grad = gradient',
            'pass',
        ),
    ),
    *_in_file(
        'mmrs/engine/schedules.py',
        ('tests/test_engine/test_new_schedule.py',),
        (
            'new-schedule-from-the-start',
            'a resumed run warms up again',
            'range(1, iterations + 1)',
            'range(0)',
        ),
        ('old-rates-stay', 'a new rate is written down, and the old one is used', 'group.update(values)', 'pass'),
    ),
    *_in_file(
        'mmrs/engine/saved_runs.py',
        ('tests/test_engine/test_saved_runs.py',),
        ('checksums-not-read', 'a run goes on with weights that a disk has changed', 'archive.testzip()', 'None'),
    ),
    *_in_file(
        'mmrs/engine/optimizers/wrappers.py',
        ('tests/test_engine/test_non_finite.py',),
        ('steps-on-nan', 'one bad image, and all weights are NaN', 'if bad is None:', 'if True:'),
        (
            'statistics-of-nan',
            'the step is skipped, but the running statistics are NaN for ever',
            'buffer.copy_(before)',
            'pass',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/class_thresholds.py',
        (f'{MODEL_TESTS}/test_parts/test_class_thresholds.py',),
        (
            'portion-from-the-wrong-end',
            'of each class the surest half is left out, or more than that',
            'begin + number - passing',
            'begin + passing',
        ),
        (
            'thresholds-forgotten',
            'a resumed run begins with the thresholds that a new one has',
            'float(initial)))',
            'float(initial)), persistent=False)',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/class_thresholds.py',
        (f'{CONFORMANCE}::test_two_processes_equal_one_with_the_batch_of_both',),
        (
            'thresholds-of-each-process',
            'two processes label by thresholds that drift apart',
            'torch.cat(all_gather(keys))',
            'keys',
        ),
    ),
    *_in_file(
        'mmrs/engine/optimizers/joint.py',
        ('tests/test_engine/test_joint_optimizer.py',),
        (
            'gradients-not-cleared',
            'those of the discriminators add up over the whole run',
            '            wrapper.zero_grad(**kwargs)',
            '            self.lead.zero_grad(**kwargs)',
        ),
    ),
    *_in_file(
        f'{MODELS}/parts/self_training.py',
        (f'{CONFORMANCE}::test_two_processes_equal_one_with_the_batch_of_both',),
        (
            'share-of-each-process',
            'two processes train differently from one with the batch of both',
            'all_reduce(counts)',
            'pass',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/feature_regression.py',
        (f'{CONFORMANCE}::test_two_processes_equal_one_with_the_batch_of_both',),
        (
            'mean-of-each-process',
            'the process that sees fewer valid pixels counts as much as the other',
            "all_reduce(share, 'mean')",
            'pass',
        ),
    ),
    # Configurations
    *_in_file(
        'mmrs/utils/composition.py',
        ('tests/test_utils/test_composition.py',),
        (
            'method-over-leaf',
            'what a leaf says of its model is lost to the method',
            "_merge(_merge(network, adaptor), config.get('model') or {})",
            "_merge(_merge(network, config.get('model') or {}), adaptor)",
        ),
        (
            'rate-of-the-segmentor',
            'discriminators learn at the rate of the students',
            'dict(optimizer=dict(lr=rate))',
            "dict(optimizer=dict(lr=plain['optimizer']['lr']))",
        ),
        (
            'target-statistics-without-target',
            'training on the source alone normalises by the statistics of the target',
            "elif given['trains_on'] == 'source':",
            'elif False:',
        ),
    ),
    *_in_file(
        'mmrs/models/widths.py',
        ('tests/test_models/test_widths.py',),
        (
            'first-map-discriminated',
            'discriminators are built for another map than they get',
            "discriminator['in_channels'] = stages[-1]",
            "discriminator['in_channels'] = stages[0]",
        ),
        (
            'heads-before-the-neck',
            'heads are built for maps that no neck has widened',
            'maps if from_neck else stages',
            'stages',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/prior_neutral.py',
        (f'{MODEL_TESTS}/test_losses/test_prior_neutral.py',),
        (
            'shares-taken-away',
            'prior-neutral training doubles the weight of the shares instead of cancelling it',
            'logits = logits + (',
            'logits = logits - (',
        ),
    ),
    *_in_file(
        f'{MODELS}/backbones/efficientnet_lite.py',
        (f'{MODEL_TESTS}/test_backbones/test_efficientnet_lite.py',),
        (
            'padded-at-the-other-end',
            'pretrained filters of EfficientNet-Lite see the image shifted by a pixel at each halving',
            'return total // 2, total - total // 2',
            'return total - total // 2, total // 2',
        ),
    ),
    *_in_file(
        f'{MODELS}/binary.py',
        ('tests/test_models/test_shift_logits.py',),
        (
            'binary-prior-of-one-class',
            'one output for two classes is moved by the prior of the second class alone',
            'offsets[1:] - offsets[:1]',
            'offsets[1:]',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/calibration.py',
        ('tests/test_evaluation/test_calibration.py',),
        (
            'temperature-upside-down',
            'the surer a model is without reason, the surer its calibrated maps are',
            'scale = torch.full((number,), 1 / temperature,',
            'scale = torch.full((number,), temperature,',
        ),
        (
            'gaps-that-cancel',
            'a model that is too sure of some pixels and not sure enough of others passes for calibrated',
            '(sure - right).abs().sum(1)',
            '(sure - right).sum(1).abs()',
        ),
    ),
    *_in_file(
        'mmrs/apis/calibration.py',
        ('tests/test_apis/test_calibrated_maps.py::test_halves_are_tried_on_each_other',),
        (
            'tried-on-what-it-was-fitted-to',
            'figures of the source promise what images of the source do not keep',
            'fit_scaling(logits[~own], label[~own], ',
            'fit_scaling(logits[own], label[own], ',
        ),
    ),
    *_in_file(
        'mmrs/apis/inference.py',
        ('tests/test_apis/test_calibrated_maps.py',),
        (
            'calibration-without-prior',
            'a class prior beside a calibration does nothing',
            'offsets = [own + shift for own, shift in zip(offsets, prior.offsets)]',
            'offsets = [own for own, shift in zip(offsets, prior.offsets)]',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/label_free/criterion.py',
        ('tests/test_evaluation/test_label_free.py',),
        (
            'dead-classes-uncounted',
            'a network that has forgotten classes is judged by those that are left',
            'values.masked_fill(shares < DEAD * expected, worst)',
            'values',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/label_free/choice.py',
        ('tests/test_evaluation/test_label_free.py',),
        (
            'collapse-admitted',
            'the most certain of all candidates, which predicts one class, may be chosen',
            'own < usual / 2',
            'False',
        ),
        (
            'any-gain-is-enough',
            'noise between candidates is taken for a gain over the source',
            'gain < margin',
            'gain < 0',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/tile_choice/criteria.py',
        ('tests/test_evaluation/test_tile_choice.py',),
        (
            'nearest-tiles-first',
            'tiles to label are alike instead of different',
            'np.minimum(self._nearest, self._distance',
            'np.maximum(self._nearest, self._distance',
        ),
        (
            'labelled-tiles-forgotten',
            'a second round of labels shows what the first one showed',
            'for index in np.flatnonzero(self.tiles.labelled).tolist():',
            'for index in ():',
        ),
        (
            'gradients-of-a-sure-network-unscaled',
            'all tiles match alike once the network is sure, and the first ones are chosen',
            'scale = mean.norm().clamp(min=torch.finfo(torch.float64).tiny)',
            'scale = 1.0',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/tile_choice/facts.py',
        ('tests/test_evaluation/test_tile_choice.py',),
        (
            'features-of-nothing',
            'tiles with a hole are unlike all others, and chosen for it',
            'weights = F.adaptive_avg_pool2d(seen.valid[None, None].float(), cells).flatten().double()',
            'weights = torch.ones(cells, dtype=torch.float64).flatten()',
        ),
    ),
    *_in_file(
        'mmrs/apis/selection.py',
        ('tests/test_apis/test_selection.py',),
        (
            'images-learnt-by-heart-first',
            'a choice looks at images that self-training has seen, although there are others',
            'for places in (unseen, seen):',
            'for places in (seen, unseen):',
        ),
        (
            'statistics-of-the-source',
            'a candidate is judged by other statistics than those that it is chosen for',
            'if candidate.statistics:\n            images',
            'if False:\n            images',
        ),
    ),
    *_in_file(
        'mmrs/apis/recommendation.py',
        ('tests/test_apis/test_recommendation.py',),
        (
            'budget-without-end',
            'trainings go on for as long as they like',
            'if left * step > self._time_left:',
            'if False:',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/label_free/changes.py',
        ('tests/test_evaluation/test_label_free.py',),
        (
            'turned-back-the-wrong-way',
            'maps of a turned image are compared upside down',
            'maps.rot90(-1',
            'maps.rot90(1',
        ),
    ),
    *_in_file(
        'mmrs/apis/report.py',
        ('tests/test_apis/test_report_page.py::test_disagreement_counts_pixels_with_data',),
        (
            'disagreement-where-there-is-nothing',
            'places without data are shown as those where maps disagree most',
            '(maps < len(self.classes)).all(0)',
            '(maps < 256).all(0)',
        ),
    ),
    *_in_file(
        'mmrs/visualization/report/blocks.py',
        ('tests/test_visualization/test_report.py',),
        (
            'confusion-by-prediction',
            'shares of the map are taken for shares of the labels',
            'for row in counts]',
            'for row in counts.T]',
        ),
        (
            'curve-upside-down',
            'a falling loss is drawn as a rising one',
            "('y', 1, self.height - 46, 10)",
            "('y', 1, 10, self.height - 46)",
        ),
    ),
    *_in_file(
        'mmrs/apis/class_prior.py',
        ('tests/test_apis/test_class_prior.py',),
        (
            'prior-exchanged',
            'the shares that are wanted are taken out, those that were learned put in',
            'np.log(self.wanted) - np.log(self.trained)',
            'np.log(self.trained) - np.log(self.wanted)',
        ),
        (
            'tau-forgotten',
            'a model that was trained prior-neutrally is corrected once more',
            '- own.tau * np.log(source if own.shares is None else own.shares)',
            '- 0 * np.log(source)',
        ),
    ),
    *_in_file(
        f'{MODELS}/batch_statistics.py',
        (f'{MODEL_TESTS}/test_batch_statistics.py',),
        (
            'spread-between-images-left-out',
            'a layer takes the target for more uniform than it is, and what it passes on is too large',
            '+ step**2 * (self.count * count / total)',
            '',
        ),
        (
            'statistics-blended-the-other-way',
            'a small weight is nearly all of the target',
            'target, self.weight)',
            'target, 1 - self.weight)',
        ),
        (
            'statistics-under-the-sources',
            'later layers see other inputs afterwards than those that their statistics were taken of',
            '        if self.usable:\n',
            '        if self.usable and total > 1e9:\n',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/source_free.py',
        (f'{MODEL_TESTS}/test_adaptors/test_source_free.py',),
        ('entropy-maximised', 'predictions on the target become unsure', 'target.mean(-(log_p', 'target.mean((log_p'),
        (
            'one-class-rewarded',
            'the diversity term pulls towards a map of one class',
            'diversity * (marginal * log_marginal).sum()',
            '-diversity * (marginal * log_marginal).sum()',
        ),
        (
            'trained-with-dropout',
            'batches are normalised by their own statistics, and what trains is not what predicts',
            'super().train(False)',
            'super().train(mode)',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/tent.py',
        (f'{MODEL_TESTS}/test_adaptors/test_source_free.py',),
        (
            'all-weights-minimise-entropy',
            'the whole network follows a loss that a map of one class satisfies',
            'self.requires_grad_(False)',
            'self.requires_grad_(True)',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/shot.py',
        (f'{MODEL_TESTS}/test_adaptors/test_source_free.py',),
        (
            'classifier-learns',
            'features need not fit the classes that the source has taught',
            'classifier.requires_grad_(False)',
            'classifier.requires_grad_(True)',
        ),
        (
            'frequent-classes-nearest',
            'prototypes of frequent classes take the pixels of rare ones',
            'F.normalize(sums, dim=1).T',
            'sums.T',
        ),
    ),
    *_in_file(
        f'{MODELS}/adaptors/cotta.py',
        (f'{MODEL_TESTS}/test_adaptors/test_source_free.py',),
        (
            'sure-images-averaged',
            'passes over all scales are spent on images that need none, and the others are taught by one',
            'if not sure.all():\n            taught[~sure] = self._averaged(target.images[~sure])',
            'if sure.any():\n            taught[sure] = self._averaged(target.images[sure])',
        ),
        (
            'restored-to-the-teacher',
            'the student is pulled to where it drifted',
            'kept = dict(self.anchor.named_parameters())',
            'kept = dict(self.teacher.named_parameters())',
        ),
    ),
    *_in_file(
        'mmrs/prediction/scenes.py',
        ('tests/test_prediction/test_scenes.py',),
        (
            'scene-after-scene',
            'a raster is predicted with what is left of the one before, and maps depend on their order',
            'return kept_batch_statistics(self.predictor.model)',
            'return __import__("contextlib").nullcontext()',
        ),
        (
            'scene-keeps-what-it-learnt',
            'a raster starts from scales and shifts of the one before',
            'parameter.requires_grad_(trains).data.copy_(values)',
            'parameter.requires_grad_(trains)',
        ),
        (
            'scene-prior-of-the-source',
            'the shares that the model has learned are taken for those of the scene, and rare classes lose',
            ' / self.trained[:, None, None]',
            '',
        ),
    ),
    *_in_file(
        'mmrs/apis/inference.py',
        ('tests/test_prediction/test_scenes.py',),
        (
            'adaptation-not-recorded',
            'a stopped run goes on with other settings, and a map is made of two models',
            'calibration=self.calibration, adapt=adapted)',
            'calibration=self.calibration)',
        ),
    ),
    *_in_file(
        'mmrs/preparation/consensus/graph_cuts.py',
        ('tests/test_preparation/test_consensus.py',),
        (
            'expansion-forgets-borders',
            'a class spreads without regard to the borders that are there',
            'np.bincount(first, c - a, len(costs))',
            'np.bincount(first, c, len(costs))',
        ),
        (
            'settled-too-early',
            'pixels are decided while their neighbours can still turn them',
            'stay = change >= np.bincount(first, values, size)',
            'stay = change >= 0.5 * np.bincount(first, values, size)',
        ),
    ),
    *_in_file(
        'mmrs/preparation/consensus/annotators.py',
        ('tests/test_preparation/test_consensus.py', 'tests/test_apis/test_make_consensus.py'),
        (
            'weights-by-the-ease-of-a-class',
            'classes that are hard to tell by their look are outvoted, whoever draws them',
            'return consistency / np.where(mean > 0, mean, 1)',
            'return consistency / np.where(mean > 0, 1, 1)',
        ),
    ),
    *_in_file(
        f'{MODELS}/losses/signed_distance.py',
        (f'{MODEL_TESTS}/test_losses/test_signed_distance.py',),
        (
            'distance-across-the-unknown',
            'crops teach distances that the whole image contradicts',
            'padded = _pad(squares, axis, reach, 0.0 if outside else _FAR)',
            'padded = _pad(squares, axis, reach, _FAR)',
        ),
        (
            'city-block-distance',
            'distances along diagonals are too long',
            'padded.narrow(axis, start, size) + step**2',
            'padded.narrow(axis, start, size) + step',
        ),
    ),
    *_in_file(
        'mmrs/geo/qgis.py',
        ('tests/test_geo/test_styles.py',),
        (
            'names-of-the-class-before',
            'the legend of QGIS calls roads roofs',
            'in enumerate(zip(labels, colours)):',
            'in enumerate(zip(labels, colours), 1):',
        ),
        (
            'style-of-a-user-replaced',
            'the next prediction takes a style away that somebody has worked on',
            'if not path.exists() or is_own_style(path):',
            'if True:',
        ),
    ),
    *_in_file(
        'mmrs/evaluation/area_estimate.py',
        ('tests/test_evaluation/test_area_estimate.py',),
        (
            'rates-by-reference-class',
            'areas are adjusted by how much of a class is found, not by how much of what is found is that class',
            'rates = total / np.maximum(sampled, 1)[:, None]',
            'rates = total / np.maximum(total.sum(axis=0), 1)',
        ),
        (
            'labels-for-predictions',
            'the matrix of the scores is read the other way round, and adjusted areas are further off than mapped ones',
            '(names, names), counts.transpose(0, 2, 1)',
            '(names, names), counts',
        ),
        (
            'error-of-the-count',
            'intervals of rare classes are too narrow',
            'np.maximum(sampled - 1, 1)[:, None]',
            'np.maximum(sampled, 1)[:, None]',
        ),
    ),
    *_in_file(
        'mmrs/prediction/zonal_areas.py',
        ('tests/test_prediction/test_zonal_areas.py',),
        (
            'pixels-of-one-size',
            'in degrees, districts in the north have the pixels of those in the south',
            'np.bincount(found, sizes[rows], minlength=classes)',
            'np.bincount(found, sizes[:1].repeat(len(rows)), minlength=classes)',
        ),
    ),
]


class Outcome(NamedTuple):
    """How the tests ended: with `noticed_by`, the first that failed, or with what else `happened`."""

    noticed_by: str | None
    happened: str
    seconds: float


def tree_of(root: Path) -> list[str]:
    """Files of a repository that are tracked, or new and not ignored, as they are in the working tree."""
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(
        {name for name in listed.split('\0') if name and ((root / name).is_file() or (root / name).is_symlink())}
    )


def copy_tree(root: Path, target: Path) -> None:
    """Copy what :func:`tree_of` lists."""
    for name in tree_of(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name, follow_symlinks=False)


def broken(text: str, breakage: Breakage) -> str:
    """The file's text with the breakage.

    Raises:
        ValueError: What it changes does not stand there exactly once.
    """
    if text.count(breakage.old) != 1:
        raise ValueError(
            f'{breakage.name}: {breakage.old!r} stands {text.count(breakage.old)} times in {breakage.file}, not once; '
            'bring the breakage up to date in tests/breakages.py'
        )
    return text.replace(breakage.old, breakage.new)


def run_tests(tree: Path, tests: Sequence[str], timeout: float) -> Outcome:
    """Run tests of a copy until the first fails."""
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-rfE', '--tb=no', '-p', 'no:cacheprovider', *tests]
    environment = dict(
        os.environ, PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1', COLUMNS='500'
    )
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Outcome(None, f'no end after {timeout:.0f} s', time.monotonic() - start)
    seconds = time.monotonic() - start
    # A file that cannot even be collected has no `::`, and shows nothing.
    failed = re.search(r'^(?:FAILED|ERROR) (\S+::.+?)(?: - |$)', done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Outcome(failed[1], '', seconds)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return Outcome(None, 'passed' if done.returncode == 0 else f'pytest ended with {done.returncode}: {last}', seconds)


def attempt(snapshot: Path, breakage: Breakage, tests: Sequence[str], timeout: float) -> Outcome:
    """Run tests on a broken copy of a tree."""
    with tempfile.TemporaryDirectory(prefix='mmrs-breakage-') as folder:
        shutil.copytree(snapshot, folder, symlinks=True, dirs_exist_ok=True)
        path = Path(folder) / breakage.file
        try:
            path.write_text(broken(path.read_text(), breakage))
        except ValueError as error:
            return Outcome(None, str(error), 0)
        return run_tests(Path(folder), tests, timeout)


def run(
    breakages: Sequence[Breakage], root: Path, jobs: int = 1, all_tests: bool = False, timeout: float = 600
) -> dict[str, Outcome]:
    """Outcome of each breakage by name; ``''`` is the tree as it is, and alone where its tests fail.

    Args:
        breakages: What to try.
        root: The repository.
        jobs: How many are tried at once.
        all_tests: Run the whole suite instead of the tests that a breakage names.
        timeout: Seconds for the tests of one.
    """
    named = list(dict.fromkeys(test for breakage in breakages for test in breakage.tests))
    outcomes = {}
    with (
        tempfile.TemporaryDirectory(prefix='mmrs-unbroken-') as folder,
        progress_bar() as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        task = bar.add_task('unbroken', total=len(breakages) + 1)
        snapshot = Path(folder)  # the tree may change meanwhile
        copy_tree(root, snapshot)
        # Tests that fail anyhow would notice everything.
        outcomes[''] = run_tests(snapshot, ['tests'] if all_tests else named, 10 * timeout)
        bar.advance(task)
        if outcomes[''].happened != 'passed':
            return outcomes

        def one(breakage: Breakage) -> tuple[str, Outcome]:
            outcome = attempt(snapshot, breakage, ['tests'] if all_tests else breakage.tests, timeout)
            bar.update(task, advance=1, description=breakage.name)
            return breakage.name, outcome

        outcomes.update(pool.map(one, breakages))
    return outcomes


def listing(breakages: Sequence[Breakage]) -> Table:
    """What the breakages are."""
    table = Table('breakage', 'file', 'why it matters')
    for breakage in breakages:
        table.add_row(breakage.name, breakage.file, breakage.why)
    return table


def report(outcomes: dict[str, Outcome]) -> Table:
    """What noticed each breakage."""
    table = Table('breakage', 'noticed by', 'seconds')
    for name, (noticed_by, happened, seconds) in outcomes.items():
        if name:
            said = noticed_by or f'NOT NOTICED: {happened}'
        else:
            said = f'FAILS WITHOUT A BREAKAGE: {noticed_by}' if noticed_by else happened
        table.add_row(name or '(none)', escape(said), f'{seconds:.0f}')
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Try the breakages; 0 if all are noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--list', action='store_true', help='only list the breakages')
    parser.add_argument(
        '--only', action='append', metavar='NAME', help='try this one alone; may be given several times'
    )
    parser.add_argument(
        '--jobs', type=int, default=1, metavar='N', help='how many to try at once (default: %(default)s)'
    )
    parser.add_argument('--all-tests', action='store_true', help='run the whole suite on each')
    parser.add_argument('--timeout', type=float, default=600, help='seconds for each (default: %(default)s)')
    args = parser.parse_args(argv)
    by_name = {breakage.name: breakage for breakage in BREAKAGES}
    unknown = sorted(set(args.only or ()) - set(by_name))
    if unknown:
        parser.error(f'there is no breakage {", ".join(unknown)}; there are {", ".join(by_name)}')
    chosen = [by_name[name] for name in args.only or by_name]
    # In a pipe the table is not cut to the width of a terminal that is not there.
    console = Console(width=None if sys.stdout.isatty() else 180)
    if args.list:
        console.print(listing(chosen))
        return 0
    outcomes = run(chosen, REPOSITORY, args.jobs, args.all_tests, args.timeout)
    console.print(report(outcomes))
    noticed = sum(name != '' and outcome.noticed_by is not None for name, outcome in outcomes.items())
    console.print(f'{noticed} of {len(chosen)} breakages noticed')
    return int(noticed < len(chosen))


if __name__ == '__main__':
    sys.exit(main())
