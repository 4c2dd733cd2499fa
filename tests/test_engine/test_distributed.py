import os
import re
import socket
import subprocess
import sys

import pytest
import torch

from mmrs.engine.checkpoint import read_checkpoint
from mmrs.engine.distributed import launcher_environment
from mmrs.utils import ConfigError
from tests.tiny_runs import REPOSITORY, write_adaptation_config, write_clips


def test_launcher_environment(monkeypatch):
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match='RANK, LOCAL_RANK, WORLD_SIZE is not set'):
        launcher_environment('pytorch')
    for name, value in dict(RANK='1', LOCAL_RANK='0', SIZE='4').items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    found = launcher_environment('mpi')
    assert (found['RANK'], found['LOCAL_RANK'], found['WORLD_SIZE']) == ('1', '0', '4')
    assert found['MASTER_PORT'] == '29500'


def test_slurm_master_is_the_first_node(monkeypatch, tmp_path):
    (tmp_path / 'scontrol').write_text('#!/bin/sh\nprintf "node7\\nnode8\\n"\n')
    (tmp_path / 'scontrol').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    for name, value in dict(PROCID='3', LOCALID='1', NTASKS='4', NODELIST='node[7-8]').items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    found = launcher_environment('slurm')
    assert (found['RANK'], found['LOCAL_RANK'], found['MASTER_ADDR']) == ('3', '1', 'node7')


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def launch(script, *arguments):
    environment = dict(
        os.environ, PYTHON=sys.executable, PORT=free_port(), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'
    )
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        environment.pop(name, None)
    command = ['bash', str(REPOSITORY / 'tools' / script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without torch.distributed')
def test_two_processes_without_a_gpu_train_and_test_one_model(tmp_path):
    clips = write_clips(tmp_path / 'clips', train=8, val=3)
    config = write_adaptation_config(tmp_path / 'tiny.py', clips)
    config.write_text(
        config.read_text()
        + "custom_imports = dict(imports=['mmrs.registry', 'tests.rank_recorder'])\n"
        + "param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]\n"
        + f"custom_hooks += [dict(type='RankRecorder', out_dir='{tmp_path}')]\n"
    )
    work_dir = tmp_path / 'run'
    done = launch('dist_train.sh', config, 2, '--work-dir', work_dir)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f'rank{rank}.pth', weights_only=True) for rank in (0, 1)]
    assert set(ranks[0]['images']) != set(ranks[1]['images'])
    parameters = [key for key in ranks[0]['state'] if 'running_' not in key and 'num_batches' not in key]
    assert all(torch.equal(ranks[0]['state'][key], ranks[1]['state'][key]) for key in parameters)
    first, last = (read_checkpoint(work_dir / f'iter_{i}.pth')['state_dict'] for i in (1, 2))
    assert set(last) == set(ranks[0]['state'])  # no `module.` in front
    # Equal weights that nobody trained would prove nothing.
    moved = [key for key in parameters if not torch.equal(first[key], last[key])]
    assert any(key.startswith('segmentor') for key in moved)
    assert any(key.startswith('discriminator') for key in moved)

    resumed = launch('dist_train.sh', config, 2, '--work-dir', work_dir, '--resume', work_dir / 'iter_1.pth')
    assert resumed.returncode == 0, resumed.stderr[-3000:]

    out = tmp_path / 'out'
    tested = launch('dist_test.sh', config, work_dir / 'iter_2.pth', 2, '--work-dir', work_dir, '--out', out)
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert sorted(path.name for path in out.iterdir()) == ['clip0.png', 'clip1.png', 'clip2.png']


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_scripts_say_how_they_are_used(script):
    done = subprocess.run(['bash', str(REPOSITORY / 'tools' / f'{script}.sh'), 'x'], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'CONFIG' in done.stderr


@pytest.mark.parametrize(
    ('script', 'arguments', 'expected'),
    [
        (
            'slurm_train',
            'gpu job c.py --amp',
            '-p gpu --job-name=job .*--ntasks=4 .*train.py c.py --launcher slurm --amp',
        ),
        ('slurm_test', 'gpu job c.py w.pth --tta', '.*--ntasks=4 .*test.py c.py w.pth --launcher slurm --tta'),
        ('dist_train', 'c.py 4 --amp', '--nproc_per_node=4 .*train.py c.py --launcher pytorch --amp'),
        ('dist_test', 'c.py w.pth 4 --tta', '--nproc_per_node=4 .*test.py c.py w.pth --launcher pytorch --tta'),
    ],
)
def test_scripts_pass_their_arguments_on(script, arguments, expected, tmp_path, monkeypatch):
    for name in ('srun', 'fake_python'):
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv('PYTHON', 'fake_python')
    monkeypatch.setenv('GPUS', '4')
    command = ['bash', str(REPOSITORY / 'tools' / f'{script}.sh'), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout
