from .adaptors import *  # noqa: F403
from .backbones import *  # noqa: F403
from .data_preprocessor import DomainAdaptationDataPreprocessor as DomainAdaptationDataPreprocessor
from .decode_heads import *  # noqa: F403
from .discriminators import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .parts import *  # noqa: F403
from .pretraining import Contrast as Contrast
from .segmentors import *  # noqa: F403
from .teacher import EMATeacher as EMATeacher
from .tta import SegTTAModel as SegTTAModel
