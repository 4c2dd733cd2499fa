"""A hook for tests of several processes: each saves its weights and what it was trained on."""

import torch
from mmengine.hooks import Hook

from mmrs.registry import HOOKS


@HOOKS.register_module()
class RankRecorder(Hook):
    def __init__(self, out_dir):
        self.out_dir = out_dir
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for part in [data_batch] if 'inputs' in data_batch else data_batch.values():
            self.images += [sample.img_path for sample in part['data_samples']]

    def after_train(self, runner):
        model = runner.model.module
        torch.save(dict(state=model.state_dict(), images=self.images), f'{self.out_dir}/rank{runner.rank}.pth')
