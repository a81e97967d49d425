"""The way of an alert about readings, from finding to row, as a list of steps: `STEPS`."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from alerts.reconcile import StandingAlert
from gateway.rules.readings.evidence import evidence_of
from gateway.rules.readings.refold import WatchedPatient, page_of
from gateway.store.alerts import AlertWriter, RuleContext
from streaming.episodes import JSON, Key
from streaming.glucose.compression import ABRUPT_MS, annotated
from streaming.limits.patient_fold import Finding
from streaming.rules.settings import NocturnalSettings
from streaming.silence.rest import rest_of


@dataclass(slots=True)
class AlertsToWrite:
    """One patient's findings, the alerts that they replace, and (id, opening in ms) of the alerts that were raised."""

    watched: WatchedPatient
    findings: list[Finding]
    standing: Sequence[tuple[Key, StandingAlert]]
    writer: AlertWriter
    raised: Sequence[tuple[int, int]] = field(default_factory=list)


Step = Callable[[AlertsToWrite], Awaitable[None]]


async def write_alerts(
    watched: WatchedPatient,
    findings: Sequence[Finding],
    standing: Sequence[tuple[Key, StandingAlert]],
    writer: AlertWriter,
) -> None:
    """Bring the standing alerts in line with the findings, in the transaction that found them."""
    to_write = AlertsToWrite(watched, list(findings), standing, writer)
    for step in STEPS:
        await step(to_write)


async def end_at_rest(to_write: AlertsToWrite) -> None:
    """End the findings whose rule was switched off, or whose patient began to rest, after the last reading.

    `gateway.rules.rest` says the same where no reading comes.
    """
    watched, now_ms = to_write.watched, to_write.writer.now_ms
    to_write.findings = [_ended_at_rest(finding, watched, now_ms) for finding in to_write.findings]


def _ended_at_rest(finding: Finding, watched: WatchedPatient, now_ms: int) -> Finding:
    episode = finding.episode
    if episode.resolved_at is not None:
        return finding
    began = rest_of(*finding.key, watched.rules, episode.opened_at, now_ms)
    if began is None:
        return finding
    evidence: dict[str, JSON] = {**episode.evidence, "ended_by": "rest"}
    return replace(finding, episode=replace(episode, resolved_at=began, evidence=evidence))


async def annotate_compression(to_write: AlertsToWrite) -> None:
    """Say of nocturnal lows that are over whether they look like a compression low.

    The shape of a dip is known only with its way out, so no alert waits for it.
    """
    to_write.findings = [await _annotated(finding, to_write) for finding in to_write.findings]


async def _annotated(finding: Finding, to_write: AlertsToWrite) -> Finding:
    settings, episode = finding.detector.settings, finding.episode
    if not isinstance(settings, NocturnalSettings) or episode.resolved_at is None:
        return finding
    watched = to_write.watched
    series, _ = await page_of(to_write.writer.connection, watched, episode.opened_at - 2 * ABRUPT_MS)
    series = series.take(series.at <= episode.resolved_at)  # what comes later may come with the next batch only
    lower = settings.compression_lowers_severity
    shaped = annotated(series, watched.zone, episode, settings.limit_mmol, lower_severity=lower)
    return replace(finding, episode=shaped)


async def bring_in_line(to_write: AlertsToWrite) -> None:
    """Raise, change and withdraw the alerts of each rule and subject so that they equal the findings."""
    watched, writer = to_write.watched, to_write.writer
    found: defaultdict[Key, list[Finding]] = defaultdict(list)
    standing: defaultdict[Key, list[StandingAlert]] = defaultdict(list)
    for finding in to_write.findings:
        found[finding.key].append(finding)
    for key, alert in to_write.standing:
        standing[key].append(alert)
    raised_before = len(writer.raised)
    for key in sorted({*found, *standing}):
        version = max((one.detector.version for one in found[key]), default=1)
        context = RuleContext(watched.patient, key[0], watched.zone, version, watched.rules)
        await writer.apply(context, standing[key], [one.episode for one in found[key]])
    to_write.raised = writer.raised[raised_before:]


async def add_evidence(to_write: AlertsToWrite) -> None:
    """Keep beside each alert that was raised what a doctor will want to see."""
    watched, writer = to_write.watched, to_write.writer
    for alert_id, opened_at in to_write.raised:
        evidence = await evidence_of(writer.connection, watched.code, watched.patient, watched.devices, opened_at)
        await writer.add_evidence(alert_id, evidence)


STEPS: Final[Sequence[Step]] = (end_at_rest, annotate_compression, bring_in_line, add_evidence)
