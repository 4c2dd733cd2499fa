from .by_class import ClassDiscriminator
from .output import OutputDiscriminator
from .patch import PatchDiscriminator, strided_convolutions

__all__ = ['ClassDiscriminator', 'OutputDiscriminator', 'PatchDiscriminator', 'strided_convolutions']
