"""The marks that are asked of us, and the tables."""

from __future__ import annotations

from dataclasses import dataclass

from .contenders import LEAKY, OURS
from .throughput import HEADLINE


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing asked: `measured` is to be at most `asked`, or at least, where `at_least`."""

    name: str
    measured: float
    asked: float
    at_least: bool = False

    def met(self, tolerance=0.0):
        if self.at_least:
            return self.measured >= self.asked * (1 - tolerance)
        return self.measured <= self.asked * (1 + tolerance)


def marks(results):
    """Return the marks of those sections that were run."""
    return [
        mark
        for section, marks_of in _MARKS_OF.items()
        if section in results
        for mark in marks_of(results[section])
    ]


def print_throughput(results):
    print("\nCPU microseconds per request (times the leaky dict's); ids given\n")
    width = max(len(name) for name in results[HEADLINE])
    print(" " * width, *(f"{_short(shape):>16}" for shape in results))
    for name in results[HEADLINE]:
        print(f"{name:{width}}", *(_cell(times, name, LEAKY) for times in results.values()))


def print_ids(results):
    for case, times in results.items():
        first = next(iter(times))
        print(f"\nThe id, {case}: CPU microseconds (times {first})\n")
        for name in times:
            print(f"{name:18}", _cell(times, name, first))


def print_others(title, results):
    """Print what is neither: a line for each case, its numbers after it."""
    print(f"\n{title}\n")
    width = max(len(case) for case in results)
    for case, numbers in results.items():
        shown = (
            f"{name} {value:,.2f}" for name, value in numbers.items() if not isinstance(value, list)
        )
        print(f"{case:{width}}  ", "   ".join(shown))


def print_marks(found, tolerance):
    print(f"\n{'':58}{'measured':>12}{'asked':>12}\n")
    for mark in found:
        sign = ">=" if mark.at_least else "<="
        verdict = "pass" if mark.met() else "near" if mark.met(tolerance) else "MISS"
        print(f"{mark.name:58}{mark.measured:12,.2f}{sign:>4}{mark.asked:8,.2f}  {verdict}")


def _short(shape):
    return shape.replace("task per request", "task each")


def _cell(times, name, base):
    return f"{times[name]:8.2f} ({times[name] / times[base]:5.2f})"


def _throughput_marks(results):
    times = results[HEADLINE]
    ours = times[OURS]
    yield Mark(f"{HEADLINE}: x the leaky dict", ours / times[LEAKY], 1.6)
    for name, asked in (
        ("dict + asyncio.timeout", 1.3),
        ("dict + asyncio.wait_for", 1.3),
        ("dict + anyio.fail_after", 2.3),
    ):
        yield Mark(f"{HEADLINE}: faster than {name}, x", times[name] / ours, asked, at_least=True)


def _id_marks(results):
    times = results[HEADLINE]
    for case, sent in (("", ""), (", correlate(send=)", " + send")):
        ratio = times["made" + sent] / times["given" + sent]
        yield Mark(f"making the id adds, %{case}", (ratio - 1) * 100, 25)


def _expiry_marks(results):
    for case, numbers in results.items():
        if case.startswith(OURS):
            yield Mark(f"{case}: the loop held for, CPU ms", numbers["held_cpu_ms"], 10)
            yield Mark(f"{case}: each, us", numbers["each_us"], 5)


def _idle_marks(results):
    for case, numbers in results.items():
        yield Mark(f"idle, {case}: wake-ups", numbers["turns"], 0)
        # What the loop itself costs is not ours; and the clock of a process has its grain.
        asked = 0.1 if case.startswith("nothing") else 10
        used = max(0.0, numbers["cpu_ms"] - numbers["bare_cpu_ms"])
        yield Mark(f"idle, {case}: CPU ms per second", used, asked)


def _weight_marks(results):
    for case, numbers in results.items():
        if case in (f"{OURS}, deadlines spread", f"{OURS}, deadlines together"):
            yield Mark(f"bytes per pending, {case}", numbers["bytes"], 450)


def _leak_marks(results):
    # The mark is for what the kernel counts, as asked. The trimmed one is there to explain it.
    for case, numbers in results.items():
        if not case.endswith("trimmed"):
            yield Mark(f"memory grown after {case}, MB", numbers["grown"] / 1e6, 1)


def _gateway_marks(results):
    ratios = results["the gateway, x the other"]
    served = f"gateway: requests per %s, x with a {LEAKY}"
    yield Mark(served % "second", ratios["requests_per_s"], 0.8, at_least=True)
    # The same where nothing but the gateway's process limits it; others' work does not count.
    yield Mark(served % "CPU second", 1 / ratios["cpu_us"], 0.8, at_least=True)


_MARKS_OF = {
    "throughput": _throughput_marks,
    "ids": _id_marks,
    "expiry": _expiry_marks,
    "idle": _idle_marks,
    "weight": _weight_marks,
    "leak": _leak_marks,
    "gateway": _gateway_marks,
}
