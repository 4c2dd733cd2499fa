from mmrs.visualization.browse import browse_dataset, draw_training_sample
from mmrs.visualization.confusion import plot_confusion_matrix
from mmrs.visualization.curves import plot_curves, read_scalars
from mmrs.visualization.overlay_visualizer import OverlayVisualizer
from mmrs.visualization.panels import class_colours, colour_labels, compose, draw_sample, overlay, to_display
from mmrs.visualization.prediction_hooks import LabelMapHook, OverlayHook

__all__ = [
    'LabelMapHook',
    'OverlayHook',
    'OverlayVisualizer',
    'browse_dataset',
    'class_colours',
    'colour_labels',
    'compose',
    'draw_sample',
    'draw_training_sample',
    'overlay',
    'plot_confusion_matrix',
    'plot_curves',
    'read_scalars',
    'to_display',
]
