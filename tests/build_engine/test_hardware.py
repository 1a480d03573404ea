"""GPU detection through nvidia-smi, as it answers and as it fails."""

import os

import pytest

from build_engine.hardware import Hardware, detect_hardware
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


def answers(machine: Machine, script: str) -> Hardware:
    program = machine.home / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    machine.set(PATH=os.pathsep.join([str(machine.home), os.environ["PATH"]]))
    return detect_hardware()


def test_a_gpu_that_has_failed_is_left_out(machine: Machine) -> None:
    lost = "echo '0, [Unknown Error], [N/A], [N/A], [N/A], [N/A], [N/A]'"
    assert answers(machine, lost).note.startswith("nvidia-smi lists only 0, [Unknown Error], [N/A]")
    found = answers(machine, f"{lost}; echo '1, NVIDIA L4, 8.9, 23034, 22600, 00000000:02:00.0, 575.57.08'")
    assert ([gpu.index for gpu in found.gpus], found.driver) == ([1], "575.57.08")


def test_words_that_are_no_utf_8_are_no_obstacle(machine: Machine) -> None:
    found = answers(machine, r"printf '0, NVIDIA L4 \351, 8.9, 23034, 22600, 00000000:02:00.0, [N/A]\n'")
    assert ([gpu.type for gpu in found.gpus], found.driver) == (["l4"], None)
    assert answers(machine, r"printf '\377\376'").gpus == ()


def test_a_program_that_cannot_be_run_is_reported(machine: Machine) -> None:
    machine.set(PATH=str(machine.home))
    (machine.home / "nvidia-smi").write_text("#!/nowhere\n")
    (machine.home / "nvidia-smi").chmod(0o755)
    assert detect_hardware().note == "nvidia-smi cannot be run: No such file or directory"


def test_products_get_the_names_that_profiles_use(machine: Machine) -> None:
    machine.gpus(H100, H200, A100, A100_40, L40S, L4, A10G, B200)
    found = detect_hardware()
    expected = ["h100", "h200", "a100", "a100-40gb", "l40s", "l4", "a10g", "unknown"]
    assert [gpu.type for gpu in found.gpus] == expected
    assert [gpu.sm for gpu in found.gpus] == [90, 90, 80, 80, 89, 89, 86, 100]
    assert found.driver == "570.124.06"
    assert (found.gpus[0].memory_mib, found.gpus[0].free_mib) == (81559, 81000)
