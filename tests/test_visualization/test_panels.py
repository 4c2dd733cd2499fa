import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmrs.registry import VISUALIZERS
from mmrs.visualization import class_colours, colour_labels, compose, draw_sample, overlay, to_display

META = dict(classes=('road', 'house'), palette=[[255, 255, 255], [0, 0, 255]])


def test_to_display_keeps_eight_bit_bands_in_order():
    image = np.random.default_rng(0).integers(0, 255, (4, 5, 4), np.uint8)
    assert np.array_equal(to_display(image), image[..., :3])
    assert np.array_equal(to_display(image, bands=(3, 0, 1)), image[..., [3, 0, 1]])
    assert np.array_equal(to_display(image[..., 0]), np.repeat(image[..., :1], 3, -1))


def test_to_display_stretches_other_types():
    image = np.linspace(0, 10000, 60, dtype=np.float32).reshape(4, 5, 3)
    image[0, 0, 0] = np.nan
    shown = to_display(image)
    assert shown.dtype == np.uint8
    assert shown[0, 0, 0] == 0
    assert shown[-1, -1, -1] == 255
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()
    assert to_display(np.full((2, 2, 1), np.nan, np.float32)).max() == 0
    assert to_display(np.full((2, 2, 3), 7, np.uint16)).shape == (2, 2, 3)


def test_colours():
    colours = class_colours(META)
    assert colours == [(255, 255, 255), (0, 0, 255)]
    assert len(class_colours(dict(classes=range(20), palette=[]))) == 20
    shown = colour_labels(np.array([[0, 1, 255, 7, -1]]), colours)
    assert shown[0, :2].tolist() == [[255, 255, 255], [0, 0, 255]]
    assert (shown[0, 2:] == shown[0, 2]).all()
    assert shown[0, 2].tolist() not in shown[0, :2].tolist()


def test_overlay_shows_no_hue_but_the_classes():
    picture = np.zeros((1, 2, 3), np.uint8)
    picture[..., 0] = 90  # a red picture, of luminance 30
    mixed = overlay(picture, np.array([[0, 1]]), class_colours(META), opacity=0.5)
    assert mixed.tolist() == [[[142, 142, 142], [15, 15, 142]]]


def test_compose_lays_out_rows_titles_and_legend():
    red = np.full((50, 100, 3), (255, 0, 0), np.uint8)
    plain = compose([[('a', red), ('b', red)]], size=200)
    assert (plain == (255, 0, 0)).all(-1).sum() == 2 * 200 * 100
    with_legend = compose([[('a', red), ('b', red)]], META['classes'], class_colours(META), size=200)
    assert with_legend.shape[0] > plain.shape[0]
    assert (with_legend == (0, 0, 255)).all(-1).any()
    two_rows = compose([[('a', red)], [('b', red)]], size=200)
    assert two_rows.shape[0] > 2 * 100
    many = compose([[('a', red)]], [f'a long class name {i}' for i in range(20)], [(0, 0, i) for i in range(20)])
    assert many.shape[1] == compose([[('a', red)]]).shape[1]


def sample(**fields):
    found = SegDataSample()
    for name, value in fields.items():
        found.set_field(PixelData(data=torch.full((1, 8, 8), value)), name, PixelData)
    return found


def test_draw_sample_shows_what_there_is():
    image = np.zeros((8, 8, 3), np.uint8)
    widths = [
        draw_sample('x', image, data_sample, META).shape[1]
        for data_sample in (None, sample(gt_sem_seg=0), sample(gt_sem_seg=0, pred_sem_seg=1))
    ]
    assert widths[0] < widths[1] < widths[2]


def test_overlay_visualizer_writes_files_and_backends(tmp_path):
    visualizer = VISUALIZERS.build(
        dict(
            type='OverlayVisualizer',
            name=f'test-{tmp_path}',
            save_dir=str(tmp_path),
            vis_backends=[dict(type='LocalVisBackend')],
        )
    )
    visualizer.dataset_meta = META
    image = np.zeros((8, 8, 5), np.float32)
    both = sample(gt_sem_seg=0, pred_sem_seg=1)
    visualizer.add_datasample('a', image, both, out_file=str(tmp_path / 'sub' / 'a.png'))
    assert (tmp_path / 'sub' / 'a.png').is_file()
    visualizer.add_datasample('b', image, both, step=3)
    assert list(tmp_path.glob('vis_data/vis_image/b_3.png'))
    full = visualizer.get_image().shape[1]
    visualizer.add_datasample('c', image, both, draw_gt=False, step=4)
    assert visualizer.get_image().shape[1] < full


@pytest.mark.parametrize('shape', [(1, 1), (3, 2000), (2000, 3)])
def test_extreme_sizes(shape):
    drawn = compose([[('a very long title that does not fit', np.zeros((*shape, 3), np.uint8))]], *META.values())
    assert max(drawn.shape) < 1200


def test_predictions_without_data_are_not_shown():
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.ones(1, 40, 60, dtype=torch.long)))
    valid = np.ones((40, 60), bool)
    valid[:, 30:] = False
    image = np.full((40, 60, 3), 100, np.uint8)
    shown, everywhere = (draw_sample('a', image, sample, META, valid=v) for v in (valid, None))
    changed = (shown != everywhere).any(-1)
    assert changed.mean() > 0.01
    assert len(np.unique(shown[changed], axis=0)) == 1  # the grey of ignored pixels
    assert np.ptp(shown[changed][0].astype(int)) == 0
