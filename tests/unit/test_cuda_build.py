"""patches/shared/cuda-build: what setup.py of the CUDA patch sets compiles with. A real g++, and no CUDA."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

SHARED = Path(__file__).resolve().parents[2] / "patches" / "shared"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on PATH")

SETUP = """
import sys
sys.path.insert(0, ".")
from setuptools import setup
import cuda_build
setup(
    name="thing",
    version="1",
    packages=["thing"],
    ext_modules=[
        cuda_build.CudaExtension(
            "thing_cuda",
            ["csrc/slow.cpp", "csrc/one.cpp", "csrc/two.cpp"],
            {"cxx": ["-O1"], "nvcc": []},
            ["csrc"],
            job_mib=100,
        )
    ],
    cmdclass={"build_ext": cuda_build.build_ext, "bdist_wheel": cuda_build.bdist_wheel},
)
"""


@dataclass
class Project:
    """A tree with a setup.py that builds by cuda_build, and the configuration it is told."""

    tree: Path
    outside: Path
    cache: Path
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in {
            "setup.py": SETUP,
            "thing/__init__.py": "",
            "csrc/slow.cpp": '#include "common.h"\nint slow() { return base(); }\n',
            "csrc/one.cpp": "#include <common.h>\n#include <torch.h>\nint one() { return *where(); }\n",
            "csrc/two.cpp": "int two() { return 2; }\n",
            "csrc/common.h": '#include "deep/base.h"\n',
            "csrc/deep/base.h": "inline int base() { return 1; }\n",
            "csrc/torch_library.cpp": "int operators() { return 3; }\n",
        }.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)
        for module in ("cuda-build", "kernel-build"):
            for path in (SHARED / module).glob("*.py"):
                shutil.copy(path, self.tree)
        (self.outside / "include").mkdir(parents=True)
        # A header outside the tree that writes down where it is, as TORCH_CHECK does.
        (self.outside / "include" / "torch.h").write_text("inline const char *where() { return __FILE__; }\n")
        (self.outside / "stubs").mkdir()
        stub = self.outside / "stubs" / "libtorch_cpu.so"
        words = ["g++", "-shared", f"-Wl,-soname,{stub.name}", "-x", "c", "/dev/null", "-o", str(stub)]
        subprocess.run(words, check=True)
        self.config = {
            "nvcc": str(self.outside / "bin" / "nvcc"),
            "cxx": "g++",
            "cuda_version": "12.4",
            "sm": ["87"],
            "ptx": [],
            "include_dirs": [str(self.outside / "include")],
            "library_dirs": [str(self.outside / "stubs")],
            "libraries": ["torch_cpu"],
            "cxx11_abi": 1,
            "jobs": 2,
            "nvcc_threads": 1,
            "object_cache": str(self.cache),
            "toolchain": "g++ of this machine",
        }

    def command(self, *words: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        path = self.tree / "cuda-build.json"
        path.write_text(json.dumps(self.config))
        # A torch that must not be imported.
        (self.outside / "torch.py").write_text("raise SystemExit('torch was imported')\n")
        return [sys.executable, "setup.py", "-q", *words], {
            **os.environ,
            "CUDA_BUILD_CONFIG": str(path),
            "PYTHONPATH": str(self.outside),
            "SOURCE_DATE_EPOCH": "1700000000",
            **environment,
        }

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command, variables = self.command(*words, **environment)
        return subprocess.run(
            command, cwd=self.tree, env=variables, capture_output=True, text=True, check=False
        )

    def build(self) -> str:
        """Builds the extension, and returns what was printed."""
        done = self.run("build_ext", "--build-lib", "out")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def library(self) -> Path:
        return self.tree / "out" / "thing_cuda" / "libthing_cuda.so"


def compiled(output: str) -> set[str]:
    """The sources whose compilation the output shows."""
    return set(re.findall(r" -c csrc/(\S+) ", output))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "tree", tmp_path / "outside", tmp_path / "cache")


EVERYTHING = {"slow.cpp", "one.cpp", "two.cpp", "torch_library.cpp"}


class TestLibrary:
    def test_it_is_built_as_told(self, project: Project) -> None:
        assert compiled(project.build()) == EVERYTHING
        with project.library.open("rb") as stream:
            elf = ELFFile(stream)
            section = elf.get_section_by_name(".dynamic")
            assert isinstance(section, DynamicSection)
            dynamic = list(section.iter_tags())
            assert {getattr(tag, "needed", "") for tag in dynamic if tag.entry.d_tag == "DT_NEEDED"} >= {
                "libtorch_cpu.so"
            }
            assert not {"DT_RUNPATH", "DT_RPATH"} & {tag.entry.d_tag for tag in dynamic}
            assert elf.get_section_by_name(".symtab") is None
            assert elf.get_section_by_name(".note.gnu.build-id") is None

    def test_the_wheel_is_for_every_python_and_brings_what_loads_the_library(self, project: Project) -> None:
        done = project.run("bdist_wheel", "--plat-name", "linux_aarch64", "--dist-dir", "dist")
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = (project.tree / "dist").iterdir()
        assert wheel.name == "thing-1-py3-none-linux_aarch64.whl"
        names = set(zipfile.ZipFile(wheel).namelist())
        assert {"thing_cuda/libthing_cuda.so", "thing_cuda/_library.py"} <= names

    def test_the_same_in_another_folder_is_the_same_file(self, tmp_path: Path) -> None:
        one = Project(tmp_path / "one", tmp_path / "a", tmp_path / "cache-one")
        two = Project(tmp_path / "elsewhere" / "two", tmp_path / "b" / "c", tmp_path / "cache-two")
        assert compiled(one.build()) == compiled(two.build()) == EVERYTHING
        assert one.library.read_bytes() == two.library.read_bytes()
        assert str(tmp_path).encode() not in one.library.read_bytes()


class TestObjectCache:
    def test_a_changed_python_file_compiles_nothing(self, project: Project) -> None:
        project.build()
        before = project.library.read_bytes()
        shutil.rmtree(project.tree / "build")
        project.library.unlink()
        (project.tree / "thing" / "__init__.py").write_text("value = 1\n")
        assert compiled(project.build()) == set()
        assert project.library.read_bytes() == before

    def test_a_changed_header_compiles_what_includes_it(self, project: Project) -> None:
        project.build()
        (project.tree / "csrc" / "deep" / "base.h").write_text("inline int base() { return 3; }\n")
        assert compiled(project.build()) == {"slow.cpp", "one.cpp"}

    @pytest.mark.parametrize(("name", "value"), [("toolchain", "another"), ("cxx11_abi", 0)])
    def test_what_decides_an_object_is_part_of_its_key(self, project: Project, name: str, value: Any) -> None:
        project.build()
        project.config[name] = value
        assert compiled(project.build()) == EVERYTHING

    def test_another_place_for_the_headers_is_no_change(self, project: Project, tmp_path: Path) -> None:
        project.build()
        shutil.copytree(project.outside, tmp_path / "moved")
        project.config["include_dirs"] = [str(tmp_path / "moved" / "include")]
        assert compiled(project.build()) == set()

    def test_what_compiled_beside_a_failure_is_kept(self, project: Project) -> None:
        (project.tree / "csrc" / "two.cpp").write_text("#error two does not compile\n")
        project.config["jobs"] = 1
        done = project.run("build_ext", "--build-lib", "out")
        assert done.returncode != 0
        assert "two does not compile" in done.stdout
        assert "csrc/two.cpp did not compile" in done.stderr
        (project.tree / "csrc" / "two.cpp").write_text("int two() { return 2; }\n")
        assert compiled(project.build()) == {"two.cpp", "torch_library.cpp"}

    def test_a_killed_build_goes_on_where_it_stopped(self, project: Project) -> None:
        child = self.waiting(project)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        project.config["cxx"] = "g++"
        assert compiled(project.build()) == EVERYTHING - {"slow.cpp"}
        assert all(path.suffix == ".o" for path in project.cache.rglob("*") if path.is_file())

    def test_ctrl_c_starts_nothing_more(self, project: Project) -> None:
        child = self.waiting(project)
        os.killpg(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=60)
        assert child.returncode != 0
        assert compiled(out) == {"slow.cpp", "one.cpp"}

    @staticmethod
    def waiting(project: Project) -> subprocess.Popen[str]:
        """A build whose second file of three never ends; by then the first is in the cache."""
        project.config["jobs"] = 1
        wrapper = project.tree / "waiting-g++"
        wrapper.write_text(
            '#!/bin/sh\ncase "$*" in *one.cpp*) touch waiting; exec sleep 600;; esac\nexec g++ "$@"\n'
        )
        wrapper.chmod(0o755)
        project.config["cxx"] = str(wrapper)
        command, environment = project.command("build_ext", "--build-lib", "out")
        child = subprocess.Popen(
            command,
            cwd=project.tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A background job's children ignore SIGINT; ctrl-C must reach these.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )
        deadline = time.monotonic() + 60
        while not (project.tree / "waiting").exists():
            assert child.poll() is None, "the build ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return child


class TestConfiguration:
    def test_a_field_that_is_missing_is_named(self, project: Project) -> None:
        del project.config["libraries"]
        done = project.run("build_ext")
        assert done.returncode != 0
        assert "it lacks libraries" in done.stderr

    def test_by_hand_without_torch_it_says_so(self, project: Project) -> None:
        done = project.run("build_ext", CUDA_BUILD_CONFIG="", PYTHONPATH="", PYTHONNOUSERSITE="1")
        assert done.returncode != 0
        assert "torch cannot be imported" in done.stderr
