"""The dashboard and the alerts in examples/monitoring: sound, and about metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from correlator.observers.prometheus import PrometheusObserver

MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"
METRIC = re.compile(r"\bcorrelator_[a-z_]+")


def known():
    """Return the names of samples that an observer exposes from the start, and of those to come."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    observer.refused(ValueError())
    text = generate_latest(registry).decode()
    return set(re.findall(r"^(correlator_[a-z_]+)", text, re.MULTILINE))


def promtool(*arguments):
    program = shutil.which("promtool")
    if program is None:
        reason = "there is no promtool: it is in Debian's package prometheus"
        pytest.skip(reason)
    done = subprocess.run(  # noqa: S603  # our own rules
        [program, *arguments],
        cwd=MONITORING,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_sound():
    promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_when_it_should_and_not_otherwise():
    promtool("test", "rules", "alerts_test.yml")
    alerts = set(re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text()))
    tested = re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text())
    assert {name: tested.count(name) for name in tested} == dict.fromkeys(alerts, 2)


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_every_metric_that_is_named_is_exposed(name):
    named = set(METRIC.findall((MONITORING / name).read_text()))
    assert len(named) >= 5
    assert named <= known()


def test_the_dashboard_shows_every_metric_and_its_panels_do_not_overlap():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    shown = set(METRIC.findall(json.dumps(dashboard["panels"])))
    parts = {"correlator_request_duration_seconds_sum", "correlator_request_duration_seconds_count"}
    assert known() - parts == shown
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
