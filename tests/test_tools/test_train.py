import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmrs.weights import read_checkpoint
from tests.tiny_runs import write_clips, write_config
from tools import train


def log_of(work_dir) -> str:
    return '\n'.join(file.read_text() for file in sorted(work_dir.glob('*/*.log')))


def scalars_of(work_dir) -> list:
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def fails(capsys, *argv) -> str:
    """The error message of a run that must end with status 2."""
    assert train.main([str(arg) for arg in argv]) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ')
    assert 'Traceback' not in message
    return message


def test_a_run_leaves_checkpoints_scores_and_config(finished):
    assert (finished.work_dir / 'last_checkpoint').read_text() == str(finished.checkpoint)
    state = read_checkpoint(finished.checkpoint)
    assert state['meta']['iter'] == 2
    assert {'state_dict', 'optimizer', 'message_hub', 'param_schedulers'} <= set(state)
    training, validation = scalars_of(finished.work_dir)[:2], scalars_of(finished.work_dir)[2]
    assert [line['step'] for line in training] == [1, 2]
    assert all(line['loss'] > 0 for line in training)
    assert 0 <= validation['mIoU'] <= 100
    assert Config.fromfile(finished.work_dir / finished.config.name).train_cfg.max_iters == 2


def test_adaptation_logs_every_loss(adapted):
    line = scalars_of(adapted.work_dir)[0]
    assert {'loss_seg_s2s', 'loss_pseudo_t2t', 'loss_adv_s2t', 'confident_share', 'disc_accuracy_target'} <= set(line)
    assert set(read_checkpoint(adapted.checkpoint)['optimizer']) == {'segmentor', 'discriminator'}


@pytest.mark.parametrize('path', [[], ['auto']])
def test_resume_continues_the_latest_checkpoint_wherever_the_folder_is(finished, tmp_path, path):
    shutil.copytree(finished.work_dir, tmp_path / 'moved')
    (tmp_path / 'moved' / 'last_checkpoint').write_text('/no/longer/there/iter_2.pth')
    options = ['--work-dir', str(tmp_path / 'moved'), '--resume', *path, '--cfg-options', 'train_cfg.max_iters=3']
    assert train.main([str(finished.config), *options]) == 0
    assert read_checkpoint(tmp_path / 'moved' / 'iter_3.pth')['meta']['iter'] == 3
    assert 'resumed epoch: 0, iter: 2' in log_of(tmp_path / 'moved')


def test_automatic_resume_without_a_checkpoint_keeps_the_warm_start(finished, tmp_path):
    options = ['--work-dir', str(tmp_path), '--resume', '--cfg-options', f'load_from={finished.checkpoint}']
    assert train.main([str(finished.config), *options]) == 0
    assert f'{finished.checkpoint}: 124 weights fit' in log_of(tmp_path)
    assert (tmp_path / 'iter_1.pth').exists()


def test_a_resumed_run_needs_no_pretrained_file(finished, tmp_path, monkeypatch):
    options = [
        '--work-dir', str(tmp_path), '--resume', str(finished.checkpoint), '--cfg-options', 'train_cfg.max_iters=3',
        'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=https://x.invalid/w.pth',
    ]  # fmt: skip
    assert train.main([str(finished.config), *options]) == 0


def test_nothing_is_overwritten_unasked(finished, tmp_path, capsys):
    work_dir = tmp_path / 'run'
    shutil.copytree(finished.work_dir, work_dir)
    message = fails(capsys, finished.config, '--work-dir', work_dir)
    assert f'{work_dir} holds a training run already' in message
    assert train.main([str(finished.config), '--work-dir', str(work_dir), '--overwrite']) == 0


# Checkpoints that do not fit ----------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path, finished):
    """A function that saves an altered copy of the run's last checkpoint."""

    def save(name, alter):
        state = read_checkpoint(finished.checkpoint)
        torch.save(alter(state) or state, tmp_path / name)
        return tmp_path / name

    return save


