"""Losses for PyTorch, from cross-entropy to Bellman targets and policy gradients, under one set of conventions.

Classes are here by name, functions in :mod:`rlloss.functional`.
"""

from rlloss import functional
from rlloss.core.checks import value_checks
from rlloss.rl.policy import ClippedSurrogateLoss, EntropyLoss, PolicyGradientLoss, PolicyLoss
from rlloss.rl.returns import VTrace
from rlloss.rl.value import TDLoss, ValueLoss, ValueLossOutput
from rlloss.supervised.angular import AAMLoss, CenterLoss, CosFaceLoss, GE2ELoss, SphereFaceLoss
from rlloss.supervised.classification import (
    BinaryCrossEntropyLoss,
    BinaryFocalLoss,
    ClassificationLoss,
    CrossEntropyLoss,
    FocalLoss,
    HingeLoss,
    JSDivergenceLoss,
    KLDivergenceLoss,
    MulticlassHingeLoss,
    PolyLoss,
    SoftMarginLoss,
    SquaredHingeLoss,
)
from rlloss.supervised.contrastive import (
    BatchTripletLoss,
    ContrastiveLoss,
    CosineEmbeddingLoss,
    HingeEmbeddingLoss,
    InfoNCELoss,
    MultipleNegativesRankingLoss,
    NTXentLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
)
from rlloss.supervised.ranking import (
    LambdaRankLoss,
    ListMLELoss,
    ListNetLoss,
    MarginRankingLoss,
    PairwiseLogisticLoss,
    PairwiseRankingLoss,
    SoftPairwiseLoss,
)
from rlloss.supervised.regression import (
    AsymmetricHuberLoss,
    ExpectileLoss,
    GaussianNLLLoss,
    HuberLoss,
    LogCoshLoss,
    MAELoss,
    MAPELoss,
    MSELoss,
    MSLELoss,
    NMAELoss,
    PoissonNLLLoss,
    QuantileLoss,
    RegressionLoss,
    RMSELoss,
    SmoothL1Loss,
)
from rlloss.supervised.segmentation import DiceLoss, JaccardLoss, TverskyLoss

__version__ = "0.1.0"

__all__ = [
    "AAMLoss",
    "AsymmetricHuberLoss",
    "BatchTripletLoss",
    "BinaryCrossEntropyLoss",
    "BinaryFocalLoss",
    "CenterLoss",
    "ClassificationLoss",
    "ClippedSurrogateLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EntropyLoss",
    "ExpectileLoss",
    "FocalLoss",
    "GE2ELoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "InfoNCELoss",
    "JSDivergenceLoss",
    "JaccardLoss",
    "KLDivergenceLoss",
    "LambdaRankLoss",
    "ListMLELoss",
    "ListNetLoss",
    "LogCoshLoss",
    "MAELoss",
    "MAPELoss",
    "MSELoss",
    "MSLELoss",
    "MarginRankingLoss",
    "MulticlassHingeLoss",
    "MultipleNegativesRankingLoss",
    "NMAELoss",
    "NTXentLoss",
    "PairwiseLogisticLoss",
    "PairwiseRankingLoss",
    "PoissonNLLLoss",
    "PolicyGradientLoss",
    "PolicyLoss",
    "PolyLoss",
    "QuantileLoss",
    "RMSELoss",
    "RegressionLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "SoftPairwiseLoss",
    "SphereFaceLoss",
    "SquaredHingeLoss",
    "SupervisedContrastiveLoss",
    "TDLoss",
    "TripletLoss",
    "TverskyLoss",
    "VTrace",
    "ValueLoss",
    "ValueLossOutput",
    "functional",
    "value_checks",
]
