"""Runs the jobs of the repository's workflows on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


class Context(dict[str, Any]):
    """A context of GitHub's expressions: a name that it lacks is an empty text."""

    def __getattr__(self, name: str) -> Any:
        value = self.get(name.replace("__", "-"), "")
        return Context(value) if isinstance(value, dict) else value


def evaluate(text: Any, contexts: dict[str, Any]) -> Any:
    """A value of a workflow, with its expressions computed."""
    if not isinstance(text, str):
        return text
    names: dict[str, Any] = {key: Context(value) for key, value in contexts.items()}
    names |= {"fromJSON": json.loads, "startsWith": str.startswith}

    def computed(expression: str) -> Any:
        python = expression.strip().replace("&&", " and ").replace("||", " or ")
        return eval(python, {"__builtins__": {}}, names)

    whole = re.fullmatch(r"\$\{\{(.*?)\}\}", text.strip())
    if whole:
        return computed(whole[1])
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(computed(match[1])), text)


class Runner:
    """Runs the `run:` steps of jobs in a clean folder, as GitHub's runner does.

    Actions of others are not run: the checkout is the folder, and artifacts are copied.
    """

    def __init__(self, folder: Path) -> None:
        self.work, self.temp, self.artifacts = folder / "work", folder / "temp", folder / "artifacts"
        for path in (self.work, self.temp, self.artifacts):
            path.mkdir(parents=True)
        words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.work / name)

    def job(self, job: dict[str, Any], **contexts: Any) -> dict[str, Any]:
        """Runs the steps of a job or of an action, in order. Returns the outputs of the steps."""
        outputs: dict[str, Any] = {}
        for step in job["steps"]:
            values = {**contexts, "steps": outputs}
            wanted = step.get("if")
            if wanted is not None and not evaluate(f"${{{{ {wanted} }}}}", values):
                continue
            if "run" in step:
                code, found = self.run(step, values)
                assert code == 0, step["name"]
                outputs[step.get("id", step["name"])] = {"outputs": found}
            elif step["uses"].startswith("./"):
                action = read(self.work / step["uses"] / "action.yml")
                given = {key: evaluate(value, values) for key, value in step["with"].items()}
                inputs = {
                    key: str(given.get(key, item.get("default", ""))).replace("True", "true")
                    for key, item in action["inputs"].items()
                }
                self.job(action["runs"], **{**contexts, "inputs": {**inputs, **contexts.get("override", {})}})
            elif "upload-artifact" in step["uses"]:
                source = self.work / evaluate(step["with"]["path"], values)
                shutil.copytree(source, self.artifacts / evaluate(step["with"]["name"], values))
            elif "download-artifact" in step["uses"]:
                named = step["with"].get("name")
                matched = list(self.artifacts.glob(named or step["with"]["pattern"]))
                target = self.work / step["with"]["path"]
                for path in matched:  # the action unpacks one artifact without a folder of its own
                    place = target if len(matched) == 1 else target / path.name
                    shutil.copytree(path, place, dirs_exist_ok=True)
        return outputs

    def run(self, step: dict[str, Any], values: dict[str, Any], **more: str) -> tuple[int, dict[str, str]]:
        """Runs a step's shell as GitHub does. Returns the exit code, and the outputs of the step."""
        outputs, script = self.temp / "outputs", self.temp / "script.sh"
        outputs.write_text("")
        script.write_text(step["run"])
        variables = {key: str(evaluate(value, values)) for key, value in step.get("env", {}).items()}
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MAMBAPORT_")},
            "GITHUB_OUTPUT": str(outputs),
            "RUNNER_TEMP": str(self.temp),
            "PIP_COMPILE": "0",  # a third of an installation's time
            "GITHUB_ACTION_PATH": str(self.work / "deploy/action"),
            **variables,
            **more,
        }
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        code = subprocess.run(words, cwd=self.work, env=environment, check=False).returncode
        pairs = (line.partition("=") for line in outputs.read_text().splitlines())
        return code, {key: value for key, _, value in pairs}
