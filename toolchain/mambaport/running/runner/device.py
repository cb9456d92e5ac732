"""Readings of the machine: memory, temperatures, clock, throttling. Linux only."""

import os
import subprocess
from pathlib import Path

# The bits of a Raspberry Pi's get_throttled: now; 16 bits higher: since boot.
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"


def processor():
    """The processor's name in /proc/cpuinfo; None where there is no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return named.get("model name") or named.get("Model")


def temperatures(sys_folder="/sys"):
    """Type of each readable thermal zone -> its temperature in degrees Celsius."""
    found = {}
    for zone in sorted(Path(sys_folder, "class", "thermal").glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text().strip()
            degrees = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):  # reading a disabled zone is an error
            continue
        if -40 < degrees < 200:  # unused zones of a Jetson report -256
            found[name if name not in found else f"{name} ({zone.name[12:]})"] = degrees
    return found


def clock_mhz(sys_folder="/sys"):
    """The present clock of the first processor in MHz; None where the system does not report it."""
    path = Path(sys_folder, "devices", "system", "cpu", "cpu0", "cpufreq", "scaling_cur_freq")
    try:
        return int(path.read_text()) // 1000
    except (OSError, ValueError):
        return None


def throttling(sys_folder="/sys"):
    """The limits that a Raspberry Pi's firmware reports, now and since boot; None on other machines."""
    try:
        flags = int(Path(sys_folder, FIRMWARE).read_text(), 16)
    except (OSError, ValueError):
        flags = _vcgencmd()
    if flags is None:
        return None
    return {
        "now": [text for bit, text in THROTTLED.items() if flags >> bit & 1],
        "since_boot": [text for bit, text in THROTTLED.items() if flags >> bit + 16 & 1],
    }


def _vcgencmd():
    try:
        answer = subprocess.run(
            ["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=True
        )
        return int(answer.stdout.strip().partition("=")[2], 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def reset_peak():
    """Resets the count of :func:`peak_bytes`; False where the kernel does not allow that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes():
    """The peak memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def state():
    """All present readings, as plain data."""
    return {
        "temperatures": temperatures(),
        "clock_mhz": clock_mhz(),
        "throttling": throttling(),
        "load": os.getloadavg()[0],
    }