def test_resume_with_another_model(foreign, config, capsys, tmp_path):
    def rename(state):
        weights = state['state_dict']
        weights['decode_head.other.weight'] = weights.pop('decode_head.conv_seg.weight')

    message = fails(capsys, config, '--work-dir', tmp_path / 'run', '--resume', foreign('other.pth', rename))
    assert '123 weights fit, 1 missing from the file (decode_head.conv_seg.weight)' in message
    assert '1 in the file only (decode_head.other.weight)' in message


def test_resume_with_a_missing_file(config, capsys, tmp_path):
    message = fails(capsys, config, '--work-dir', tmp_path / 'run', '--resume', tmp_path / 'iter_9.pth')
    assert 'iter_9.pth does not exist' in message
    (tmp_path / 'run2').mkdir()
    (tmp_path / 'run2' / 'last_checkpoint').write_text('iter_9.pth')
    assert 'which is not there' in fails(capsys, config, '--work-dir', tmp_path / 'run2', '--resume')


def test_start_from_weights_that_match_in_part_warns(foreign, config, tmp_path):
    def drop(state):
        del state['state_dict']['decode_head.conv_seg.bias']

    option = f'load_from={foreign("part.pth", drop)}'
    assert train.main([str(config), '--work-dir', str(tmp_path / 'run'), '--cfg-options', option]) == 0
    log = log_of(tmp_path / 'run')
    assert 'WARNING' in log
    assert 'fits the model in part: 123 weights fit, 1 missing from the file (decode_head.conv_seg.bias)' in log


# Pretrained weights -------------------------------------------------------------------------------------------------

URL = 'https://weights.invalid/mit_b0.pth'


