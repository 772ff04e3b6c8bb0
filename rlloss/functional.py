"""Every loss function by name: the ``F`` of this library."""

from rlloss.rl.policy import clipped_surrogate_loss, entropy_loss, policy_gradient_loss
from rlloss.rl.returns import gae, lambda_returns, n_step_returns, normalize_advantage
from rlloss.rl.value import q_learning_target, q_value_loss
from rlloss.supervised.classification import binary_cross_entropy, cross_entropy, focal_loss, poly_loss
from rlloss.supervised.regression import (
    asymmetric_huber_loss,
    expectile_loss,
    gaussian_nll_loss,
    huber_loss,
    log_cosh_loss,
    mae_loss,
    mape_loss,
    mse_loss,
    msle_loss,
    nmae_loss,
    poisson_nll_loss,
    quantile_loss,
    rmse_loss,
    smooth_l1_loss,
)

__all__ = [
    "asymmetric_huber_loss",
    "binary_cross_entropy",
    "clipped_surrogate_loss",
    "cross_entropy",
    "entropy_loss",
    "expectile_loss",
    "focal_loss",
    "gae",
    "gaussian_nll_loss",
    "huber_loss",
    "lambda_returns",
    "log_cosh_loss",
    "mae_loss",
    "mape_loss",
    "mse_loss",
    "msle_loss",
    "n_step_returns",
    "nmae_loss",
    "normalize_advantage",
    "poisson_nll_loss",
    "policy_gradient_loss",
    "poly_loss",
    "q_learning_target",
    "q_value_loss",
    "quantile_loss",
    "rmse_loss",
    "smooth_l1_loss",
]
