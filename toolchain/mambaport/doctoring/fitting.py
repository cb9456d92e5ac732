"""The built-in profiles whose wheels run on this machine."""

from __future__ import annotations

from mambaport.boards import find_platform, minor_key, runs_on
from mambaport.host import Host
from mambaport.profile import CudaTarget, Profile, builtin_profiles


def fitting_profiles(host: Host) -> list[str]:
    """Each profile and variant that fits, as the value of ``-p``, those with CUDA extensions first."""
    found = []
    for profile in builtin_profiles():
        name = profile.aliases[0] if profile.aliases else profile.name
        variants = {f"{name} --variant {key}": item for key, item in profile.variant.items()}
        found += [(text, item) for text, item in (variants or {name: profile}).items() if _fits(item, host)]
    return [text for text, item in sorted(found, key=lambda pair: (pair[1].cuda is None, pair[0]))]


def _fits(profile: Profile, host: Host) -> bool:
    """Whether a profile's wheels run on a machine, as far as the machine's facts show.

    The CPU is not compared: the profile's description names the oldest one.
    """
    target, jetson = profile.target, host.cuda.jetson
    if target.arch not in (host.arch, "host") or host.bits != 64:
        return False
    if target.arch != "host" and minor_key(target.glibc) > minor_key(host.glibc):
        return False
    l4t = find_platform(profile.platform).l4t if profile.platform else ()
    if l4t and (jetson is None or jetson.l4t_major not in l4t):
        return False
    return profile.cuda is None or _fits_gpu(profile.cuda, host, jetson=bool(l4t))


def _fits_gpu(cuda: CudaTarget, host: Host, *, jetson: bool) -> bool:
    gpus = {gpu.sm for gpu in host.cuda.gpus}
    if not gpus:  # the driver of a Jetson may name none
        return jetson and cuda.sm != ("host",)
    return cuda.sm == ("host",) or any(runs_on(sm, cuda.sm, cuda.ptx) for sm in gpus)
