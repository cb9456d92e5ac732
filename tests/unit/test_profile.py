"""Profiles: validated, found by name, alias or path; errors name file and key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from mambaport.errors import UsageError
from mambaport.models import read_toml
from mambaport.profile import builtin_profiles, find_profile, profile_schema, read_profile
from mambaport.resources import profiles_dir

BOARD = """
name = "my-board"
aliases = ["board"]
summary = "A board of mine"
emulate = ["bookworm"]

[target]
arch = "aarch64"
glibc = "2.31"
cpu = "cortex-a53"

[python]
minimum = "3.10"

[[package]]
name = "causal-conv1d"
version = "1.6.0"
patches = ["cpu"]

[build]
toolchains = ["zig"]
memory-per-job-mib = 256

[variant.new]
summary = "A newer board"
target = { arch = "aarch64", glibc = "2.36", cpu = "cortex-a76" }
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(BOARD)
    return path


def changed(board: Path, old: str, new: str) -> UsageError:
    text = board.read_text()
    assert old in text
    board.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        read_profile(board)
    assert str(board) in caught.value.what
    assert caught.value.exit_code == 2
    return caught.value


def test_a_profile_file_works_by_path(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(board.parent)
    for name in (str(board), "./my-board.toml", "my-board.toml"):
        assert find_profile(name).target.cpu == "cortex-a53"


def test_the_built_in_profiles_are_found_by_name_and_alias() -> None:
    assert find_profile("rpi") == find_profile("rpi-cpu")
    for profile in builtin_profiles():
        for name in (profile.name, *profile.aliases):
            assert find_profile(name) == profile


def test_no_two_built_in_profiles_share_a_name_or_alias() -> None:
    names = [name for profile in builtin_profiles() for name in (profile.name, *profile.aliases)]
    assert sorted(names) == sorted(set(names))


def test_a_built_in_profile_is_named_as_its_file() -> None:
    assert [profile.name for profile in builtin_profiles()] == sorted(
        p.stem for p in profiles_dir().glob("*.toml")
    )


def test_an_unknown_profile_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match="There is no profile pi5") as caught:
        find_profile("pi5")
    assert "rpi-cpu (rpi)" in str(caught.value.expected)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("cpu =", "gpu =", "target.gpu"),
        ("[python]", "[pyhton]", "pyhton"),
        ('arch = "aarch64"', 'arch = "riscv64"', "target.arch"),
        ('glibc = "2.31"', 'glibc = "new"', "target.glibc"),
        ('minimum = "3.10"', 'minimum = "3"', "python.minimum"),
        ('patches = ["cpu"]', 'patches = ["../cpu"]', "package.0.patches.0"),
        ('version = "1.6.0"', 'version = "../1.6.0"', "package.0.version"),
        ('name = "causal-conv1d"', 'name = "a/b"', "package.0.name"),
        ('toolchains = ["zig"]', 'toolchains = ["msvc"]', "build.toolchains.0"),
        ("memory-per-job-mib = 256", 'memory-per-job-mib = "much"', "build.memory-per-job-mib"),
        ("memory-per-job-mib = 256", "memory-per-job = 256", "build.memory-per-job"),
        ('summary = "A newer board"', "", "variant.new.summary"),
        ('summary = "A board of mine"', "", "summary"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_file_and_key(board: Path, old: str, new: str, key: str) -> None:
    error = changed(board, old, new)
    assert any(line.startswith(f"{key}:") for line in str(error.found).splitlines())


def test_every_fault_of_a_file_is_named_at_once(board: Path) -> None:
    board.write_text(BOARD.replace("cpu =", "gpu =", 1).replace('minimum = "3.10"', 'minimum = "3"'))
    with pytest.raises(UsageError) as caught:
        read_profile(board)
    assert {line.split(":")[0] for line in str(caught.value.found).splitlines()} == {
        "target.cpu",
        "target.gpu",
        "python.minimum",
    }


def test_a_package_named_twice_is_refused(board: Path) -> None:
    package = BOARD[BOARD.index("[[package]]") : BOARD.index("[build]")]
    assert "stands twice" in str(changed(board, "[build]", package + "[build]").found)


def test_a_default_variant_must_be_there(board: Path) -> None:
    assert "'old' is not among ['new']" in str(
        changed(board, "emulate", 'default-variant = "old"\nemulate').found
    )


def test_what_is_not_toml_or_not_there_is_said_with_the_path(board: Path) -> None:
    assert "is not TOML" in changed(board, "[python]", "[python").what
    with pytest.raises(UsageError, match="There is no file"):
        read_profile(board.with_name("other.toml"))


def test_a_variant_changes_single_keys_and_nothing_else(board: Path) -> None:
    board.write_text(
        BOARD.replace('{ arch = "aarch64", glibc = "2.36", cpu = "cortex-a76" }', '{ glibc = "2.36" }')
    )
    profile = read_profile(board)
    new = profile.with_variant("new")
    assert (new.target.arch, new.target.glibc, new.target.cpu) == ("aarch64", "2.36", "cortex-a53")
    assert (new.python, new.package, new.build) == (profile.python, profile.package, profile.build)
    assert (new.summary, new.name) == ("A newer board", "my-board")
    assert profile.with_variant(None) == profile
    with pytest.raises(UsageError, match="has no variant old") as caught:
        profile.with_variant("old")
    assert caught.value.expected == "one of: new"


def test_a_variant_changes_single_keys_of_one_package(board: Path) -> None:
    board.write_text(f'{BOARD}\n[[variant.new.package]]\nname = "causal-conv1d"\nversion = "1.7.0"\n')
    (package,) = read_profile(board).with_variant("new").package
    assert (package.version, package.patches) == ("1.7.0", ("cpu",))


def test_a_wrong_key_of_a_variant_is_named_with_the_variant(board: Path) -> None:
    found = str(changed(board, 'glibc = "2.36"', 'glibc = "x"').found)
    assert found.startswith("variant.new.target.glibc:")
    board.write_text(
        BOARD.replace('[variant.new]\nsummary = "A newer board"', "variant = 3\n[x]").split("[x]")[0]
    )
    with pytest.raises(UsageError, match="is not valid"):
        read_profile(board)


# Boards ----------------------------------------------------------------------------------------------------


def jetson(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my-jetson.toml"
    path.write_text(f'name = "my-jetson"\nsummary = "A Jetson of mine"\n{text}')
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_profile(path)
    assert caught.value.exit_code == 2
    return str(caught.value.found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            'extends = "rpi"\n[target]\ncpu = "cortex-a67"',
            "unknown CPU cortex-a67 for aarch64; nearest: cortex-a",
        ),
        ('extends = "cpu"\n[target]\ncpu = "pi5"', "unknown CPU pi5; known: cortex-a53"),
        ('extends = "jetson"\n[cuda]\nsm = ["88"]', "unknown SM 88; nearest: "),
        ('extends = "jetson"\n[cuda]\nptx = ["999"]', "unknown SM 999; known: 100, "),
        ('extends = "jetson"\nplatform = "jetpak6"', "unknown platform jetpak6; nearest: jetpack"),
        (
            'extends = "jetson"\n[cuda]\nsm = ["110"]',
            "SM 110 (Jetson Thor) is compiled by CUDA 13.0 on, not by 12.6",
        ),
        (
            'extends = "jetson:jetpack7"\n[cuda]\nsm = ["72"]',
            "SM 72 (Jetson Xavier) is compiled by CUDA 9.2 to 12.9",
        ),
        ('extends = "jetson"\n[cuda]\nsm = ["86"]', "cuda.sm: jetpack6 runs on SM 87, not on 86"),
        ('extends = "jetson"\n[cuda]\nversion = "13.0"', "cuda.version: jetpack6 has 12.6, not 13.0"),
        ('extends = "jetson"\n[target]\nglibc = "2.39"', "target.glibc: jetpack6 has 2.35, not 2.39"),
        (
            'extends = "jetson"\n[target]\narch = "x86_64"\ncpu = "generic"',
            "target.arch: jetpack6 is aarch64",
        ),
    ],
)
def test_an_unknown_or_misfitting_board_is_refused_when_the_profile_is_read(
    tmp_path: Path, text: str, fault: str
) -> None:
    assert fault in refusal(jetson(tmp_path, text))


