"""What a model is worth on a target without labels, and which of several to take."""

from .agreement import EnsembleAgreement
from .certainty import BatchNuclearNorm, Diversity, Entropy, InformationMaximisation
from .choice import Choice, choose, dead_classes, inadmissible
from .consistency import Consistency, TeacherAgreement
from .criterion import LabelFreeCriterion, Score
from .density import SoftNeighbourhoodDensity
from .embedded import DeepEmbeddedValidation
from .mixval import MixVal
from .observation import Observation, observe, predicted_logits

#: Criteria of one candidate that take nothing but images of the target, by their names.
CRITERIA: dict[str, type[LabelFreeCriterion]] = {
    kind.name: kind
    for kind in (
        Consistency,
        TeacherAgreement,
        Entropy,
        Diversity,
        InformationMaximisation,
        BatchNuclearNorm,
        SoftNeighbourhoodDensity,
        MixVal,
    )
}

__all__ = [
    'CRITERIA',
    'BatchNuclearNorm',
    'Choice',
    'Consistency',
    'DeepEmbeddedValidation',
    'Diversity',
    'EnsembleAgreement',
    'Entropy',
    'InformationMaximisation',
    'LabelFreeCriterion',
    'MixVal',
    'Observation',
    'Score',
    'SoftNeighbourhoodDensity',
    'TeacherAgreement',
    'choose',
    'dead_classes',
    'inadmissible',
    'observe',
    'predicted_logits',
]
