"""The stages in order: those of a build, then install and verify. Only making and this module join stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mambaport import wheels as wheelfiles
from mambaport.auditing import require as require_audit
from mambaport.contents import owned_modules
from mambaport.errors import InstallError
from mambaport.installing import (
    check_fit,
    check_installed,
    check_target,
    install_wheels,
    installed_already,
    misfits,
    queried_names,
    undo,
    unfit,
)
from mambaport.interpreter import Interpreter, read_interpreter
from mambaport.making import Making
from mambaport.pip_settings import pip_settings
from mambaport.verifying import (
    Verification,
    prepare_emulation,
    probe_emulated,
    probe_interpreter,
    probe_onnx,
    summary,
)
from mambaport.verifying import require as require_verification
from mambaport.verifying.emulation import unpack_wheels
from mambaport.verifying.results import table
from mambaport.wheels import Wheel


@dataclass(frozen=True)
class InstallOptions:
    """How an installation treats the environment before it."""

    keep_previous: bool = False
    """Whether the environment before is kept, so that the installation can be undone."""
    unless_installed: bool = False
    """Whether nothing is installed where the environment has every file of the wheels."""
    attested_by: str | None = None
    """The repository on GitHub, ``OWNER/NAME``, a workflow of which must have signed an index's wheels."""


PLAIN = InstallOptions()


@dataclass(frozen=True)
class Installed:
    """An environment with the plan's wheels, proven."""

    target: Interpreter
    """The environment before the installation."""
    wheels: list[Wheel]
    proof: Verification
    changed: bool


def proven_files(wheels: list[Wheel]) -> dict[str, str]:
    """The wheels of a proof, for its report: file name -> sha256."""
    return {wheel.path.name: wheel.sha256 for wheel in wheels}


