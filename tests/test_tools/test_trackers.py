"""MMEngine's trackers get what scalars.json gets."""

import json

import numpy as np
import pytest

from tools import train


@pytest.mark.slow
def test_tensorboard_has_the_scalars_and_pictures_of_a_run(config, tmp_path):
    pytest.importorskip('tensorboard', reason='pip install -r requirements/optional.txt')
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

    options = [
        'visualizer.vis_backends=[dict(type=LocalVisBackend),dict(type=TensorboardVisBackend)]',
        'default_hooks.visualization=dict(type=SegVisualizationHook,draw=True,interval=1)',
    ]
    assert train.main([str(config), '--work-dir', str(tmp_path), '--cfg-options', *options]) == 0
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    expected: dict = {}
    for line in map(json.loads, scalars.read_text().splitlines()):
        for key, value in line.items():
            if key not in ('step', 'iter'):
                expected.setdefault(key, {})[line['step']] = value
    events = EventAccumulator(str(scalars.parent), {SCALARS: 0, IMAGES: 0}).Reload()
    assert {'loss', 'mIoU', 'IoU.building', 'lr'} <= expected.keys()
    assert expected.keys() <= set(events.Tags()['scalars'])
    for key, values in expected.items():
        found = {event.step: event.value for event in events.Scalars(key)}
        assert found.keys() == values.keys()
        # Events have single precision.
        np.testing.assert_allclose(list(found.values()), list(values.values()), rtol=1e-6, equal_nan=True)
    (picture,) = {'val_clip0.png'} & set(events.Tags()['images'])
    assert events.Images(picture)[0].width > 64
