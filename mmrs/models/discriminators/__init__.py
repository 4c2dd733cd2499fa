from .patch import PatchDiscriminator, strided_convolutions

__all__ = ['PatchDiscriminator', 'strided_convolutions']
