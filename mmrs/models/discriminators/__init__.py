from .patch import PatchDiscriminator

__all__ = ['PatchDiscriminator']
