"""CITY-OSM's Paris and Chicago; a task adds which one is source and which target."""

_base_ = './loaders.py'

paris = dict(type='CityOSMDataset', data_root='data/city_osm_paris')
chicago = dict(type='CityOSMDataset', data_root='data/city_osm_chicago')
