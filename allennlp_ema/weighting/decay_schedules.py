"""
Decay schedules: pure functions from an update count to a decay, without tensors or state.
"""

import math
from numbers import Real
from typing import Any, Optional, Union

from allennlp.common import Registrable
from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.checks import check_number
from allennlp_ema.common.from_params import (
    ExplainedFromParams,
    constructor_arguments,
    registered_name,
)
from allennlp_ema.weighting.duration import Duration, check_updates
from allennlp_ema.weighting.relative_width import sigma_rel_to_gamma


class DecaySchedule(ExplainedFromParams, Registrable):
    """
    A decay as a pure function of the number of updates since the average's `start_step`. In a
    configuration a schedule can replace the number: `"decay": {"type": "half_life",
    "half_life": 1000}`.

    A custom schedule defines one method, `__call__`:

    ```python
    >>> @DecaySchedule.register("square_root_example")
    ... class SquareRootDecay(DecaySchedule):
    ...     def __call__(self, num_updates):
    ...         return 1.0 - 1.0 / math.sqrt(num_updates + 1)
    >>> SquareRootDecay()(3)
    0.5

    ```
    """

    in_words = 'a schedule: {"type": "half_life", "half_life": 1000}'

    def __call__(self, num_updates: int) -> float:
        """
        # Parameters

        num_updates : `int`
            Updates since the average's `start_step`, 0 or more; the trainer counts from 1.

        # Returns

        decay : `float`
            Within [0, 1].
        """
        raise NotImplementedError

    def over(self, num_updates: int, interval: int) -> float:
        """
        The product of the decays of the `interval` updates that end with `num_updates`. An average
        that samples every `interval` updates uses it, so that it follows the same curve in updates
        as an average that samples at every update.

        # Raises

        `ConfigurationError` : if the schedule returns a value outside [0, 1].
        """
        product = 1.0
        for update in range(max(num_updates - interval, -1) + 1, num_updates + 1):
            product *= self._checked(update)
        return product

    def in_force_from(self, num_updates: int) -> Optional[int]:
        """
        # Returns

        first : `Optional[int]`
            The first update from which on the decay has its value at `num_updates`. `None` if the
            decay still changes at `num_updates`.
        """
        first = num_updates
        while first and self(first - 1) == self(num_updates):
            first -= 1
        return first if first < num_updates else None

    def _checked(self, num_updates: int) -> float:
        decay = self(num_updates)
        # Negated, so that NaN is refused. `float` comes first, because its check is faster.
        if not (isinstance(decay, (float, Real)) and 0.0 <= decay <= 1.0):
            raise ConfigurationError(
                f'"decay": the schedule {type(self).__name__} gives {decay!r} at update '
                f"{num_updates}, but a decay has to be within [0, 1]"
            )
        return decay

    def __str__(self) -> str:
        arguments = ", ".join(f"{k}={v}" for k, v in constructor_arguments(self).items())
        return f"{registered_name(self, DecaySchedule)}({arguments})"


@DecaySchedule.register("constant")
class ConstantDecay(DecaySchedule):
    """
    The same decay at every update. A plain number has a warm-up in training; this has none.

    ```python
    >>> ConstantDecay(0.5)(100)
    0.5

    ```

    Registered as a `DecaySchedule` with name "constant".

    # Parameters

    decay : `float`
        Within [0, 1].
    """

    def __init__(self, decay: float) -> None:
        self.decay = check_number("decay", decay, minimum=0, maximum=1)

    def __call__(self, num_updates: int) -> float:
        return self.decay

    def over(self, num_updates: int, interval: int) -> float:
        return self.decay**interval


@DecaySchedule.register("half_life")
class HalfLifeDecay(DecaySchedule):
    """
    The constant decay `0.5^(1 / half_life)`: each value's weight in the average halves every
    `half_life` updates.

    ```python
    >>> HalfLifeDecay(2).over(100, interval=2)
    0.5000000000000001

    ```

    Registered as a `DecaySchedule` with name "half_life".

    # Parameters

    half_life : `Union[float, Duration]`
        In updates, above 0, or a duration.
    """

    def __init__(self, half_life: Union[float, Duration]) -> None:
        self.half_life: Any = half_life
        if not isinstance(half_life, Duration):
            self.half_life = check_number("half_life", half_life, above=0)

    def __call__(self, num_updates: int) -> float:
        return 0.5 ** (1.0 / self.half_life)

    def over(self, num_updates: int, interval: int) -> float:
        return self(num_updates) ** interval


@DecaySchedule.register("warmup")
class WarmupDecay(DecaySchedule):
    """
    `min(decay, (numerator + n) / (denominator + n))` at update `n`, the rule of
    `tf.train.ExponentialMovingAverage(num_updates=...)`.

    ```python
    >>> schedule = WarmupDecay(0.9)
    >>> schedule(8), schedule(1000)
    (0.5, 0.9)

    ```

    Registered as a `DecaySchedule` with name "warmup".

    # Parameters

    decay : `float`, optional (default = `0.9999`)
        The upper bound, within [0, 1].
    numerator : `float`, optional (default = `1.0`)
        0 or more.
    denominator : `float`, optional (default = `10.0`)
        Above 0.
    """

    def __init__(
        self, decay: float = 0.9999, numerator: float = 1.0, denominator: float = 10.0
    ) -> None:
        self.decay = check_number("decay", decay, minimum=0, maximum=1)
        self.numerator = check_number("numerator", numerator, minimum=0)
        self.denominator = check_number("denominator", denominator, above=0)

    def __call__(self, num_updates: int) -> float:
        return min(self.decay, (self.numerator + num_updates) / (self.denominator + num_updates))

    def binds_from(self) -> Optional[int]:
        """
        # Returns

        num_updates : `Optional[int]`
            The first update at which the warm-up has reached `decay`. `None` if it never does.
        """
        if self(0) == self.decay:
            return 0
        if self.decay == 1.0:
            return None
        estimate = math.ceil((self.decay * self.denominator - self.numerator) / (1.0 - self.decay))
        # The estimate may be off by one, because 1 - decay loses digits for decays close to 1.
        for num_updates in range(max(0, estimate - 2), estimate + 2):
            if self(num_updates) == self.decay:
                return num_updates
        return estimate


