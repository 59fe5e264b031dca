"""Sound events of the demo corpus, synthesised with numpy.

Every function takes a random generator and a length in seconds and returns a float32 waveform (T,)
at 16 kHz with a root mean square of 1 over its loud part. Pitch and timing are drawn anew each
time; the level is set by whoever mixes the events.
"""

from collections.abc import Callable

import numpy as np

SAMPLE_RATE_HZ = 16_000

Sound = Callable[[np.random.Generator, float], np.ndarray]


def make_bell(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Slow strokes of a church bell: inharmonic partials that fade."""
    base_hz = rng.uniform(320, 620)
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.74, 3.76, 5.2])
    gains = np.array([0.35, 1.0, 0.6, 0.4, 0.7, 0.45, 0.3, 0.2])
    stroke = _partials(base_hz * ratios, gains, 0.55 / ratios**0.6, min(seconds, 1.8), rng)
    return _repeat(stroke, seconds, period_seconds=rng.uniform(0.6, 0.9), rng=rng, jitter=0.0)


def make_siren(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A tone that sweeps up and down."""
    time = _time(seconds)
    middle_hz, sweep_hz = rng.uniform(850, 1150), rng.uniform(300, 400)
    rate_hz = rng.uniform(0.9, 1.6)
    pitch_hz = middle_hz + sweep_hz * np.sin(2 * np.pi * (rate_hz * time + rng.uniform()))
    return _finish(_harmonics(pitch_hz, [1.0, 0.4, 0.25]))


def make_rain(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Steady hiss with a patter of drops."""
    hiss = _noise(rng, seconds, rng.uniform(900, 1500), 7900)
    drops = rng.random(len(hiss)) < rng.uniform(40, 120) / SAMPLE_RATE_HZ
    clicks = np.convolve(drops * rng.uniform(2, 8, len(hiss)), _decay(0.004))[: len(hiss)]
    return _finish(hiss + clicks * rng.standard_normal(len(hiss)))


def make_dog(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Short barks: a buzzing voice whose pitch jumps up and falls, with breath."""
    base_hz = rng.uniform(260, 480)
    length = rng.uniform(0.14, 0.2)
    shape = _time(length) / length
    pitch_hz = base_hz * (0.75 + 0.7 * np.sin(np.pi * shape**0.6))
    voice = _harmonics(pitch_hz, 1.0 / np.arange(1, 13) ** 0.7)
    voice += 0.5 * _noise(rng, length, 400, 4000)[: len(voice)]
    bark = _resonate(voice, [(rng.uniform(800, 1100), 300), (rng.uniform(1600, 2100), 400)])
    bark = bark * np.sin(np.pi * shape**0.5) ** 0.7
    return _repeat(bark, seconds, period_seconds=rng.uniform(0.3, 0.45), rng=rng, jitter=0.15)


def make_engine(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A low throb of firing strokes whose speed drifts."""
    time = _time(seconds)
    firing_hz = rng.uniform(32, 60) * (1 + rng.uniform(0.1, 0.4) * time / seconds)
    throb = _harmonics(firing_hz, 1.0 / np.arange(1, 25) ** 0.6)
    stroke = 0.55 + 0.45 * np.sin(np.pi * np.cumsum(firing_hz) / SAMPLE_RATE_HZ)
    return _finish(throb * stroke + 0.6 * _noise(rng, seconds, 40, 350)[: len(throb)] * stroke)


def make_footsteps(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Heel and sole on gravel, at a walking pace."""
    heel = _noise(rng, 0.05, 60, 300) * _decay(0.015, 0.05)
    sole = _noise(rng, 0.14, 1200, 5500) * np.hanning(int(0.14 * SAMPLE_RATE_HZ)) * 0.7
    step = np.concatenate([heel * 1.6, np.zeros(300), sole])
    return _repeat(step, seconds, period_seconds=rng.uniform(0.42, 0.6), rng=rng, jitter=0.06)


def make_knock(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Quick raps on a wooden door, in groups of three or four."""
    wood_hz = rng.uniform(170, 330) * np.array([1.0, 2.3, 3.9])
    rap = _partials(wood_hz, np.array([1.0, 0.6, 0.35]), np.array([0.03, 0.018, 0.01]), 0.13, rng)
    rap[:60] += rng.standard_normal(60) * 0.5
    period = rng.uniform(0.14, 0.2)
    group = _repeat(rap, period * rng.integers(3, 5), period_seconds=period, rng=rng, jitter=0.04)
    group = np.concatenate([group, np.zeros(int(0.25 * SAMPLE_RATE_HZ))])
    return _tile(group, seconds)


def make_bird(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Fast high chirps in short phrases."""
    length = rng.uniform(0.06, 0.11)
    shape = _time(length) / length
    start_hz, sweep_hz = rng.uniform(3000, 4200), rng.uniform(900, 2200) * rng.choice([-1, 1])
    chirp = _harmonics(start_hz + sweep_hz * (shape - 0.5), [1.0]) * np.sin(np.pi * shape)
    period = length + rng.uniform(0.04, 0.08)
    num_chirps = int(rng.integers(3, 6))
    phrase = _repeat(chirp, period * num_chirps, period_seconds=period, rng=rng, jitter=0.05)
    phrase = np.concatenate([phrase, np.zeros(int(rng.uniform(0.12, 0.3) * SAMPLE_RATE_HZ))])
    return _tile(phrase, seconds)


def make_clock(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Tick and tock, sharp and regular."""
    tick_hz = rng.uniform(2300, 3200) * np.array([1.0, 1.7])
    gains, decays = np.array([1.0, 0.6]), np.array([0.006, 0.004])
    tick = _partials(tick_hz, gains, decays, 0.04, rng)
    tock = _partials(tick_hz * 0.75, gains * 0.8, decays, 0.04, rng)
    gap = np.zeros(int(rng.uniform(0.16, 0.26) * SAMPLE_RATE_HZ))
    return _tile(np.concatenate([tick, gap, tock, gap]), seconds)


def make_alarm(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Electronic beeps of one pitch, switched on and off."""
    time = _time(seconds)
    tone = _harmonics(np.full(len(time), rng.uniform(1700, 2500)), [1.0, 0.0, 0.33])
    rate_hz = rng.uniform(3.5, 5.5)
    return _finish(tone * _smooth((rate_hz * time) % 1.0 < 0.5, 0.004))


def make_wind(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Hollow gusts: narrow low noise whose strength wanders."""
    low, high = rng.uniform(180, 260), rng.uniform(450, 700)
    strength = 0.35 + 0.65 * np.abs(_wander(rng, seconds, 1.2))
    whistle = _noise(rng, seconds, high, high * 1.35) * np.abs(_wander(rng, seconds, 1.5)) * 0.6
    return _finish((_noise(rng, seconds, low, high) + whistle) * strength)


def make_drip(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Single drops into water: tiny tones that rise."""
    length = 0.09
    base_hz = rng.uniform(700, 1200)
    time = _time(length)
    drop = _harmonics(base_hz * (1 + 9 * time), [1.0, 0.15]) * np.exp(-time / 0.022)
    return _repeat(drop, seconds, period_seconds=rng.uniform(0.28, 0.45), rng=rng, jitter=0.3)


def make_phone(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """The old telephone: a two-tone trill, on and off."""
    time = _time(seconds)
    low_hz = rng.uniform(1150, 1400)
    trill = np.sin(2 * np.pi * rng.uniform(18, 24) * time) > 0
    pitch_hz = np.where(trill, low_hz, low_hz * 1.25)
    ring_seconds = rng.uniform(0.5, 0.7)
    is_on = (time % (ring_seconds + 0.25)) < ring_seconds
    return _finish(_harmonics(pitch_hz, [1.0, 0.5, 0.5, 0.3]) * _smooth(is_on, 0.01))


def make_horn(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A car horn: two steady low notes a third apart, in long blasts."""
    time = _time(seconds)
    base_hz = rng.uniform(330, 430)
    gains = 1.0 / np.arange(1, 9) ** 0.5
    chord = _harmonics(np.full(len(time), base_hz), gains)
    chord = chord + _harmonics(np.full(len(time), base_hz * 1.26), gains)
    blast_seconds = rng.uniform(0.35, 0.6)
    return _finish(chord * _smooth(time % (blast_seconds + 0.15) < blast_seconds, 0.02))


def make_cat(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Long meows: a voice that rises and falls while the mouth opens."""
    length = rng.uniform(0.55, 0.8)
    shape = _time(length) / length
    pitch_hz = rng.uniform(480, 720) * (0.85 + 0.35 * np.sin(np.pi * shape**0.7))
    voice = _harmonics(pitch_hz, 1.0 / np.arange(1, 9) ** 0.5)
    meow = _resonate(voice, [(rng.uniform(1000, 1300), 350), (rng.uniform(2600, 3100), 500)])
    meow = meow * np.sin(np.pi * shape) ** 0.8
    return _repeat(meow, seconds, period_seconds=length + rng.uniform(0.1, 0.25), rng=rng)


def make_glass(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Glass that breaks: a burst of noise, then many tinkling shards."""
    num_samples = int(seconds * SAMPLE_RATE_HZ)
    crash = np.zeros(num_samples)
    burst = _noise(rng, 0.25, 2000, 7900) * _decay(0.05, 0.25)
    crash[: len(burst)] += burst * 2
    for _ in range(int(rng.integers(14, 24))):
        partials_hz = rng.uniform(2800, 7200) * np.array([1.0, 1.09])
        shard = _partials(partials_hz, np.ones(2), np.full(2, rng.uniform(0.02, 0.05)), 0.2, rng)
        start = int(rng.uniform(0.02, 0.75 * seconds) * SAMPLE_RATE_HZ)
        shard = shard[: num_samples - start] * rng.uniform(0.3, 1.0)
        crash[start : start + len(shard)] += shard
    return _finish(crash)


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _decay(constant_seconds: float, seconds: float | None = None) -> np.ndarray:
    return np.exp(-_time(seconds or 6 * constant_seconds) / constant_seconds)


def _noise(rng: np.random.Generator, seconds: float, low_hz: float, high_hz: float) -> np.ndarray:
    """Noise between two frequencies, root mean square 1."""
    num_samples = int(seconds * SAMPLE_RATE_HZ)
    num_padded = -(-num_samples // 1024) * 1024
    spectrum = np.fft.rfft(rng.standard_normal(num_padded))
    frequency_hz = np.fft.rfftfreq(num_padded, 1 / SAMPLE_RATE_HZ)
    slope = 8.0  # of the band's edges, as a power of the frequency ratio
    below = 1 / (1 + (low_hz / np.maximum(frequency_hz, 1.0)) ** slope)
    above = 1 / (1 + (frequency_hz / high_hz) ** slope)
    noise = np.fft.irfft(spectrum * below * above, num_padded)[:num_samples]
    return noise / np.sqrt(np.mean(noise**2))


def _wander(rng: np.random.Generator, seconds: float, rate_hz: float) -> np.ndarray:
    """A slow random curve within -1..1 that turns about `rate_hz` times a second."""
    num_knots = max(3, int(seconds * rate_hz * 2) + 2)
    knots = rng.uniform(-1, 1, num_knots)
    num_samples = int(seconds * SAMPLE_RATE_HZ)
    return np.interp(np.linspace(0, num_knots - 1, num_samples), np.arange(num_knots), knots)


def _harmonics(pitch_hz: np.ndarray, gains) -> np.ndarray:
    """A tone of changing pitch (T,) with its overtones; those above 7.6 kHz are silent."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    tone = np.zeros(len(pitch_hz))
    for number, gain in enumerate(gains, start=1):
        if gain and number * pitch_hz.min() < 7600:
            tone += gain * np.sin(number * phase) * (number * pitch_hz < 7600)
    return tone


def _partials(frequencies_hz, gains, decays_seconds, seconds: float, rng) -> np.ndarray:
    """A struck body: tones that fade, each at its own speed."""
    time = _time(seconds)[:, None]  # (T, 1) against (num_partials,)
    waves = np.sin(2 * np.pi * (frequencies_hz * time + rng.uniform(size=len(gains))))
    return (waves * gains * np.exp(-time / decays_seconds)).sum(axis=1)


def _resonate(voice: np.ndarray, formants: list[tuple[float, float]]) -> np.ndarray:
    """Colour a voice with formants (centre Hz, width Hz)."""
    spectrum = np.fft.rfft(voice)
    frequency_hz = np.fft.rfftfreq(len(voice), 1 / SAMPLE_RATE_HZ)
    gain = sum(np.exp(-(((frequency_hz - hz) / width) ** 2)) for hz, width in formants)
    return np.fft.irfft(spectrum * (gain + 0.08), len(voice))


def _smooth(is_on: np.ndarray, seconds: float) -> np.ndarray:
    """A gate without clicks."""
    kernel = np.hanning(int(seconds * SAMPLE_RATE_HZ) + 2)
    return np.convolve(is_on.astype(float), kernel / kernel.sum(), mode="same")


def _repeat(
    event: np.ndarray,
    seconds: float,
    *,
    period_seconds: float,
    rng: np.random.Generator,
    jitter: float = 0.1,
) -> np.ndarray:
    """The event again and again (at least once), a little different in time and strength."""
    num_samples = int(seconds * SAMPLE_RATE_HZ)
    out = np.zeros(max(num_samples, len(event)) + len(event))
    start = 0
    while start == 0 or start + 0.7 * len(event) <= num_samples:
        out[start : start + len(event)] += event * rng.uniform(0.8, 1.0)
        start += max(1, int(period_seconds * SAMPLE_RATE_HZ * (1 + rng.uniform(-jitter, jitter))))
    return _finish(out[:num_samples])


def _tile(phrase: np.ndarray, seconds: float) -> np.ndarray:
    num_samples = int(seconds * SAMPLE_RATE_HZ)
    return _finish(np.tile(phrase, -(-num_samples // len(phrase)))[:num_samples])


def _finish(waveform: np.ndarray) -> np.ndarray:
    """Fade 5 ms at both ends; root mean square 1 over the samples above a tenth of the peak."""
    fade = np.linspace(0, 1, int(0.005 * SAMPLE_RATE_HZ))
    waveform = waveform.copy()
    waveform[: len(fade)] *= fade
    waveform[-len(fade) :] *= fade[::-1]
    loud = np.abs(waveform) > 0.1 * np.abs(waveform).max()
    return (waveform / np.sqrt(np.mean(waveform[loud] ** 2))).astype(np.float32)
