"""CITY-OSM's Paris and Chicago; a task adds which one is source and which target."""

_base_ = './loaders.py'

paris = dict(type='CityOSMDataset', data_root='data/city_osm_paris')
chicago = dict(type='CityOSMDataset', data_root='data/city_osm_chicago')

task = dict(class_weight=[1.0, 1.5, 1.5], pseudo_class_weight=[1.01, 1.51, 1.51])
train_dataloader = dict(batch_size=3)  # per process
