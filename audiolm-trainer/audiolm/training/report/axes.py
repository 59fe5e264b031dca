"""Axes of a chart: where values lie, and ticks at round numbers.

In: the range of the values. Out: an `Axis`, which places a value between 0 and 1.
"""

import math
from dataclasses import dataclass

LOG_SPAN = 30.0  # largest over smallest value from which a logarithmic axis tells more
MAX_TICKS = 8  # of a logarithmic axis
ROUND_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A range of values with its ticks; `is_log` axes hold positive values only."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; values beyond stay at the end."""
        if self.is_log:
            low, high = math.log10(self.low), math.log10(self.high)
            value = math.log10(max(value, self.low))
        else:
            low, high = self.low, self.high
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def label_ticks(self) -> list[str]:
        """The ticks' numbers, with as many decimals as tell them apart."""
        if self.is_log or len(self.ticks) < 2:
            return [format_number(tick) for tick in self.ticks]
        step = self.ticks[1] - self.ticks[0]
        largest = max(abs(tick) for tick in self.ticks)
        if largest < 1e-3:
            exponent = math.floor(math.log10(largest))
            scaled = [tick / 10**exponent for tick in self.ticks]
            digits = _count_decimals(step / 10**exponent)
            return [f"{tick:.{digits}f}e{exponent}" if tick else "0" for tick in scaled]
        for limit, unit, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
            if largest >= limit:
                digits = _count_decimals(step / unit)
                return [f"{tick / unit:.{digits}f}{suffix}" if tick else "0" for tick in self.ticks]
        digits = _count_decimals(step)
        return [f"{tick:,.{digits}f}" if tick else "0" for tick in self.ticks]


def build_linear_axis(low: float, high: float, *, from_zero: bool = False) -> Axis:
    """An axis for values from `low` to `high` that begins and ends at ticks.

    `from_zero` is for amounts and shares, whose size is read from their distance to zero.
    """
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-20):  # one value only: room around it
        room = abs(high) / 2 or 1.0
        low, high = 0.0 if from_zero and low >= 0 else low - room, high + room
    step = choose_tick_step(high - low, 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def build_log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis for positive values; it begins and ends at ticks."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    powers = [10.0**exponent for exponent in range(first, last + 1)]
    ticks = [factor * power for power in powers for factor in (1.0, 2.0, 5.0)]
    begin = max(i for i, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    end = min(i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    ticks = ticks[begin : end + 1]
    if len(ticks) > MAX_TICKS:  # powers of ten, or of 100 and so on
        stride = -(-(last - first) // (MAX_TICKS - 1))
        last = first + stride * -(-(last - first) // stride)
        ticks = [10.0**exponent for exponent in range(first, last + 1, stride)]
    return Axis(ticks[0], ticks[-1], tuple(ticks), is_log=True)


def build_step_axis(num_steps: float) -> Axis:
    """An axis of optimiser steps from 0 to `num_steps`, with ticks at whole numbers."""
    num_steps = max(num_steps, 1)
    step = max(choose_tick_step(num_steps, 4), 1.0)
    return Axis(0.0, num_steps, tuple(i * step for i in range(math.floor(num_steps / step) + 1)))


def choose_tick_step(span: float, num_ticks: int) -> float:
    """1, 2 or 5 times a power of ten, such that about `num_ticks` of them make `span`."""
    rough = span / num_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return min(ROUND_STEPS, key=lambda factor: abs(math.log(factor * power / rough))) * power


def format_number(value: float, digits: int = 3) -> str:
    """A number to read: `0.0123`, `3e-5`, `12,300`, `1.2e+08`, with `digits` significant ones."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    if not math.isfinite(value) or magnitude < 1e-3 or magnitude >= 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        if not exponent:
            return mantissa  # inf, nan
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    decimals = max(digits - 1 - math.floor(math.log10(magnitude)), 0)
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _count_decimals(step: float) -> int:
    return max(-math.floor(math.log10(step) + 1e-9), 0)
