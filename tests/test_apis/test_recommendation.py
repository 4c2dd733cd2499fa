import json
import re
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmrs.apis import compare, recommendation
from mmrs.apis.recommendation import Recommendation
from mmrs.apis.selection import Judged, Selection
from mmrs.evaluation.label_free import Score
from mmrs.utils.errors import ConfigError, OutputError
from tests.tiny_runs import REPOSITORY, quick_start, write_clips  # noqa: F401
from tools import recommend

STEP = 0.5


class Train:
    """Stands in for train.py: each training takes two looks, and as long as a clock says."""

    def __init__(self) -> None:
        self.clock, self.runs, self.probes, self.looked = 0.0, [], 0, []

    def __call__(self, tool, arguments, log, poll=None, interval=1.0):
        folder = Path(arguments[arguments.index('--work-dir') + 1])
        options = dict(text.split('=', 1) for text in arguments[arguments.index('--cfg-options') + 1 :])
        assert options['val_dataloader'] == 'None'
        iterations = int(options.get('train_cfg.max_iters', 600))
        probing = iterations == 12
        self.probes += probing
        first = 0
        if '--resume' in arguments:
            first = int(re.search(r'iter_(\d+)', arguments[arguments.index('--resume') + 1])[1])
        self.runs += [] if probing else [(folder.parent.name, first)]
        file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(step=1, loss=1.0, time=STEP)) + '\n')
        (folder / 'run.py').write_text('')
        for step in (300, iterations) if first < 300 else (iterations,):
            if not probing:
                self.clock += STEP * (step - first)
                first = step
            poll(1)
            if not probing:
                torch.save(dict(state_dict={'backbone.bn.running_mean': torch.zeros(1)}), folder / f'iter_{step}.pth')
        return 0


#: How consistent a training's network is, and how much its variants add.
VALUES: dict[str, float] = {}


@pytest.fixture
def train(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, 'run_tool', tool := Train())
    monkeypatch.setattr(compare, 'resident', lambda key, number: 3_000_000_000)
    monkeypatch.setattr(recommendation.time, 'monotonic', lambda: tool.clock)
    for name in ('selection', 'recommendation'):
        monkeypatch.setattr(f'mmrs.apis.{name}.label_shares', lambda config: {'a': 0.5, 'b': 0.5})
    monkeypatch.setattr(recommendation, 'target_crops', lambda configs, *own: tool.looked.append(configs) or [])
    monkeypatch.setattr(Selection, '_save_adapted', lambda self, candidate: None)

    def judge(self):
        found = []
        for own in self.candidates:
            value = VALUES.get(own.config.parent.parent.name, 0.5) + 0.01 * own.strength - 0.01 * own.statistics
            found.append(Judged(own, (0.5, 0.5), {'consistency': Score(value, value)}))
        return found

    monkeypatch.setattr(Selection, 'judge', judge)
    monkeypatch.chdir(tmp_path)
    VALUES.clear()
    return tool


def build(**options):
    quiet = Console(file=StringIO(), width=200)
    known = dict(task='dubai', network='segformer_efficientnet-lite0', schedule='adamw_600', out=Path('out'))
    return Recommendation(**known | dict(console=quiet) | options)


def said(own):
    return own.console.file.getvalue()


def test_it_climbs_while_something_gets_more_consistent(train):
    VALUES.update(source_only=0.5, source_only_tau1=0.4, dacs=0.7, dacs_tau1=0.6, mic=0.6)
    own = build(methods=['dacs', 'mic'])
    found = own.run()
    assert [name for name, _ in train.runs] == ['source_only', 'source_only_tau1', 'dacs', 'dacs_tau1', 'mic']
    assert found.choice.verdict == 'adapted'
    assert found.candidate.checkpoint == Path('out/dacs/seed_0/iter_600.pth')
    assert found.candidate.strength == 1
    assert found.choice.gain == pytest.approx(0.21)
    assert 'mic_tau1: the 2 trainings before gave no more consistent candidate' in found.text
    assert '--class-prior uniform --prior-strength 1' in found.text
    assert Path('out/recommendation.md').read_text() == found.text
    # 3 statistics x 3 strengths, of which neutral networks have but one.
    assert found.text.count('| seed_0/') + found.text.count('/seed_0/iter') >= 9 + 3 + 9 + 3 + 9
    number = len(train.runs)
    assert build(methods=['dacs', 'mic']).run() == found
    assert len(train.runs) == number


def test_nothing_better_ends_with_the_network_of_the_source(train):
    found = build(methods=['dacs', 'mic'], statistics=[0.5]).run()
    assert [name for name, _ in train.runs] == ['source_only', 'source_only_tau1', 'dacs']
    assert found.choice.verdict == 'kept'
    assert found.candidate.checkpoint == Path('out/source_only/seed_0/iter_600.pth')
    assert '--class-prior' not in found.text