def test_a_platform_gives_glibc_and_cuda(tmp_path: Path) -> None:
    thor = read_profile(
        jetson(tmp_path, 'extends = "jetson:jetpack7"\n[target]\ncpu = "neoverse-v3ae"\n[cuda]\nsm = ["110"]')
    )
    assert (thor.platform, thor.target.arch, thor.target.glibc) == ("jetpack7", "aarch64", "2.39")
    assert thor.cuda is not None
    assert (thor.cuda.version, thor.cuda.flavour) == ("13.0", "l4t")
    assert (thor.variant, thor.aliases, thor.default_variant) == ({}, (), None)
    assert thor.package == find_profile("jetson").package


def test_a_profile_extends_another_by_its_path(board: Path) -> None:
    (board.parent / "sub").mkdir()
    other = board.parent / "sub/other.toml"
    other.write_text(
        'name = "other"\nsummary = "x"\nextends = "../my-board.toml:new"\n[build]\nmemory-per-job-mib = 1\n'
    )
    found = read_profile(other)
    assert (found.name, found.target.glibc, found.build.memory_per_job_mib) == ("other", "2.36", 1)
    assert found.build.toolchains == ("zig",)


@pytest.mark.parametrize(
    ("extends", "fault"),
    [
        ("rpy", "extends: there is no profile rpy; nearest: rpi"),
        ("jetson:jetpack8", "extends: jetson has no variant jetpack8; nearest: jetpack"),
        ("./my-jetson.toml", "extends this file in turn"),
    ],
)
def test_what_a_profile_cannot_extend(tmp_path: Path, extends: str, fault: str) -> None:
    assert fault in refusal(jetson(tmp_path, f'extends = "{extends}"'))


