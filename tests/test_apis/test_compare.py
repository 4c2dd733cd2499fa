import json
import math
import statistics
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmrs.apis import compare as module
from mmrs.apis.compare import Entry, compare, duration, mean_curves, plan_runs, plot_comparison
from mmrs.apis.comparison import Comparison, Spread, last_values
from mmrs.utils.errors import ConfigError, OutputError
from tests.tiny_runs import write_clips, write_config
from tools.analysis_tools import compare_seeds

ITERATIONS = 4


def write_scalars(run: Path, records: list[dict], time: str = '20260101_000000') -> None:
    file = run / time / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(''.join(json.dumps(record) + '\n' for record in records))


def training(step: int, **values: float) -> dict:
    return dict(loss=1 / step, time=0.1, iter=step, step=step, **values)


def validation(step: int, miou: float, **values: float) -> dict:
    return dict(aAcc=miou + 20, mIoU=miou, mF1=1.0, **{'IoU.car': miou - 10}, **values, step=step)


@pytest.fixture
def write(tmp_path):
    """Writes a configuration that has just what planning looks at."""

    def write(name: str, folder: str = 'method', extra: str = '') -> Path:
        path = tmp_path / folder / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'train_cfg = dict(max_iters={ITERATIONS})\nval_dataloader = dict(a=1)\nlr = 0.1\n{extra}\n')
        return path

    return write


@pytest.fixture
def quiet() -> Console:
    return Console(file=StringIO(), width=200)


