"""
The registered averages, each in its own file.
"""

from allennlp_ema.averages.bank import BankMovingAverage
from allennlp_ema.averages.exponential import ExponentialMovingAverage
from allennlp_ema.averages.polynomial import PolynomialMovingAverage
from allennlp_ema.averages.power_function import PowerFunctionMovingAverage
from allennlp_ema.averages.uniform import UniformMovingAverage
from allennlp_ema.averages.window import WindowMovingAverage

__all__ = [
    "BankMovingAverage",
    "ExponentialMovingAverage",
    "PolynomialMovingAverage",
    "PowerFunctionMovingAverage",
    "UniformMovingAverage",
    "WindowMovingAverage",
]
