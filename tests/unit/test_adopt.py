"""Adopting a checkout: recognised, all or nothing, undone to the byte, and never over a user's own work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import diff, read_tree, write_set, write_tree
from test_cli import Run, run

from mambaport import checkouts
from mambaport.checkouts import checkout_sets, known_checkouts, recognise
from mambaport.errors import PatchError, UsageError
from mambaport.patching import adopt, refresh_checkout_lock, survey, undo
from mambaport.patching.diff import read_patch
from mambaport.patching.hunks import place_all, reverse

__all__ = ["run"]  # the fixture

MODEL = "import torch\n\n\nclass Demo(Module):\n" + "".join(f"    line {n}\n" for n in range(1, 31))
MODEL_AFTER = MODEL.replace("    line 3\n", "").replace("    line 20\n", "    line twenty\n    and more\n")
MODEL_LAST = MODEL_AFTER.replace("    line 21\n", "    device = cpu\n")
TRAIN = "".join(f"train {n}\n" for n in range(1, 11))
TRAIN_AFTER = TRAIN + "last\n"
FILES = {"demo/model.py": MODEL, "train.py": TRAIN, "README": "read\n", "data/mine.txt": "mine\n"}
PATCHES = {
    "0001-model.patch": diff("demo/model.py", MODEL, MODEL_AFTER) + diff("train.py", TRAIN, TRAIN_AFTER),
    "0002-again.patch": diff("demo/model.py", MODEL_AFTER, MODEL_LAST),
}
OVERLAY = {"demo/portable.py": "ours\n"}
RESULT = {**FILES, "demo/model.py": MODEL_LAST, "train.py": TRAIN_AFTER, **OVERLAY}
META = """
title = "Demo"
repository = "someone/Demo"
license = "MIT"
needs = ["vision"]
run = "python train.py"
[marks]
"demo/model.py" = "class Demo("
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "Demo", FILES)


