"""The command line: help, exit codes, and one sentence for every kind of bad input."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emrrg_lib import cli
from emrrg_lib.cli import train
from emrrg_lib.files import InputError

COMMANDS = (
    "demo",
    "train",
    "generate",
    "explore",
    "evaluate",
    "pretrain",
    "data",
    "info",
    "ledger",
    "bench",
    "course",
    "export",
    "doctor",
)


def run(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "emrrg_lib", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def sentence(capsys):
    """The single line on stderr, checked to be one sentence of the program."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("emrrg: ")
    return lines[0]


# ----------------------------------------------------------------------------------- help


def test_the_entry_point_and_the_module_are_the_same_program():
    script = Path(sys.executable).with_name("emrrg")
    if not script.exists():
        pytest.skip("the package is not installed in this environment (pip install -e .)")
    by_script = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert by_script.stdout == run("--help").stdout and by_script.returncode == 0
    for command in COMMANDS:
        assert f"\n    {command}" in by_script.stdout


@pytest.mark.parametrize("words", [[name] for name in COMMANDS] + [["data", "phantom"]])
def test_every_command_has_help_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    assert "examples:\n  emrrg " + words[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["dmo"],
        ["train"],
        ["generate", "--run", "x"],
        ["pretrain", "huge"],
        ["demo", "--studies", "0"],
        ["demo", "--seed", "-1"],
        ["demo", "--steps", "many"],
        ["pretrain", "tiny", "--minutes", "nan"],
        ["data", "phantom", "--out", "x"],
    ],
)
def test_wrong_words_end_with_two(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["data"], ["pretrain"], ["course"], ["bench"]])
def test_a_group_alone_prints_its_help(words, capsys):
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(" ".join(["usage: emrrg", *words])) and "\ncommands:\n" in said


@pytest.mark.parametrize(
    ("words", "close"),
    [
        (["trian"], "train"),
        (["evalaute"], "evaluate"),
        (["Doctor"], "doctor"),
        (["data", "phantoms"], "phantom"),
        (["pretrain", "stage-2"], "stage2"),
        (["bench", "scna"], "scan"),
        (["data", "fetch", "iu_xray"], "iu-xray"),
        (["evaluate", "comapre", "a", "b"], "compare"),
        (["generate", "--run", "x", "--data", "d", "--out", "o", "--split", "tset"], "test"),
        (["info", "--encoder", "lrage"], "large"),
        (["pretrain", "stage1", "--objective", "mea"], "mae"),
        (["data", "phantom", "--out", "x", "--studies", "9", "--sise", "9"], "--size"),
        (["train", "--data", "x", "--out", "y", "--presett=tiny"], "--preset"),
        (["demo", "--stuides", "20"], "--studies"),
    ],
)
def test_a_misspelt_word_suggests_the_close_one(words, close, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and f"did you mean '{close}'?" in capsys.readouterr().err


def test_a_word_that_is_like_no_other_suggests_nothing(capsys):
    with pytest.raises(SystemExit):
        cli.main(["qqqqq"])
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "close"),
    [
        (["info", "--policy", "lora-X+inproj"], "lora-x+in_proj"),
        (["info", "--policy", "table5_3"], "table5-3"),
        (["ledger", "--policy", "ful"], "full"),
        (["ablate", "tabel5", "--out", "x"], "table5"),
        (["ablate", "gates", "--out", "x"], "gate"),
        (["ablate", "gate", "--rows", "statik", "--out", "x"], "static"),
        (["ablate", "gate", "--set", "train.warmsteps=3", "--out", "x"], "warm_steps"),
        (["train", "--data", "d", "--out", "o", "--set", "train.batchsize=3"], "batch_size"),
        (["train", "--data", "d", "--out", "o", "--preset", "iuxray"], "iu-xray"),
    ],
)
def test_a_misspelt_name_suggests_the_close_one(words, close, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert f"did you mean '{close}'?" in sentence(capsys) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["nosuch/model", "nosuch", "./nofolder", "/no/folder", "none.gguf", "a b/c", "x" * 60]
)
@pytest.mark.parametrize("command", ["info", "ledger"])
def test_a_language_model_that_is_not_here_is_one_sentence(command, name, capsys):
    assert cli.main([command, "--llm", name]) == 2
    assert f"cannot load the language model '{name}'" in sentence(capsys)


# ------------------------------------------------------------------------- where and what is printed

