"""`treeserve doctor` says what runs here and why; `treeserve build-kernels` compiles early."""

import json
import os
import shlex
import shutil

import pytest

from treeserve.attention.cpu_build import library_path, missing_instructions
from treeserve.commands.main import main
from treeserve.errors import KernelError


def findings(capsys) -> dict[str, dict]:
    assert main(["doctor", "--json"]) == 0
    return {found["name"]: found for found in json.loads(capsys.readouterr().out)["findings"]}


def test_everything_is_looked_at_and_shown_a_line_each(capsys):
    names = findings(capsys)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names) == 10
    assert all(line[:2] in ("ok", "--") for line in lines)
    assert "torch " in names["versions"]["detail"]
    assert names["threads"]["detail"].startswith("1 of PyTorch's on ")


def test_the_compiled_kernel_is_named_where_it_runs(capsys, cpu_kernel):
    found = findings(capsys)["attention, bfloat16"]
    assert found["ok"]
    assert found["detail"] == f"on the CPU: cpu, the compiled kernel: {library_path()}"
    found = findings(capsys)["linear, bfloat16"]
    assert found["ok"]
    assert found["detail"].startswith("on the CPU: the compiled kernels")


def test_it_says_why_pytorchs_operator_runs_instead(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    found = findings(capsys)["attention, bfloat16"]
    assert not found["ok"]
    assert "torch, PyTorch's operator: it is not built, and TREESERVE_BUILD=off" in found["detail"]
    found = findings(capsys)["linear, bfloat16"]
    assert not found["ok"]
    assert (
        "oneDNN, and no quantization: it is not built, and TREESERVE_BUILD=off" in found["detail"]
    )
    monkeypatch.delenv("TREESERVE_BUILD")
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    assert "no compiler '/nonexistent/g++'" in findings(capsys)["attention, bfloat16"]["detail"]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(bool(missing_instructions()), reason="another processor")
def test_it_compiles_nothing_itself(capsys, tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TREESERVE_BUILD")
    assert "not compiled yet" in findings(capsys)["attention, bfloat16"]["detail"]
    assert not (tmp_path / "cache").exists()


def test_build_kernels_says_where_it_is(capsys, cpu_kernel):
    assert main(["build-kernels"]) == 0
    assert capsys.readouterr().out == f"there already: {library_path()}\n"


@pytest.mark.slow
def test_build_kernels_compiles_whatever_must_not_be_compiled_at_a_start(
    capsys, tmp_path, monkeypatch
):
    found = shutil.which(os.environ.get("CXX") or "g++")
    if found is None:
        pytest.skip("there is no compiler")
    # Nobody runs what comes of it, so it need not be quick.
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\nexec {shlex.quote(found)} "$@" -O0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    assert main(["build-kernels", "--force"]) == 0
    captured = capsys.readouterr()
    assert library_path().stat().st_size > 10_000
    assert captured.out.startswith("compiling the CPU kernels with ")


def test_build_kernels_without_a_compiler_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    assert main(["build-kernels"]) == 1
    assert "no compiler '/nonexistent/g++'; install g++" in capsys.readouterr().err


def test_without_a_home_the_folder_to_set_is_named(monkeypatch):
    monkeypatch.delenv("TREESERVE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    with pytest.raises(KernelError, match="no home folder; set TREESERVE_CACHE"):
        library_path()


def _no_home():
    raise RuntimeError("Could not determine home directory.")
