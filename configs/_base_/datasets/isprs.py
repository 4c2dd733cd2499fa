"""The ISPRS data sets; a task adds which one is source and which target."""

_base_ = './loaders.py'

potsdam_irrg = dict(type='PotsdamDataset', data_root='data/potsdam_irrg')
potsdam_rgb = dict(type='PotsdamDataset', data_root='data/potsdam_rgb')
vaihingen = dict(type='VaihingenDataset', data_root='data/vaihingen')
