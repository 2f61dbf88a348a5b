"""
Conversion between the relative width and the exponent of a power function profile.
"""

import numpy

from allennlp_ema.common.checks import check_number


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """
    The exponent `gamma` of the power function profile of relative width `sigma_rel`. It is the
    largest root of a cubic, `sigma_rel^2 = (gamma + 1) (gamma + 2)^-2 (gamma + 3)^-1` (Karras et
    al. 2023, eq. 126).

    # Raises

    `ConfigurationError` : if `sigma_rel` is not within (0, `12^-0.5`); at the latter `gamma` is 0.
    """
    check_number("sigma_rel", sigma_rel, above=0, below=round(12**-0.5, 5))
    inverse_variance = sigma_rel**-2
    roots = numpy.roots([1.0, 7.0, 16.0 - inverse_variance, 12.0 - inverse_variance])
    return max(float(roots.real.max()), 0.0)


def gamma_to_sigma_rel(gamma: float) -> float:
    """
    The relative width of the power function profile of exponent `gamma` (Karras et al. 2023,
    eq. 126).
    """
    return (gamma + 1.0) ** 0.5 / ((gamma + 2.0) * (gamma + 3.0) ** 0.5)
