"""Audio files to waveforms, log-mel and filterbank: against goldens and the original tools."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import librosa
import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from audiolm.audio.features import (
    FBANK_MEAN,
    FBANK_STD,
    LogMel,
    kaldi_fbank,
    num_fbank_frames,
)
from audiolm.audio.loading import AudioError, Span, audio_seconds, load_waveform
from audiolm.errors import UserError
from tests.data.golden.goldenlib import Golden

GOLDEN_DIR = Path(__file__).resolve().parent / "data" / "golden" / "dev"
GOLDEN_CLIPS = ("a.wav", "b.wav", "c.wav", "d44.wav", "e_short.wav")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("dev", "lora")


@pytest.fixture
def write_audio(tmp_path: Path) -> Callable[..., Path]:
    def write(
        samples: np.ndarray, rate_hz: int = 16_000, name: str = "x.wav", subtype: str = ""
    ) -> Path:
        soundfile.write(tmp_path / name, samples, rate_hz, subtype=subtype or None)
        return tmp_path / name

    return write


def make_noise(num_samples: int, scale: float = 0.1, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=num_samples) * scale).astype(np.float32)


def load_golden_clip(name: str, tmp_path: Path) -> np.ndarray:
    """The reference keeps channel 0 of a stereo file, the product averages: keep channel 0 here."""
    source, rate_hz = soundfile.read(GOLDEN_DIR / "audio" / name, always_2d=True)
    soundfile.write(tmp_path / name, source[:, 0], rate_hz, subtype="DOUBLE")
    return load_waveform(tmp_path / name).samples


@pytest.mark.parametrize("name", GOLDEN_CLIPS)
def test_log_mel_of_golden_clips(name: str, golden: Golden, tmp_path: Path) -> None:
    log_mel = LogMel.from_pretrained(GOLDEN_DIR / "components" / "whisper")
    samples = load_golden_clip(name, tmp_path)
    expected = golden.t[f"dataset.{name}.spectrogram_t13"]
    # The logarithm of bands near silence magnifies the rounding of each processor's own Fourier
    # transform: 2e-6 on the recording's, up to 6e-5 on one with AVX-512.
    torch.testing.assert_close(log_mel(samples)[:, ::13], expected, atol=1e-4, rtol=0)


def test_resampled_golden_clip(golden: Golden, tmp_path: Path) -> None:
    samples = load_golden_clip("d44.wav", tmp_path)
    assert samples.dtype == np.float32  # float64 samples crashed the reference's BEATs
    assert golden.check("dataset.d44.wav.raw_wav", samples), golden.errors


def test_channels_are_averaged(write_audio: Callable[..., Path]) -> None:
    left, right = make_noise(20_000), make_noise(20_000, seed=1)
    path = write_audio(np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load_waveform(path).samples, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_any_rate_becomes_16_khz_as_librosa_does_it(
    rate_hz: int, write_audio: Callable[..., Path]
) -> None:
    source = make_noise(round(1.7 * rate_hz))
    waveform = load_waveform(write_audio(source, rate_hz, subtype="FLOAT"))
    expected = librosa.resample(source, orig_sr=rate_hz, target_sr=16_000, res_type="soxr_hq")
    assert waveform.samples.dtype == np.float32
    np.testing.assert_array_equal(waveform.samples, expected)
    assert waveform.source_seconds == pytest.approx(1.7, abs=1e-3)


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "wav", "aiff"])
def test_formats(extension: str, write_audio: Callable[..., Path]) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    waveform = load_waveform(write_audio(tone, name=f"x.{extension}"))
    assert waveform.samples.shape[0] >= 32_000
    middle = waveform.samples[8_000:24_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)  # lossy codecs


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_short_clips_are_padded_to_one_second(
    rate_hz: int, write_audio: Callable[..., Path]
) -> None:
    waveform = load_waveform(write_audio(make_noise(rate_hz // 4), rate_hz))
    assert waveform.samples.shape == (16_000,)
    assert waveform.source_seconds == 0.25
    assert np.abs(waveform.samples[:3_900]).max() > 0.05
    assert np.abs(waveform.samples[4_200:]).max() < 1e-3  # the resampler rings a little


def test_long_clips_are_cut_or_refused(write_audio: Callable[..., Path]) -> None:
    samples = make_noise(31 * 16_000)
    path = write_audio(samples, subtype="FLOAT")
    waveform = load_waveform(path)
    assert waveform.was_truncated
    assert waveform.source_seconds == 31.0
    np.testing.assert_array_equal(waveform.samples, samples[: 30 * 16_000])
    for policy in ("error", "skip"):
        with pytest.raises(AudioError, match=r"x\.wav: 31\.0 s long, at most 30 s") as caught:
            load_waveform(path, long_audio=policy)
        assert caught.value.problem == "too_long"
    whole = load_waveform(write_audio(samples[: 30 * 16_000]), long_audio="error")
    assert not whole.was_truncated


def test_long_clip_of_another_rate_is_exactly_30_s(write_audio: Callable[..., Path]) -> None:
    waveform = load_waveform(write_audio(make_noise(31 * 8_000), 8_000))
    assert waveform.samples.shape == (30 * 16_000,)
    assert waveform.was_truncated


def test_several_files_are_joined_with_silence(write_audio: Callable[..., Path]) -> None:
    first, second = make_noise(16_000), make_noise(24_000, seed=1)
    paths = (
        write_audio(first, name="1.wav", subtype="FLOAT"),
        write_audio(second, name="2.wav", subtype="FLOAT"),
        write_audio(make_noise(8_000), 8_000, name="3.wav"),  # another rate
    )
    waveform = load_waveform(paths[0], extra_paths=paths[1:])
    expected = np.concatenate([first, np.zeros(1_600, np.float32), second, np.zeros(1_600)])
    np.testing.assert_array_equal(waveform.samples[: expected.shape[0]], expected)
    assert waveform.samples.shape[0] == expected.shape[0] + 16_000
    assert waveform.source_seconds == pytest.approx(1 + 0.1 + 1.5 + 0.1 + 1)
    short = write_audio(make_noise(1_600), name="4.wav")
    assert load_waveform(short, extra_paths=[short]).samples.shape == (16_000,)
    with pytest.raises(AudioError, match="missing.wav"):
        load_waveform(paths[0], extra_paths=[paths[0].with_name("missing.wav")])


SOUNDFILE_FORMATS: dict[str, dict[str, Any]] = {
    "wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "opus": {"format": "OGG", "subtype": "OPUS"},
}  # fmt: skip


def write_format(folder: Path, extension: str, samples: np.ndarray, rate_hz: int = 16_000) -> Path:
    """Any format; m4a through the ffmpeg of the tests' own wheel."""
    path = folder / f"x.{extension}"
    if extension in SOUNDFILE_FORMATS:
        soundfile.write(path, samples, rate_hz, **SOUNDFILE_FORMATS[extension])
    else:
        soundfile.write(folder / "source.wav", samples, rate_hz, subtype="FLOAT")
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            folder / "source.wav",
            path,
        ]
        subprocess.run(command, check=True)
    return path


