"""Break the code in every small way, and see whether a test notices: ``python -m tests.mutants``.

It works in copies of the repository in a temporary folder, and exits with 1 if fewer than 90 % of
the mutants are killed, or if one of the named ones lives; with 2 if the tests fail without any
mutant; with 130 if it was interrupted. What is known to survive is explained in SURVIVORS.md.

No mutants are made where no test should look: annotations, docstrings, the texts of messages,
`__repr__`, assertions, and the constants that say only how much is done at once.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import importlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.9  # of the mutants must be killed
MEMORY = 4 << 30  # bytes a mutant may take, for some never stop
INTERRUPTED = 130

CORE_TESTS = [
    "tests/test_store.py",
    "tests/test_memory.py",
    "tests/test_pending.py",
    "tests/test_group.py",
    "tests/test_core.py",
    "tests/test_sending.py",
    "tests/test_waiting.py",
    "tests/test_reaper.py",
    "tests/test_laws.py",
    "tests/test_references.py",
    "tests/test_checks.py",
    "tests/test_errors.py",
    "tests/test_same_turn.py",
    "tests/test_interrupted_sends.py",
    "tests/test_sweep.py",
    "tests/test_threads.py",
    "tests/test_gaps.py",
    "tests/test_context.py",
    "tests/test_entering.py",
    "tests/test_exports.py",
    "tests/observers/test_observers.py",
    "tests/observers/test_structlog.py",
]
TOKEN_TESTS = [
    "tests/test_tokens.py",
    "tests/aiohttp/test_threats.py",
    "tests/aiohttp/test_arguments.py",
]
SEEN_TESTS = [
    "tests/test_overview.py",
    "tests/observers/test_prometheus.py",
    "tests/observers/test_opentelemetry.py",
    "tests/aiohttp/test_inspector.py",
]
HTTP_TESTS = [
    "tests/test_asgi.py",
    "tests/test_httpx.py",
    "tests/aiohttp/test_problems.py",
    "tests/aiohttp/test_client.py",
]
KIT_TESTS = [
    "tests/testing/test_responder.py",
    "tests/testing/test_clock.py",
    "tests/testing/test_plugin.py",
]
TOP_TESTS = [
    "tests/top/test_screen.py",
    "tests/top/test_source.py",
    "tests/top/test_command.py",
]
# Each module, the tests that may kill its mutants, and of these the files to begin with.
MODULES = {
    "correlator/store.py": (CORE_TESTS, "store memory"),
    "correlator/pending.py": (CORE_TESTS, "pending core"),
    "correlator/core.py": (CORE_TESTS, "core group threads"),
    "correlator/ledger.py": (CORE_TESTS, "core reaper waiting"),
    "correlator/sending.py": (CORE_TESTS, "interrupted_sends sending"),
    "correlator/memory.py": (CORE_TESTS, "memory core"),
    "correlator/threads.py": (CORE_TESTS, "threads core"),
    "correlator/tokens.py": (TOKEN_TESTS, ""),
    "correlator/labels.py": (SEEN_TESTS, "overview"),
    "correlator/watch.py": (SEEN_TESTS, "overview"),
    "correlator/inspection.py": (SEEN_TESTS, "inspector"),
    "correlator/aiohttp/inspecting.py": (SEEN_TESTS, "inspector"),
    "correlator/aiohttp/access.py": (SEEN_TESTS, "inspector"),
    "correlator/aiohttp/replicas.py": (SEEN_TESTS, "inspector"),
    "correlator/observers/tally.py": (SEEN_TESTS, "prometheus opentelemetry"),
    "correlator/observers/watched.py": (SEEN_TESTS, "prometheus"),
    "correlator/observers/prometheus.py": (SEEN_TESTS, "prometheus"),
    "correlator/observers/opentelemetry.py": (SEEN_TESTS, "opentelemetry"),
    "correlator/asgi.py": (HTTP_TESTS, "asgi"),
    "correlator/httpx.py": (HTTP_TESTS, "httpx"),
    "correlator/testing/responder.py": (KIT_TESTS, "responder"),
    "correlator/testing/leftovers.py": (KIT_TESTS, "plugin"),
    "correlator/top/source.py": (TOP_TESTS, "source"),
    "correlator/top/screen.py": (TOP_TESTS, "screen"),
}
# Loaded once, and not anew for each mutant.
PRELOADED = [
    "pytest",
    "_pytest.assertion",
    "pytest_asyncio.plugin",
    "hypothesis",
    "_hypothesis_pytestplugin",
    "anyio",
    "anyio.pytest_plugin",
    "aiohttp.web",
    "aiohttp.pytest_plugin",
    "uvloop",
    "structlog",
    "standardwebhooks",
]

# How much is done at once, and the like: they change the speed alone.
SPEED_ONLY = {"_BATCH", "_EVICTED_AT_ONCE", "_NO_TICK", "_SLICE"}
SWAPPED = {
    ast.Lt: ("<", ["<=", ">="]),
    ast.LtE: ("<=", ["<", ">"]),
    ast.Gt: (">", [">=", "<="]),
    ast.GtE: (">=", [">", "<"]),
    ast.Eq: ("==", ["!="]),
    ast.NotEq: ("!=", ["=="]),
    ast.Is: ("is", ["is not"]),
    ast.IsNot: ("is not", ["is"]),
    ast.In: ("in", ["not in"]),
    ast.NotIn: ("not in", ["in"]),
    ast.Add: ("+", ["-"]),
    ast.Sub: ("-", ["+"]),
    ast.Mult: ("*", ["/"]),
    ast.Div: ("/", ["*"]),
    ast.FloorDiv: ("//", ["*"]),
    ast.Mod: ("%", ["+"]),
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "BaseException": "Exception",
}
UNTOLD = {"cast", "TypeVar", "getLogger", "compile"}  # calls in which nothing is mutated


@dataclass(frozen=True)
class Mutant:
    """One module with one thing in it changed."""

    module: str
    line: int
    start: int
    end: int
    new: str
    what: str
    name: str = ""

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        named = f"[{self.name}] " if self.name else ""
        return f"{self.module}:{self.line}  {named}{self.what}"


# Mistakes with a story: the first is the one the README begins with. (name, module, old, new)
NAMED = [
    (
        "removed on success alone",
        "correlator/ledger.py",
        """\
        self._store.pop(request_id)
        if pending._group""",
        """\
        if outcome is Outcome.RESOLVED:
            self._store.pop(request_id)
        if pending._group""",
    ),
    (
        "a late reply settles",
        "correlator/ledger.py",
        """\
        if pending._outcome is not None:
            return False
        request_id""",
        "        request_id",
    ),
    (
        "a late reply settles what ended",
        "correlator/core.py",
        """\
        if pending is None:
            return self._unmatched(request_id)
        self._settle(pending, _RESOLVED, response)""",
        """\
        if pending is None:
            if request_id not in self._remembered.newer:
                return self._unmatched(request_id)
            self._outcomes[_RESOLVED] += 1
            return _MATCHED
        self._settle(pending, _RESOLVED, response)""",
    ),
    (
        "an outcome is not counted",
        "correlator/ledger.py",
        "self._outcomes[outcome] += 1",
        "pass",
    ),
    (
        "the id is not remembered",
        "correlator/ledger.py",
        "self._remembered.remember(request_id, outcome, now)",
        "pass",
    ),
    (
        "the send is not interrupted",
        "correlator/ledger.py",
        "interrupt_sending(pending, self._loop, self._context)",
        "pass",
    ),
    (
        "the send is interrupted without effect",
        "correlator/sending.py",
        """\
        self._task.cancel()