ANY_TEXT = "tiny → 96 × 96, α = β, “x” … \ud800"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8", "ascii:strict", "cp1252:strict"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_text_that_the_output_cannot_hold_is_replaced(encoding, stream):
    say = f"import sys; print({ANY_TEXT!a}, file=sys.{stream}, flush=True)"
    code = (
        "import subprocess, sys\nfrom emrrg_lib import cli\nfrom emrrg_lib.cli import model\n"
        f"def doctor(options):\n    exec({say!r})\n"
        f"    return subprocess.run([sys.executable, '-c', {say!r}]).returncode\n"
        "model.doctor = doctor\nsys.exit(cli.main(['doctor']))"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert getattr(done, stream).count(b"tiny ") == 2


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["info"], ["ledger"], ["train", "--help"], ["info", "--llm", "α"]]
)
def test_commands_print_to_an_old_terminal(words):
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "emrrg_lib", *words]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == (2 if "α" in words else 0) and b"Traceback" not in done.stderr


def test_sigterm_ends_a_command_and_removes_its_open_files(tmp_path):
    code = (
        "import os, signal, sys\nfrom emrrg_lib import cli\nfrom emrrg_lib.cli import train\n"
        "from emrrg_lib.files import atomic_path\ndef demo(options):\n"
        "    with atomic_path(options.out / 'a') as part:\n        part.write_text('half')\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "train.demo = demo\nsys.exit(cli.main(['demo', '--out', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 143 and done.stderr.startswith(
        "emrrg: stopped by SIGTERM, nothing half-written"
    )
    assert list((tmp_path / "run").iterdir()) == []


# ------------------------------------------------------------------------------ bad input


def test_an_unknown_preset_suggests_the_close_name(capsys):
    assert cli.main(["info", "--preset", "tinny"]) == 2
    assert "tiny" in sentence(capsys)


def test_an_unknown_preset_stops_a_training_before_anything_is_written(capsys, tmp_path):
    out = tmp_path / "run"
    assert cli.main(["train", "--preset", "tinny", "--data", "x", "--out", str(out)]) == 2
    assert "tiny" in sentence(capsys) and not out.exists()


@pytest.mark.parametrize(
    "command", [["evaluate"], ["generate", "--images", "a.png"], ["explore", "--study", "1"]]
)
def test_a_missing_run_folder_is_named(command, capsys, tmp_path):
    assert cli.main([*command, "--run", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in sentence(capsys) and not (tmp_path / "nowhere").exists()


def test_an_output_folder_that_is_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert cli.main(["demo", "--out", str(out)]) == 2
        assert "is a file" in sentence(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_output_folder(capsys, tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system", str(dir) + "/tmpx")

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", refuse)
    assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 2
    found = sentence(capsys)
    assert str(tmp_path / "run") in found and "read-only" in found


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux's /sys")
def test_a_folder_that_the_system_keeps_closed(capsys):
    assert cli.main(["demo", "--out", "/sys/kernel/emrrg-run"]) == 2
    assert "/sys/kernel" in sentence(capsys)


def test_a_phantom_is_not_drawn_over_other_files(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    assert cli.main(["data", "phantom", "--studies", "2", "--out", str(tmp_path)]) == 2
    assert "not empty" in sentence(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# -------------------------------------------------------------------- errors while it runs


def raising(error):
    def command(options):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (OSError(errno.ENOENT, "No such file", "weights.pth"), "weights.pth: it does not exist"),
        (PermissionError(errno.EACCES, "denied", "x.json"), "x.json: permission denied"),
        (OSError(errno.EROFS, "Read-only", "/tmp/other"), "read-only"),
        (Exception("Error while serializing: I/O error: full (os error 28)"), "disk is full"),
        (OSError("the model is not there"), "the model is not there"),
        (InputError("the sentence"), "emrrg: the sentence"),
    ],
)
def test_file_errors_become_one_sentence(error, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "demo", raising(error))
    assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 2
    assert words in sentence(capsys)


def test_torch_save_on_a_full_disk_is_known_by_the_disk(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "demo", raising(RuntimeError("unexpected pos 576 vs 534")))
    with pytest.raises(RuntimeError):  # there is space: a programming error keeps its traceback
        cli.main(["demo", "--out", str(tmp_path)])
    full = type("Usage", (), {"free": 0})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "disk is full" in sentence(capsys)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", raising(KeyboardInterrupt()))
    assert cli.main(["train", "--data", "x", "--out", str(tmp_path)]) == 130
    assert "--resume" in sentence(capsys)


def test_options_reach_the_command(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(train, "demo", lambda options: seen.update(vars(options)) or 0)
    words = ["demo", "--out", str(tmp_path), "--studies", "30", "--seed", "4", "--steps", "5"]
    assert cli.main(words) == 0
    assert (seen["out"], seen["studies"], seen["seed"], seen["steps"]) == (tmp_path, 30, 4, 5)
    assert not list(tmp_path.iterdir())  # the probe for a writable folder leaves nothing
