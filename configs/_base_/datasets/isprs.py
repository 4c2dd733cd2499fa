"""The ISPRS data sets; a task adds which one is source and which target."""

_base_ = './loaders.py'

potsdam_irrg = dict(type='PotsdamDataset', data_root='data/potsdam_irrg')
potsdam_rgb = dict(type='PotsdamDataset', data_root='data/potsdam_rgb')
vaihingen = dict(type='VaihingenDataset', data_root='data/vaihingen')

task = dict(class_weight=[1.0, 1.0, 1.0, 1.25, 1.5, 1.5], pseudo_class_weight=[1.01, 1.01, 1.51, 1.51, 2.01, 2.01])
