"""Data transforms."""

from mmrs.datasets.transforms.camera import CameraChange
from mmrs.datasets.transforms.colour import ChannelPermutation, ColourMatrix, Contrast, GainGamma, HueRotation
from mmrs.datasets.transforms.ground_crop import GroundCrop
from mmrs.datasets.transforms.image_quality import GaussianBlur, GroundSamplingDistance, JPEGCompression, SensorNoise
from mmrs.datasets.transforms.loading import LoadRasterAnnotations, LoadRasterImage
from mmrs.datasets.transforms.misalignment import Misalignment
from mmrs.datasets.transforms.packing import PackRasterInputs

__all__ = [
    'CameraChange',
    'ChannelPermutation',
    'ColourMatrix',
    'Contrast',
    'GainGamma',
    'GaussianBlur',
    'GroundCrop',
    'GroundSamplingDistance',
    'HueRotation',
    'JPEGCompression',
    'LoadRasterAnnotations',
    'LoadRasterImage',
    'Misalignment',
    'PackRasterInputs',
    'SensorNoise',
]
