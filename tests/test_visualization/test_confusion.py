import numpy as np
from PIL import Image

from mmrs.visualization import plot_confusion_matrix


def test_draws_percentages_and_leaves_absent_classes_blank(tmp_path):
    matrix = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    plot_confusion_matrix(matrix, ('low_vegetation', 'tree', 'car'), tmp_path / 'a.png', title='target')
    picture = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB'))
    assert picture.shape[0] > 300
    assert (picture.max(-1) - picture.min(-1) > 60).any()  # the blue of the diagonal
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