def put_ffmpeg_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)


def make_chirp(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    """Rises from 200 Hz: no stretch of it looks like another."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 * times + 20 * times**2))).astype(np.float32)


@pytest.mark.parametrize("extension", [*SOUNDFILE_FORMATS, "m4a"])
@pytest.mark.parametrize("offset", [0.0, 0.25, 7.513])
def test_span_is_that_part_of_the_whole(
    extension: str, offset: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_ffmpeg_on_path(tmp_path, monkeypatch)
    path = write_format(tmp_path, extension, make_chirp(20.0))
    whole = load_waveform(path).samples
    part = load_waveform(path, span=Span(offset, 4.0))
    assert part.source_seconds == 4.0
    assert part.samples.shape == (64_000,)
    assert not part.was_truncated
    start = round(offset * 16_000)
    # A decoder that starts elsewhere rounds otherwise; another stretch of the chirp is 0.6 away.
    np.testing.assert_allclose(part.samples, whole[start : start + 64_000], atol=1e-4)
    assert audio_seconds(path, Span(offset, 4.0)) == 4.0
    assert audio_seconds(path, Span(offset)) == pytest.approx(20 - offset, abs=0.01)


@pytest.mark.parametrize(
    ("extension", "lead_in", "max_share"),
    # An mp3 has no index: what comes before is passed over; and its decoder needs a run-up.
    [("wav", 0, 0.1), ("flac", 0, 0.1), ("mp3", 16_384, 1.0)],
)
def test_only_the_span_of_a_long_file_is_read(
    extension: str, lead_in: int, max_share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_format(tmp_path, extension, make_chirp(120.0))
    num_read = []
    read = soundfile.SoundFile.read

    def count(self: soundfile.SoundFile, frames: int = -1, **options: object) -> np.ndarray:
        result = read(self, frames, **options)  # type: ignore[arg-type]
        num_read.append(len(result))
        return result

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    load_waveform(path, span=Span(90.0, 5.0))
    load_waveform(path, span=Span(20.0))
    load_waveform(path)
    assert num_read == [5 * 16_000 + lead_in, 30 * 16_000 + lead_in, 30 * 16_000]
    if sys.platform == "linux":
        before = count_read_bytes()
        load_waveform(path, span=Span(90.0, 5.0))
        assert count_read_bytes() - before < max_share * path.stat().st_size


def count_read_bytes() -> int:
    """By this process so far, of files of all kinds."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def test_span_of_another_rate_and_of_two_channels(tmp_path: Path) -> None:
    samples = np.stack([make_chirp(5, 44_100), -make_chirp(5, 44_100) / 2], axis=1)
    soundfile.write(tmp_path / "x.wav", samples, 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "y.wav", samples[44_100:132_300].mean(1), 44_100, subtype="FLOAT")
    part = load_waveform(tmp_path / "x.wav", span=Span(1.0, 2.0))
    np.testing.assert_allclose(part.samples, load_waveform(tmp_path / "y.wav").samples, atol=1e-7)


def test_span_and_long_and_joined_audio(tmp_path: Path) -> None:
    path = write_format(tmp_path, "wav", make_chirp(40.0))
    assert load_waveform(path, span=Span(2.0)).was_truncated
    assert not load_waveform(path, span=Span(30.0), long_audio="error").was_truncated
    with pytest.raises(AudioError, match="31.0 s long"):
        load_waveform(path, span=Span(0.0, 31.0), long_audio="error")
    joined = load_waveform(path, span=Span(1.0, 2.0), extra_paths=[path])
    assert joined.source_seconds == pytest.approx(2.0 + 0.1 + 40.0)


@pytest.mark.parametrize("extension", ["wav", "mp3", "m4a"])
def test_span_outside_its_file(
    extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_ffmpeg_on_path(tmp_path, monkeypatch)
    path = write_format(tmp_path, extension, make_chirp(5.0))
    for span, message in ((Span(6.0, 1.0), "starts at 6 s"), (Span(4.0, 3.0), "ends at 7 s")):
        for read in (load_waveform, audio_seconds):
            with pytest.raises(AudioError, match=rf"clip {message}, the file is 5\S* s") as caught:
                read(path, span=span)
            assert caught.value.problem == "outside"
    rough = load_waveform(path, span=Span(3.0, 2.4))  # transcripts may be timed a little too long
    assert rough.source_seconds == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("extension", ["flac", "mp3", "m4a"])
def test_file_that_is_cut_short(
    extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_ffmpeg_on_path(tmp_path, monkeypatch)
    path = write_format(tmp_path, extension, make_chirp(10.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="cannot be read|cut short") as caught:
        load_waveform(path)
    assert caught.value.problem == "unreadable"


def test_m4a_of_other_rate_and_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_ffmpeg_on_path(tmp_path, monkeypatch)
    path = write_format(tmp_path, "m4a", np.stack([make_chirp(35, 44_100)] * 2, axis=1), 44_100)
    waveform = load_waveform(path)
    assert waveform.was_truncated
    assert waveform.source_seconds == pytest.approx(35, abs=0.05)
    assert waveform.samples.dtype == np.float32
    np.testing.assert_allclose(waveform.samples, make_chirp(30), atol=0.02)  # a lossy codec
    assert audio_seconds(path) == pytest.approx(35, abs=0.05)


def test_m4a_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_format(tmp_path, "m4a", make_chirp(2.0))
    monkeypatch.setenv("PATH", str(tmp_path))
    for read in (load_waveform, audio_seconds):
        with pytest.raises(AudioError, match="it needs ffmpeg, which is not installed") as caught:
            read(path)
        assert caught.value.problem == "unreadable"


def test_audio_seconds_reads_the_header(write_audio: Callable[..., Path]) -> None:
    assert audio_seconds(write_audio(make_noise(12_000), 8_000)) == 1.5
    with pytest.raises(AudioError, match="no such file"):
        audio_seconds("nowhere.wav")


@pytest.mark.parametrize(
    ("content", "problem", "message"),
    [
        (None, "missing", "no such file"),
        (b"", "empty", "0 bytes"),
        (b"this is not audio at all, whatever its name", "unreadable", "cannot be read"),
        (np.zeros(0, np.float32), "empty", "no samples"),
        (np.full(20_000, np.nan, np.float32), "non_finite", "NaN or infinite"),
        (np.r_[np.zeros(20_000, np.float32), np.inf], "non_finite", "NaN or infinite"),
    ],
)
def test_unusable_files(
    content: bytes | np.ndarray | None, problem: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "clip.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        soundfile.write(path, content, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=message) as caught:
        load_waveform(path)
    assert caught.value.problem == problem
    assert str(path) in str(caught.value)
    copied = pickle.loads(pickle.dumps(caught.value))  # a worker sends it to the main process
    assert (str(copied), copied.problem) == (str(caught.value), problem)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(make_noise(160_000), id="10 s"),
        pytest.param(make_noise(16_001), id="1 s and a sample"),
        pytest.param(make_noise(30_000, scale=1e-6), id="quiet"),
        pytest.param(np.zeros(16_000, np.float32), id="silent"),
        pytest.param(make_noise(480_000), id="30 s"),
        pytest.param(make_noise(479_999), id="nearly 30 s"),
        pytest.param(make_noise(479_600), id="30 s less a window"),
        pytest.param(make_noise(479_599), id="30 s less a window and a sample"),
        pytest.param(make_noise(500_000), id="over 30 s"),
    ],
)
def test_log_mel_equals_whisper_feature_extractor(samples: np.ndarray, num_mel_bins: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
    expected = extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
    log_mel = LogMel(num_mel_bins)(samples)
    assert log_mel.dtype == torch.float32
    # The same sums in another order: a few units in the last place.
    torch.testing.assert_close(log_mel, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_mel_bins_come_from_the_whisper_folder(num_mel_bins: int, tmp_path: Path) -> None:
    WhisperFeatureExtractor(feature_size=num_mel_bins).save_pretrained(tmp_path)
    assert LogMel.from_pretrained(tmp_path)(np.zeros(16_000)).shape == (num_mel_bins, 3000)


def test_wrong_whisper_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocessor_config.json of .*nowhere") as caught:
        LogMel.from_pretrained(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)
    source = GOLDEN_DIR / "components" / "whisper" / "preprocessor_config.json"
    path = Path(shutil.copy(source, tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hop_length": 320}))
    with pytest.raises(UserError, match="hop_length is 320"):
        LogMel.from_pretrained(tmp_path)


@pytest.mark.parametrize(("index", "stride"), [(0, 1), (1, 5), (2, 5)])
def test_fbank_of_golden_clips(index: int, stride: int, golden: Golden) -> None:
    samples = load_waveform(GOLDEN_DIR / "audio" / GOLDEN_CLIPS[index]).samples
    fbank, num_frames = kaldi_fbank(torch.from_numpy(samples)[None])
    expected = golden.t[f"beats.fbank.{index}_t{stride}"]
    assert fbank.dtype == torch.float32
    assert num_frames.tolist() == [fbank.shape[1]] == [num_fbank_frames(samples.shape[0])]
    # The recording's mel filters are float32, ours float64; 1e-3 is allowed.
    torch.testing.assert_close(fbank[:, ::stride], expected, atol=5e-5, rtol=0)


def test_fbank_equals_another_implementation() -> None:
    samples = make_noise(20_000) + 0.3  # an offset, which is removed frame by frame
    with pytest.warns(UserWarning, match="zero values"):  # Kaldi's filter 0 is empty
        filters = mel_filter_bank(257, 128, 20, 8000, 16_000, None, "kaldi", True)
    expected = spectrogram(
        samples * 2.0**15,
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T
    fbank, _ = kaldi_fbank(torch.from_numpy(samples)[None])
    expected = torch.from_numpy((expected - FBANK_MEAN) / (2 * FBANK_STD)).float()
    torch.testing.assert_close(fbank[0], expected, atol=1e-5, rtol=0)


def test_fbank_of_a_batch_equals_the_clips_alone() -> None:
    lengths = torch.tensor([16_000, 20_801, 48_333, 399])
    clips = [torch.from_numpy(make_noise(n, seed=n)) for n in lengths.tolist()]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=9.0)
    fbank, num_frames = kaldi_fbank(batch, lengths)
    assert num_frames.tolist() == [98, 128, 300, 0]
    for index, clip in enumerate(clips):
        alone, count = kaldi_fbank(clip[None])
        assert torch.equal(fbank[index, : num_frames[index]], alone[0])
        assert count == num_frames[index]
        assert not fbank[index, num_frames[index] :].any()
