"""Products of a few rows by parts of the weight: the numbers of `linear`, and where it is done."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from audiolm.models import few_rows
from audiolm.models.few_rows import NUM_PARTS, is_intel, linear_of_few_rows

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n"
AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC, not GenuineIntel\n"


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str = AMD) -> None:
    """A processor of two cores that says so of itself."""
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    monkeypatch.setattr(few_rows, "CPUINFO_PATH", path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    is_intel.cache_clear()


@pytest.fixture(autouse=True)
def forgetful() -> None:
    is_intel.cache_clear()


@pytest.mark.parametrize(
    "width_out", [NUM_PARTS, 3 * NUM_PARTS, 5 * NUM_PARTS + 1, 2 * NUM_PARTS - 1]
)
@pytest.mark.parametrize("num_rows", [1, 3, 16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_numbers_are_those_of_linear(
    width_out: int, num_rows: int, has_bias: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path)
    weight, rows = torch.randn(width_out, 24), torch.randn(num_rows, 24)
    bias = torch.randn(width_out) if has_bias else None
    multiply = linear_of_few_rows(weight, bias)
    assert multiply.func is few_rows._multiply  # type: ignore[attr-defined]
    torch.testing.assert_close(multiply(rows), linear(rows, weight, bias), rtol=1e-5, atol=1e-5)
    weight.mul_(2)  # the parts are views: nothing was copied
    torch.testing.assert_close(multiply(rows), linear(rows, weight, bias), rtol=1e-5, atol=1e-5)


def test_where_the_weight_stays_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weight = torch.randn(4 * NUM_PARTS, 8)
    rows = torch.randn(2, 8)

    def is_whole(weight: torch.Tensor) -> bool:
        return linear_of_few_rows(weight, None).func is linear  # type: ignore[attr-defined]

    pretend(monkeypatch, tmp_path)
    assert not is_whole(weight)
    assert is_whole(weight.bfloat16())
    assert is_whole(weight[: NUM_PARTS - 1])
    assert is_whole(weight.t())
    assert is_whole(weight.to("meta"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert is_whole(weight)
    pretend(monkeypatch, tmp_path, INTEL)
    assert is_whole(weight)
    assert torch.equal(linear_of_few_rows(weight, None)(rows), linear(rows, weight))
    monkeypatch.setattr(few_rows, "CPUINFO_PATH", tmp_path / "none")  # another system
    for name, expected in {"Intel64 Family 6 Model 85, GenuineIntel": True, "": False}.items():
        is_intel.cache_clear()
        monkeypatch.setattr(few_rows.platform, "processor", lambda name=name: name)
        assert is_intel() == expected
