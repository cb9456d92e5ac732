"""Small real things to test with: archives, wheels, patch sets, compiled files."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from difflib import unified_diff
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mambaport import checkouts, failures, patchset, release_lines, releases
from mambaport.host import Host
from mambaport.patching.apply import lock_of
from mambaport.patchset import PatchSet
from mambaport.pins import Pin

HOST = Host(
    arch="x86_64",
    system="A Linux",
    device=None,
    glibc="2.36",
    python="3.11.7",
    python_path="/usr/bin/python3",
    cores=8,
    memory_mib=16384,
    available_mib=8192,
    cc=None,
    gcc_aarch64=None,
    qemu_aarch64=None,
    mmdebstrap=None,
    network_isolation=None,
)
EM_X86_64, EM_AARCH64 = 62, 183
HEX64 = "0" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Archives ----------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar archive; ``fields`` set what is not plain about it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def write_sdist(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: Sequence[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def pin_of(path: Path, project: str = "demo", version: str = "1.0") -> Pin:
    content = path.read_bytes()
    return Pin(
        project=project, version=version, filename=path.name, sha256=sha256(content), size=len(content)
    )


# Patch sets --------------------------------------------------------------------------------------------


def diff(name: str, before: str, after: str) -> str:
    """A plain unified diff of one file."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(unified_diff(old, new, f"a/{name}", f"b/{name}"))


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def read_tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


SOURCE = f"""
epoch = 1700000000

[[archive]]
project = "demo"
version = "1.0"
filename = "demo-1.0.tar.gz"
sha256 = "{HEX64}"
size = 1
strip = "demo-1.0"
"""