@pytest.fixture(autouse=True)
def patches(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One repository with one set, locked."""
    folder = write_tree(tmp_path / "patches/checkouts/demo", {"checkout.toml": META})
    refresh_checkout_lock(root, write_set(folder / "0123456789ab", PATCHES, OVERLAY))
    monkeypatch.setattr(checkouts, "patches_dir", lambda: tmp_path / "patches")
    return folder


def adopted(root: Path) -> Path:
    adopt(survey(root, checkout_sets("demo")))
    return root


def refusal(root: Path, *, undoing: bool = False) -> PatchError:
    """The error; and nothing is changed, and nothing is left behind."""
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(PatchError) as caught:
        (undo if undoing else adopt)(survey(root, checkout_sets("demo")))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    return caught.value


# Recognition ---------------------------------------------------------------------------------------------


def test_a_checkout_is_recognised_by_its_files(root: Path) -> None:
    name, checkout = recognise(root)
    assert (name, checkout.repository) == ("demo", "someone/Demo")


def test_another_folder_is_refused_by_name(tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", {"demo/model.py": "class Other(\n"})
    with pytest.raises(UsageError, match="is not a checkout of someone/Demo"):
        recognise(other)
    with pytest.raises(UsageError) as caught:
        recognise(tmp_path / "nothing")
    assert caught.value.found == "no such folder"


def test_a_folder_inside_a_checkout_points_to_its_top(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        recognise(root / "demo")
    assert caught.value.hint == f"mambaport adopt {root}"


def test_a_folder_around_a_checkout_points_to_it(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        recognise(root.parent)
    assert caught.value.hint == f"mambaport adopt {root}"


def test_a_mark_may_stand_for_any_one_name_of_a_path(tmp_path: Path, patches: Path) -> None:
    write_tree(
        patches.parent / "module", {"checkout.toml": META.replace('"demo/model.py"', '"nn/*/model.py"')}
    )
    project = write_tree(tmp_path / "project", {"nn/one/other.py": "", "nn/two/model.py": "class Demo(\n"})
    assert recognise(project)[0] == "module"
    with pytest.raises(UsageError):
        recognise(write_tree(tmp_path / "deeper", {"nn/two/three/model.py": "class Demo(\n"}))


def test_a_repository_without_patch_sets_is_told_that_it_runs(
    run: Run, tmp_path: Path, patches: Path
) -> None:
    meta = META.replace("[marks]", 'unchanged = "it needs nothing"\n[marks]').replace(
        "demo/model.py", "own.py"
    )
    write_tree(patches.parent / "plain", {"checkout.toml": meta})
    project = write_tree(tmp_path / "project", {"own.py": "class Demo(\n"})
    done = run("adopt", str(project), "--json")
    assert done.code == 0
    answer = done.json
    assert answer["state"] == "unchanged"
    assert answer["reason"] == "it needs nothing"
    assert read_tree(project) == {"own.py": "class Demo(\n"}


def test_a_pipe_in_a_marks_place_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "other/demo").mkdir(parents=True)
    os.mkfifo(tmp_path / "other/demo/model.py")
    with pytest.raises(UsageError):
        recognise(tmp_path / "other")


# Adopting and undoing ------------------------------------------------------------------------------------


def test_adopting_changes_the_sets_files_and_no_others(root: Path) -> None:
    (root / "train.py").chmod(0o755)
    adoption = survey(root, checkout_sets("demo"))
    assert adoption.state == "pristine"
    assert sorted(adopt(adoption)) == ["demo/model.py", "demo/portable.py", "train.py"]
    assert read_tree(root) == RESULT
    assert (root / "train.py").stat().st_mode & 0o777 == 0o755
    assert survey(root, checkout_sets("demo")).state == "adopted"
    assert sorted(path.name for path in root.parent.iterdir()) == ["Demo", "patches"]


@pytest.mark.parametrize("undoing", [False, True])
def test_crlf_line_ends_are_named_as_the_reason(root: Path, undoing: bool) -> None:
    if undoing:
        adopted(root)
    for name in ("demo/model.py", "train.py"):
        path = root / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    error = refusal(root, undoing=undoing)
    assert "has CRLF line ends" in str(error)
    assert error.hint is not None
    command = error.hint.partition(": ")[2]
    subprocess.run(command, shell=True, check=True)
    adoption = survey(root, checkout_sets("demo"))
    assert (undo if undoing else adopt)(adoption)
    assert read_tree(root) == (FILES if undoing else RESULT)


def test_crlf_in_a_file_that_was_changed_too_is_a_change(root: Path) -> None:
    path = root / "train.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"mine\r\n")
    assert survey(root, checkout_sets("demo")).files["train.py"] == "changed"


def test_adopting_twice_writes_nothing_the_second_time(root: Path) -> None:
    adopted(root)
    assert adopt(survey(root, checkout_sets("demo"))) == []
    assert read_tree(root) == RESULT


def test_undo_puts_back_every_byte(root: Path) -> None:
    adopted(root)
    assert sorted(undo(survey(root, checkout_sets("demo")))) == [
        "demo/model.py",
        "demo/portable.py",
        "train.py",
    ]
    assert read_tree(root) == FILES
    assert undo(survey(root, checkout_sets("demo"))) == []


def test_a_dry_run_writes_nothing_either_way(root: Path) -> None:
    assert adopt(survey(root, checkout_sets("demo")), dry_run=True)
    assert read_tree(root) == FILES
    adopted(root)
    assert undo(survey(root, checkout_sets("demo")), dry_run=True)
    assert read_tree(root) == RESULT


@pytest.mark.parametrize("half", ["demo/model.py", "train.py", "demo/portable.py"])
def test_what_was_interrupted_is_completed_or_undone(root: Path, half: str) -> None:
    write_tree(root, {half: RESULT[half]})
    assert survey(root, checkout_sets("demo")).state == "interrupted"
    undo(survey(root, checkout_sets("demo")))
    assert read_tree(root) == FILES
    write_tree(root, {half: RESULT[half]})
    adopted(root)
    assert read_tree(root) == RESULT


def test_a_full_disk_in_the_middle_leaves_all_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.replace, []

    def fails_second(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", fails_second)
    adoption = survey(root, checkout_sets("demo"))
    with pytest.raises(OSError, match="No space"):
        adopt(adoption)
    assert len(calls) > 2  # one was written, and written back
    assert read_tree(root) == FILES


def test_the_set_that_fits_is_found_among_several(root: Path, patches: Path) -> None:
    later = {"demo/model.py": MODEL.replace("line 9", "line nine"), "train.py": TRAIN}
    tree = write_tree(root.with_name("later"), later)
    text = diff("demo/model.py", later["demo/model.py"], later["demo/model.py"].replace("line 1\n", "line\n"))
    refresh_checkout_lock(tree, write_set(patches / "ba9876543210", {"0001-later.patch": text}))
    shutil.rmtree(tree)
    assert survey(root, checkout_sets("demo")).set.name == "0123456789ab"
    write_tree(root, later)
    assert survey(root, checkout_sets("demo")).set.name == "ba9876543210"
    adopted(root)
    assert "    line\n" in (root / "demo/model.py").read_text()


@pytest.mark.parametrize("name", PATCHES)
def test_a_reversed_patch_leads_back(patches: Path, name: str) -> None:
    for item in read_patch(patches / "0123456789ab" / name):
        before = {"0001-model.patch": FILES, "0002-again.patch": {"demo/model.py": MODEL_AFTER}}[name][
            item.name
        ]
        _, after = place_all(before.split("\n"), item)
        places, back = place_all(after, reverse(item))
        assert "\n".join(back) == before
        assert all(place.state == "exact" for place in places)


# What the user has changed -------------------------------------------------------------------------------


def test_a_drifted_line_is_named_with_file_hunk_expected_and_found(root: Path) -> None:
    (root / "demo/model.py").write_text(MODEL.replace("line 20", "line 20 of mine"))
    error = refusal(root)
    assert "demo/model.py, hunk 2" in error.what
    assert error.detail is not None
    assert "+    line 20 of mine" in error.detail
    assert "-    line 20" in error.detail
    assert error.exit_code == 11


def test_a_change_that_no_hunk_meets_is_refused_too(root: Path) -> None:
    (root / "train.py").write_text(TRAIN.replace("train 1\n", "my train 1\n"))
    error = refusal(root)
    assert "train.py is not the file" in error.what
    assert "git stash" in str(error.hint)


def test_bytes_that_are_no_text_and_other_line_endings_are_refused(root: Path) -> None:
    (root / "train.py").write_bytes(b"\xff\xfe" + TRAIN.encode())
    refusal(root)
    (root / "train.py").write_bytes(TRAIN.replace("\n", "\r\n").encode())
    refusal(root)


def test_a_missing_file_and_a_folder_in_its_place_are_refused(root: Path) -> None:
    (root / "train.py").unlink()
    assert refusal(root).found == "no such file"
    (root / "train.py").mkdir()
    refusal(root)


def test_a_users_file_under_an_overlays_name_is_kept(root: Path) -> None:
    (root / "demo/portable.py").write_text("mine\n")
    assert "demo/portable.py" in refusal(root).what


@pytest.mark.parametrize("name", ["demo/model.py", "train.py", "demo/portable.py"])
def test_undo_refuses_a_file_that_was_changed_since(root: Path, name: str) -> None:
    adopted(root)
    (root / name).write_text(RESULT[name] + "mine\n")
    assert name in refusal(root, undoing=True).what


def test_a_file_changed_while_adopting_is_not_lost(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mambaport.patching.apply as applying

    real = applying._run_patch_ng

    def meanwhile(tree: Path, *words: object) -> None:
        real(tree, *words)  # type: ignore[arg-type]
        (root / "train.py").write_text("saved in an editor\n")

    monkeypatch.setattr(applying, "_run_patch_ng", meanwhile)
    adoption = survey(root, checkout_sets("demo"))
    with pytest.raises(PatchError, match="while mambaport worked"):
        adopt(adoption)
    assert read_tree(root) == {**FILES, "train.py": "saved in an editor\n"}


# Hostile checkouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.py", "demo", "demo/portable.py"])
def test_a_link_is_not_written_through(root: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if name == "demo":
        shutil.move(root / name, outside)
    else:
        outside.write_text(FILES.get(name, "precious\n"))
        (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(outside)
    before = read_tree(outside) if outside.is_dir() else outside.read_text()
    error = refusal(root)
    assert "is a link" in error.what
    assert str(outside) in str(error.found)
    assert (read_tree(outside) if outside.is_dir() else outside.read_text()) == before
    assert (root / name).is_symlink()


def test_a_hard_link_to_a_file_elsewhere_leaves_that_file_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").hardlink_to(root / "train.py")
    adopted(root)
    assert (tmp_path / "elsewhere").read_text() == TRAIN
    assert (root / "train.py").read_text() == TRAIN_AFTER


def test_two_at_once_do_not_meet(root: Path) -> None:
    import fcntl

    handle = os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "Another mambaport" in refusal(root).what
    os.close(handle)


# The command ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_sees_the_patches_and_its_records_stay(run: Run, root: Path) -> None:
    def git(*words: str) -> str:
        names = ("-c", "user.name=n", "-c", "user.email=e")
        return subprocess.run(
            ["git", "-C", root, *names, *words], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    records = {path: path.read_bytes() for path in (root / ".git").rglob("*") if path.is_file()}
    ran = run("adopt", root, "-p", "rpi", "--json")
    assert ran.code == 0
    assert ran.json["state"] == "adopted"
    assert ran.json["commit"] == git("rev-parse", "HEAD").strip()
    assert {path: path.read_bytes() for path in (root / ".git").rglob("*") if path.is_file()} == records
    assert git("status", "--porcelain") == " M demo/model.py\n M train.py\n?? demo/portable.py\n"
    assert run("adopt", root, "--undo").code == 0
    assert git("status", "--porcelain") == ""


def test_the_command_shows_reasons_and_what_comes_next(run: Run, root: Path) -> None:
    ran = run("adopt", root, "--dry-run", "-p", "rpi")
    assert ran.code == 0
    assert "A reason that is long enough." in ran.out
    assert "mambaport install -p rpi" in ran.out
    assert "3 files would be written" in ran.err
    assert read_tree(root) == FILES


def test_drift_is_one_object_with_every_patchs_verdict(run: Run, root: Path) -> None:
    (root / "demo/model.py").write_text(MODEL.replace("line 20", "line 20 of mine"))
    ran = run("adopt", root, "--json")
    assert ran.code == 11
    data = json.loads(ran.out)
    assert data["state"] == "changed"
    assert data["files"]["demo/model.py"] == "changed"
    assert {item["patch"]: item["verdict"] for item in data["patches"]}["0001-model.patch"] == "drifted"
    assert "hunk 2" in data["error"]["what"]


def test_what_is_no_checkout_exits_2(run: Run, tmp_path: Path) -> None:
    assert run("adopt", tmp_path).code == 2


def test_a_profile_without_what_the_checkout_needs_is_refused(run: Run, root: Path, patches: Path) -> None:
    (patches / "checkout.toml").write_text(META.replace('"vision"', '"vision", "teleport"'))
    ran = run("adopt", root, "-p", "rpi")
    assert ran.code == 2
    assert "teleport too" in ran.err
    assert read_tree(root) == FILES


# The real ones -------------------------------------------------------------------------------------------


def test_the_real_sets_are_read_strictly_and_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    known = known_checkouts()
    assert set(known) == {
        "caduceus",
        "mamba-yolo",
        "mamba-yolo-module",
        "mambavision",
        "videomamba",
        "vim",
        "vmamba",
    }
    for name, checkout in known.items():
        assert bool(checkout_sets(name)) == (checkout.unchanged is None)
        for item in checkout_sets(name):
            names = {each.name for patch in item.patches for each in read_patch(item.folder / patch.file)}
            assert set(item.lock().files) == names
            assert set(item.touched()) == names | set(item.overlay_files())


KILLED = """
import os, signal, sys
from pathlib import Path
from mambaport import checkouts
from mambaport.patching import adopt, survey

module = sys.modules["mambaport.patching.adopt"]
checkouts.patches_dir = lambda: Path(sys.argv[1])
place, left = module._place, [int(sys.argv[3])]

def kill(target, staged):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    place(target, staged)

module._place = kill
adopt(survey(Path(sys.argv[2]), checkouts.checkout_sets("demo")))
"""


@pytest.mark.parametrize("placed", [0, 1, 2])
@pytest.mark.parametrize("undoing", [False, True])
def test_killed_while_writing_the_next_run_leaves_no_temporary_file(
    root: Path, tmp_path: Path, placed: int, undoing: bool
) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path / "patches"), str(root), str(placed)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert len(read_tree(root)) > len(FILES)
    (undo if undoing else adopt)(survey(root, checkout_sets("demo")))
    assert read_tree(root) == (FILES if undoing else RESULT)
