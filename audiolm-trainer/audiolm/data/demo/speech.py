"""English speech from the espeak-ng library.

In: a text, a voice, a speaking rate and a pitch. Out: a float32 waveform (T,) at 16 kHz.
The library and its voices come in the wheel `espeakng-loader`; it is driven through ctypes with the
C interface of espeak-ng's `speak_lib.h`.
"""

import ctypes
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiolm.errors import UserError

SAMPLE_RATE_HZ = 16_000

# Accents, as espeak-ng names its English language files ("en" is British).
ACCENTS = ("en-us", "en", "en-us-nyc")

# Speakers are espeak-ng's voice variants. Whispering, croaking, robot, echoing, squeaking and test
# variants are left out; of variants that sound alike (steph, steph2, ...) only one side has any.
TRAIN_SPEAKERS = (
    *("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "Alex", "Alicia", "Andrea"),
    *("Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael"),
    *("Mike", "Nguyen", "Reed", "adam", "anika", "aunty", "benjamin", "boris", "david", "ed"),
    *("gustave", "iven", "iven2", "iven4", "john", "klatt4", "marcelo", "max", "michel", "miguel"),
    *("norbert", "pablo", "pedro", "quincy", "rob", "sandro", "shelby", "victor"),
)
TEST_SPEAKERS = (
    "m5",
    "m8",
    "f5",
    "Annie",
    "antonio",
    "belinda",
    "edward",
    "linda",
    "paul",
    "steph",
)

_INSTALL = "pip install espeakng-loader"
_MAX_DATA_PATH = 120  # espeak-ng keeps its data folder in a char[160] and appends file names

# Constants of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE, _PARAMETER_VOLUME, _PARAMETER_PITCH = 1, 2, 3
_VOLUME = 50  # of 100, the default, at which some voices clip
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """One speaker with one accent; `name` is what espeak-ng calls the pair."""

    accent: str
    speaker: str

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.speaker}"


def list_voices(speakers: tuple[str, ...]) -> list[Voice]:
    """Every accent with every one of `speakers`, in a fixed order."""
    return [Voice(accent, speaker) for speaker in speakers for accent in ACCENTS]


def find_espeak() -> tuple[Path, Path]:
    """Paths of the espeak-ng library and of its data folder.

    Raises:
        UserError: the package `espeakng-loader` is not installed.
    """
    try:
        import espeakng_loader  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"package espeakng-loader, the voice of the demo corpus, is not installed: {_INSTALL}"
        ) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


class Synthesizer:
    """The espeak-ng engine of this process.

    espeak-ng keeps state from one utterance to the next (its noise and pitch flutter), so equal
    audio needs a fresh process and the same utterances in the same order.
    """

    def __init__(self, seed: int) -> None:
        """Start the engine; `seed` sets espeak-ng's own random numbers."""
        library_path, data_dir = find_espeak()
        self._variants_dir = data_dir / "voices" / "!v"
        self._short_dir: tempfile.TemporaryDirectory[str] | None = None
        self._library = ctypes.CDLL(os.fspath(library_path))
        self._chunks: list[np.ndarray] = []
        # The library holds only a pointer to the callback: keep the object alive.
        self._callback = _SynthCallback(self._receive)
        path = self._shorten(data_dir)
        self._rate_hz = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(path), _INITIALIZE_DONT_EXIT
        )
        if self._rate_hz <= 0:
            raise UserError(f"espeak-ng cannot read its voices in {path}: reinstall it, {_INSTALL}")
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def synthesize(
        self, text: str, voice: Voice, *, words_per_minute: int, pitch: int
    ) -> np.ndarray:
        """Speak `text`. Returns float32 (T,) at 16 kHz in -1..1, silence at both ends included.

        `words_per_minute` is 80 to 450, `pitch` 0 to 100 (50 is the voice's own).

        Raises:
            UserError: the wheel has no such voice.
        """
        is_known = (self._variants_dir / voice.speaker).is_file()  # espeak-ng would ignore it
        if not is_known or self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice.name!r}: update it, {_INSTALL} -U")
        self._library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        self._library.espeak_SetParameter(_PARAMETER_VOLUME, _VOLUME, 0)
        self._chunks = []
        data = text.encode() + b"\0"
        self._library.espeak_Synth(
            data, len(data), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768
        return resample(samples, self._rate_hz, SAMPLE_RATE_HZ)

    def _receive(self, samples, num_samples: int, _events) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(num_samples,)).copy())
        return 0  # go on

    def _shorten(self, data_dir: Path) -> Path:
        if len(os.fsencode(data_dir)) <= _MAX_DATA_PATH:
            return data_dir
        self._short_dir = tempfile.TemporaryDirectory(prefix="espeak-")
        link = Path(self._short_dir.name) / "espeak-ng-data"
        link.symlink_to(data_dir, target_is_directory=True)
        return link


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Band-limited change of rate by cutting the spectrum: (T,) -> (T * to_hz / from_hz,).

    Meant for clips that begin and end in silence: the Fourier transform takes them as periodic.
    """
    divisor = int(np.gcd(from_hz, to_hz))
    from_step, to_step = from_hz // divisor, to_hz // divisor
    num_steps = -(-len(samples) // from_step)
    num_steps = -(-num_steps // 16) * 16  # lengths with small factors transform faster
    spectrum = np.fft.rfft(samples, num_steps * from_step)
    num_out = num_steps * to_step
    spectrum = spectrum[: num_out // 2 + 1]
    spectrum[-1] = 0
    resampled = np.fft.irfft(spectrum, num_out) * (to_step / from_step)
    return resampled[: len(samples) * to_step // from_step].astype(np.float32)
