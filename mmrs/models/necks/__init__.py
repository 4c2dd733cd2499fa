from .domain_disentangled import DomainDisentangledNeck

__all__ = ['DomainDisentangledNeck']
