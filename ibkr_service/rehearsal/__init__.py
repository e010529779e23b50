"""Rehearsals: the whole service and the simulated gateway under one virtual clock, while things go wrong.

    plan.py        a seed becomes faults, market, latencies and wishes     named.py     outages that people reported
    mishaps.py     what may befall a rehearsal                             machine.py   the world that it befalls
    traders.py     a strategy that wants many things once each            mood.py      a market that is cheap
    wiretap.py     what passes the service's socket                        timeline.py  what happened, from three sides
    invariants.py  what must hold whatever happens                        closing.py   what must be true at the end
    run.py         one rehearsal: a plan in, a result out                  campaign.py  many, on all cores
    world.py       service and gateway on one loop, for tests             picture.py   a result as a page
    replaying.py   a recorded session, lived again                        script.py    the gateway that it had
    lineup.py      what it was asked, and what it is asked now

For users' own tests there are the fixture of `ibkr_service.rehearsal.pytest_plugin` (docs/rehearsals.md), and `replay`,
which makes a test of a recording (docs/recording.md).
"""

from ibkr_service.rehearsal.replaying import Replayed, replay

__all__ = ["Replayed", "replay"]
