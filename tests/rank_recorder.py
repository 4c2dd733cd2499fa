"""Hooks for tests of several processes."""

import hashlib
import os
import signal

import torch
from mmengine.hooks import Hook

from mmrs.registry import HOOKS
from mmrs.utils import DataError


def digest(tensors) -> str:
    """Bits of some tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@HOOKS.register_module()
class RankRecorder(Hook):
    """Each process saves its weights and what it was trained on, and after each step a digest of every tensor."""

    priority = 'LOWEST'

    def __init__(self, out_dir):
        self.out_dir = out_dir
        self.images = []
        self.digests = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for part in [data_batch] if 'inputs' in data_batch else data_batch.values():
            self.images += [sample.img_path for sample in part['data_samples']]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.digests.append({name: digest([value]) for name, value in runner.model.module.state_dict().items()})

    def after_train(self, runner):
        state = runner.model.module.state_dict()
        torch.save(dict(state=state, images=self.images, digests=self.digests), f'{self.out_dir}/rank{runner.rank}.pth')


def mishap(kind):
    """What ends a process."""
    if kind == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == 'mistake':
        raise DataError('tile7.tif cannot be read: get it again')
    raise ZeroDivisionError('a defect')


@HOOKS.register_module()
class Mishap(Hook):
    """One process, or all (-1), come to grief: in ``train``, in ``val``, or in ``save``, before a checkpoint."""

    def __init__(self, rank, kind, where='train', iteration=1):
        self.rank, self.kind, self.where, self.iteration = rank, kind, where, iteration

    def _strike(self, runner, where):
        if self.rank in (-1, runner.rank) and where == self.where and runner.iter >= self.iteration:
            mishap(self.kind)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._strike(runner, 'train')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._strike(runner, 'val')

    def before_save_checkpoint(self, runner, checkpoint):
        self._strike(runner, 'save')
