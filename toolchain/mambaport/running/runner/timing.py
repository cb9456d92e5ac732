"""Times of calls, in turns, and the machine's heat while they run. Needs no torch."""

import statistics
import time

from answers import send
from device import peak_bytes, reset_peak, temperatures

LEAST_RUNS = 5
MOST_RUNS = 500


def peak_of(run):
    """The peak memory of this process during one call, in bytes. The call is also the warm-up."""
    run()
    if not reset_peak():
        return None
    run()
    return peak_bytes()


def in_turns(variants, seconds, name, hottest):
    """Seconds of each call. Variants take turns, so that other programs disturb both equally."""
    times = {variant: [] for variant in variants}
    spent, started = dict.fromkeys(variants, 0.0), time.perf_counter()
    last_report = started
    while True:
        unfinished = [
            variant
            for variant, durations in times.items()
            if len(durations) < LEAST_RUNS or (spent[variant] < seconds and len(durations) < MOST_RUNS)
        ]
        if not unfinished:
            return times
        for variant in unfinished:
            before = time.perf_counter()
            variants[variant]()
            times[variant].append(time.perf_counter() - before)
            spent[variant] += times[variant][-1]
        if time.perf_counter() - last_report > 0.5:
            last_report = time.perf_counter()
            warmest(temperatures(), hottest)
            done = min(sum(spent.values()), seconds * len(variants))
            send(stage=name, done=round(done, 1), total=round(seconds * len(variants), 1))


def warmest(degrees, hottest):
    """Raises each zone in ``hottest`` to the zone's present temperature, if that is higher."""
    for zone, value in degrees.items():
        hottest[zone] = max(value, hottest.get(zone, value))


def summary(seconds, count):
    """Percentiles in milliseconds, and units per second at the median."""
    quantiles = statistics.quantiles(seconds, n=20, method="inclusive")
    middle = statistics.median(seconds)
    return {
        "runs": len(seconds),
        "p50_ms": middle * 1e3,
        "p95_ms": quantiles[18] * 1e3,
        "least_ms": min(seconds) * 1e3,
        "per_second": count / middle,
    }