def test_the_default_variant_is_taken_when_none_is_named(board: Path) -> None:
    board.write_text(BOARD.replace("emulate", 'default-variant = "new"\nemulate'))
    assert read_profile(board).with_variant(None).target.cpu == "cortex-a76"


def test_a_profile_cannot_be_changed(board: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_profile(board).name = "other"


# The JSON schema -----------------------------------------------------------------------------------------


def test_the_schema_accepts_the_built_in_profiles_and_a_users_own(board: Path) -> None:
    schema = profile_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in [*profiles_dir().glob("*.toml"), board]:
        jsonschema.validate(read_toml(path), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("target", "arch", "riscv64"),
        ("target", "gpu", "none"),
        ("build", "memory_per_job_mib", 1),
        ("python", "minimum", "three"),
        ("build", "toolchains", ["msvc"]),
    ],
)
def test_the_schema_refuses_what_the_model_refuses(board: Path, section: str, key: str, value: Any) -> None:
    bad = copy.deepcopy(read_toml(board))
    bad[section][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, profile_schema(), jsonschema.Draft202012Validator)


def test_the_published_schema_is_this_one() -> None:
    published = Path(__file__).parents[2] / "docs/reference/profile.schema.json"
    assert json.loads(published.read_text()) == profile_schema()


def test_the_schema_explains_every_key() -> None:
    target = profile_schema()["$defs"]["Target"]["properties"]
    assert all(target[key].get("description") for key in ("arch", "glibc", "cpu"))
    assert set(profile_schema()["properties"]) >= {"name", "default-variant", "package"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("requires", '["einops >=> 0.7"]'),
        ("requires", '["not a name!"]'),
        ("torch", '"two"'),
        ("torch", '"=>2.4"'),
    ],
)
def test_a_requirement_that_is_none_is_found_when_the_profile_is_read(
    tmp_path: Path, key: str, value: str
) -> None:
    text = (profiles_dir() / "cpu.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith((f"{key} =",))]
    lines.insert(lines.index("[install]") + 1, f"{key} = {value}")
    path = tmp_path / "board.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="not valid") as caught:
        read_profile(path)
    assert f"install.{key}" in str(caught.value.found)


def test_a_misspelled_profile_is_told_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        find_profile("jetsn")
    assert caught.value.hint == "did you mean jetson? `mambaport profiles` lists them"
