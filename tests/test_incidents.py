"""Incidents of a whole service: real ib_insync, simulated gateway, virtual time."""

from __future__ import annotations

from ibkr_service.core import events as ev
from ibkr_service.core.incidents import DIED
from ibkr_service.core.link import Link
from tests.test_order_life import stage


def opened(at):
    return at.world.of(ev.IncidentOpened)


def closed(at):
    return at.world.of(ev.IncidentClosed)


async def test_a_half_open_socket_is_one_incident(tmp_path):
    """Detected by a probe, ended by a new connection and the first tick."""
    async with stage(tmp_path) as at:
        at.world.faults.stall()
        await at.world.until(lambda: len(opened(at)) == 1, within_s=60, what="an incident")
        at.world.faults.resume()
        await at.world.until(lambda: len(closed(at)) == 1, within_s=120, what="its end")
        (incident,) = closed(at)
        (stream,) = incident.streams
        assert (stream.instrument, stream.resubscribed) == ("AAPL", True)
        assert stream.since < incident.began_at < stream.until
        assert incident.ready_after_s > 0
        assert at.world.app.book.link is Link.READY


async def test_1100_with_data_lost_is_one_incident(tmp_path):
    """Noise of farms, of 1100 and 1101, of resubscription: one."""
    async with stage(tmp_path) as at:
        at.world.faults.cut()
        await at.world.until(lambda: at.world.app.book.link is Link.CUT, what="CUT")
        at.world.faults.restore(data_kept=False)
        await at.world.until(lambda: len(closed(at)) == 1, within_s=120, what="its end")
        assert len(opened(at)) == 1
        assert closed(at)[0].resubscribed == 1


async def test_a_stream_that_goes_on_by_itself_was_not_asked_for_anew(tmp_path):
    """1102: the broker kept it."""
    async with stage(tmp_path) as at:
        at.world.faults.cut()
        await at.world.until(lambda: at.world.app.book.link is Link.CUT, what="CUT")
        at.world.faults.restore(data_kept=True)
        await at.world.until(lambda: len(closed(at)) == 1, within_s=120, what="its end")
        (incident,) = closed(at)
        assert [(stream.instrument, stream.resubscribed) for stream in incident.streams] == [("AAPL", False)]


async def test_a_start_and_an_orderly_stop_are_none(tmp_path):
    """Nor is a restart in order."""
    async with stage(tmp_path) as at:
        await at.world.restart_service()
        await at.world.until_ready()
        assert opened(at) == []


async def test_a_process_that_died_is_told_by_the_next(tmp_path):
    """The journal still says READY."""
    async with stage(tmp_path) as at:
        await at.world.kill()
        at.world.start_service()
        await at.world.until(lambda: len(closed(at)) == 1, what="its end")
        assert [incident.cause for incident in opened(at)] == [DIED]