@DecaySchedule.register("inverse_power")
class InversePowerDecay(DecaySchedule):
    """
    `1 - (1 + n / inv_gamma)^-power` at update `n`, clamped to `[min_decay, max_decay]`: the
    warm-up of timm's `ModelEmaV3` and of `ema-pytorch`, with their defaults. (Update 0 occurs only
    with a `start_step` above 0. Their decay is 0 there, even if `min_decay` is higher.)

    ```python
    >>> InversePowerDecay(power=0.5)(3)
    0.5

    ```

    Registered as a `DecaySchedule` with name "inverse_power".

    # Parameters

    max_decay : `float`, optional (default = `0.9999`)
        Within [0, 1].
    min_decay : `float`, optional (default = `0.0`)
        Within [0, `max_decay`].
    inv_gamma : `float`, optional (default = `1.0`)
        In updates, above 0.
    power : `float`, optional (default = `2 / 3`)
        Above 0.
    """

    def __init__(
        self,
        max_decay: float = 0.9999,
        min_decay: float = 0.0,
        inv_gamma: float = 1.0,
        power: float = 2 / 3,
    ) -> None:
        self.max_decay = check_number("max_decay", max_decay, minimum=0, maximum=1)
        self.min_decay = check_number("min_decay", min_decay, minimum=0, maximum=self.max_decay)
        self.inv_gamma = check_number("inv_gamma", inv_gamma, above=0)
        self.power = check_number("power", power, above=0)

    def __call__(self, num_updates: int) -> float:
        decay = 1.0 - (1.0 + num_updates / self.inv_gamma) ** -self.power
        return max(self.min_decay, min(self.max_decay, decay))


@DecaySchedule.register("cosine")
class CosineDecay(DecaySchedule):
    """
    The decay goes from `start` to `end` along half a cosine over `num_updates` updates, and stays
    at `end`. At update `n` it is `end - (end - start) * (cos(pi * n / num_updates) + 1) / 2`
    (BYOL, Grill et al. 2020, section 3.2, where `end` is 1).

    ```python
    >>> schedule = CosineDecay(num_updates=100, start=0.5)
    >>> schedule(0), schedule(50), schedule(100)
    (0.5, 0.75, 1.0)

    ```

    Registered as a `DecaySchedule` with name "cosine".

    # Parameters

    num_updates : `Union[int, Duration]`
        The length in updates, at least 1, or a duration.
    start : `float`, optional (default = `0.996`)
        Within [0, 1].
    end : `float`, optional (default = `1.0`)
        Within [0, 1].
    """

    def __init__(
        self, num_updates: Union[int, Duration], start: float = 0.996, end: float = 1.0
    ) -> None:
        self.num_updates = check_updates("num_updates", num_updates, minimum=1)
        self.start = check_number("start", start, minimum=0, maximum=1)
        self.end = check_number("end", end, minimum=0, maximum=1)

    def __call__(self, num_updates: int) -> float:
        progress = min(num_updates / self.num_updates, 1.0)
        return self.end - (self.end - self.start) * (math.cos(math.pi * progress) + 1.0) / 2.0


@DecaySchedule.register("power_function")
class PowerFunctionDecay(DecaySchedule):
    """
    `(1 - 1/n)^(gamma + 1)` at update `n` (Karras et al. 2023, "Analyzing and Improving the
    Training Dynamics of Diffusion Models", eq. 127), and `(1 - k/n)^(gamma + 1)` over `k` updates
    at once. An average with this decay weights update `t` of `T` in proportion to `(t / T)^gamma`.

    ```python
    >>> PowerFunctionDecay(gamma=1.0)(2)
    0.25

    ```

    Registered as a `DecaySchedule` with name "power_function".

    # Parameters

    sigma_rel : `float`, optional (default = `None`)
        The profile's standard deviation relative to the length of training, above 0 and below
        `12^-0.5 = 0.28868`. Exactly one of `sigma_rel` and `gamma` is given.
    gamma : `float`, optional (default = `None`)
        The profile's exponent, 0 or more.
    """

    def __init__(self, sigma_rel: Optional[float] = None, gamma: Optional[float] = None) -> None:
        if (sigma_rel is None) == (gamma is None):
            raise ConfigurationError(
                'exactly one of "sigma_rel" and "gamma" has to be given, but "sigma_rel" is '
                f'{sigma_rel!r} and "gamma" is {gamma!r}'
            )
        self.sigma_rel = sigma_rel
        self.gamma = gamma
        self.exponent = (
            sigma_rel_to_gamma(sigma_rel)
            if sigma_rel is not None
            else check_number("gamma", gamma, minimum=0)
        )

    def __call__(self, num_updates: int) -> float:
        return self.over(num_updates, 1)

    def over(self, num_updates: int, interval: int) -> float:
        if num_updates <= interval:
            return 0.0
        return (1.0 - interval / num_updates) ** (self.exponent + 1.0)
