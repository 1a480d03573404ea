"""GPU detection through nvidia-smi, as it answers and as it fails."""

import pytest

from build_engine.hardware import detect_hardware
from tests.standin.machine import A10G, A100, A100_40, B200, H100, H200, L4, L40S, Machine


def test_a_machine_without_a_driver_is_a_valid_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = detect_hardware()
    assert found.gpus == ()
    assert "nvidia-smi is not on PATH" in found.note


def test_a_driver_without_a_gpu_is_a_valid_answer(machine: Machine) -> None:
    assert detect_hardware().note == "nvidia-smi lists no GPU"


def test_a_broken_driver_is_reported_in_its_own_words(machine: Machine) -> None:
    machine.set(STANDIN_GPUS="broken")
    assert "couldn't communicate with the NVIDIA driver" in detect_hardware().note


def test_products_get_the_names_that_profiles_use(machine: Machine) -> None:
    machine.gpus(H100, H200, A100, A100_40, L40S, L4, A10G, B200)
    found = detect_hardware()
    expected = ["h100", "h200", "a100", "a100-40gb", "l40s", "l4", "a10g", "unknown"]
    assert [gpu.type for gpu in found.gpus] == expected
    assert [gpu.sm for gpu in found.gpus] == [90, 90, 80, 80, 89, 89, 86, 100]
    assert found.driver == "570.124.06"
    assert (found.gpus[0].memory_mib, found.gpus[0].free_mib) == (81559, 81000)
