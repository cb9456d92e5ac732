"""kernels/mambaport_build: how setup.py of a patched tree compiles. Real g++, ninja and sccache; no CUDA."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from mambaport.building.compiler_cache import CacheUse, CompilerCache, compiler_cache
from mambaport.cuda.resolve import STUBS
from mambaport.errors import BuildError
from mambaport.report import Report

BUILD = Path(__file__).resolve().parents[2] / "kernels" / "mambaport_build"
SCCACHE = Path(sys.executable).with_name("sccache")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on PATH")

SETUP = """
import sys
sys.path.insert(0, ".")
from mambaport_build.libraries import CudaLibrary, KernelLibrary
from mambaport_build.setup_commands import run_setup
run_setup(
    package="thing",
    prefix="THING",
    fallback_variable="THING_FORCE_FALLBACK",
    kernels=[KernelLibrary("thing_cpu")],
    cuda=CudaLibrary(
        name="thing_cuda",
        sources=["csrc/slow.cu", "csrc/one.cpp", "csrc/two.cpp"],
        include_dirs=["csrc"],
        cxx_flags=["-O1"],
        nvcc_flags=["-O1"],
        memory_mib=100,
    ),
)
"""
FILES = {
    "setup.py": SETUP,
    "pyproject.toml": '[project]\nname = "thing"\ndynamic = ["version"]\n',
    "thing/__init__.py": '__version__ = "1"\n',
    "thing_cpu/__init__.py": "",
    "thing_cuda/__init__.py": "",
    "kernels/csrc/common/shared.h": "enum { ONE = 1 };\n",
    "kernels/csrc/thing_cpu/kernel.c": '#include "shared.h"\nint kernel(void) { return ONE; }\n',
    "csrc/slow.cu": '#include "common.h"\nint slow() { return base(); }\n',
    "csrc/one.cpp": "#include <common.h>\n#include <torch.h>\nint one() { return *where(); }\n",
    "csrc/two.cpp": "int two() { return 2; }\n",
    "csrc/common.h": '#include "deep/base.h"\n',
    "csrc/deep/base.h": "inline int base() { return 1; }\n",
}
CUDA_SOURCES = {"slow.cu", "one.cpp", "two.cpp"}
SOURCES = {*CUDA_SOURCES, "kernel.c"}
# g++ in nvcc's place: leaves out the words that g++ does not know, and compiles CUDA sources as C++.
NVCC = """#!/bin/sh
words=
while [ $# -gt 0 ]; do
  case "$1" in
    -ccbin|-Xcompiler|-Xcudafe) shift;;
    -gencode*) ;;
    *.cu) words="$words -x c++ $1 -x none";;
    *) words="$words $1";;
  esac
  shift
