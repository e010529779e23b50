"""The only door to ib_insync. What comes out of it are frozen facts of `core.events`, in the order of their arrival.

No Trade, Ticker, Position or Fill of the library leaves this package: they change after they are queued.
"""
