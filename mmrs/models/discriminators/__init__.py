from .patch import PatchDiscriminator, spatial_softmax

__all__ = ['PatchDiscriminator', 'spatial_softmax']
