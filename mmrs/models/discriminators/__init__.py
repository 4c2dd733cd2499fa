from .output import OutputDiscriminator
from .patch import PatchDiscriminator, strided_convolutions

__all__ = ['OutputDiscriminator', 'PatchDiscriminator', 'strided_convolutions']