""",
        "",
    ),
    (
        "the caller's cancellation is swallowed",
        "correlator/sending.py",
        "caller_cancelled = interruption.end() > cancelling",
        "caller_cancelled = bool(interruption.end() and False)",
    ),
    (
        "a cancelled waiter goes on",
        "correlator/pending.py",
        """\
                self._abandon(waiter)
                raise
""",
        """\
                self._abandon(waiter)
""",
    ),
    (
        "a cancelled caller goes on",
        "correlator/core.py",
        """\
                pending._abandon(waiter)
                raise
""",
        """\
                pending._abandon(waiter)
""",
    ),
    (
        "the MAC is not checked",
        "correlator/tokens.py",
        "not any(good) or ",
        "",
    ),
    (
        "an expired token is good",
        "correlator/tokens.py",
        " or int(expiry) <= self._clock()",
        "",
    ),
    (
        "the deadline is forgotten",
        "correlator/ledger.py",
        """\
            if deadline < self._reaper.alarm_at:
                self._reaper.advance()
""",
        "",
    ),
]


class Operators(ast.NodeVisitor):
    """Collects the mutants of one module."""

    def __init__(self, module: str, source: bytes) -> None:
        self.module = module
        self.source = source
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.mutants: list[Mutant] = []
        self.function = ""

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.lines[node.lineno - 1] + node.col_offset,
            self.lines[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def replace(self, start: int, end: int, new: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        shown = self.source.splitlines()[line - 1].decode().strip()
        old = " ".join(self.source[start:end].decode().split())
        what = f"{old} -> {' '.join(new.split())}    in: {shown}"
        self.mutants.append(Mutant(self.module, line, start, end, new, what))

    def swap_between(self, left: ast.AST, op: ast.AST, right: ast.AST) -> None:
        """Swap the operator that stands between two operands."""
        if type(op) not in SWAPPED:
            return
        old, others = SWAPPED[type(op)]
        start, end = self.span(left)[1], self.span(right)[0]
        pattern = re.escape(old).replace(r"\ ", r"\s+")
        found = re.search(pattern, self.source[start:end].decode())
        assert found is not None, (self.module, left.lineno)
        for new in others:
            self.replace(start + found.start(), start + found.end(), new)

    # What is left alone.

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        self.function = node.name
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assigned(node, node.target)
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    # What is mutated.

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            self.swap_between(left, op, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(
            isinstance(side, ast.JoinedStr)
            or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
            for side in (node.left, node.right)
        ):
            self.swap_between(node.left, node.op, node.right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = " or " if isinstance(node.op, ast.And) else " and "
        joined = other.join(f"({self.text(value)})" for value in node.values)
        self.replace(*self.span(node), f"({joined})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self.replace(*self.span(node), f"({self.text(node.operand)})")
        self.generic_visit(node)

    def negated(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp | ast.BoolOp):
            self.replace(*self.span(test), f"(not ({self.text(test)}))")

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.negated(node.test)
        self.generic_visit(node)

    visit_While = visit_IfExp = visit_If

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negated(test)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(*self.span(node), str(not node.value))
        elif isinstance(node.value, int | float):
            self.replace(*self.span(node), f"({self.text(node)} + 1)")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES:
            new = NAMES[node.id]
            if new in ("floor", "ceil"):
                new = f"__import__('math').{new}"
            self.replace(*self.span(node), new)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in NAMES:
            self.replace(*self.span(node), f"math.{NAMES[node.attr]}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else self.text(node.func)
        if called not in UNTOLD:
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        self.replace(*self.span(node), "pass")
        self.visit(node.value)

    def assigned(self, node: ast.stmt, target: ast.expr) -> None:
        """Leave out an assignment, unless all that came of it were a name or attribute missing."""
        if isinstance(target, ast.Attribute | ast.Subscript) and self.function != "__init__":
            self.replace(*self.span(node), "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id in SPEED_ONLY:
            return
        self.assigned(node, node.targets[0])
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(*self.span(node), "pass")
        if isinstance(node.op, ast.Add | ast.Sub) and not isinstance(node.value, ast.Tuple):
            other = "-=" if isinstance(node.op, ast.Add) else "+="
            new = f"{self.text(node.target)} {other} {self.text(node.value)}"
            self.replace(*self.span(node), new)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self.replace(*self.span(node), "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self.replace(*self.span(node), "pass")
        if node.exc is not None:
            self.visit(node.exc)

    def visit_Break(self, node: ast.Break) -> None:
        self.replace(*self.span(node), "pass")

    visit_Continue = visit_Break

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self.replace(*self.span(node), "pass")
            return
        if not isinstance(node.value, ast.Constant):
            self.replace(*self.span(node.value), "None")
        self.visit(node.value)


def mutants_of(module: str, source: bytes) -> list[Mutant]:
    operators = Operators(module, source)
    operators.visit(ast.parse(source))
    sound = []
    for mutant in dict.fromkeys(operators.mutants):
        with contextlib.suppress(SyntaxError):
            compile(mutant.applied(source), module, "exec")
            sound.append(mutant)
    return sound


def named_mutants() -> list[Mutant]:
    found = []
    for name, module, old, new in NAMED:
        source = (ROOT / module).read_bytes()
        at = source.find(old.encode())
        if at < 0 or source.count(old.encode()) > 1:
            raise SystemExit(f"the named mutant {name!r} fits {module} no more: see NAMED")
        line = source.count(b"\n", 0, at) + 1
        end = at + len(old.encode())
        found.append(Mutant(module, line, at, end, new, "see NAMED", name))
    return found


# -- running the tests -----------------------------------------------------------------------------


def run_tests(copy: Path, tests: list[str], log: Path) -> None:
    """Run tests in a copy. In a forked child; does not return."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 3
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(copy)
        sys.dont_write_bytecode = True
        here = {str(ROOT), "", "."}
        sys.path[:] = [str(copy), *(path for path in sys.path if path not in here)]
        os.environ["PYTHONPATH"] = str(copy)
        for name in list(sys.modules):
            if name.split(".")[0] in ("tests", "correlator"):
                del sys.modules[name]
        importlib.invalidate_caches()
        import pytest

        options = "-x -q -p no:cacheprovider --assert=plain --tb=line --hypothesis-seed=0"
        code = pytest.main([*options.split(), *tests])
        loaded = sys.modules.get("correlator")
        if loaded is not None and not Path(loaded.__file__).is_relative_to(copy):
            code = 99  # the mutant was not what ran
    except BaseException as error:
        sys.stderr.write(repr(error))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(int(code))