done
exec g++ -fPIC $words
"""


@dataclass
class Project:
    """A tree with a setup.py that builds by mambaport_build, and the configuration of its build."""

    tree: Path
    outside: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in FILES.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)
        shutil.copytree(BUILD, self.tree / "mambaport_build", ignore=shutil.ignore_patterns("__pycache__"))
        (self.outside / "include").mkdir(parents=True)
        # A header outside the tree that writes down where it is, as TORCH_CHECK does.
        (self.outside / "include" / "torch.h").write_text("inline const char *where() { return __FILE__; }\n")
        (self.outside / "stubs").mkdir()
        stub = self.outside / "stubs" / "libtorch_cpu.so"
        words = ["g++", "-shared", f"-Wl,-soname,{stub.name}", "-x", "c", "/dev/null", "-o", str(stub)]
        subprocess.run(words, check=True)
        nvcc = self.outside / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(NVCC)
        nvcc.chmod(0o755)
        self.config = {
            "jobs": 1,
            "memory_mib": 4096,
            "wheel_tag": ["py3", "none", "linux_aarch64"],
            "cuda": {
                "home": str(self.outside / "cuda"),
                "version": "12.4",
                "cxx": "g++",
                "sm": ["87"],
                "ptx": ["87"],
                "include_dirs": [str(self.outside / "include")],
                "library_dirs": [str(self.outside / "stubs")],
                "libraries": ["torch_cpu"],
                "cxx11_abi": 1,
                "identity": "g++ of this machine",
            },
        }

    def command(self, *words: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        path = self.tree / "build-config.json"
        path.write_text(json.dumps(self.config))
        # A torch that must not be imported.
        (self.outside / "torch.py").write_text("raise SystemExit('torch was imported')\n")
        return [sys.executable, "setup.py", "-q", *words], {
            **os.environ,
            "MAMBAPORT_BUILD_CONFIG": str(path),
            "PYTHONPATH": str(self.outside),
            "SOURCE_DATE_EPOCH": "1700000000",
            **self.environment,
            **environment,
        }

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command, variables = self.command(*words, **environment)
        return subprocess.run(
            command, cwd=self.tree, env=variables, capture_output=True, text=True, check=False
        )

    def build(self) -> str:
        """Builds the libraries, and returns what was printed."""
        done = self.run("build_ext", "--build-lib", "out")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def library(self, name: str) -> Path:
        return self.tree / "out" / name / f"lib{name}.so"

    def libraries(self) -> list[bytes]:
        return [self.library(name).read_bytes() for name in ("thing_cpu", "thing_cuda")]


def compiled(output: str) -> set[str]:
    """The sources whose compilation ninja shows."""
    return {Path(name).name for name in re.findall(r"compile (\S+)", output)}


def reached(path: str) -> bool:
    """Whether a process listens on a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def listens(port: int) -> bool:
    """Whether a program of this machine takes connections at a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The address of a Redis of the test."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server; sudo apt-get install redis-server")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 20
            while not listens(port):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield f"tcp://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "tree", tmp_path / "outside")


class TestLibraries:
    def test_they_are_built_as_the_configuration_says(self, project: Project) -> None:
        assert compiled(project.build()) == SOURCES
        with project.library("thing_cuda").open("rb") as stream:
            elf = ELFFile(stream)
            section = elf.get_section_by_name(".dynamic")
            assert isinstance(section, DynamicSection)
            dynamic = list(section.iter_tags())
            assert {getattr(tag, "needed", "") for tag in dynamic if tag.entry.d_tag == "DT_NEEDED"} >= {
                "libtorch_cpu.so"
            }
            assert not [tag for tag in dynamic if tag.entry.d_tag in ("DT_RUNPATH", "DT_RPATH")]
            assert elf.get_section_by_name(".symtab") is None
            assert elf.get_section_by_name(".note.gnu.build-id") is None

    def test_the_wheel_has_the_configured_tag(self, project: Project) -> None:
        done = project.run("bdist_wheel", "--dist-dir", "dist", THING_LOCAL_VERSION="rpi.1")
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = (project.tree / "dist").iterdir()
        assert wheel.name == "thing-1+rpi.1-py3-none-linux_aarch64.whl"
        names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("thing-")}
        assert names == {
            *(f"{name}/__init__.py" for name in ("thing", "thing_cpu", "thing_cuda")),
            *(f"{name}/lib{name}.so" for name in ("thing_cpu", "thing_cuda")),
        }

    def test_without_kernels_the_wheel_is_for_any_machine(self, project: Project) -> None:
        done = project.run("bdist_wheel", "--dist-dir", "dist", THING_FORCE_FALLBACK="yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert [path.name for path in (project.tree / "dist").iterdir()] == ["thing-1-py3-none-any.whl"]

    def test_the_build_folder_s_name_decides_no_byte_and_holds_no_python(self, tmp_path: Path) -> None:
        one = Project(tmp_path / "one", tmp_path / "a")
        one.build()
        assert {path.name for path in (one.tree / "build").iterdir()} == {"objects"}
        two = Project(tmp_path / "two", tmp_path / "b")
        done = two.run("build_ext", "--build-lib", "out", "--build-temp", "build/temp.linux-any-cpython-399")
        assert done.returncode == 0, done.stderr
        assert one.libraries() == two.libraries()

    def test_the_same_in_another_folder_is_the_same_file(self, tmp_path: Path) -> None:
        one = Project(tmp_path / "one", tmp_path / "a")
        two = Project(tmp_path / "elsewhere" / "two", tmp_path / "b" / "c")
        assert compiled(one.build()) == compiled(two.build()) == SOURCES
        assert one.libraries() == two.libraries()
        assert not any(str(tmp_path).encode() in library for library in one.libraries())


class TestNinja:
    def test_nothing_changed_and_nothing_is_compiled(self, project: Project) -> None:
        project.build()
        assert compiled(project.build()) == set()

    def test_a_changed_header_compiles_what_includes_it(self, project: Project) -> None:
        project.build()
        (project.tree / "csrc" / "deep" / "base.h").write_text("inline int base() { return 3; }\n")
        assert compiled(project.build()) == {"slow.cu", "one.cpp"}
        (project.tree / "kernels" / "csrc" / "common" / "shared.h").write_text("enum { ONE = 2 };\n")
        assert compiled(project.build()) == {"kernel.c"}

    def test_changed_flags_compile_again(self, project: Project) -> None:
        project.build()
        project.config["cuda"]["cxx11_abi"] = 0
        assert compiled(project.build()) == CUDA_SOURCES

    @pytest.mark.parametrize("standard", [201703, 202002])
    def test_the_standard_is_the_one_that_torch_s_headers_ask_for(
        self, project: Project, standard: int
    ) -> None:
        header = project.outside / "include" / "torch" / "all.h"
        header.parent.mkdir()
        header.write_text(f"#if !defined(_MSC_VER) && __cplusplus < {standard}L\n#error\n#endif\n")
        check = f"static_assert(__cplusplus == {standard}L);\n"
        for name in ("csrc/two.cpp", "csrc/slow.cu"):
            source = project.tree / name
            source.write_text(f"#include <torch/all.h>\n{check}{source.read_text()}")
        project.build()

    def test_a_failure_names_the_file_and_shows_the_compiler_s_message(self, project: Project) -> None:
        (project.tree / "csrc" / "two.cpp").write_text("#error two does not compile\n")
        done = project.run("build_ext", "--build-lib", "out")
        assert done.returncode != 0
        assert "two does not compile" in done.stdout
        assert "the compiler's message is above" in done.stderr

    def test_a_killed_build_goes_on_where_it_stopped(self, project: Project) -> None:
        child = self.waiting(project)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.kill(int((project.tree / "waiting").read_text()), signal.SIGKILL)  # in a group of its own
        (project.tree / "waiting-g++").write_text('#!/bin/sh\nexec g++ "$@"\n')
        assert compiled(project.build()) == SOURCES - {"slow.cu"}

    def test_ctrl_c_starts_nothing_more(self, project: Project) -> None:
        child = self.waiting(project)
        os.killpg(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=60)
        assert child.returncode != 0
        assert "two.cpp" not in out

    @staticmethod
    def waiting(project: Project) -> subprocess.Popen[str]:
        """A build whose second file of four never ends; by then the first is compiled."""
        wrapper = project.tree / "waiting-g++"
        wrapper.write_text(
            '#!/bin/sh\ncase "$*" in *one.cpp*) echo $$ >pid; mv pid waiting; exec sleep 600;; esac\n'
            'exec g++ "$@"\n'
        )
        wrapper.chmod(0o755)
        project.config["cuda"]["cxx"] = str(wrapper)
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


@pytest.mark.skipif(not SCCACHE.is_file(), reason="no sccache beside this Python")
class TestCompilerCache:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Iterator[CompilerCache]:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        with compiler_cache(
            SCCACHE, tmp_path / "cache", scratch, os.environ["PATH"], {}, Report()
        ) as running:
            assert running is not None
            yield running

    @staticmethod
    def behind(cache: CompilerCache, project: Project) -> Project:
        project.config["launcher"] = [str(cache.program)]
        project.environment.update(cache.environment)
        return project

    def test_another_folder_compiles_nothing(self, cache: CompilerCache, tmp_path: Path) -> None:
        one = self.behind(cache, Project(tmp_path / "one", tmp_path / "a"))
        two = self.behind(cache, Project(tmp_path / "elsewhere" / "two", tmp_path / "b" / "c"))
        one.build()
        assert cache.use() == CacheUse(compiled=4, reused=0)
        two.build()
        assert cache.use() == CacheUse(compiled=4, reused=4)
        assert one.libraries() == two.libraries()
        plain = Project(tmp_path / "plain", tmp_path / "d")
        plain.build()
        assert plain.libraries() == one.libraries(), "the cache changes no byte"

    def test_a_header_of_a_cuda_source_is_part_of_its_key(self, cache: CompilerCache, tmp_path: Path) -> None:
        self.behind(cache, Project(tmp_path / "one", tmp_path / "a")).build()
        two = self.behind(cache, Project(tmp_path / "two", tmp_path / "b"))
        (two.tree / "csrc" / "deep" / "base.h").write_text("inline int base() { return 3; }\n")
        two.build()
        assert cache.use() == CacheUse(compiled=6, reused=2)

    def test_the_toolchain_is_part_of_a_cuda_object_s_key(self, cache: CompilerCache, tmp_path: Path) -> None:
        self.behind(cache, Project(tmp_path / "one", tmp_path / "a")).build()
        two = self.behind(cache, Project(tmp_path / "two", tmp_path / "b"))
        two.config["cuda"]["identity"] = "another"
        two.build()
        assert cache.use() == CacheUse(compiled=5, reused=3)

    def test_a_path_too_long_for_a_socket_takes_a_private_folder(self, tmp_path: Path) -> None:
        scratch = tmp_path / ("a" * 60) / ("b" * 60)
        scratch.mkdir(parents=True)
        project = Project(tmp_path / "one", tmp_path / "a")
        with compiler_cache(
            SCCACHE, tmp_path / "cache", scratch, os.environ["PATH"], {}, Report()
        ) as running:
            assert running is not None
            folder = Path(running.environment["SCCACHE_SERVER_UDS"]).parent
            assert (folder.parent, folder.stat().st_mode & 0o777) == (Path("/tmp"), 0o700)
            self.behind(running, project).build()
            assert running.use() == CacheUse(compiled=4, reused=0)
        assert not folder.exists()

    def test_a_server_that_dies_is_the_builds_failure_and_no_other_server_starts(
        self, tmp_path: Path
    ) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        project = Project(tmp_path / "one", tmp_path / "a")

        def build() -> None:
            with compiler_cache(
                SCCACHE, tmp_path / "cache", scratch, os.environ["PATH"], {}, Report()
            ) as running:
                assert running is not None
                running.require()
                running.server.kill()  # and, with its keeper, the server
                running.server.wait()
                while reached(running.environment["SCCACHE_SERVER_UDS"]):
                    time.sleep(0.01)
                done = self.behind(running, project).run("build_ext", "--build-lib", "out")
                assert done.returncode != 0, "a client started a server, or compiled without one"
                assert running.use() == CacheUse(0, 0)
                raise BuildError("The build failed")

        with pytest.raises(BuildError, match="The compiler cache ended during the build") as fault:
            build()
        assert fault.value.found == "signal 9"
        assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("?" * 64))

    def test_a_second_machine_with_the_same_redis_compiles_nothing(self, tmp_path: Path, redis: str) -> None:
        """Two machines: each has its folders, and its sccache server."""
        machines: list[tuple[CacheUse, list[bytes]]] = []
        for name in ("first", "second"):
            project = Project(tmp_path / name / "tree", tmp_path / name / "outside")
            scratch = tmp_path / name / "scratch"
            scratch.mkdir()
            storage = {"SCCACHE_REDIS_ENDPOINT": redis}
            with compiler_cache(
                SCCACHE, tmp_path / name / "cache", scratch, os.environ["PATH"], storage, Report()
            ) as running:
                assert running is not None
                self.behind(running, project).build()
                machines.append((running.use(), project.libraries()))
            assert not (tmp_path / name / "cache").exists()
        (first, built), (second, same) = machines
        assert (first, second) == (CacheUse(compiled=4, reused=0), CacheUse(compiled=0, reused=4))
        assert built == same

    def test_a_storage_that_is_not_there_is_said_and_the_build_goes_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        storage = {"SCCACHE_REDIS_ENDPOINT": "tcp://127.0.0.1:9"}
        with compiler_cache(SCCACHE, tmp_path, tmp_path, os.environ["PATH"], storage, Report()) as running:
            assert running is None
        assert "the build goes on without it" in capsys.readouterr().err


class TestConfiguration:
    def test_a_field_that_is_missing_is_named(self, project: Project) -> None:
        del project.config["cuda"]["home"]
        done = project.run("build_ext")
        assert done.returncode != 0
        assert "'home'" in done.stderr

    def test_a_field_that_is_unknown_is_named(self, project: Project) -> None:
        project.config["cuda"]["hose"] = "x"
        done = project.run("build_ext")
        assert done.returncode != 0
        assert "unknown fields hose" in done.stderr

    def test_a_cuda_that_is_too_old_is_refused(self, project: Project) -> None:
        project.config["cuda"]["version"] = "11.4"
        done = project.run("build_ext")
        assert "JetPack 5 has CUDA 11.4" in done.stderr

    def test_by_hand_without_torch_it_says_so(self, project: Project) -> None:
        variables = {"MAMBAPORT_BUILD_CONFIG": "", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
        done = project.run("build_ext", THING_BUILD_CUDA="TRUE", **variables)
        assert done.returncode != 0
        assert "torch cannot be imported" in done.stderr

    @pytest.mark.parametrize(
        ("compiler", "expected"),
        [("/etc", "the C compiler '/etc' does not run"), ("no-such-cc", "'no-such-cc' was not found")],
    )
    def test_a_c_compiler_that_does_not_run_is_named(
        self, project: Project, compiler: str, expected: str
    ) -> None:
        done = project.run("build_ext", CC=compiler)
        assert done.returncode != 0
        assert expected in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_cxx_of_several_words_is_refused(self, project: Project) -> None:
        project.config["cuda"]["cxx"] = "g++ -m64"
        done = project.run("build_ext")
        assert done.returncode != 0
        assert "CXX=g++ -m64 has 2 words" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_cxx_that_does_not_run_is_named(self, project: Project) -> None:
        project.config["cuda"]["cxx"] = "no-such-compiler"
        done = project.run("build_ext")
        assert done.returncode != 0
        assert "the C++ compiler 'no-such-compiler' was not found" in done.stderr
        assert "name one in CXX" in done.stderr
        assert "Traceback" not in done.stderr

    def test_cubins_and_ptx_become_nvcc_s_options(self, project: Project) -> None:
        project.build()
        commands = (project.tree / "build" / "objects" / "build.ninja").read_text().replace("$\n", "")
        assert "-gencode=arch=compute_87,code=sm_87 -gencode=arch=compute_87,code=compute_87" in " ".join(
            commands.split()
        )

    def test_both_sides_link_the_same_libraries(self) -> None:
        code = "from mambaport_build.config import CUDA_LIBRARIES; print(*CUDA_LIBRARIES)"
        assert tuple(self.kernels("-c", code).stdout.split()) == STUBS

    @pytest.mark.parametrize(("variable", "default"), [("MAX_JOBS", 4), ("NVCC_THREADS", 1)])
    def test_a_number_that_is_none_is_named(self, variable: str, default: int) -> None:
        call = f"_whole_number({variable!r}, {default})"
        code = f"from mambaport_build.config import _whole_number; print({call})"
        assert self.kernels("-c", code, **{variable: ""}).stdout.strip() == str(default)
        assert self.kernels("-c", code, **{variable: "3"}).stdout.strip() == "3"
        done = self.kernels("-c", code, **{variable: "all"})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.strip() == (
            f"{variable}=all is no whole number: give one, such as {variable}={default}"
        )

    def test_max_jobs_in_a_build_by_hand(self) -> None:
        done = self.kernels("-m", "mambaport_build", MAX_JOBS="all")
        assert done.returncode == 1
        assert done.stderr.startswith("MAX_JOBS=all is no whole number")

    def test_without_ninja_the_message_says_what_to_install(self) -> None:
        done = self.kernels("-S", "-m", "mambaport_build")  # -S: no installed packages
        assert (done.returncode, done.stderr.strip()) == (
            1,
            "ninja was not found: `pip install ninja` brings it",
        )

    @staticmethod
    def kernels(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A program of Python in the folder ``kernels``."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=BUILD.parent,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )


class TestCompilersScript:
    def test_no_compiler_is_a_failure(self, tmp_path: Path) -> None:
        script = BUILD.parent / "tests" / "compilers.py"
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "FAILED no compiler on PATH" in done.stdout
