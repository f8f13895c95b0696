"""No command reaches the network, except those that fetch: sockets are closed and every try is counted."""

import os
import subprocess
import sys

import pytest

CLOSED = """
import socket, sys
tries = []
def refuse(*arguments, **keywords):
    tries.append(arguments)
    raise OSError("the network is closed")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""


def offline(code, tmp_path, **environment):
    """Runs code without any network and with an empty Hugging Face cache; its output, and the tries."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", CLOSED + code + "\nprint('tries:', len(tries), tries[:1])"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=keep | {"HF_HOME": str(tmp_path / "hf")} | environment,
    )
    return done.stdout + done.stderr


COMMANDS = {
    "data check DATA --preset iu-xray": "the tokenizer of 'qwen1.5-1.8b' is not on this machine",
    "data check DATA --preset mimic-cxr": "the tokenizer of 'llama2-7b' is not on this machine",
    "data check DATA": "listed in",
    "info --preset iu-xray": "qwen1.5-1.8b",
    "info --llm nosuch/model": "'nosuch/model' (it is not on this machine); download it with",
    "ledger --preset mimic-cxr": "",
    "train --preset r2gengpt --data DATA --out out": "'swin-base' (it is not on this machine)",
    "train --llm nosuch/model --data DATA --out out": "'nosuch/model' (it is not on this machine)",
    "pretrain stage2 --text-encoder nosuch/bert --data DATA --out out": "(it is not on this machine)",
    "ablate llm-swap --data DATA --out out --rows none": "has no row 'none'",
    "doctor": "JupyterLab",
}


def test_no_command_asks_the_network(phantom_dir, tmp_path):
    lines = [words.replace("DATA", str(phantom_dir)).split() for words in COMMANDS]
    code = "import sys\nfrom emrrg_lib.cli import main\nsys.stderr = sys.stdout\n"
    code += f"for words in {lines}:\n    main(words)\n    print('tries:', len(tries), '====')"
    parts = offline(code, tmp_path).split("====")
    for part, (words, said) in zip(parts, COMMANDS.items(), strict=False):
        assert said in part and part.endswith("tries: 0 "), (words, part)
    assert len(parts) == len(COMMANDS) + 1 and "Traceback" not in "".join(parts)


@pytest.mark.parametrize("name", ["tiny", "TINY"])
def test_a_model_on_this_machine_is_loaded_without_a_question(name, tmp_path):
    code = (
        "from emrrg_lib.files import TINY_DIR\nfrom emrrg_lib import load_llm\n"
        f"load_llm({name!r} if {name!r} == 'tiny' else str(TINY_DIR / 'report_lm'))"
    )
    assert "tries: 0" in offline(code, tmp_path)


def test_the_user_may_let_the_libraries_download(tmp_path):
    code = "from emrrg_lib import load_llm\ntry:\n    load_llm('nosuch/model')\nexcept ValueError:\n    pass"
    assert "tries: 0" in offline(code, tmp_path)
    assert "tries: 0" not in offline(code, tmp_path, HF_HUB_OFFLINE="0")


def test_fetching_does_ask(tmp_path):
    code = "from emrrg_lib.cli import main\nmain(['data', 'fetch', 'iu-xray', '--to', 'openi'])"
    assert "tries: 0" not in offline(code, tmp_path)
