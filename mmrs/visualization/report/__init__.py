from mmrs.visualization.report.blocks import Bars, Code, Grid, Legend, Lines, Matrix, Pictures, Section, Table, Text
from mmrs.visualization.report.page import render

__all__ = ['Bars', 'Code', 'Grid', 'Legend', 'Lines', 'Matrix', 'Pictures', 'Section', 'Table', 'Text', 'render']