def test_a_budget_ends_a_training_which_another_call_goes_on_with(train):
    VALUES.update(source_only=0.5, source_only_tau1=0.6)
    found = build(budget=600 * STEP).run()
    assert train.runs == [('source_only', 0)]
    assert train.probes == 1  # nobody knows what it takes; behind it, nothing is left
    assert 'source_only_tau1: the budget is spent' in found.text
    found = build(budget=300 * STEP).run()
    assert 'source_only_tau1: it would take another 0:05:00, more than is left' in found.text
    # An estimate that was too low.
    train.runs.clear()
    own = build(budget=450 * STEP)
    own._left = lambda run, left=own._left: left(run) // 2  # type: ignore[method-assign]
    found = own.run()
    assert 'the budget was spent before it ended' in found.text
    train.runs.clear()
    build().run()
    assert train.runs[0] == ('source_only_tau1', 300)
    with pytest.raises(ConfigError, match=r'source_only: it would take .* larger --budget'):
        build(out=Path('other'), budget=1.0).run()
    assert not Path('other').exists()


def test_settings_that_changed(train):
    build().run()
    with pytest.raises(OutputError, match='source_only/seed_0 holds a run of other settings'):
        build(schedule='adamw_600_first_half').run()
    number = len(train.runs)
    build(cfg_options=['train_dataloader.batch_size=3'], overwrite=True).run()
    assert len(train.runs) == 2 * number


def test_methods_in_files_and_options_of_the_data(train):
    own = build(methods=[str(REPOSITORY / 'configs/dacs/method.py'), str(REPOSITORY / 'configs/trials/daformer.py')])
    assert [run.folder for run in own.rungs][2::2] == [Path('out/dacs/seed_0'), Path('out/daformer/seed_0')]
    with pytest.raises(ConfigError, match='dacs, dacs_tau1 is there twice'):
        build(methods=['dacs', str(REPOSITORY / 'configs/dacs/method.py')])
    build(cfg_options=['test_dataloader.dataset.data_root=/mine']).run()
    assert train.looked[-1][0].test_dataloader.dataset.data_root == '/mine'


def test_estimate(train):
    own = build()
    assert own.estimate() == pytest.approx(4 * 600 * STEP)
    assert said(own).count('3.0 GB') == 4
    assert not Path('out').exists()
    own.run()
    assert own.estimate() == pytest.approx(600 * STEP)  # of the last, which patience left out


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(methods=['dax']), 'dax'),
        (dict(taus=[2]), 'taus'),
        (dict(strengths=[-1]), 'strengths'),
        (dict(budget=0), 'budget'),
        (dict(patience=0), 'patience'),
        (dict(margin=-1), 'margin'),
        (dict(number=0), 'number'),
        (dict(network='segfor'), 'segfor'),
    ],
)
def test_bad_settings(settings, named):
    with pytest.raises(ConfigError, match=named):
        build(**settings)


@pytest.mark.slow
def test_tool_on_images_without_labels(tmp_path, monkeypatch, capsys):
    """Real trainings, of two iterations each, of a target that has no label and no validation."""
    data = write_clips(tmp_path / 'data', val=3)
    for file in (data / 'ann_dir' / 'val').iterdir():
        file.unlink()
    sets = f"type='PotsdamDataset', data_root='{data}', serialize_data=False"
    load = "dict(type='LoadRasterImage')"
    (tmp_path / 'mine.py').write_text(
        f"""task = dict(num_classes=6, data_preprocessor=dict(mean=[90.0] * 3, std=[60.0] * 3))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dict(
        type='DomainAdaptationDataset',
        source=dict({sets}, data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
                    pipeline=[{load}, dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]),
        target=dict({sets}, data_prefix=dict(img_path='img_dir/val'),
                    pipeline=[{load}, dict(type='PackRasterInputs')])))
"""
    )
    schedule = (REPOSITORY / 'configs/_base_/schedules/adamw_600.py').read_text()
    (tmp_path / 'short.py').write_text(re.sub(r'\b600\b', '2', schedule))
    monkeypatch.chdir(tmp_path)
    arguments = ['--task', 'mine.py', '--network', 'segformer_mit-b0', '--schedule', 'short.py', '--patience', '1']
    arguments += ['--number', '2', '--size', '48', '--taus', '0', '--strengths', '1', '--statistics', '1']
    arguments += ['--cfg-options', 'model.backbone.init_cfg=None']
    status = recommend.main(arguments)
    printed = capsys.readouterr().out
    assert status == ('Do not use any' in printed)
    assert printed == Path('work_dirs/recommendation/recommendation.md').read_text()
    assert printed.count('| source_only/seed_0/iter_2.pth') == 4  # as it is, and with either variant and both


def test_times():
    from mmrs.utils.arguments import seconds

    assert [seconds(text) for text in ('2h', '90m', '1h30m', '45s', '1.5h')] == [7200, 5400, 5400, 45, 5400]
    for text in ('', '2', 'h', '2d', '-2h', '1.2.3h'):
        with pytest.raises(Exception, match='was expected'):
            seconds(text)
