"""Sound scenes of the demo corpus: which events, in what order, how they sound and how to say it.

A scene is one to three events, one after another, at the same time, or over a lasting backdrop.
`draw_scene` chooses, `render_scene` makes the waveform, `write_captions` the reference captions.
"""

from dataclasses import dataclass

import numpy as np

from audiolm.data.demo import sounds

SAMPLE_RATE_HZ = sounds.SAMPLE_RATE_HZ


@dataclass(frozen=True)
class EventKind:
    """One kind of sound and the three forms of its name that captions need."""

    sound: sounds.Sound
    subject: str
    verb: str  # "a dog" + "barks"
    participle: str  # "a dog" + "barking"
    is_backdrop: bool = False  # can last under other events

    @property
    def clause(self) -> str:
        return f"{self.subject} {self.verb}"

    @property
    def phrase(self) -> str:
        return f"{self.subject} {self.participle}"


EVENT_KINDS: dict[str, EventKind] = {
    "bell": EventKind(sounds.make_bell, "a bell", "tolls", "tolling"),
    "siren": EventKind(sounds.make_siren, "a siren", "wails", "wailing"),
    "rain": EventKind(sounds.make_rain, "rain", "falls", "falling", is_backdrop=True),
    "dog": EventKind(sounds.make_dog, "a dog", "barks", "barking"),
    "engine": EventKind(sounds.make_engine, "an engine", "runs", "running", is_backdrop=True),
    "footsteps": EventKind(sounds.make_footsteps, "a person", "walks", "walking"),
    "knock": EventKind(sounds.make_knock, "someone", "knocks on a door", "knocking on a door"),
    "bird": EventKind(sounds.make_bird, "a bird", "chirps", "chirping"),
    "clock": EventKind(sounds.make_clock, "a clock", "ticks", "ticking"),
    "alarm": EventKind(sounds.make_alarm, "an alarm", "beeps", "beeping"),
    "wind": EventKind(sounds.make_wind, "wind", "blows", "blowing", is_backdrop=True),
    "drip": EventKind(sounds.make_drip, "water", "drips", "dripping"),
    "phone": EventKind(sounds.make_phone, "a telephone", "rings", "ringing"),
    "horn": EventKind(sounds.make_horn, "a car", "honks", "honking"),
    "cat": EventKind(sounds.make_cat, "a cat", "meows", "meowing"),
    "glass": EventKind(sounds.make_glass, "glass", "breaks", "breaking"),
}

# layout -> how often. "sequence": one after another; "overlap": at the same time;
# "backdrop": two in sequence while a third lasts.
LAYOUTS = {"single": 0.4, "pair": 0.25, "overlap": 0.15, "triple": 0.1, "backdrop": 0.1}
_NUM_EVENTS = {"single": 1, "pair": 2, "overlap": 2, "triple": 3, "backdrop": 3}
_SECONDS = {"single": 2.2, "pair": 1.5, "overlap": 2.4, "triple": 1.15, "backdrop": 1.3}


@dataclass(frozen=True)
class Scene:
    """What happens: a layout and its event kinds, in order (a backdrop comes last)."""

    layout: str
    kinds: tuple[str, ...]


def draw_scene(rng: np.random.Generator, *, layout: str | None = None) -> Scene:
    """A random scene of distinct event kinds; the layout too unless it is given."""
    if layout is None:
        layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
    names = list(EVENT_KINDS)
    if layout == "backdrop":
        backdrops = [name for name, kind in EVENT_KINDS.items() if kind.is_backdrop]
        backdrop = backdrops[rng.integers(len(backdrops))]
        fronts = [name for name in names if name not in backdrops]
        first, second = rng.choice(fronts, 2, replace=False)
        return Scene(layout, (str(first), str(second), backdrop))
    drawn = rng.choice(names, _NUM_EVENTS[layout], replace=False)
    kinds = [str(name) for name in drawn]
    if layout == "overlap":  # has no order: "a while b" is "b while a"
        kinds.sort(key=names.index)
    return Scene(layout, tuple(kinds))


def write_captions(scene: Scene) -> list[str]:
    """The reference captions of a scene: three to five ways to say the same."""
    kinds = [EVENT_KINDS[name] for name in scene.kinds]
    clauses = [kind.clause for kind in kinds]
    phrases = [kind.phrase for kind in kinds]
    if scene.layout == "single":
        kind = kinds[0]
        return [kind.clause, f"{kind.subject} is {kind.participle}", f"the sound of {kind.phrase}"]
    a, b, *rest = clauses
    if scene.layout == "pair":
        return [
            f"{a} and then {b}",
            f"{a} before {b}",
            f"{b} after {a}",
            f"first {a} and then {b}",
            f"{phrases[0]} followed by {phrases[1]}",
        ]
    if scene.layout == "overlap":
        return [
            f"{a} while {b}",
            f"{b} while {a}",
            f"{a} and {b} at the same time",
            f"{phrases[0]} together with {phrases[1]}",
        ]
    c = rest[0]
    if scene.layout == "triple":
        return [
            f"{a} and then {b} and then {c}",
            f"first {a} and then {b} and finally {c}",
            f"{phrases[0]} followed by {phrases[1]} and {phrases[2]}",
        ]
    return [
        f"{a} and then {b} while {c}",
        f"while {c} {a} and then {b}",
        f"{phrases[0]} followed by {phrases[1]} together with {phrases[2]}",
    ]


def render_scene(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Make the waveform of a scene: float32 (T,) at 16 kHz, about 2 to 5 s, peak below 1.

    Lengths, gaps, and the level of each event and of the whole are drawn from `rng`.
    """
    events = [_render_event(name, scene.layout, rng) for name in scene.kinds]
    backdrop = events.pop() if scene.layout == "backdrop" else None
    starts = [int(rng.uniform(0.05, 0.35) * SAMPLE_RATE_HZ)]
    for event in events[:-1]:
        if scene.layout == "overlap":
            step = int(rng.uniform(0.0, 0.4) * SAMPLE_RATE_HZ)
        else:
            step = len(event) + int(rng.uniform(0.05, 0.25) * SAMPLE_RATE_HZ)
        starts.append(starts[-1] + step)
    end = max(start + len(event) for start, event in zip(starts, events, strict=True))
    num_samples = end + int(rng.uniform(0.05, 0.3) * SAMPLE_RATE_HZ)
    mix = np.zeros(num_samples)
    for start, event in zip(starts, events, strict=True):
        mix[start : start + len(event)] += event
    if backdrop is not None:
        seconds = num_samples / SAMPLE_RATE_HZ
        sound = EVENT_KINDS[scene.kinds[-1]].sound(rng, seconds + 0.01)[:num_samples]
        mix += sound * _gain(rng.uniform(-9, -4))
    return _set_level(mix, rng)


def _render_event(name: str, layout: str, rng: np.random.Generator) -> np.ndarray:
    seconds = _SECONDS[layout] * rng.uniform(0.8, 1.2)
    return EVENT_KINDS[name].sound(rng, seconds) * _gain(rng.uniform(-3, 3))


def _set_level(mix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bring the mix to a level of -32 to -16 dB of full scale over a faint floor of noise."""
    rms = np.sqrt(np.mean(mix**2))
    mix = mix * (_gain(rng.uniform(-32, -16)) / rms)
    mix = mix + rng.standard_normal(len(mix)) * _gain(rng.uniform(-75, -60))
    return (mix * min(1.0, 0.95 / np.abs(mix).max())).astype(np.float32)


def _gain(decibels: float) -> float:
    return 10 ** (decibels / 20)