@dataclass
class Worker:
    """A copy of the repository, and what runs in it."""

    copy: Path
    pid: int = 0
    began: float = 0.0
    mutant: Mutant | None = None
    original: bytes = b""

    def start(self, mutant: Mutant | None, tests: list[str]) -> None:
        self.mutant = mutant
        if mutant is not None:
            path = self.copy / mutant.module
            self.original = path.read_bytes()
            path.write_bytes(mutant.applied(self.original))
        self.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            run_tests(self.copy, tests, self.copy / "mutant.log")

    def poll(self, limit: float) -> int | None:
        """Return how the tests ended (-1 if they did not in time), or None if they run."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            # Killed by a signal of its own (out of memory): noticed. Told apart from a timeout.
            code = 1 if code < 0 else code
        elif time.monotonic() - self.began > limit:
            self.stop()
            code = -1
        else:
            return None
        self.restore()
        return code

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def restore(self) -> None:
        if self.mutant is not None:
            (self.copy / self.mutant.module).write_bytes(self.original)
        self.pid = 0


@dataclass
class Results:
    """What became of the mutants."""

    killed: Counter[str] = field(default_factory=Counter)
    timed_out: Counter[str] = field(default_factory=Counter)
    survivors: list[Mutant] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def count(self) -> int:
        return self.killed.total() + self.timed_out.total() + len(self.survivors)

    @property
    def share(self) -> float:
        return 1.0 - len(self.survivors) / self.count if self.count else 1.0

    def add(self, mutant: Mutant, code: int) -> None:
        if code == 0:
            self.survivors.append(mutant)
        elif code == -1:
            self.timed_out[mutant.module] += 1
        elif code in (1, 2, 3, 4):  # failed, or could not even be imported
            self.killed[mutant.module] += 1
        else:
            raise SystemExit(f"pytest ended with {code} for {mutant}")

    def table(self) -> str:
        rows = [("module", "mutants", "killed", "by timeout", "survived", "share")]
        survived = Counter(mutant.module for mutant in self.survivors)

        def row(name: str, killed: int, timed_out: int, lived: int) -> tuple[str, ...]:
            count = killed + timed_out + lived
            share = f"{(killed + timed_out) / count:.1%}" if count else "-"
            return name, *map(str, (count, killed + timed_out, timed_out, lived)), share

        rows += [
            row(name, self.killed[name], self.timed_out[name], survived[name]) for name in MODULES
        ]
        rows.append(
            row("all", self.killed.total(), self.timed_out.total(), len(self.survivors)),
        )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                f"{cell:>{width}}" if at else f"{cell:{width}}"
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


def progress(results: Results, count: int) -> None:
    took = time.monotonic() - results.began
    left = took / max(1, results.count) * (count - results.count)
    sys.stderr.write(
        f"\r{results.count} of {count}, {len(results.survivors)} survived, {took:,.0f} s, "
        f"{left:,.0f} s left   "
    )
    sys.stderr.flush()


def tests_for(module: str, root: Path) -> list[str]:
    tests, first = MODULES[module]
    begin = [f"tests/test_{name}.py" for name in first.split()]
    chosen = [*begin, *(test for test in tests if test not in begin)]
    return [test for test in dict.fromkeys(chosen) if (root / test).exists()]


def copies(folder: Path, count: int) -> list[Path]:
    made = []
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "_build", "mutants"
    )
    for at in range(count):
        copy = folder / f"copy{at}"
        shutil.copytree(ROOT, copy, ignore=ignored)
        # Compiled tests save a second a mutant. The library's own must always be compiled anew.
        compileall.compile_dir(copy / "tests", quiet=2)
        made.append(copy)
    return made


def baseline(worker: Worker, suites: list[list[str]]) -> float:
    """Run the suites on the code as it is, and return the seconds that the slowest took."""
    slowest = 0.0
    for tests in suites:
        worker.start(None, tests)
        while (code := worker.poll(600.0)) is None:
            time.sleep(0.02)
        slowest = max(slowest, time.monotonic() - worker.began)
        if code != 0:
            sys.stderr.write((worker.copy / "mutant.log").read_text()[-3000:])
            sys.stderr.write("\nthe tests fail without any mutant: nothing can be told\n")
            raise SystemExit(2)
    return slowest


def run(mutants: list[Mutant], workers: list[Worker], limit: float, results: Results) -> None:
    todo: Iterator[Mutant] = iter(mutants)
    busy = True
    while busy:
        busy = False
        for worker in workers:
            if worker.pid:
                mutant = worker.mutant
                code = worker.poll(limit)
                if code is None:
                    busy = True
                    continue
                results.add(mutant, code)
                progress(results, len(mutants))
                if code == 0:
                    sys.stderr.write(f"\rsurvived: {mutant}\n")
            mutant = next(todo, None)
            if mutant is not None:
                worker.start(mutant, tests_for(mutant.module, worker.copy))
                busy = True
        time.sleep(0.01)


def say(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sample", type=int, metavar="N", help="only N of them, at random")
    parser.add_argument("--seed", type=int, default=1, help="of the sample; default: %(default)s")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--module", action="append", choices=list(MODULES), help="only this one; may be repeated"
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only those in whose line of --list it is"
    )
    parser.add_argument("--timeout", type=float, help="seconds a mutant; default: by the baseline")
    parser.add_argument("--list", action="store_true", help="list the mutants and run nothing")
    options = parser.parse_args(argv)
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    return options


def chosen_mutants(options: argparse.Namespace) -> list[Mutant]:
    modules = options.module or list(MODULES)
    mutants = [m for name in modules for m in mutants_of(name, (ROOT / name).read_bytes())]
    if options.sample is not None and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    named = [mutant for mutant in named_mutants() if mutant.module in modules]
    return [
        m for m in (*named, *mutants) if not options.only or any(o in str(m) for o in options.only)
    ]


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    mutants = chosen_mutants(options)
    if options.list:
        say(*mutants)
        return 0
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the table, also then
    results = Results()
    workers: list[Worker] = []
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        try:
            workers += map(Worker, copies(Path(folder).resolve(), options.workers))
            suites = {frozenset(tests_for(m.module, workers[0].copy)) for m in mutants}
            took = baseline(workers[0], [sorted(suite) for suite in suites])
            limit = options.timeout or 15.0 + 3.0 * took
            sys.stderr.write(f"{len(mutants)} mutants; the tests take {took:.1f} s\n")
            results.began = time.monotonic()
            run(mutants, workers, limit, results)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            for worker in workers:
                if worker.pid:
                    worker.stop()
    sys.stderr.write("\n")
    for mutant in results.survivors:
        say(f"survived: {mutant}")
    say(results.table())
    named = [mutant.name for mutant in results.survivors if mutant.name]
    if named:
        say(f"named mutants that live: {', '.join(named)}")
    if interrupted:
        return INTERRUPTED
    return int(bool(named) or results.share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
