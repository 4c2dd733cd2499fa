import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmrs.apis import init_model
from mmrs.engine.distributed import BatchNormSyncHook
from mmrs.utils import ConfigError
from mmrs.utils.process_group import launcher_environment
from mmrs.weights import read_checkpoint
from tests import shared_metrics
from tests.tiny_runs import (
    REPOSITORY,
    free_port,
    quick_start,  # noqa: F401
    write_adaptation_config,
    write_clips,
    write_config,
)
from tools import test, train

several = pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without torch.distributed')


def environment(**more) -> dict[str, str]:
    """That of a process that no launcher has started."""
    known = {
        name: value
        for name, value in os.environ.items()
        if name not in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'PORT')
    }
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get('PYTHONPATH'))))
    own = dict(PYTHON=sys.executable, PYTHONPATH=paths, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    return {**known, **own, **more}


def launch(script, *arguments, timeout=600, **variables):
    command = ['bash', str(REPOSITORY / 'tools' / script), *map(str, arguments)]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=timeout, check=False
    )


def launch_program(program, number, *arguments):
    command = [sys.executable, '-m', 'mmrs.utils.launch', f'--nproc_per_node={number}', program, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def messages(stderr: str) -> list[str]:
    """The lines that begin like those of an error; libraries warn there, too."""
    return [line for line in stderr.splitlines() if re.match(r'error: |Traceback|\w*Error\b|RuntimeError', line)]


def with_hooks(config, *hooks):
    """A configuration with more hooks."""
    file = config.with_name(f'hooked_{config.name}')
    known = Config.fromfile(config).get('custom_hooks', [])
    file.write_text(
        f"_base_ = './{config.name}'\n"
        "custom_imports = dict(imports=['mmrs.registry', 'tests.rank_recorder'])\n"
        "param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]\n"  # theirs ends after a step
        f'custom_hooks = {[*map(dict, known), *hooks]}\n'
    )
    return file


# Launchers -----------------------------------------------------------------------------------------------------------


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


@several
def test_the_group_and_its_threads_end_before_the_interpreter(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text(
        'import atexit, os, torch.distributed as dist\n'
        'from mmengine.model import MMDistributedDataParallel\n'
        'from torch.nn import Linear\n'
        'from mmrs.utils.process_group import init_cpu_group\n'
        'def state():\n'
        "    threads = [open(f'/proc/self/task/{number}/comm').read() for number in os.listdir('/proc/self/task')]\n"
        "    return dist.is_initialized(), any('gloo' in name for name in threads)\n"
        "atexit.register(lambda: print('at the end:', *state()))\n"  # runs last
        'init_cpu_group(60)\n'
        'model = MMDistributedDataParallel(Linear(1, 1))\n'
        'model.hooks = [model]\n'  # a cycle, as of the runner and its hooks
        'del model\n'
        "print('before:', *state())\n"
    )
    own = environment(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    done = subprocess.run([sys.executable, program], env=own, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ['before: True True', 'at the end: False False']


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


# One model -----------------------------------------------------------------------------------------------------------


@several
@pytest.mark.slow
def test_two_processes_train_and_test_one_model(tmp_path):
    clips = write_clips(tmp_path / 'clips', train=8, val=3)
    config = write_adaptation_config(tmp_path / 'tiny.py', clips)
    plain, work_dir = tmp_path / 'plain', tmp_path / 'run'
    done = launch('dist_train.sh', config, 2, '--work-dir', plain, '--no-preflight')
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [key for key in read_checkpoint(plain / 'iter_2.pth')['state_dict'] if key.startswith('module.')]
    (scalars,) = plain.glob('*/vis_data/scalars.json')
    (validated,) = [line for line in map(json.loads, scalars.read_text().splitlines()) if 'mIoU' in line]

    # Two processes resume exactly, and their preflight leaves no trace either.
    resumed = launch('dist_train.sh', config, 2, '--work-dir', work_dir, '--resume', plain / 'iter_1.pth')
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    weights = [read_checkpoint(folder / 'iter_2.pth')['state_dict'] for folder in (work_dir, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    # Three images for two processes: each counts once, in the validation of the training, too.
    out = tmp_path / 'out'
    options = [config, work_dir / 'iter_2.pth', '--work-dir', work_dir, '--metrics']
    tested = launch('dist_test.sh', *options[:2], 2, *options[2:], tmp_path / '2.json', '--out', out)
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert sorted(path.name for path in out.iterdir()) == ['clip0.png', 'clip1.png', 'clip2.png']
    assert test.main([*map(str, options), str(tmp_path / '1.json')]) == 0
    found = [json.loads((tmp_path / f'{number}.json').read_text()) for number in (1, 2)]
    assert np.sum(found[0]['confusion_matrix']) == 3 * 62 * 64  # a border of two rows is ignored
    assert found[0]['confusion_matrix'] == found[1]['confusion_matrix']
    assert validated['mIoU'] == pytest.approx(found[0]['mIoU'])


# Sums over the processes ---------------------------------------------------------------------------------------------


@several
@pytest.mark.slow
def test_each_image_counts_once(tmp_path):
    launch_program(shared_metrics.__file__, 3, tmp_path)
    found = json.loads((tmp_path / 'results.json').read_text())
    for number in shared_metrics.NUMBERS:
        matrix = np.zeros((3, 3), int)
        for prediction, label in map(shared_metrics.maps, range(number)):
            for y, p in zip(label.flat, prediction.flat):
                if y != 255:
                    matrix[y, p] += 1
        labelled, hit = matrix.sum(1), np.diag(matrix)
        frequent = labelled >= shared_metrics.LEAST_SHARE * matrix.sum()
        assert 0 < frequent.sum() < 3
        iou = 100 * hit / (labelled + matrix.sum(0) - hit)
        losses = [losses['loss'] for i in range(number) if (losses := shared_metrics.regression_losses(i)) is not None]
        for batch_size in shared_metrics.BATCH_SIZES:
            result = found[f'{number} {batch_size}']
            assert result['matrix'] == matrix.tolist()
            assert result['accuracy'] == pytest.approx(100 * np.trace(matrix) / matrix.sum())
            assert result['frequent'] == pytest.approx(iou[frequent].mean())
            assert result['regression'] == {'regression/loss': pytest.approx(np.mean(losses))}
            assert result['names'] == [f'{i}.png' for i in range(number)]


# Batch normalisation -------------------------------------------------------------------------------------------------


class Statistics(nn.Module):
    """Layers whose statistics are moved by a step, and some whose are not."""

    def __init__(self) -> None:
        super().__init__()
        self.moved, self.frozen, self.followed = nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval(), nn.BatchNorm2d(2)
        self.followed.momentum = 0.0


def test_running_statistics_are_averaged(monkeypatch):
    def double(tensor, op):  # the mean over processes of which one has this and another three times this
        assert op == 'mean'
        tensor *= 2

    monkeypatch.setattr('mmrs.engine.distributed.all_reduce', double)
    model = Statistics()
    with torch.no_grad():
        for i, module in enumerate(model.children(), 1):
            module.running_mean += i
    runner = type('Runner', (), dict(model=model))
    BatchNormSyncHook().after_train_iter(runner, 0)
    assert model.moved.running_mean.tolist() == [2, 2]
    assert model.moved.running_var.tolist() == [2, 2]
    assert (model.frozen.running_mean.tolist(), model.followed.running_mean.tolist()) == ([2, 2], [3, 3])


def test_sync_bn_in_one_process(tmp_path):
    synchronized = write_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips'))
    synchronized.write_text(synchronized.read_text().replace("dict(type='BN')", "dict(type='SyncBN')"))
    work_dir = tmp_path / 'run'
    assert train.main([str(synchronized), '--work-dir', str(work_dir)]) == 0
    checkpoint = str(work_dir / 'iter_2.pth')
    assert test.main([str(synchronized), checkpoint, '--work-dir', str(work_dir)]) == 0
    model = init_model(str(synchronized), checkpoint, device='cpu')
    assert model.training is False
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 6, 16, 16)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


# Bad luck ------------------------------------------------------------------------------------------------------------


def train_with_mishap(tmp_path, processes, script='dist_train.sh', **mishap):
    """Exit status, messages and seconds of a training that one process does not live through."""
    config = write_adaptation_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips', train=8, val=3))
    hooked = with_hooks(config, dict(type='Mishap', **mishap))
    options = ['train_cfg.max_iters=1000', 'train_cfg.val_interval=4', 'train_dataloader.num_workers=1']
    started = time.monotonic()
    work_dir = tmp_path / 'run'
    done = launch(script, hooked, processes, '--work-dir', work_dir, '--cfg-options', *options, timeout=300)
    assert left_processes(str(hooked)) == []
    return done.returncode, messages(done.stderr), time.monotonic() - started


def left_processes(argument: str) -> list[str]:
    """Those with this in their command line, a few seconds later at most."""
    for _ in range(50):
        found = [
            path.parent.name
            for path in Path('/proc').glob('[0-9]*/cmdline')
            if argument.encode() in read_or_nothing(path) and path.parent.name != str(os.getpid())
        ]
        if not found:
            break
        time.sleep(0.2)
    return found


def read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b''


@several
@pytest.mark.slow
@pytest.mark.parametrize(('processes', 'where'), [(3, 'train'), (2, 'save')])
def test_a_killed_process_ends_all(processes, where, tmp_path):
    rank = 0 if where == 'save' else random.randrange(processes)  # the others save nothing
    mishap = dict(rank=rank, kind='kill', where=where, iteration=random.randint(1, 6))
    print(mishap)
    status, lines, seconds = train_with_mishap(tmp_path, processes, **mishap)
    assert status == 128 + signal.SIGKILL
    (line,) = lines
    assert line.startswith(f'error: rank {rank} of {processes} processes (host ')
    assert 'was ended by SIGKILL, often by the kernel because memory ran out' in line
    assert seconds < 200  # most of which is starting


@several
@pytest.mark.slow
def test_a_defect_is_reported_once(tmp_path):
    status, lines, _ = train_with_mishap(tmp_path, 2, rank=1, kind='raise', where='val')
    assert status == 1
    expected = ['Traceback', 'ZeroDivisionError: a defect', 'error: rank 1 .* status 1']
    assert len(lines) == len(expected), lines
    assert all(re.match(pattern, line) for pattern, line in zip(expected, lines)), lines


@several
@pytest.mark.slow
def test_torchrun(tmp_path):
    """It has much to say itself, but what the processes say is one line."""
    config = write_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips'))
    hooked = with_hooks(config, dict(type='Mishap', rank=-1, kind='mistake'))
    tool = str(REPOSITORY / 'tools' / 'train.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', tool, str(hooked)]
    command += ['--launcher', 'pytorch', '--work-dir', str(tmp_path / 'run')]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.count('tile7.tif cannot be read') == 1
    assert 'DataError' not in done.stderr


# Machines ------------------------------------------------------------------------------------------------------------


@several
@pytest.mark.slow
@pytest.mark.parametrize('mishap', [None, dict(rank=1, kind='kill')])
def test_two_machines(mishap, tmp_path):
    """Both on this one."""
    config = write_adaptation_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips', train=8, val=3))
    hooks = [dict(type='RankRecorder', out_dir=str(tmp_path))] + ([dict(type='Mishap', **mishap)] if mishap else [])
    hooked = with_hooks(config, *hooks)
    command = ['bash', str(REPOSITORY / 'tools' / 'dist_train.sh'), str(hooked), '1', '--work-dir']
    shared = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=str(free_port()))
    nodes = [
        subprocess.Popen(
            [*command, str(tmp_path / 'run')],
            env=environment(NODE_RANK=str(i), **shared),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for i in range(2)
    ]
    lines = [messages(node.communicate(timeout=300)[1]) for node in nodes]
    if mishap is None:
        assert [node.returncode for node in nodes] == [0, 0], lines
        ranks = [torch.load(tmp_path / f'rank{rank}.pth', weights_only=True) for rank in (0, 1)]
        assert ranks[0]['digests'] == ranks[1]['digests']
    else:
        assert [node.returncode for node in nodes] == [75, 128 + signal.SIGKILL], lines
        (survivor,), (killed,) = lines
        assert re.match(r'error: rank 0 of 2 processes \(host \S+\) cannot go on without the others: ', survivor)
        assert 'rank 1 of 2' in killed


@several
@pytest.mark.slow
def test_slurm(tmp_path):
    """With a stand-in for srun that starts the processes on this machine."""
    (tmp_path / 'bin').mkdir()
    srun = """\
#!/usr/bin/env bash
while [[ $1 == -* ]]; do
    case $1 in --ntasks=*) N=${1#*=};; -p) shift;; esac
    shift
done
pids=()
for ((i = 0; i < N; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=$N SLURM_NODELIST=node[1] "$@" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit $?; done
"""
    for name, text in (('srun', srun), ('scontrol', '#!/bin/sh\necho 127.0.0.1\n')):
        (tmp_path / 'bin' / name).write_text(text)
        (tmp_path / 'bin' / name).chmod(0o755)
    config = write_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips'))
    hooked = with_hooks(config, dict(type='RankRecorder', out_dir=str(tmp_path)))
    done = launch(
        'slurm_train.sh', 'cpu', 'job', hooked, '--work-dir', tmp_path / 'run', GPUS='2',
        PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}', MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f'rank{rank}.pth', weights_only=True) for rank in (0, 1)]
    assert ranks[0]['digests'] == ranks[1]['digests']
    assert set(ranks[0]['images']) != set(ranks[1]['images'])
