from mmrs.visualization.confusion import plot_confusion_matrix
from mmrs.visualization.overlay_visualizer import OverlayVisualizer
from mmrs.visualization.panels import class_colours, colour_labels, compose, draw_sample, overlay, to_display
from mmrs.visualization.prediction_hooks import LabelMapHook, OverlayHook

__all__ = [
    'LabelMapHook',
    'OverlayHook',
    'OverlayVisualizer',
    'class_colours',
    'colour_labels',
    'compose',
    'draw_sample',
    'overlay',
    'plot_confusion_matrix',
    'to_display',
]