class Trainer:
    """Stands in for train.py: leaves a run's logs and checkpoints, with a score of 10 and the seed."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.failing: set[str] = set()
        self.interrupt_at: int | None = None

    def __call__(self, tool, arguments, log, poll=None, interval=1.0):
        assert tool == 'train.py'
        self.calls.append(arguments)
        folder = Path(arguments[arguments.index('--work-dir') + 1])
        options = dict(option.split('=') for option in arguments[arguments.index('--cfg-options') + 1 :])
        if folder.parent.name in self.failing:
            log.write_text('first line\nValueError: no such thing\n')
            return 1
        time = f'2026010{len(self.calls)}_000000'
        records = []
        for step in range(1, ITERATIONS + 1):
            records.append(training(step))
            write_scalars(folder, records, time)
            torch.save({}, folder / f'iter_{step}.pth')
            (folder / 'last_checkpoint').write_text(str(folder / f'iter_{step}.pth'))
            poll(1)
            if step == self.interrupt_at:
                raise KeyboardInterrupt
        write_scalars(folder, [*records, validation(ITERATIONS, 10.0 + float(options['randomness.seed']))], time)
        return 0


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(module, 'run_tool', trainer)
    return trainer


# Values ---------------------------------------------------------------------------------------------------------------


def test_spread_is_the_sample_standard_deviation():
    spread = Spread((40.0, 43.0, 49.0))
    assert spread.mean == 44.0
    assert spread.deviation == pytest.approx(math.sqrt((16 + 1 + 25) / 2))
    assert str(spread) == '44.0 ± 4.6 (40.0–49.0)'
    assert str(Spread((40.04,))) == '40.0'
    assert Spread((40.0,)).deviation is None
    assert str(Spread((40.0, math.nan, 44.0))) == '42.0 ± 2.8 (40.0–44.0)'
    assert str(Spread((math.nan,))) == str(Spread(())) == '-'


def test_values_are_those_of_the_last_iteration_not_of_the_best(tmp_path):
    records = [
        training(2, confident_share=0.5),
        validation(2, 60.0),
        training(4, confident_share=0.25),
        validation(4, 30.0),
    ]
    records[2].update(disc_accuracy_source=0.75)
    write_scalars(tmp_path, records)
    assert last_values(tmp_path, 4) == {
        'mIoU': 30.0, 'aAcc': 50.0, 'IoU.car': 20.0, 'confident_share': 25.0, 'disc_accuracy_source': 75.0,
    }  # fmt: skip
    assert last_values(tmp_path, 8) is None  # not there yet
    assert last_values(tmp_path / 'nothing', 4) is None


def test_a_resumed_run_counts_from_where_it_went_on(tmp_path):
    write_scalars(tmp_path, [training(2), validation(2, 20.0), training(4, confident_share=0.9), validation(4, 99.0)])
    write_scalars(tmp_path, [training(3), training(4, confident_share=0.1)], '20260102_000000')
    assert last_values(tmp_path, 4) is None  # the later attempt has not been validated
    write_scalars(tmp_path, [training(4, confident_share=0.2), validation(4, 35.0)], '20260103_000000')
    assert last_values(tmp_path, 4) == {'mIoU': 35.0, 'aAcc': 55.0, 'IoU.car': 25.0, 'confident_share': 20.0}


def comparison() -> Comparison:
    first, second = (40.0, 44.0, 42.0), (46.0, 47.0, 51.0)
    values = {
        'source_only_demo': {k: {'aAcc': v + 20, 'IoU.car': v / 2, 'mIoU': v} for k, v in enumerate(first)},
        'st_dasegnet_demo': {
            k: {'IoU.car': v / 2, 'mIoU': v, 'aAcc': v + 20, 'confident_share': 5.0} for k, v in enumerate(second)
        },
    }
    return Comparison([0, 1, 2], values)


def test_gain_is_taken_seed_by_seed():
    gain = comparison().gain('st_dasegnet_demo')
    assert gain.values == (6.0, 3.0, 9.0)
    assert gain.mean == 6.0
    partial = comparison()
    del partial.values['source_only_demo'][1]
    assert partial.gain('st_dasegnet_demo').values == (6.0, 9.0)


def test_files_of_a_comparison(tmp_path):
    json_file, markdown = comparison().save(tmp_path)
    text = markdown.read_text()
    assert text.splitlines()[:6] == [
        '|  | source_only_demo | st_dasegnet_demo |',
        '| --- | ---: | ---: |',
        '| IoU car | 21.0 ± 1.0 (20.0–22.0) | 24.0 ± 1.3 (23.0–25.5) |',
        '| mIoU | 42.0 ± 2.0 (40.0–44.0) | 48.0 ± 2.6 (46.0–51.0) |',
        '| overall accuracy | 62.0 ± 2.0 (60.0–64.0) | 68.0 ± 2.6 (66.0–71.0) |',
        '| confident target pixels | - | 5.0 ± 0.0 (5.0–5.0) |',
    ]
    assert 'last iteration, not of the best' in text
    assert 'st_dasegnet_demo over source_only_demo: +6.0 points of mIoU (+6.0, +3.0, +9.0).' in text
    data = json.loads(json_file.read_text())
    summary = data['configs']['st_dasegnet_demo']['summary']['mIoU']
    assert summary['mean'] == 48.0
    assert summary['std'] == pytest.approx(statistics.stdev((46, 47, 51)))
    assert (summary['min'], summary['max'], summary['values']) == (46.0, 51.0, [46.0, 47.0, 51.0])
    assert data['configs']['source_only_demo']['runs']['1']['mIoU'] == 44.0
    assert not list(tmp_path.glob('.*'))
    comparison().save(tmp_path)  # its own files it replaces


def test_a_table_says_which_seeds_are_lacking():
    partial = comparison()
    del partial.values['source_only_demo'][1]
    assert '| source_only_demo (2 of 3 seeds) |' in partial.markdown()
    partial.values = {'a_b': {}}
    assert '(0 of 3 seeds)' in partial.markdown()


def test_mean_curves(tmp_path):
    write_scalars(tmp_path / 'a', [training(2, x=1.0), training(4, x=3.0)])
    write_scalars(tmp_path / 'b', [training(2, x=3.0), training(6, x=9.0)])
    steps, values = mean_curves([tmp_path / 'a', tmp_path / 'b'])['x']
    assert steps.tolist() == [2]
    assert values.tolist() == [2.0]


def test_progress_counts_what_is_left_to_do(write, tmp_path, monkeypatch, quiet):
    runs = plan_runs([Entry(write('a')), Entry(write('b'))], [0], tmp_path / 'out')
    now = 100.0
    monkeypatch.setattr(module.time, 'monotonic', lambda: now)
    progress = module.SeriesProgress(runs, quiet)
    progress.begin(runs[1], first=2)
    write_scalars(runs[1].folder, [training(3)])
    progress.update()
    assert (progress.task.completed, progress.task.total) == (1, 6)
    assert not quiet.file.getvalue()
    now += 60
    progress.update()
    assert 'run 2 of 2: method_b, seed 0, iteration 3 of 4, time left:' in quiet.file.getvalue()  # no terminal


def test_duration():
    assert duration(3 * 3600 + 62.4) == '3:01:02'


# Plans ----------------------------------------------------------------------------------------------------------------


def test_names_and_folders(write, tmp_path):
    entry = Entry.parse(f'{write("demo", "source_only")}:other_demo/iter_2.pth', ['lr=0.2'])
    assert (entry.name, entry.warm_start) == ('source_only_demo', 'other_demo/iter_2.pth')
    (tmp_path / 'other_demo').mkdir()
    write('demo', 'other')
    runs = plan_runs([Entry.parse(str(tmp_path / 'other' / 'demo.py')), entry], [0, 7], tmp_path / 'out')
    assert [str(run) for run in runs] == [
        'other_demo, seed 0', 'source_only_demo, seed 0', 'other_demo, seed 7', 'source_only_demo, seed 7',
    ]  # fmt: skip
    assert runs[3].folder == tmp_path / 'out' / 'source_only_demo' / 'seed_7'
    assert runs[3].warm_start == tmp_path / 'out' / 'other_demo' / 'seed_7' / 'iter_2.pth'
    arguments = runs[3].arguments()
    assert arguments[-4:] == ['--cfg-options', 'lr=0.2', 'randomness.seed=7', f'load_from={runs[3].warm_start}']
    file = tmp_path / 'weights.pth'
    file.write_bytes(b'')
    assert plan_runs([Entry(entry.config, str(file))], [0], tmp_path / 'out')[0].warm_start == file


def test_what_cannot_be_planned(write, tmp_path):
    config = write('demo')

    def message(*entries: Entry, seeds=(0,)) -> str:
        with pytest.raises(ConfigError) as error:
            plan_runs(entries, seeds, tmp_path / 'out')
        return str(error.value)

    assert 'does not exist' in message(Entry(tmp_path / 'no.py'))
    assert 'another configuration of the name method_demo' in message(Entry(config), Entry(config, None, ('lr=1',)))
    later = message(Entry(config, 'method_other/iter_2.pth'), Entry(write('other')))
    assert 'method_other none of the configurations before it (there are none)' in later
    assert 'train_cfg.max_iters' in message(Entry(write('epochs', extra='train_cfg = dict(max_epochs=2)')))
    assert 'no val_dataloader' in message(Entry(write('blind', extra='val_dataloader = None')))
    assert 'different ones are needed' in message(Entry(config), seeds=(1, 1))
    assert 'KEY=VALUE was expected' in message(Entry(config, None, ('lr',)))
    assert 'each run has its own' in message(Entry(config, None, ('randomness.seed=3',)))


# Runs -----------------------------------------------------------------------------------------------------------------


def test_finished_runs_are_skipped(write, tmp_path, trainer, quiet):
    entries = [Entry(write('a')), Entry(write('b'), 'method_a/iter_2.pth')]
    first = compare(entries, [0, 2], tmp_path / 'out', console=quiet)
    assert len(trainer.calls) == 4
    assert [run['mIoU'] for run in first.values['method_b'].values()] == [10.0, 12.0]
    assert first.spread('method_a', 'mIoU').deviation == pytest.approx(math.sqrt(2))
    again = compare(entries, [0, 2, 5], tmp_path / 'out', console=quiet)
    assert len(trainer.calls) == 6
    assert '4 of 6 runs are finished already' in quiet.file.getvalue()
    assert again.spread('method_a', 'mIoU').values == (10.0, 12.0, 15.0)
    (tmp_path / 'out' / 'method_a' / 'seed_0' / 'iter_2.pth').unlink()  # a finished run needs its start no more
    compare(entries, [0, 2, 5], tmp_path / 'out', console=quiet)
    assert len(trainer.calls) == 6


def test_interrupted_runs_are_resumed(write, tmp_path, trainer, quiet):
    entries, out = [Entry(write('a'))], tmp_path / 'out'
    trainer.interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        compare(entries, [0], out, console=quiet)
    assert 'the same command goes on from the last checkpoint' in quiet.file.getvalue()
    (run,) = plan_runs(entries, [0], out)
    assert run.state() == 'interrupted at 3'
    (run.folder / 'iter_4.pth').write_bytes(b'cut')  # being written when it was interrupted
    assert run.state() == 'interrupted at 3'
    trainer.interrupt_at = None
    compare(entries, [0], out, console=quiet)
    assert trainer.calls[-1][trainer.calls[-1].index('--resume') + 1] == str(run.folder / 'iter_3.pth')
    assert run.state() == 'finished'


def test_a_run_without_its_last_validation_is_not_finished(write, tmp_path, trainer, quiet):
    entries, out = [Entry(write('a'))], tmp_path / 'out'
    trainer.interrupt_at = ITERATIONS
    with pytest.raises(KeyboardInterrupt):
        compare(entries, [0], out, console=quiet)
    (run,) = plan_runs(entries, [0], out)
    assert run.state() == f'interrupted at {ITERATIONS}'
    for path in [*run.folder.glob('iter_*.pth'), run.folder / 'last_checkpoint']:
        path.unlink()
    assert run.state() == 'to do'
    assert '--overwrite' in run.arguments()


def test_runs_of_other_settings_are_not_taken_for_these(write, tmp_path, trainer, quiet):
    config, out = write('a'), tmp_path / 'out'
    compare([Entry(config)], [0], out, console=quiet)
    changed = Entry(config, None, ('lr=0.5',))
    with pytest.raises(OutputError, match=r'seed_0 holds a run of other settings \(lr was 0.1, is 0.5\).*--overwrite'):
        compare([changed], [0], out, console=quiet)
    assert compare([changed], [0], out, dry_run=True, console=quiet).values == {'method_a': {}}
    assert len(trainer.calls) == 1
    stale = out / 'method_a' / 'seed_0' / 'stale'
    stale.write_text('')
    compare([changed], [0], out, overwrite=True, console=quiet)
    assert len(trainer.calls) == 2
    assert not stale.exists()


def test_which_checkpoints_are_kept_decides_no_result(write, tmp_path, trainer, quiet):
    hooks = 'default_hooks = dict(checkpoint=dict(interval=1000), logger=dict(interval=50))'
    entry = Entry(write('a', extra=hooks))
    compare([entry], [0], tmp_path / 'out', console=quiet)
    kept = ('default_hooks.checkpoint.interval=75', 'default_hooks.checkpoint.max_keep_ckpts=8')
    compare([replace(entry, cfg_options=kept)], [0], tmp_path / 'out', console=quiet)
    assert len(trainer.calls) == 1
    with pytest.raises(OutputError, match=r'default_hooks\.logger'):
        compare([replace(entry, cfg_options=('default_hooks.logger.interval=5',))], [0], tmp_path / 'out')


def test_a_new_warm_start_makes_a_run_outdated(write, tmp_path, trainer, quiet):
    entries, out = [Entry(write('a')), Entry(write('b'), 'method_a/iter_2.pth')], tmp_path / 'out'
    compare(entries, [0], out, console=quiet)
    (out / 'method_a' / 'seed_0' / 'iter_2.pth').write_bytes(b'other weights')
    with pytest.raises(OutputError, match=r'method_b/seed_0 holds a run of other settings \(load_from was'):
        compare(entries, [0], out, console=quiet)


def test_a_run_made_elsewhere_is_left_alone(write, tmp_path, trainer, quiet):
    folder = tmp_path / 'out' / 'method_a' / 'seed_0'
    folder.mkdir(parents=True)
    (folder / 'iter_4.pth').write_bytes(b'')
    for overwrite in (False, True):
        with pytest.raises(OutputError, match='it was not made here'):
            compare([Entry(write('a'))], [0], tmp_path / 'out', overwrite=overwrite, console=quiet)
    assert not trainer.calls


def test_a_failed_run_does_not_stop_the_others(write, tmp_path, trainer, capsys):
    configs = [str(write(name)) for name in 'abc']
    configs[1] += ':method_a/iter_2.pth'
    trainer.failing = {'method_a'}
    assert compare_seeds.main([*configs, '--seeds', '0', '1', '-o', str(tmp_path / 'out')]) == 1
    printed = capsys.readouterr()
    errors, table = ' '.join(printed.err.split()), printed.out
    assert '10.5 ± 0.7 (10.0–11.0) │' in table
    assert 'failed: method_a, seed 0: training ended with status 1.' in errors
    assert 'ValueError: no such thing' in errors
    assert 'iter_2.pth, the checkpoint to start from, does not exist' in errors
    assert 'Failed: method_b, seed 1.' in table
    data = json.loads((tmp_path / 'out' / 'comparison.json').read_text())
    assert set(data['failed']) == {'method_a, seed 0', 'method_a, seed 1', 'method_b, seed 0', 'method_b, seed 1'}
    trainer.failing = set()
    assert compare_seeds.main([*configs, '--seeds', '0', '1', '-o', str(tmp_path / 'out')]) == 0
    assert 'Failed' not in capsys.readouterr().out


def test_dry_run_and_curves(write, tmp_path, trainer, capsys):
    config, out, figure = write('a'), tmp_path / 'out', tmp_path / 'curves.png'
    arguments = [str(config), '--seeds', '0', '1', '-o', str(out), '--curves', str(figure)]
    assert compare_seeds.main([*arguments, '--dry-run']) == 0
    assert 'to do' in capsys.readouterr().err
    assert not trainer.calls
    assert not out.exists()
    assert compare_seeds.main(arguments) == 0
    assert figure.stat().st_size > 1000
    with pytest.raises(ConfigError, match='no run is finished'):
        plot_comparison(Comparison([0], {'a': {}}), out, figure)
    (tmp_path / 'out' / 'comparison.json').unlink()
    assert compare_seeds.main([*arguments, '--dry-run']) == 0
    assert not (tmp_path / 'out' / 'comparison.json').exists()


@pytest.mark.slow
def test_end_to_end(tmp_path, capsys):
    """Two real trainings of two iterations, the second from a checkpoint of the first."""
    clips = write_clips(tmp_path / 'clips')
    first = write_config(tmp_path / 'first.py', clips)
    second = write_config(tmp_path / 'second.py', clips)
    name = Entry(first).name
    arguments = [str(first), f'{second}:{name}/iter_1.pth', '--seeds', '3', '-o', str(tmp_path / 'out')]
    assert compare_seeds.main(arguments) == 0
    data = json.loads((tmp_path / 'out' / 'comparison.json').read_text())
    assert len(data['configs']) == 2
    for runs in data['configs'].values():
        assert 0 < runs['runs']['3']['aAcc'] <= 100
        assert len([key for key in runs['summary'] if key.startswith('IoU.')]) == 6
    log = (tmp_path / 'out' / Entry(second).name / 'seed_3' / 'output.log').read_text()
    assert f'{name}/seed_3/iter_1.pth: 124 weights fit' in log
    assert 'seed: 3' in log.lower()
    # Another time nothing is trained.
    logs = sorted(tmp_path.glob('out/*/seed_3/*/*.log'))
    capsys.readouterr()
    assert compare_seeds.main(arguments) == 0
    assert '2 of 2 runs are finished already' in capsys.readouterr().err
    assert sorted(tmp_path.glob('out/*/seed_3/*/*.log')) == logs