class Pipeline(Making):
    """profile -> plan -> fetch -> patch -> build -> audit -> wheelhouse -> install -> verify."""

    def wheels(self, wheelhouse: Path | None, target: Interpreter | None = None) -> list[Wheel]:
        """The plan's wheels: from the wheelhouse when one is given, else from the store, else built.

        Raises:
            InstallError: the wheelhouse does not have them. Where its wheels are for another environment than
                ``target``, the error says for which.
        """
        if wheelhouse is None:
            return [made.wheel for made in self.build()]
        self.plan.require(building=False)
        try:
            return [wheelfiles.find(wheelhouse, item.name, item.version) for item in self.plan.packages]
        except InstallError:
            names = {item.name for item in self.plan.packages}
            candidates = [wheel for wheel in wheelfiles.wheels_in(wheelhouse) if wheel.name in names]
            gpus = self.plan.host.cuda.gpus
            reasons = [
                f"{wheel.path.name}: {reason}"
                for wheel in candidates
                if target is not None
                for reason in misfits(wheel, target, gpus)
            ]
            if target is not None and reasons:
                raise unfit(reasons, target) from None
            raise

    def install(
        self, python: Path, wheelhouse: Path | None, index: str | None = None, options: InstallOptions = PLAIN
    ) -> Installed:
        """Installs the wheels into an environment and proves them there. A failure restores the environment.

        Args:
            index: the address of an index of wheels, in place of a wheelhouse.
            options: what is kept, and when nothing is installed.

        Raises:
            InstallError, AuditError, VerifyError
            FetchError, IndexFault: the index cannot be reached, or a file of it is not as the index says.
        """
        if index is None:
            return self._install(python, wheelhouse, None, options)
        with self.store.scratch() as scratch:
            return self._install(python, scratch, index, options)

    def _install(
        self, python: Path, wheelhouse: Path | None, index: str | None, options: InstallOptions
    ) -> Installed:
        profile = self.plan.profile
        names = [package.name for package in self.plan.packages]
        target = read_interpreter(python, [*names, *queried_names(profile.install.requires)])
        check_target(target, profile, self.plan.goal, with_torch=self.plan.runtime == "torch")
        if index is not None and wheelhouse is not None:
            self.plan.require(building=False)
            wanted_wheels = {package.name: package.version for package in self.plan.packages}
            place = self.fetcher.wheel_index(index)
            place.bring(self.plan.folder, wanted_wheels, self.plan.goal.arch, wheelhouse, options.attested_by)
        wheels = self.wheels(wheelhouse, target)
        for wheel in wheels:  # before anything else is read from them
            require_audit(self.audit(wheel))
        check_fit(wheels, target, self.plan.host.cuda.gpus)
        proven: list[Verification] = []
        versions = {wheel.name: wheel.version for wheel in wheels}

        def prove() -> None:
            found = self._probe(python, versions)
            proven.append(self._judged(found, proven_files(wheels)))

        if options.unless_installed and installed_already(target, wheels, profile):
            self.report.line("install", "nothing", f"{target.place} has every file of these wheels")
            prove()
            return Installed(target, wheels, proven[0], changed=False)
        words = self.fetcher.pip_options()
        settings = self.fetcher.pip_settings(pip_settings(target.executable))
        install_wheels(
            target, wheels, profile, prove, self.report, words, settings, keep_previous=options.keep_previous
        )
        return Installed(target, wheels, proven[0], changed=True)

    def undo(self, python: Path) -> tuple[Interpreter, Verification | None]:
        """Restores the environment before the last installation that kept it, and proves its packages.

        Returns:
            the environment after, and the proof; None where the environment then has no wheels to prove

        Raises:
            InstallError: no installation can be undone; the environment is unchanged.
            VerifyError: the restored packages do not pass; they stay.
        """
        names = [package.name for package in self.plan.packages]
        undo(read_interpreter(python, names), self.report)
        after = read_interpreter(python, names)
        return after, self.verify(python) if set(names) <= set(after.packages) else None

    def verify(self, python: Path) -> Verification:
        """Probes the packages that are installed in an environment.

        Raises:
            InstallError: ``python`` cannot be run.
            VerifyError: the packages are not installed, or a component fails.
        """
        names = [package.name for package in self.plan.packages]
        if self.plan.runtime == "torch":
            needed, option = ["torch", *names], ""
        else:
            needed, option = [*names, "onnxruntime"], " --runtime onnx"
        target = read_interpreter(python, queried_names(needed))
        check_installed(target, self.plan.profile, self.plan.goal, needed, option)
        versions = {name: package.version for name in names if (package := target.packages.get(name))}
        return self._judged(self._probe(python, versions))

    def _probe(self, python: Path, versions: Mapping[str, str]) -> Verification:
        if self.plan.runtime == "onnx":
            return probe_onnx(python, self.report)
        return probe_interpreter(python, self.report, self._compiled(versions))

    def verify_emulated(self, system: str, wheelhouse: Path | None, cpu: str | None = None) -> Verification:
        """Probes the plan's wheels on an emulated aarch64 system, on the target's CPU or on ``cpu``.

        Raises:
            HostError: emulation cannot be set up here.
            VerifyError: a component fails.
        """
        root = prepare_emulation(system, cpu or self.plan.goal.cpu, self.shop)
        wheels = self.wheels(wheelhouse)
        with self.store.scratch() as scratch:
            site = unpack_wheels([wheel.path for wheel in wheels], scratch / "site")
            versions = {wheel.name: wheel.version for wheel in wheels}
            return self._judged(
                probe_emulated(root, site, self.report, self._compiled(versions)), proven_files(wheels)
            )

    def _compiled(self, versions: Mapping[str, str]) -> list[str]:
        """The compiled modules that the packages of these versions must have and run."""
        modules = []
        for package in self.plan.packages:
            if package.fallback or versions.get(package.name, "").endswith(".fallback"):
                continue
            owned = [name for name in owned_modules(package.name) if name.endswith("_cpu")]  # for torch
            kernels = [name for item in package.sets for name in item.meta.kernels if name in owned]
            modules += kernels
            if self.plan.cuda is not None:
                modules += [name.replace("_cpu", "_cuda") for name in kernels]
        return modules

    def _judged(self, result: Verification, wheels: Mapping[str, str] | None = None) -> Verification:
        result = result.model_copy(update={"wheels": dict(wheels or {})})
        self.report.show(table(result))
        self.report.line("verify", f"{len(result.components)} components", summary(result))
        require_verification(result)
        return result