@pytest.fixture
def pretrained(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return write_config(tmp_path / 'pretrained.py', clips, init_cfg=f"dict(type='Pretrained', checkpoint='{URL}')")


def test_offline_with_pretrained_weights(pretrained, capsys, tmp_path):
    message = fails(capsys, pretrained, '--work-dir', tmp_path / 'run')
    for part in (URL, '--no-pretrained', '--cfg-options model.backbone.init_cfg.checkpoint=FILE', 'hub/checkpoints'):
        assert part in message


def test_no_pretrained(pretrained, tmp_path):
    assert train.main([str(pretrained), '--work-dir', str(tmp_path / 'run'), '--no-pretrained']) == 0


def test_pretrained_file_by_option_or_cache(pretrained, finished, tmp_path, capsys):
    state = read_checkpoint(finished.checkpoint)['state_dict']
    backbone = {key[len('backbone.') :]: value for key, value in state.items() if key.startswith('backbone.')}
    torch.save(backbone, tmp_path / 'mine.pth')
    file = f'model.backbone.init_cfg.checkpoint={tmp_path / "mine.pth"}'
    assert train.main([str(pretrained), '--work-dir', str(tmp_path / 'a'), '--cfg-options', file]) == 0
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    shutil.copy(tmp_path / 'mine.pth', tmp_path / 'hub' / 'checkpoints' / 'mit_b0.pth')
    assert train.main([str(pretrained), '--work-dir', str(tmp_path / 'b')]) == 0
    for run in 'ab':
        assert f'{len(backbone)} weights fit' in log_of(tmp_path / run)
    message = fails(capsys, pretrained, '--work-dir', tmp_path / 'c', '--cfg-options', f'{file}.not')
    assert 'model.backbone.init_cfg.checkpoint is' in message
    assert 'mine.pth.not, which does not exist' in message


# Configurations that cannot work ------------------------------------------------------------------------------------


TWO_BANDS = ['model.data_preprocessor.mean=[0.0,0.0]', 'model.data_preprocessor.std=[1.0,1.0]']
RESNET = ['model.backbone._delete_=True', 'model.backbone.type=mmseg.ResNetV1c', 'model.backbone.depth=18']


@pytest.mark.parametrize(
    ('options', 'carried'),
    [
        # Types that are not spelt right.
        (['model.decode_head.type=SegformrHead'], ["model.decode_head.type is 'SegformrHead'", 'did you mean ']),
        (['model.decode_head.loss_decode.type=CrosEntropyLoss'], ["loss_decode.type is 'CrosEntropyLoss'", 'CrossE']),
        (['optim_wrapper.optimizer.type=AdmW'], ["optim_wrapper.optimizer.type is 'AdmW'", 'AdamW']),
        (['optim_wrapper.constructor=JointOptimWraperConstructor'], ['optim_wrapper.constructor is', 'did you mean ']),
        (['runner_type=AdaptionRunner'], ["runner_type is 'AdaptionRunner'", 'AdaptationRunner']),
        # Values with which nothing can be built.
        (['train_cfg.max_iters=abc'], ['CONFIG: train_cfg (IterBasedTrainLoop) cannot be built: ValueError: ']),
        (['train_dataloader.batch_size=0'], ['CONFIG: the dataloader cannot be built: ValueError: batch_size should']),
        (['optim_wrapper.optimizer.foo=1'], ['CONFIG: optim_wrapper.optimizer (AdamW) cannot be built: TypeError: ']),
        (['model.decode_head.num_classes=x'], ['CONFIG: model.decode_head (mmseg.SegformerHead) cannot be built: ']),
        (['val_evaluator=None'], ['CONFIG: the runner cannot be built: ValueError: val_dataloader, val_cfg, and val_']),
        (['randomness.seed=abc'], ['CONFIG: the runner cannot be built: TypeError: ']),
        (['model.init_cfg.type=Pretrained'], ['CONFIG: model.init_cfg (Pretrained) cannot be built: ']),
        # Parts that do not fit each other.
        (['model.decode_head.num_classes=5'],
         ['model.decode_head.num_classes is 5', 'train_dataloader.dataset (PotsdamDataset) has 6 classes: imperv']),
        (['model.backbone.in_channels=4', *TWO_BANDS], ['takes 4 channels, but gets 2, one for each number in model.']),
        ([*RESNET, *TWO_BANDS], ['takes 3 channels, but gets 2', 'set model.backbone.in_channels to 2']),
        (TWO_BANDS, ['takes 3 channels, but gets 2', 'set model.backbone.in_channels to 2']),
        # What is missing, or has no place here.
        (['train_dataloader.dataset.data_root=/no'], ['/no/img_dir/train']),
        (['activation_checkpointing=[backbone]'], ['set model.backbone.with_cp to True instead']),
        (['optim_wrapper=None'], ['training needs optim_wrapper']),
        (['model=3'], ['--cfg-options model=3: the configuration has a dict there, ', 'model.type=']),
        (['lr=1', '--reference', 'x.pth'], ['EncoderDecoder, starts from no reference; leave --reference']),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(config, capsys, tmp_path, options, carried):
    message = fails(capsys, config, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    assert message.count('\n') == 1
    for part in carried:
        assert part.replace('CONFIG', f'error: config {config}') in message


@pytest.mark.parametrize('folder', ['file', 'file/run'])
def test_a_work_dir_that_cannot_be(config, capsys, tmp_path, folder):
    (tmp_path / 'file').write_text('')
    message = fails(capsys, config, '--work-dir', tmp_path / folder)
    assert f'work dir {tmp_path / folder} cannot be written' in message


def test_mixed_precision(config, tmp_path):
    assert train.main([str(config), '--work-dir', str(tmp_path / 'run'), '--amp', '--no-pretrained']) == 0
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=False)
    assert 'loss_scaler' in saved['optimizer']


def test_an_alpha_band_that_looks_like_data_is_named_before_the_first_iteration(tmp_path):
    clips = write_clips(tmp_path / 'clips')
    for path in (clips / 'img_dir').rglob('*.png'):
        image = np.asarray(Image.open(path))
        Image.fromarray(np.dstack((image, image[..., 0]))).save(path)  # a fourth band of data, as infrared would be
    config = write_config(tmp_path / 'tiny.py', clips)
    assert train.main([str(config), '--work-dir', str(tmp_path / 'run')]) == 0
    lines = log_of(tmp_path / 'run').splitlines()
    (said,) = (i for i, line in enumerate(lines) if 'alpha band' in line)
    assert 'clip0.png' in lines[said]
    assert said < next(i for i, line in enumerate(lines) if 'Iter(train)' in line)