def use_patches(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Makes ``root`` the patches/ folder."""
    for module in (patchset, releases, release_lines, checkouts):
        monkeypatch.setattr(module, "patches_dir", lambda: root)
    # The catalogue names the patch sets: outside the test it must be read from the real ones.
    monkeypatch.setattr(failures, "catalogue", failures.catalogue.__wrapped__)
    return root


def write_package(
    root: Path, sets: Sequence[str], versions: Sequence[str] = ("1.0",), revision: int = 1
) -> Path:
    """``package.toml`` of the package ``root.name``, and the pins of its releases."""
    upper = root.name.upper()
    lines = [
        f"revision = {revision}",
        f"sets = {list(sets)}",
        f'local-version-variable = "{upper}_LOCAL_VERSION"',
        f'fallback-variable = "{upper}_FORCE_FALLBACK"',
        'license = "Apache-2.0"',
        'homepage = "https://example.invalid"',
    ]
    files = {f"releases/{version}/source.toml": SOURCE.replace("1.0", version) for version in versions}
    return write_tree(root, {"package.toml": "\n".join(lines) + "\n", **files})


def write_set(
    folder: Path,
    patches: Mapping[str, str],
    overlay: Mapping[str, str] | None = None,
    needs: Sequence[str] = (),
) -> PatchSet:
    """A patch set on disk: ``patches`` maps file names to their text."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tree(folder, patches)
    write_tree(folder / "overlay", overlay or {})
    lines = ['summary = "For a test."', f"needs = {list(needs)}"]
    for name in patches:
        lines += ["[[patch]]", f'file = "{name}"', 'why = "A reason that is long enough."']
    (folder / "patchset.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return PatchSet(folder)


def lock(item: PatchSet, tree: Path) -> PatchSet:
    """Writes the set's lock, as a checkout's set has it, for ``tree``, which stays as it is."""
    copy = tree.with_name(tree.name + "-for-lock")
    shutil.copytree(tree, copy)
    item.write_lock(lock_of(copy, [item]))
    shutil.rmtree(copy)
    return item


# Wheels ------------------------------------------------------------------------------------------------


def write_wheel(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    name: str = "demo",
    version: str = "1.0+cpu.1",
    tag: str = "py3-none-linux_aarch64",
    metadata: str | None = None,
    purelib: bool | None = None,
) -> Path:
    """A wheel with a right RECORD. Keyword arguments make single parts of it wrong."""
    info = f"{name}-{version}.dist-info"
    pure = tag.endswith("-any") if purelib is None else purelib
    content = {
        **files,
        f"{info}/METADATA": (
            metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\nTag: {tag}\n".encode(),
    }
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in content.items()
    ]
    record = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    return write_zip(path, [*content.items(), (f"{info}/RECORD", record.encode())])


def rewrite_wheel(path: Path, changes: Mapping[str, bytes | None]) -> Path:
    """Changes files of a wheel and leaves its RECORD as it is; None removes one."""
    with zipfile.ZipFile(path) as archive:
        content = {item.filename: archive.read(item) for item in archive.infolist()}
    changed = {**content, **changes}
    return write_zip(path, [(name, data) for name, data in changed.items() if data is not None])


# Compiled files ----------------------------------------------------------------------------------------


def compiler() -> str:
    found = shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler here")
    return found


@functools.cache
def shared_library(
    source: str = "int demo(void) { return 1; }\n", *flags: str, assembler: bool = False
) -> bytes:
    """A real shared library for this machine."""
    cc = compiler()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("demo.s" if assembler else "demo.c")
        path.write_text(source, encoding="utf-8")
        out = Path(folder) / "libdemo.so"
        command = [cc, "-shared", "-fPIC", "-O1", "-Wl,-z,noexecstack", str(path), "-o", str(out), *flags]
        subprocess.run(command, check=True, cwd=folder)
        return out.read_bytes()


def for_machine(library: bytes, machine: int) -> bytes:
    """The same ELF file with another e_machine: all that an audit of architecture reads."""
    return library[:18] + machine.to_bytes(2, "little") + library[20:]


def aarch64_library(words: Sequence[int] = (0xD65F03C0,), section: str = ".text") -> bytes:
    """A shared library whose only code is ``words`` (by default a single RET), marked as aarch64."""
    lines = [f'.section {section},"ax"', ".globl demo", "demo:", *(f".long 0x{word:08x}" for word in words)]
    return for_machine(shared_library("\n".join(lines) + "\n", "-nostdlib", assembler=True), EM_AARCH64)


class _Reader(HTMLParser):
    """Collects what :func:`check_page` compares."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")


def check_page(text: str, *, alone: bool) -> None:
    """Refuses a page that a screen reader or a keyboard cannot use, or that loads a file of another site.

    Args:
        alone: the page may load no file at all.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert not reader.faults
    assert not reader.open
    tags = [tag for tag, _ in reader.tags]
    values = [(tag, name, value or "") for tag, attrs in reader.tags for name, value in attrs.items()]
    assert dict(reader.tags)["html"]["lang"]
    assert [tags.count(tag) for tag in ("title", "main", "h1")] == [1, 1, 1]
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels)), levels
    ids = [value for _, name, value in values if name == "id"]
    assert len(ids) == len(set(ids))
    named = [value for _, name, value in values if name in ("aria-labelledby", "for")]
    named += [value[1:] for _, name, value in values if name == "href" and value.startswith("#")]
    assert set(named) <= set(ids)
    assert tags.count("caption") == tags.count("table")
    assert all("scope" in attrs for tag, attrs in reader.tags if tag == "th")
    assert all(
        "tabindex" in attrs for tag, attrs in reader.tags if tag == "pre" or attrs.get("role") == "region"
    )
    loaded = [value for tag, name, value in values if name == "src" or (tag, name) == ("link", "href")]
    assert not [value for value in loaded if alone or ":" in value or value.startswith("//")]
    assert not re.search(r"url\(|@import", text.partition("<style>")[2].partition("</style>")[0])
    policy = next(attrs["content"] for tag, attrs in reader.tags if tag == "meta" and "http-equiv" in attrs)
    assert "default-src 'none'" in str(policy)
