from .st_dasegnet import STDASegNet

__all__ = ['STDASegNet']
