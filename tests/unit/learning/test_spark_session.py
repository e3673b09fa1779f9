"""What Spark lacks is told in one line, with what was found and how to mend it."""

import socket
import sys
from pathlib import Path

import pytest

from cryofuse.learning.spark.session import (
    master_kind,
    open_session,
    require_java,
    require_master,
)
from cryofuse.logs import UserError


def write_java(folder: Path, told: str) -> Path:
    """Put a program java into a folder that says this when it is asked for its version."""
    folder.mkdir(parents=True)
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{told}' >&2\n")
    program.chmod(0o755)
    return folder


def line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_pyspark_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(UserError) as error, open_session("local[*]", "test", 1, 1000):
        pass
    assert "pip install '.[spark]'" in line(error)


def test_missing_java_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as error:
        require_java()
    assert "Java 17" in line(error)
    assert "openjdk-17-jre-headless" in line(error)


def test_an_empty_java_home_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        require_java()
    assert f"JAVA_HOME names {tmp_path}" in line(error)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ('openjdk version "11.0.21" 2023-10-17', "11.0.21"),
        ('java version "1.8.0_392"', "1.8.0_392"),
        ("Error: no libjvm", "Error: no libjvm"),
    ],
)
def test_an_old_or_broken_java_is_told_with_its_version(monkeypatch, tmp_path, told, found):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{write_java(tmp_path / 'bin', told)}:/usr/bin:/bin")
    with pytest.raises(UserError) as error:
        require_java()
    assert f"is {found}" in line(error)


@pytest.mark.parametrize(
    "told", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 2023-09-19']
)
def test_a_young_java_is_taken_from_java_home(monkeypatch, tmp_path, told):
    write_java(tmp_path / "bin", told)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    require_java()


def test_a_master_that_does_not_answer_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        master = f"spark://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError) as error:
            require_master(master)
        assert master in line(error)
        # One of two is enough.
        taken.listen()
        require_master(f"spark://127.0.0.1:1,{master.removeprefix('spark://')}")


@pytest.mark.parametrize(
    ("master", "kind"),
    [
        ("local", "local"),
        ("local[*]", "local"),
        ("local[4]", "local"),
        ("local[*,2]", "local"),
        ("spark://node-1:7077", "standalone"),
        ("spark://node-1:7077,node-2:7077", "standalone"),
        ("yarn", "yarn"),
        ("k8s://https://10.0.0.1:6443", "kubernetes"),
    ],
)
def test_kinds_of_masters_are_told_apart(master, kind):
    assert master_kind(master) == kind


@pytest.mark.parametrize("master", ["lokal[2]", "local[]", "spark://node-1", "node-1:7077", ""])
def test_what_is_no_master_is_refused_by_name(master):
    with pytest.raises(UserError) as error:
        master_kind(master)
    assert "local[*], local[4], spark://host:7077" in line(error)
